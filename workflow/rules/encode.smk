# Text embeddings and VAE posteriors, once.


rule encode:
    input:
        executes("encode"),
        reads("encode", "encode"),
        base=out("models/base.json"),
        prompts=out("data/prompts.parquet"),
        images=out("data/images.parquet"),
    output:
        tensors=out("encodings/encodings.safetensors"),
        index=out("encodings/index.parquet"),
    log:
        logs("encode.log"),
    benchmark:
        logs("encode.tsv")
    priority: 80
    threads: THREADS
    resources:
        mem_mb=4000,
        runtime=120,
        gpu=1,
    shell:
        "python -m stages.encode --params {P} --base {input.base} --prompts {input.prompts} --images {input.images}"
        " --tensors {output.tensors} --index {output.index}"
        " > {log} 2>&1"
