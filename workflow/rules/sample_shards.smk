# Images of one run in several jobs, for clusters: DVC makes the same file in one.


rule sample_shard:
    input:
        executes("sample_shard", "sample"),
        reads("sample_shard", "study.seed", "sample", "runs.{run}"),
        base=out("models/base.json"),
        policy=out("runs/{run}/policy.safetensors"),
        tensors=out("encodings/encodings.safetensors"),
        index=out("encodings/index.parquet"),
        latents=out("samples/base_latents.safetensors"),
        rewards=STUDY.searched("tuned"),
        networks=lambda wildcards: STUDY.networks(wildcards.run),
    output:
        samples=temp(out("samples/parts/{run}.{shard}.parquet")),
    log:
        logs("sample_shard/{run}.{shard}.log"),
    benchmark:
        logs("sample_shard/{run}.{shard}.tsv")
    wildcard_constraints:
        run=one_of(STUDY.runs),
        shard=one_of(STUDY.shards("sample")),
    priority: 50
    threads: THREADS
    resources:
        mem_mb=4000,
        runtime=720,
        gpu=1,
    params:
        shard=lambda wildcards: wildcards.shard.replace("-of-", "/"),
        options=STUDY.sample_options("tuned"),
    shell:
        "python -m stages.sample run --params {P} --run {wildcards.run} --base {input.base} --policy {input.policy}"
        " --tensors {input.tensors} --index {input.index} --latents {input.latents} --samples {output.samples}"
        " --shard {params.shard}{params.options}"
        " > {log} 2>&1"


localrules:
    sample,  # copies the parts into one file


rule sample:
    input:
        executes("sample"),
        reads("sample", "study.seed", "sample", "runs.{run}"),
        parts=[out(f"samples/parts/{{run}}.{shard}.parquet") for shard in STUDY.shards("sample")],
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
        runtime=60,
    shell:
        "python -m stages.sample join --params {P} --run {wildcards.run} --parts {input.parts}"
        " --samples {output.samples}"
        " > {log} 2>&1"
