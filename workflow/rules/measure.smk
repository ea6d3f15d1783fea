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
