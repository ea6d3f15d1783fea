# Images of one run in one job.


rule sample:
    input:
        executes("sample"),
        reads("sample", "study.seed", "sample", "runs.{run}"),
        base=out("models/base.json"),
        policy=out("runs/{run}/policy.safetensors"),
        tensors=out("encodings/encodings.safetensors"),
        index=out("encodings/index.parquet"),
        latents=out("samples/base_latents.safetensors"),
        rewards=STUDY.searched("tuned"),
        networks=lambda wildcards: STUDY.networks(wildcards.run),
    output:
        samples=out("samples/{run}.parquet"),
    log:
        logs("sample/{run}.log"),
    benchmark:
        logs("sample/{run}.tsv")
    wildcard_constraints:
        run=one_of(STUDY.runs),
    priority: 50
    threads: THREADS
    resources:
        mem_mb=4000,
        runtime=720,
        gpu=1,
    params:
        options=STUDY.sample_options("tuned"),
    shell:
        "python -m stages.sample run --params {P} --run {wildcards.run} --base {input.base} --policy {input.policy}"
        " --tensors {input.tensors} --index {input.index} --latents {input.latents} --samples {output.samples}"
        "{params.options}"
        " > {log} 2>&1"
