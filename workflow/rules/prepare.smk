# The models of a study: taken from outside as they are, or trained here by a recipe.


rule prepare_import:
    input:
        executes("prepare_import"),
        reads("prepare_import", "prepare.import.{name}"),
        takes("prepare_import"),
    output:
        record=out("models/{name}.json"),
    log:
        logs("prepare_import/{name}.log"),
    benchmark:
        logs("prepare_import/{name}.tsv")
    wildcard_constraints:
        name=one_of(STUDY.imported),
    priority: 90
    threads: THREADS
    resources:
        mem_mb=4000,
        runtime=60,
    shell:
        "python -m stages.prepare import --params {P} --name {wildcards.name} --record {output.record}" " > {log} 2>&1"


rule prepare_vae:
    input:
        executes("prepare_vae"),
        reads("prepare_vae", "prepare.train.vae.{name}"),
        images=out("data/images.parquet"),
    output:
        STUDY.model_files("vae"),
    log:
        logs("prepare_vae/{name}.log"),
    benchmark:
        logs("prepare_vae/{name}.tsv")
    wildcard_constraints:
        name=one_of(STUDY.trained("vae")),
    priority: 85
    threads: THREADS
    resources:
        mem_mb=8000,
        runtime=240,
        gpu=1,
    params:
        folder=out("models/{name}"),
    shell:
        "python -m stages.prepare vae --params {P} --name {wildcards.name} --images {input.images} --out {params.folder}"
        " > {log} 2>&1"


rule prepare_base:
    input:
        executes("prepare_base"),
        reads("prepare_base", "prepare.train.base.{name}"),
        out("models/vae/config.json"),
        out("models/vae/diffusion_pytorch_model.safetensors"),
        images=out("data/images.parquet"),
    output:
        STUDY.model_files("base"),
        record=out("models/{name}.json"),
    log:
        logs("prepare_base/{name}.log"),
    benchmark:
        logs("prepare_base/{name}.tsv")
    wildcard_constraints:
        name=one_of(STUDY.trained("base")),
    priority: 85
    threads: THREADS
    resources:
        mem_mb=8000,
        runtime=480,
        gpu=1,
    params:
        vae=out("models/vae"),
        folder=out("models/{name}"),
    shell:
        "python -m stages.prepare base --params {P} --name {wildcards.name} --images {input.images} --vae {params.vae}"
        " --out {params.folder} --record {output.record}"
        " > {log} 2>&1"


rule prepare_clip:
    input:
        executes("prepare_clip"),
        reads("prepare_clip", "prepare.train.clip.{name}"),
        images=out("data/images.parquet"),
        pairs=out("data/pairs.parquet"),
    output:
        STUDY.model_files("clip"),
        record=out("models/{name}.json"),
    log:
        logs("prepare_clip/{name}.log"),
    benchmark:
        logs("prepare_clip/{name}.tsv")
    wildcard_constraints:
        name=one_of(STUDY.trained("clip")),
    priority: 80
    threads: THREADS
    resources:
        mem_mb=8000,
        runtime=240,
        gpu=1,
    params:
        folder=out("models/{name}"),
    shell:
        "python -m stages.prepare clip --params {P} --name {wildcards.name} --images {input.images} --pairs {input.pairs}"
        " --out {params.folder} --record {output.record}"
        " > {log} 2>&1"


rule prepare_consistency:
    input:
        executes("prepare_consistency"),
        reads("prepare_consistency", "prepare.train.consistency.{name}"),
        base=out("models/base.json"),
        tensors=out("encodings/encodings.safetensors"),
        index=out("encodings/index.parquet"),
    output:
        STUDY.model_files("consistency"),
        record=out("encodings/{name}.json"),
    log:
        logs("prepare_consistency/{name}.log"),
    benchmark:
        logs("prepare_consistency/{name}.tsv")
    wildcard_constraints:
        name=one_of(STUDY.trained("consistency")),
    priority: 75
    threads: THREADS
    resources:
        mem_mb=8000,
        runtime=480,
        gpu=1,
    params:
        folder=out("encodings/{name}"),
    shell:
        "python -m stages.prepare consistency --params {P} --name {wildcards.name} --base {input.base}"
        " --tensors {input.tensors} --index {input.index} --out {params.folder} --record {output.record}"
        " > {log} 2>&1"
