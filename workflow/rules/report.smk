# The page, the numbers for `dvc metrics diff`, the tables for `dvc plots`.

CAPTIONS = {
    "index.html": "page",
    "frontier.svg": "frontier",
    "strategies.svg": "strategies",
    "training.svg": "training",
    "queries.svg": "queries",
    "grid.png": "grid",
    "summary.csv": "summary",
    "differences.csv": "differences",
}


def report_file(file):
    """A file of the report; the captioned ones stand in Snakemake's own report too."""
    if file not in CAPTIONS:
        return out(f"report/{file}")
    return report(out(f"report/{file}"), caption=f"../report/{CAPTIONS[file]}.rst", category=STUDY.name)


rule report:
    input:
        executes("report"),
        reads("report", "study", "report", "runs", "score.rewards", "sample.steps", "sample.strategies"),
        takes("report"),
        out("data/manifest.json"),
        expand(out("scores/{name}.{kind}"), name=STUDY.rewards, kind=["parquet", "json"]),
        expand(out("runs/{run}/{file}"), run=STUDY.runs, file=["policy.safetensors", "train_log.parquet"]),
        expand(out("samples/{run}.parquet"), run=["base", *STUDY.runs]),
        out("measures/reference.safetensors"),
        out("encodings/index.parquet"),  # DVC watches their folder for the distilled models
        expand(out("encodings/{name}/train_log.parquet"), name=STUDY.trained("consistency")),
        expand(out("measures/{run}{kind}.parquet"), run=["base", *STUDY.runs], kind=["", ".summary"]),
    output:
        [report_file(file) for file in REPORT_FILES],
    log:
        logs("report.log"),
    benchmark:
        logs("report.tsv")
    priority: 100
    threads: THREADS
    resources:
        mem_mb=4000,
        runtime=60,
    params:
        data=out("data"),
        scores=out("scores"),
        runs=out("runs"),
        samples=out("samples"),
        measures=out("measures"),
        predictors=out("encodings"),
        folder=out("report"),
    shell:
        "python -m stages.report --params {P} --data {params.data} --scores {params.scores} --runs {params.runs}"
        " --samples {params.samples} --measures {params.measures} --predictors {params.predictors}"
        " --out {params.folder}"
        " > {log} 2>&1"
