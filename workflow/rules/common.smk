# The study, the stamps of its jobs, and DVC's word on what is built.

CAPTIONS = {"index.html": "page", "summary.csv": "summary", "differences.csv": "differences"}
ACTIVE = "params.yaml"  # the study that DVC runs
STARTED = time.time()


def refuse(error):
    """Stop before anything starts, with one line."""
    print(f"error: {error}", file=sys.stderr)
    raise SystemExit(2)


try:
    FILE = named_study(config, workflow.overwrite_configfiles, ACTIVE, sys.argv[1:])
    PLAN = Plan.read(FILE)
    STUDY = PLAN.layout
    if FILE != ACTIVE and STUDY.clashes(ACTIVE):
        raise InputError(
            f"{FILE}: study.name: {ACTIVE} has the same name {STUDY.name!r} and other content, expected a name of its"
            f" own, since both would write out/{STUDY.name}/"
        )
except InputError as error:
    refuse(error)

out = STUDY.out
P = shlex.quote(FILE)  # the study file, as it stands in every command line
JOBS = Files(STUDY)

if not workflow.is_main_process and "SLURM_JOB_ID" in os.environ:
    shell.prefix(PREFIX)
elif workflow.is_main_process and not workflow.dryrun:
    logger.addHandler(Refusals(workflow))

# Jobs on this machine share it one core each; a job on a node of a cluster may use what it was granted.
THREADS = 1 if workflow.is_main_process else int(os.environ.get("SLURM_CPUS_PER_TASK", 1))

SHARED = os.path.exists(ACTIVE) and STUDY.study == read_study(ACTIVE)  # whether DVC may have built the very same files
HELD = workflow.is_main_process and held(STUDY.name)  # Snakemake will refuse: plan, and change nothing meanwhile
try:
    STAMPS = Stamps.of(PLAN, shared=workflow.is_main_process and SHARED and not HELD)
except InputError as error:
    refuse(error)


def planning():
    """Whether nothing is to be built, so that nothing may change."""
    return workflow.dryrun or HELD


def stamped(stage):
    """Inputs: files that change when the settings, the code or the command of the job do."""

    def stamps(wildcards):
        names, line = dict(wildcards.items()), {"command": JOBS.command(stage)}
        shared = STAMPS.shared(stage, names.get("name", ""), planning())
        return [*shared, STAMPS.own(stage, names, "command", line, planning())]

    return stamps


def choice(stage):
    """Inputs: the files that the study chooses."""
    return lambda wildcards: JOBS.chosen(stage, wildcards.get("name", ""))


def sources(stage):
    """Inputs: the files from outside that the job takes."""

    def files(wildcards):
        found = STUDY.sources(JOBS.job(stage, wildcards.get("name", "")))
        # Snakemake takes {x} in a name for a wildcard and <x> for a variable of its own, and knows no way to write them;
        # such files stand in a stamp.
        odd = {file: os.stat(file).st_mtime_ns for file in found if "{" in file or "<" in file}
        plain = [file for file in found if file not in odd]
        return [*plain, STAMPS.own(stage, dict(wildcards.items()), "sources", odd, planning())] if odd else plain

    return files


def outputs(stage):
    """Outputs: parts of a whole are not kept, and what has a caption stands in Snakemake's own report too."""
    figures = STUDY.report_captions
    for pattern in JOBS.outputs(stage):
        file = os.path.relpath(pattern, out("report"))
        if stage.sharded:
            yield temp(pattern)
        elif file in CAPTIONS:
            yield report(pattern, caption=f"../report/{CAPTIONS[file]}.rst", category=STUDY.name)
        elif file in figures:
            shown = {"figure": file.split(".")[0], "shows": figures[file]}
            yield report(pattern, caption="../report/figure.rst", category=STUDY.name, labels=shown)
        else:
            yield pattern


def command(stage):
    """A parameter: the command of the job. The shell line of a rule in a loop is evaluated when the loop is over."""

    def filled(wildcards):
        shard = wildcards.get("shard", "")
        line = JOBS.command(stage).replace("{part}", shard.replace("-of-", "/")).replace("{shard}", shard)
        return line.replace("{name}", wildcards.get("name", "")).replace("{P}", P)

    return filled


def settle():
    """After a complete run, tell DVC; part of a run would make it take stale results for current ones."""
    wanted = workflow.dag_settings
    whole = not (wanted.targets or wanted.until or wanted.omit_from or workflow.touch)
    if SHARED and whole:
        if os.path.isdir(".dvc"):
            chosen.write(PLAN)  # which DVC would have done
        commit(STARTED, [ACTIVE, *PLAN.code()])
