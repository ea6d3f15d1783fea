# Everything about the images of one run, or of the base, in one job.


rule measure:
    input:
        executes("measure"),
        reads("measure", "study.seed", "measure", "sample.steps", "sample.sampler"),
        STUDY.models_folder,
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
        gpu=1,
    params:
        models=out("models"),
    shell:
        "python -m stages.measure samples --params {P} --run {wildcards.run} --samples {input.samples}"
        " --models {params.models} --reference {input.reference} --measures {output.measures} --summary {output.summary}"
        " > {log} 2>&1"


rule measure_base:
    input:
        executes("measure_base"),
        reads("measure_base", "study.seed", "measure", "sample.steps", "sample.sampler"),
        STUDY.models_folder,
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
        gpu=1,
    params:
        models=out("models"),
    shell:
        "python -m stages.measure samples --params {P} --run base --samples {input.samples}"
        " --models {params.models} --reference {input.reference} --measures {output.measures} --summary {output.summary}"
        " > {log} 2>&1"
