# Images of the base, which every run shares, and of every strategy of one run.


rule sample_base:
    input:
        executes("sample_base"),
        reads("sample_base", "study.seed", "sample"),
        base=out("models/base.json"),
        tensors=out("encodings/encodings.safetensors"),
        index=out("encodings/index.parquet"),
    output:
        samples=out("samples/base.parquet"),
        latents=out("samples/base_latents.safetensors"),
    log:
        logs("sample_base.log"),
    benchmark:
        logs("sample_base.tsv")
    priority: 70
    threads: THREADS
    resources:
        mem_mb=4000,
        runtime=720,
        gpu=1,
    shell:
        "python -m stages.sample base --params {P} --base {input.base} --tensors {input.tensors} --index {input.index}"
        " --samples {output.samples} --latents {output.latents}"
        " > {log} 2>&1"
