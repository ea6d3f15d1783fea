# What every rule uses: the study, the stamps of its jobs, and DVC's word on what is built.

ACTIVE = "params.yaml"  # the study that DVC runs
STARTED = time.time()


def refuse(error):
    """Stop before anything starts, with one line."""
    print(f"error: {error}", file=sys.stderr)
    raise SystemExit(2)


try:
    FILE = asked_study(config, workflow.overwrite_configfiles, ACTIVE)
    load(FILE)
    STUDY = Layout.read(FILE)
    if FILE != ACTIVE and STUDY.clashes(ACTIVE):
        raise InputError(
            f"{FILE}: study.name: {ACTIVE} has the same name {STUDY.name!r} and other content, expected a name of its"
            f" own, since both would write out/{STUDY.name}/"
        )
except InputError as error:
    refuse(error)

P = shlex.quote(FILE)  # the study file, as it stands in every command line

if not workflow.is_main_process and "SLURM_JOB_ID" in os.environ:
    shell.prefix(PREFIX)
elif workflow.is_main_process and not workflow.dryrun:
    logger.addHandler(Refusals(workflow))

# Jobs on this machine share it one core each; a job on a node of a cluster may use what it was granted.
THREADS = 1 if workflow.is_main_process else int(os.environ.get("SLURM_CPUS_PER_TASK", 1))

out, logs = STUDY.out, STUDY.logs
SHARED = os.path.exists(ACTIVE) and STUDY.study == read_study(ACTIVE)  # whether DVC may have built the very same files
AGREEMENT = Agreement()
HELD = workflow.is_main_process and held(STUDY.name)  # Snakemake will refuse: plan, and change nothing meanwhile


def beside(job):
    """Files of a job (`finetune@refl-s0`) that DVC does not see."""
    stage, _, run = job.partition("@")
    shared = Path(logs(f"{stage.removesuffix('_base')}_shard")).glob(f"{run or 'base'}.*-of-*.tsv")
    return Beside(stamps(STUDY.name, job), [Path(logs(f"{job.replace('@', '/')}.tsv")), *shared], STUDY.sources(job))


def stamped(stage, wildcards, name, content):
    """The job's stamp `name` with this content."""
    job = "@".join([stage, *wildcards])
    path = stamps(STUDY.name, job) / f"{name}.json"
    return stamp(path, content, built=whole(job) in AGREEMENT.built, planning=workflow.dryrun or HELD)


def executes(stage, as_stage=None):
    """An input: the file that changes when code does that the stage executes, the code of `as_stage` in dvc.yaml."""
    return lambda wildcards: stamped(stage, wildcards, "code", code(as_stage or stage))


def reads(stage, *keys, rule=None):
    """An input: the file that changes when one of these keys of the study file, or the command, does; the command of
    `rule` where that is not called like the stage.
    """

    def settings(wildcards):
        names = dict(wildcards.items())
        if names.get("run") in STUDY.runs:
            names["method"] = STUDY.method(names["run"])
        content = values(STUDY.study, tuple(key.format(**names) for key in keys))
        return stamped(stage, wildcards, "settings", content | {"command": workflow.get_rule(rule or stage).shellcmd})

    return settings


def takes(stage):
    """An input: the files from outside that a job takes."""

    def sources(wildcards):
        files = STUDY.sources("@".join([stage, *wildcards]))
        # Snakemake takes braces in a name for a wildcard and knows no way to write them; such files stand in a stamp.
        braced = {file: os.stat(file).st_mtime_ns for file in files if "{" in file}
        plain = [file for file in files if file not in braced]
        return [*plain, stamped(stage, wildcards, "sources", braced)] if braced else plain

    return sources


def settle():
    """After a complete run, tell DVC; part of a run would make it take stale results for current ones."""
    asked = workflow.dag_settings
    whole = not (asked.targets or asked.until or asked.omit_from or workflow.touch)
    if SHARED and whole:
        commit(STARTED, [ACTIVE, *all_code()])


if workflow.is_main_process and SHARED and not HELD:
    try:
        AGREEMENT.reach(beside)
    except InputError as error:
        refuse(error)
