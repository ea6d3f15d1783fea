# What every rule uses: the study, the stamps of its jobs, and DVC's word on what is built.

ACTIVE = "params.yaml"  # the study that DVC runs
P = config.get("study", ACTIVE)  # the study file, as it stands in every command line
STARTED = time.time()


def refuse(error):
    """Stop before anything starts, with one line."""
    print(f"error: {error}", file=sys.stderr)
    raise SystemExit(2)


try:
    load(P)
    STUDY = Layout.read(P)
    if P != ACTIVE and STUDY.clashes(ACTIVE):
        raise InputError(
            f"{P}: study.name: {ACTIVE} has the same name {STUDY.name!r} and other content, expected a name of its own,"
            f" since both would write out/{STUDY.name}/"
        )
except InputError as error:
    refuse(error)

if not workflow.is_main_process and "SLURM_JOB_ID" in os.environ:
    shell.prefix(PREFIX)
elif workflow.is_main_process and not workflow.dryrun:
    logger.addHandler(Refusals(workflow))

# Jobs on this machine share it one core each; a job on a node of a cluster may use what it was granted.
THREADS = 1 if workflow.is_main_process else int(os.environ.get("SLURM_CPUS_PER_TASK", 1))

out, logs = STUDY.out, STUDY.logs
SHARED = os.path.exists(ACTIVE) and STUDY.study == read_study(ACTIVE)  # whether DVC may have built the very same files
AGREEMENT = Agreement()


def beside(job):
    """Files of a job (`finetune@refl-s0`) that DVC does not see."""
    return Beside(stamps(STUDY.name, job), Path(logs(f"{job.replace('@', '/')}.tsv")), STUDY.sources(job))


def stamped(stage, wildcards, name, content):
    """The job's stamp `name` with this content."""
    job = "@".join([stage, *wildcards])
    path = stamps(STUDY.name, job) / f"{name}.json"
    return stamp(path, content, built=job in AGREEMENT.built, planning=workflow.dryrun)


def executes(stage, as_stage=None):
    """An input: the file that changes when code does that the stage executes, the code of `as_stage` in dvc.yaml."""
    return lambda wildcards: stamped(stage, wildcards, "code", code(as_stage or stage))


def reads(stage, *keys):
    """An input: the file that changes when one of these keys of the study file, or the stage's command, does."""

    def settings(wildcards):
        names = dict(wildcards.items())
        if "run" in names:
            names["method"] = STUDY.method(names["run"])
        content = values(STUDY.study, tuple(key.format(**names) for key in keys))
        return stamped(stage, wildcards, "settings", content | {"command": workflow.get_rule(stage).shellcmd})

    return settings


def settle():
    """After a complete run, tell DVC; part of a run would make it take stale results for current ones."""
    asked = workflow.dag_settings
    whole = not (asked.targets or asked.until or asked.omit_from or workflow.touch)
    if SHARED and whole:
        commit(STARTED, [ACTIVE, *all_code()])


if workflow.is_main_process and SHARED:
    try:
        AGREEMENT.reach(beside)
    except InputError as error:
        refuse(error)
