# Raw prompts, images with captions and preference pairs, filtered and split.


rule curate:
    input:
        executes("curate"),
        reads("curate", "study.seed", "world", "curate"),
        takes("curate"),
    output:
        prompts=out("data/prompts.parquet"),
        images=out("data/images.parquet"),
        pairs=out("data/pairs.parquet"),
        manifest=out("data/manifest.json"),
    log:
        logs("curate.log"),
    benchmark:
        logs("curate.tsv")
    priority: 90
    threads: THREADS
    resources:
        mem_mb=4000,
        runtime=60,
    shell:
        "python -m stages.curate --params {P}"
        " --prompts {output.prompts} --images {output.images} --pairs {output.pairs} --manifest {output.manifest}"
        " > {log} 2>&1"
