"""Every kind of job of a study: what it runs, reads and writes. Both runners take their jobs from this table.

A job runs `python -m stages.<program> --params STUDY`, with one flag per entry of `reads` and `writes`: `{"base":
"models/base.json"}` becomes `--base out/<study>/models/base.json`. Paths are relative to `out/<study>/`. In paths and
keys, `{name}` stands for the job's entry of the study (a run, a model), `{reward}` and `{heldout}` for the models that
`study` calls so, `{oracle}` for the one that probes ask, `{features}` for the one whose features rewards of several
tastes are trained on, `{method}` for the method of a run and `{shard}` for one part of several (`2-of-4`).
"""

from __future__ import annotations

from typing import Any

from workflow.stage import Chosen, Folder, Needed, Place, Report, Resources, Scores, Stage

VAE = ("config.json", "diffusion_pytorch_model.safetensors")
LOG, PROBES = "train_log.parquet", "probes.parquet"
MODEL_FILES: dict[str, tuple[str, ...]] = {
    "vae": (*VAE, LOG),
    "base": (
        "model_index.json",
        "scheduler/scheduler_config.json",
        "text_encoder/config.json",
        "text_encoder/model.safetensors",
        "tokenizer/tokenizer.json",
        "tokenizer/tokenizer_config.json",
        "unet/config.json",
        "unet/diffusion_pytorch_model.safetensors",
        "vae/config.json",
        "vae/diffusion_pytorch_model.safetensors",
        LOG,
    ),
    "clip": (
        "open_clip_config.json",
        "open_clip_model.safetensors",
        "tokenizer/tokenizer.json",
        "tokenizer/tokenizer_config.json",
        LOG,
    ),
    "latent": ("latent_reward.json", "latent_reward.safetensors", LOG),
    "pal": ("pal.json", "pal.safetensors", LOG),
    "consistency": ("config.json", "diffusion_pytorch_model.safetensors", LOG),
}
"""The files of a model trained here, by its kind."""

PROMPTS, IMAGES, PAIRS = "data/prompts.parquet", "data/images.parquet", "data/pairs.parquet"
SELECTED = "select/pairs.parquet"
CHOICE = "select/manifest.json"
MADE_IMAGES, MADE = "renoise/images.parquet", "renoise/pairs.parquet"
RECORD = "models/{name}.json"
BASE = "models/base.json"
ENCODINGS: dict[str, Place] = {
    "tensors": "encodings/encodings.safetensors", "index": "encodings/index.parquet",
}  # fmt: skip
SEARCHED: dict[str, Place] = {
    "models": Chosen("models", "searched"), "runs": Chosen("runs", "networks"),
    "predictors": Chosen("encodings", "students", "students"),
}  # fmt: skip
"""What sampling strategies ask besides the job's own networks."""
LATENTS = "samples/base_latents.safetensors"
SAMPLES = "samples/{name}.parquet"
MEASURED: dict[str, Place] = {
    "measures": "measures/{name}.parquet", "summary": "measures/{name}.summary.parquet",
}  # fmt: skip
REFERENCE = "measures/reference.safetensors"
JUDGES = Folder("models")


AUTO = "decided/auto.json"
SHARES = "decided/shares.parquet"
ORACLE = Needed("models/{oracle}.json", "oracle")


def _asks(mem_mb: int, runtime: int, gpu: int = 0) -> Resources:
    return {"mem_mb": mem_mb, "runtime": runtime} | ({"gpu": gpu} if gpu else {})


def _recipe(kind: str, reads: dict[str, Place], folder: str = "models", **more: Any) -> Stage:
    """Training of a model of a kind; every kind but an autoencoder has a record."""
    record: dict[str, Place] = {} if kind == "vae" else {"record": f"{folder}/{{name}}.json"}
    return Stage(
        name=f"prepare_{kind}", program=f"prepare {kind}", functions=(f"_{kind}",), each=f"prepare.train.{kind}",
        flag="name", reads=reads, writes={"out": Folder(f"{folder}/{{name}}", MODEL_FILES[kind])} | record,
        keys=(f"prepare.train.{kind}.{{name}}",), **more,
    )  # fmt: skip


CURATE = Stage(
    "curate", "curate", "Raw prompts, images with captions and preference pairs, filtered and split",
    reads={},
    writes={"prompts": PROMPTS, "images": IMAGES, "pairs": PAIRS, "manifest": "data/manifest.json"},
    keys=("study.seed", "world", "curate"), outside=("data", "shipped"), priority=90, resources=_asks(4000, 60),
)  # fmt: skip

