# What every rule uses: the study, its stamps, and DVC's word on what is built.

P = config.get("study", "params.yaml")  # the study file, as it stands in every command line
STARTED = time.time()

try:
    STUDY = Layout.read(P)
except InputError as error:
    print(f"error: {error}", file=sys.stderr)
    raise SystemExit(2)

out, logs = STUDY.out, STUDY.logs
AGREEMENT = Agreement()


def beside(job):
    """Files of a job (`finetune@refl-s0`) that DVC does not see."""
    stage, _, name = job.partition("@")
    sources = {"curate": lambda: STUDY.sources("curate"), "prepare_import": lambda: STUDY.sources("prepare", name)}
    benchmark = logs(f"{job.replace('@', '/')}.tsv")
    return Beside(stamp_path(STUDY.name, job), Path(benchmark), sources.get(stage, list)())


def settings(stage, *keys):
    """An input: the file that changes when one of these keys of the study file, or the rule's command, does."""

    def stamp_of_job(wildcards):
        names = dict(wildcards.items())
        if "run" in names:
            names["method"] = STUDY.method(names["run"])
        content = values(STUDY.study, tuple(key.format(**names) for key in keys))
        content["command"] = workflow.get_rule(stage).shellcmd
        job = "@".join([stage, *wildcards])
        return stamp(stamp_path(STUDY.name, job), content, job in AGREEMENT.built, workflow.dryrun)

    return stamp_of_job


def settle():
    """After a complete run, tell DVC; part of a run would make it take stale results for current ones."""
    asked = workflow.dag_settings
    whole = not (asked.targets or asked.until or asked.omit_from or workflow.touch)
    if P == "params.yaml" and whole:
        commit(STARTED, [P, *code("stages")])


if workflow.is_main_process and P == "params.yaml":
    AGREEMENT.reach(beside)
