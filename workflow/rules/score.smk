# Every reward on the curated images and pairs.


rule score:
    input:
        executes("score"),
        reads("score", "score.batch_size"),
        model=out("models/{name}.json"),
        images=out("data/images.parquet"),
        pairs=out("data/pairs.parquet"),
    output:
        scores=out("scores/{name}.parquet"),
        accuracy=out("scores/{name}.json"),
    log:
        logs("score/{name}.log"),
    benchmark:
        logs("score/{name}.tsv")
    wildcard_constraints:
        name=one_of(STUDY.rewards),
    priority: 10
    threads: THREADS
    resources:
        mem_mb=4000,
        runtime=120,
        gpu=1,
    shell:
        "python -m stages.score --params {P} --reward {wildcards.name} --model {input.model}"
        " --images {input.images} --pairs {input.pairs} --scores {output.scores} --accuracy {output.accuracy}"
        " > {log} 2>&1"
