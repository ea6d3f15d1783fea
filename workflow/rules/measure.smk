# Rewards, text-image agreement and diversity of the images of a run; `base` counts as a run.


rule measure_reference:
    input:
        executes("measure_reference"),
        reads("measure_reference", "measure"),
        STUDY.models_folder,
        images=out("data/images.parquet"),
    output:
        features=out("measures/reference.safetensors"),
    log:
        logs("measure_reference.log"),
    benchmark:
        logs("measure_reference.tsv")
    priority: 20
    threads: THREADS
    resources:
        mem_mb=4000,
        runtime=120,
        gpu=1,
    params:
        models=out("models"),
    shell:
        "python -m stages.measure reference --params {P} --images {input.images} --models {params.models}"
        " --features {output.features}"
        " > {log} 2>&1"


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
