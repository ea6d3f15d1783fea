# One run: a method with a training seed.


rule finetune:
    input:
        executes("finetune"),
        reads("finetune", "study.seed", "study.reward", "study.heldout", "finetune", "methods.{method}", "runs.{run}"),
        base=out("models/base.json"),
        reward=STUDY.model(STUDY.reward),
        heldout=STUDY.model(STUDY.heldout),
        tensors=out("encodings/encodings.safetensors"),
        index=out("encodings/index.parquet"),
        predictors=STUDY.predictors,
    output:
        weights=out("runs/{run}/policy.safetensors"),
        log=out("runs/{run}/train_log.parquet"),
    log:
        logs("finetune/{run}.log"),
    benchmark:
        logs("finetune/{run}.tsv")
    wildcard_constraints:
        run=one_of(STUDY.runs),
    priority: 60
    threads: THREADS
    resources:
        mem_mb=4000,
        runtime=720,
        gpu=1,
    params:
        folder=out("encodings"),
    shell:
        "python -m stages.finetune --params {P} --run {wildcards.run} --base {input.base}"
        " --reward {input.reward} --heldout {input.heldout} --tensors {input.tensors} --index {input.index}"
        " --predictors {params.folder}"
        " --weights {output.weights} --log {output.log}"
        " > {log} 2>&1"