PREPARE = (
    Stage(
        "prepare_import", "prepare import", "A model from outside, recorded by revision and digest",
        reads={}, writes={"record": RECORD}, functions=("_import",), each="prepare.import", flag="name",
        keys=("prepare.import.{name}",), outside=("data", "shipped"), priority=90, local=True,
        resources=_asks(4000, 60),
    ),
    _recipe(
        "vae", {"images": IMAGES}, about="An autoencoder trained here", priority=85, resources=_asks(8000, 240, 1)
    ),
    _recipe(
        "base", {"images": IMAGES, "vae": Folder("models/vae", VAE)}, about="A base model trained here",
        priority=85, resources=_asks(8000, 480, 1),
    ),
    _recipe(
        "clip", {"images": IMAGES, "pairs": PAIRS}, about="A reward or feature network trained here", priority=80,
        resources=_asks(8000, 240, 1),
    ),
    _recipe(
        "latent", {"base": BASE, "images": IMAGES, "pairs": PAIRS}, about="A reward of noisy latents trained here",
        section="latent", priority=80, resources=_asks(8000, 240, 1),
    ),
    _recipe(
        "pal", {"features": "models/{features}.json", "images": IMAGES, "pairs": PAIRS},
        about="A reward of several tastes trained here", section="pal", priority=79, resources=_asks(8000, 120, 1),
    ),
)  # fmt: skip

SCORE = Stage(
    "score", "score", "A reward on the curated images and pairs",
    reads={"model": RECORD, "images": IMAGES, "pairs": PAIRS},
    writes={"scores": "scores/{name}.parquet", "accuracy": "scores/{name}.json"},
    each="score.rewards", flag="reward", keys=("score.batch_size",), priority=10, resources=_asks(4000, 120, 1),
)  # fmt: skip

SELECT = Stage(
    "select", "select", "Curated pairs, labelled and chosen by what rewards say of them",
    reads={"pairs": PAIRS, "images": IMAGES, "scores": Scores("scores")},
    writes={"selected": SELECTED, "manifest": CHOICE}, section="select", keys=("select",),
    outside=("data",), priority=82, resources=_asks(4000, 60),
)  # fmt: skip

RENOISE = Stage(
    "renoise", "renoise", "Pairs of real images, each noised to two levels and denoised again by the base",
    reads={"base": BASE, "images": IMAGES},
    writes={"made": MADE_IMAGES, "pairs": MADE, "manifest": "renoise/manifest.json"}, section="renoise",
    keys=("study.seed", "renoise"), priority=81, resources=_asks(4000, 120, 1),
)  # fmt: skip

ENCODE = Stage(
    "encode", "encode", "Text embeddings and VAE posteriors, once",
    reads={"base": BASE, "prompts": PROMPTS, "images": IMAGES, "pairs": Needed(PAIRS, "pairs"),
           "selected": Needed(SELECTED, "select"), "made": Needed(MADE, "renoise"),
           "made-images": Needed(MADE_IMAGES, "renoise")},
    writes=ENCODINGS,
    keys=("encode",), priority=80, resources=_asks(4000, 120, 1),
)  # fmt: skip

CONSISTENCY = _recipe(
    "consistency", {"base": BASE} | ENCODINGS, "encodings",
    about="A model distilled from the base; every run waits for it where the study trains one",
    priority=75, resources=_asks(8000, 480, 1),
)  # fmt: skip

DECIDED = Stage(
    "decided", "decided", "What is settled when: the rest of the base's trajectories drawn again from every index",
    reads={"base": BASE} | ENCODINGS | {"models": JUDGES},
    writes={"pairs": "decided/pairs.parquet", "shares": SHARES, "auto": AUTO}, section="decided",
    keys=("study.seed", "decided", "sample.steps", "measure"), priority=72, resources=_asks(4000, 120, 1),
)  # fmt: skip

FINETUNE = Stage(
    "finetune", "finetune", "One run: a method with a training seed",
    reads={"base": BASE, "reward": "models/{reward}.json", "heldout": "models/{heldout}.json"}
    | ENCODINGS | {"predictors": Folder("encodings"), "auto": Needed(AUTO, "start"), "oracle": ORACLE},
    writes={
        "weights": "runs/{name}/policy.safetensors", "log": f"runs/{{name}}/{LOG}",
        "probes": f"runs/{{name}}/{PROBES}",
    },
    each="runs", entries="trained", flag="run",
    keys=("study.seed", "study.reward", "study.heldout", "methods.{method}", "runs.{name}"),
    priority=60, resources=_asks(4000, 720, 1),
)  # fmt: skip

IMPORT_POLICY = Stage(
    "import_policy", "checkpoints", "One run: a checkpoint that was trained elsewhere, as a policy on the base",
    reads={"base": BASE}, writes={"policy": "runs/{name}/policy.safetensors", "record": "runs/{name}/checkpoint.json"},
    each="runs", entries="checkpoints", flag="run", keys=("runs.{name}",), priority=60, resources=_asks(16000, 60),
)  # fmt: skip

