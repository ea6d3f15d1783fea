# The images of one run, or of the base, judged in several jobs, for clusters: DVC makes the same files in one.


rule measure_shard:
    input:
        executes("measure_shard", "measure"),
        reads("measure_shard", "measure"),
        STUDY.models_folder,
        samples=out("samples/{run}.parquet"),
    output:
        judged=temp(out("measures/parts/{run}.{shard}.parquet")),
    log:
        logs("measure_shard/{run}.{shard}.log"),
    benchmark:
        logs("measure_shard/{run}.{shard}.tsv")
    wildcard_constraints:
        run=one_of(["base", *STUDY.runs]),
        shard=one_of(STUDY.shards("measure")),
    priority: 40
    threads: THREADS
    resources:
        mem_mb=4000,
        runtime=240,
        gpu=1,
    params:
        models=out("models"),
        shard=lambda wildcards: wildcards.shard.replace("-of-", "/"),
    shell:
        "python -m stages.measure judge --params {P} --run {wildcards.run} --samples {input.samples}"
        " --models {params.models} --shard {params.shard} --judged {output.judged}"
        " > {log} 2>&1"


def judged(run):
    """What the jobs of a run found."""
    return [out(f"measures/parts/{run}.{shard}.parquet") for shard in STUDY.shards("measure")]


rule measure_join:
    input:
        executes("measure"),
        reads("measure", "study.seed", "measure", "sample.steps", "sample.sampler", rule="measure_join"),
        STUDY.models_folder,
        parts=judged("{run}"),
        samples=out("samples/{run}.parquet"),
        reference=out("measures/reference.safetensors"),
    output:
        measures=out("measures/{run}.parquet"),
        summary=out("measures/{run}.summary.parquet"),
    log:
        logs("measure/{run}.log"),
    benchmark:
        logs("measure/{run}.tsv")
    wildcard_constraints:
        run=one_of(STUDY.runs),
    priority: 40
    threads: THREADS
    resources:
        mem_mb=4000,
        runtime=240,
    params:
        models=out("models"),
    shell:
        "python -m stages.measure join --params {P} --run {wildcards.run} --samples {input.samples}"
        " --models {params.models} --reference {input.reference} --parts {input.parts}"
        " --measures {output.measures} --summary {output.summary}"
        " > {log} 2>&1"


rule measure_base_join:
    input:
        executes("measure_base"),
        reads("measure_base", "study.seed", "measure", "sample.steps", "sample.sampler", rule="measure_base_join"),
        STUDY.models_folder,
        parts=judged("base"),
        samples=out("samples/base.parquet"),
        reference=out("measures/reference.safetensors"),
    output:
        measures=out("measures/base.parquet"),
        summary=out("measures/base.summary.parquet"),
    log:
        logs("measure_base.log"),
    benchmark:
        logs("measure_base.tsv")
    priority: 40
    threads: THREADS
    resources:
        mem_mb=4000,
        runtime=240,
    params:
        models=out("models"),
    shell:
        "python -m stages.measure join --params {P} --run base --samples {input.samples}"
        " --models {params.models} --reference {input.reference} --parts {input.parts}"
        " --measures {output.measures} --summary {output.summary}"
        " > {log} 2>&1"
