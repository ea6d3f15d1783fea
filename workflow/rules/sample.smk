# Images of the base and of one run, by the strategies applied to it; runs go on from latents of the base.


rule sample_base:
    input:
        executes("sample_base"),
        reads("sample_base", "study.seed", "sample"),
        base=out("models/base.json"),
        tensors=out("encodings/encodings.safetensors"),
        index=out("encodings/index.parquet"),
        rewards=STUDY.searched("base"),
        networks=STUDY.networks("base"),
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
    params:
        options=STUDY.sample_options("base"),
    shell:
        "python -m stages.sample base --params {P} --base {input.base} --tensors {input.tensors} --index {input.index}"
        " --samples {output.samples} --latents {output.latents}{params.options}"
        " > {log} 2>&1"