SAMPLE_BASE = Stage(
    "sample_base", "sample base", "Images of the base by the strategies applied to it; latents at switch steps",
    reads={"base": BASE} | ENCODINGS | SEARCHED | {"auto": Needed(AUTO, "k")},
    writes={"samples": "samples/base.parquet", "latents": LATENTS},
    functions=("base_images",), keys=("study.seed", "sample"), priority=70, resources=_asks(4000, 720, 1),
)  # fmt: skip

SAMPLE = Stage(
    "sample", "sample run", "Images of one run by the strategies applied to it",
    reads={"base": BASE, "policy": "runs/{name}/policy.safetensors"} | ENCODINGS | {"latents": LATENTS} | SEARCHED
    | {"auto": Needed(AUTO, "k")},
    writes={"samples": SAMPLES}, each="runs", flag="run",
    keys=("study.seed", "sample", "runs.{name}"), priority=50, resources=_asks(4000, 720, 1),
)  # fmt: skip

REFERENCES = Stage(
    "measure_reference", "measure reference", "Features of curated images; every model that judges is loaded once",
    reads={"images": IMAGES, "models": JUDGES}, writes={"features": REFERENCE},
    keys=("measure",), priority=78, resources=_asks(4000, 120, 1),
)  # fmt: skip

MEASURE = Stage(
    "measure", "measure samples", "Rewards, agreement with the prompt and diversity of the images of one run",
    reads={"samples": SAMPLES, "models": JUDGES, "reference": REFERENCE}, writes=MEASURED, each="runs", flag="run",
    base=True, keys=("study.seed", "measure", "sample.steps", "sample.sampler"), priority=40,
    resources=_asks(4000, 240, 1),
)  # fmt: skip

REPORT = Stage(
    "report", "report", "The page, the numbers for `dvc metrics diff`, the tables for `dvc plots`",
    reads={
        "data": Folder("data"), "scores": Folder("scores"), "runs": Folder("runs"), "samples": Folder("samples"),
        "measures": Folder("measures"), "predictors": Folder("encodings"), "decided": Needed(SHARES, "decided"),
        "select": Needed(CHOICE, "select"),
    },
    writes={"out": Report("report")},
    keys=("study", "report", "methods", "runs", "score.rewards", "sample.steps", "sample.strategies", "measure",
          "finetune.sampling_steps", "decided", "select", "prepare.import"),
    outside=("votes",), priority=100, resources=_asks(4000, 60),
)  # fmt: skip

STAGES = (
    CURATE, *PREPARE, SCORE, SELECT, RENOISE, ENCODE, CONSISTENCY, DECIDED, FINETUNE, IMPORT_POLICY, SAMPLE_BASE,
    SAMPLE, REFERENCES, MEASURE, REPORT,
)  # fmt: skip
"""What DVC runs, and Snakemake where one job takes all images of a run."""

SHARDED = {
    "sample": (
        Stage(
            "sample_shard", "sample run", "A part of the images of one run",
            reads=SAMPLE.reads, writes={"samples": "samples/parts/{name}.{shard}.parquet"}, each="runs", flag="run",
            keys=SAMPLE.keys, part_of="sample", sharded=True, priority=50, resources=SAMPLE.resources,
        ),
        Stage(
            "sample", "sample join", "The images of one run, from their parts",
            reads={"parts": "samples/parts/{name}.{shard}.parquet"}, writes=SAMPLE.writes, each="runs", flag="run",
            keys=SAMPLE.keys, part_of="sample", priority=50, local=True, resources=_asks(4000, 60),
        ),
    ),
    "measure": (
        Stage(
            "measure_shard", "measure judge", "What the models say of a part of the images of one run",
            reads={"samples": SAMPLES, "models": JUDGES}, writes={"judged": "measures/parts/{name}.{shard}.parquet"},
            each="runs", flag="run", base=True, keys=MEASURE.keys, part_of="measure", sharded=True, priority=40,
            resources=MEASURE.resources,
        ),
        Stage(
            "measure_join", "measure join", "Everything about the images of one run, from the parts that were judged",
            reads=MEASURE.reads | {"parts": "measures/parts/{name}.{shard}.parquet"}, writes=MEASURED, each="runs",
            flag="run", base=True, keys=MEASURE.keys, part_of="measure", priority=40, resources=_asks(4000, 240),
        ),
    ),
}  # fmt: skip
"""By section of the study file whose `shards` says how many: Snakemake's jobs in place of the stage of that name. DVC
makes the same files in one job.
"""
