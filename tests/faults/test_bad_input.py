"""Bad input over all stages: one line that says what, where and what was expected, exit code 2, nothing written, and
nothing executed.
"""

from __future__ import annotations

import json
import re
import shutil
import subprocess
from collections.abc import Iterator
from pathlib import Path

import breaking as b
import pytest
import torch
from world import LINES, World, build, copies

from stages import tables
from stages.encode.encode import encode
from stages.encode.settings import EncodeSettings
from stages.in_use import only_one
from stages.models.diffusion import load_diffusion
from stages.models.record import load
from stages.pictures import decode

HUGE = "a red circle " * 8000
SCHEDULE, CLIP = "scheduler/scheduler_config.json", "open_clip_config.json"
POLICY = "r/refl-s0/policy.safetensors"
UNET, VAE = "unet/diffusion_pytorch_model.safetensors", "vae/diffusion_pytorch_model.safetensors"
BAD: dict[str, tuple[str, b.Breaking, str]] = {
    # the study
    "study: no file": ("encode", b.gone("study.yaml"), "study.yaml: no such study file"),
    "study: no YAML": ("score", b.text("study.yaml", "a: [1\nb: 2"), r"study.yaml: not valid YAML at line 2"),
    "study: no text": ("sample", b.text("study.yaml", b"\xff\xfe\x00"), "study.yaml: cannot be read as UTF-8"),
    "study: a list": ("vae", b.text("study.yaml", "- 1"), "study.yaml: expected a mapping"),
    "study: unknown key": (
        "finetune",
        b.key("finetune.stpes", 3),
        r"finetune.stpes: unknown key; did you mean 'steps'",
    ),
    "study: nested unknown key": ("finetune", b.key("finetune.optimizer", {"rl": 1}), "optimizer.rl: unknown key"),
    "study: unknown run": ("sample", b.key("runs", {"x": {"method": "refl", "seed": 0}}), "there is no 'refl-s0' here"),
    "study: unknown kind": ("finetune", b.key("methods.refl.kind", "../../etc"), r"unknown kind '../../etc'"),
    "study: a unit in a number": (
        "finetune",
        b.key("finetune.optimizer", {"lr": "1e-4/step"}),
        "lr: expected a number, found text '1e-4/step'",
    ),
    "study: pixels with a unit": ("curate", b.key("curate.side", "64px"), "curate.side: expected a number or null"),
    "study: per cent for a share": ("curate", b.key("curate.val_share", 30), "val_share: input should be less than 1"),
    "study: infinite rate": ("finetune", b.key("finetune.optimizer", {"lr": float("inf")}), "finetune.optimizer.lr: "),
    "study: NaN": ("finetune", b.key("finetune.reward_scale", float("nan")), "finetune.reward_scale: "),
    # curate
    "prompts not UTF-8": ("curate", b.text("train.txt", b"a caf\xe9\n"), "train.txt, line 1: byte 0xe9 is not UTF-8"),
    "prompts of control characters": (
        "curate",
        b.text("train.txt", "\x00\x01\n\x1b\x07\n\x7f\n"),
        "train.txt: is binary, or UTF-16 text",
    ),
    "prompt of 100,000 characters": ("curate", b.text("train.txt", HUGE), "nothing left of 1 rows.*words"),
    "preference in per cent": (
        "curate",
        b.text("pairs.csv", "prompt,image_a,image_b,preference\nx,1.png,2.png,85\n"),
        "'preference' is 85",
    ),
    "preference NaN": (
        "curate",
        b.text("pairs.csv", "prompt,image_a,image_b,preference\nx,1.png,2.png,nan\n"),
        "pairs.csv, .*'preference'",
    ),
    "pair of no image": (
        "curate",
        b.text("pairs.csv", "prompt,image_a,image_b,preference\nx,../1.png,2.png,1\n"),
        r"names image '../1.png'",
    ),
    # tables between stages
    "images truncated": ("score", b.truncated("d/images.parquet"), "d/images.parquet: not a readable Parquet file"),
    "images damaged inside": ("encode", b.flipped("d/images.parquet"), "d/images.parquet"),
    "images empty": ("vae", b.text("d/images.parquet", b""), "d/images.parquet: not a readable Parquet file"),
    "images missing": ("reference", b.gone("d/images.parquet"), "d/images.parquet: no such file"),
    "prompts without a column": (
        "encode",
        b.other_schema("d/prompts.parquet", lambda t: t.drop_columns(["group"])),
        "columns of table 'prompts'",
    ),
    "another table": (
        "encode",
        lambda w: Path("d/pairs.parquet").replace("d/prompts.parquet"),
        "holds table 'pairs' .*expected 'prompts'",
    ),
    "a table of nobody": (
        "score",
        b.other_schema("d/pairs.parquet", lambda t: t.replace_schema_metadata(None)),
        "holds table 'none'",
    ),
    "an image twice": (
        "encode",
        b.rows("d/images.parquet", lambda r: r.append(r[0])),
        "d/images.parquet: image_id .* stands twice",
    ),
    "a scored image twice": (
        "score",
        b.rows("d/images.parquet", lambda r: r.append(r[0])),
        "d/images.parquet: image_id .* stands twice",
    ),
    "a prompt twice": (
        "encode",
        b.rows("d/prompts.parquet", lambda r: r.append(r[0])),
        "d/prompts.parquet: prompt_id .* stands twice",
    ),
    "a pair twice": (
        "score",
        b.rows("d/pairs.parquet", lambda r: r.append(r[0])),
        "d/pairs.parquet: pair_id .* stands twice",
    ),
    "a pair's preference NaN": ("score", b.cell("d/pairs.parquet", "preference", float("nan")), "preference nan"),
    "a pair of a missing image": (
        "score",
        b.cell("d/pairs.parquet", "image_a", "zz"),
        "names image 'zz', which is not",
    ),
    "an image of no bytes": ("score", b.cell("d/images.parquet", "image", b""), "image .*: not a readable image"),
    "an image cut off": ("encode", b.cell("d/images.parquet", "image", b.saved("RGB")[:90]), "not a readable image"),
    "an image that is a bomb": (
        "vae",
        b.cell("d/images.parquet", "image", b.bomb(), row=0),
        "its header promises over 100000000 pixels",
    ),
    "images of two sizes": (
        "encode",
        b.rows("d/images.parquet", lambda r: r[1].update(image=b.saved("RGB", side=24), width=24, height=24)),
        "of 2 sizes",
    ),
    "an image of another format": ("vae", b.cell("d/images.parquet", "image", b"GIF89a", 0), "not a readable image"),
    "a sample of no bytes": ("measure", b.cell("i/refl-s0.parquet", "image", b""), "sample .*: not a readable image"),
    "a sample twice": ("measure", b.rows("i/refl-s0.parquet", lambda r: r.append(r[0])), "stands twice under"),
    "samples of another run": ("measure", b.cell("i/refl-s0.parquet", "run", "x"), "holds images of run 'x'"),
    "samples truncated": ("measure base", b.truncated("i/base.parquet"), "i/base.parquet: not a readable Parquet file"),
    "samples without rows": ("measure", b.rows("i/refl-s0.parquet", list.clear), "holds no images"),
    # models
    "record missing": ("encode", b.gone("models/base.json"), "models/base.json: no such model record"),
    "record no JSON": ("sample", b.text("models/base.json", "{"), "models/base.json: not a model record"),
    "record of another kind": (
        "score",
        lambda w: (
            shutil.copy("models/base.json", "models/proxy.json"),
            b.edited("models/proxy.json", lambda record: record.update(name="proxy"))(w),
        ),
        "diffusers",
    ),
    "record of another model": (
        "score",
        lambda w: shutil.copy("models/base.json", "models/proxy.json"),
        "models/proxy.json: is the record of model 'tiny', expected that of 'proxy'",
    ),
    "record of the held-out reward to train on": (
        "finetune",
        lambda w: shutil.copy("models/heldout.json", "models/proxy.json"),
        "models/proxy.json: is the record of model 'heldout', expected that of 'proxy'",
    ),
    "record of the training reward as the held-out judge": (
        "measure",
        lambda w: shutil.copy("models/proxy.json", "models/heldout.json"),
        "models/heldout.json: is the record of model 'proxy', expected that of 'heldout'",
    ),
    "record a folder": ("encode", b.folder("models/base.json"), "models/base.json: not a model record: Is a directory"),
    "record with a list of files": (
        "score",
        b.edited("models/proxy.json", lambda r: r.update(files=["a"])),
        "models/proxy.json: not a model record: files: expected a mapping",
    ),
    "record with a number as path": (
        "measure",
        b.edited("models/heldout.json", lambda r: r.update(path=5)),
        "models/heldout.json: not a model record: path: expected text, found 5",
    ),
    "record edited": (
        "score",
        b.edited("models/proxy.json", lambda r: r.update(options={"normalise": "imagenet"})),
        "models/proxy.json: its digest is not that of its content",
    ),
    "record without a file edited": (
        "measure base",
        b.edited("models/heldout.json", lambda r: r["files"].pop("open_clip_config.json")),
        "models/heldout.json: its digest is not that of its content",
    ),
    "schedule of text": (
        "finetune",
        b.config("base", SCHEDULE, lambda c: c.update(beta_start="x")),
        "beta_start is text 'x', expected a number",
    ),
    "schedule of another spacing": (
        "sample base",
        b.config("base", SCHEDULE, lambda c: c.update(timestep_spacing="even")),
        "timestep_spacing 'even' is not known; known: leading, trailing, linspace",
    ),
    "schedule that falls": (
        "sample base",
        b.config("base", SCHEDULE, lambda c: c.update(beta_start=0.5, beta_end=0.1)),
        "beta_start 0.5 and beta_end 0.1",
    ),
    "schedule of another family": (
        "finetune",
        b.config("base", SCHEDULE, lambda c: [c.pop("beta_schedule"), c.update(_class_name="EDMEulerScheduler")]),
        "EDMEulerScheduler without beta_schedule is not known",
    ),
    "pixels divided by 0": (
        "score",
        b.config("proxy", CLIP, lambda c: c.update(preprocess_cfg={"std": [1, 0, 1]})),
        "preprocess_cfg: mean .* and std .*; expected numbers, those of std over 0",
    ),
    "tokenizer of nothing": (
        "score",
        b.config("proxy", "tokenizer/tokenizer.json", dict.clear),
        "models/proxy/tokenizer: not a CLIPTokenizer",
    ),
    "feature network that does not fit, before any training": (
        "reference",
        b.config("proxy", CLIP, lambda c: c["model_cfg"].update(embed_dim=5)),
        "models/proxy/open_clip_model.safetensors: not weights of this model_cfg",
    ),
    "weights changed": ("score", b.flipped("models/proxy/open_clip_model.safetensors"), "changed since model 'proxy'"),
    "weights missing": ("encode", b.gone(f"models/base/{VAE}"), "models/base: .*missing"),
    "weights NaN, scoring": (
        "score",
        b.network("proxy", "open_clip_model.safetensors", "text_projection"),
        "gave no finite number for image",
    ),
    "weights NaN, encoding": ("encode", b.network("base", VAE, "encoder.conv_in.bias"), "not finite"),
    "weights NaN, sampling": ("sample base", b.base_of_encodings(UNET, "conv_out.bias"), "not finite"),
    "weights NaN, measuring": (
        "reference",
        b.network("heldout", "open_clip_model.safetensors", "visual.proj"),
        "model 'heldout' gave a value that is not finite",
    ),
    "reward NaN in training": (
        "finetune",
        b.network("proxy", "open_clip_model.safetensors", "text_projection"),
        "step 0: reward is nan.*prompts '",
    ),
    "encodings infinite in training": (
        "finetune",
        b.tensors("e/encodings.safetensors", "text_embeddings", lambda v: v + float("inf")),
        "step 0: .*'a",
    ),
    "encodings NaN in training": (
        "finetune",
        b.tensors("e/encodings.safetensors", "text_embeddings", lambda v: v * float("nan")),
        "step 0: .*nan",
    ),
    "encodings cut off": ("finetune", b.truncated("e/encodings.safetensors"), "not a readable safetensors file"),
    "encodings of other rows": ("sample base", b.cell("e/index.parquet", "row", 10**6, row=0), "e/.*row 1000000"),
    "encodings of another base": ("sample base", b.other_base, "e/encodings.safetensors: made with base .*, but the"),
    "encodings with two empty prompts": (
        "finetune",
        b.tensors("e/encodings.safetensors", "empty_embedding", lambda v: torch.cat([v, v])),
        "'empty_embedding' has shape .*, expected",
    ),
    "encodings with fewer deviations": (
        "finetune",
        b.tensors("e/encodings.safetensors", "posterior_std", lambda v: v[:2].clone()),
        "'posterior_std' has shape .*, expected",
    ),
    "encodings of whole numbers": (
        "sample base",
        b.tensors("e/encodings.safetensors", "text_embeddings", lambda v: v.long()),
        "'text_embeddings' is I64, expected floating-point numbers",
    ),
    "encodings of other latents": (
        "finetune",
        b.tensors("e/encodings.safetensors", "posterior", lambda v: torch.cat([v, v], 1)),
        "latents have 8 channels, but the base's have 4",
    ),
    "an encoding twice": (
        "finetune",
        b.rows("e/index.parquet", lambda r: r.append(r[0])),
        "e/index.parquet: item_id 'prompt .*' stands twice",
    ),
    "no evaluation prompts": (
        "sample base",
        b.rows("e/index.parquet", lambda r: [x.update(split="train") for x in r]),
        "no prompt of split 'eval'",
    ),
    "policy of another base": ("sample", b.other_base, "trained on base .*, but the base here is"),
    "policy cut off": ("sample", b.truncated("r/refl-s0/policy.safetensors"), "not a readable safetensors file"),
    "policy a pickle": ("sample", b.pickled("r/refl-s0/policy.safetensors"), "not a readable safetensors file"),
    "policy without a word on its base": (
        "sample",
        lambda w: Path("i/l.safetensors").replace("r/refl-s0/policy.safetensors"),
        "trained on base unknown",
    ),
    "latents missing": ("sample", b.gone("i/l.safetensors"), "no such file of the base's latents"),
    "latents cut off": ("sample", b.truncated("i/l.safetensors"), "i/l.safetensors: not a readable safetensors file"),
    "latents of other steps": ("sample", b.key("sample.strategies.combined.k", [2]), "holds no latents"),
    "latents of other images": (
        "sample",
        b.tensors("i/l.safetensors", "k=1", lambda v: v[:1].clone()),
        "found float32",
    ),
    "latents of other channels": (
        "sample",
        b.tensors("i/l.safetensors", "k=1", lambda v: torch.cat([v, v], 1)),
        r"found float32 .*, expected float32 \(4, 4, 8, 8\)",
    ),
    "latents of whole numbers": ("sample", b.tensors("i/l.safetensors", "k=1", lambda v: v.long()), "found int64"),
    "latents of another pass": (
        "sample",
        b.metadata("i/l.safetensors", lambda about: dict.fromkeys(about, "0")),
        "i/l.safetensors: of another base, or other prompts, noise or steps",
    ),
    "latents a folder": ("sample", b.folder("i/l.safetensors"), "i/l.safetensors: not a readable safetensors file"),
    "policy not finite": ("sample", b.tensors("r/refl-s0/policy.safetensors", "", b.nan), "is not finite numbers"),
    "a sample without a value": ("measure", b.cell("i/refl-s0.parquet", "value", float("nan")), "'value' is NaN"),
    "reference a folder": ("measure", b.folder("m/reference.safetensors"), "m/reference.safetensors: not readable as"),
    "reference of no JSON": (
        "measure",
        b.metadata("m/reference.safetensors", lambda about: dict.fromkeys(about, "{")),
        "m/reference.safetensors: not readable as",
    ),
    "reference of one number": (
        "measure",
        b.tensors("m/reference.safetensors", "mean", lambda v: v[:1].clone()),
        "'(mean|kernel_mean)' has shape",
    ),
    "reference not finite": ("measure", b.tensors("m/reference.safetensors", "features", b.nan), "'features' is not"),
    "reference a pickle": ("measure", b.pickled("m/reference.safetensors"), "m/reference.safetensors: not readable as"),
    "reference of other settings": ("measure", b.key("measure.neighbours", 3), "features of another model or other"),
    # what is decided, tuned and exported
    "decided: index not on the grid": ("decided", b.key("decided.indices", [7]), "decided.indices: 7 is not below 3"),
    "decided: encodings cut off": ("decided", b.truncated("e/encodings.safetensors"), "not a readable safetensors"),
    "decided: encodings of another base": ("decided", b.other_base, "encodings.safetensors: made with base .*, but"),
    "decided: encodings of another width": (
        "decided",
        b.tensors("e/encodings.safetensors", "embedding", lambda v: v[..., :3].clone()),
        "text embeddings have width 3, but the base takes 16; run encode again",
    ),
    "decided: encodings NaN": (
        "decided",
        b.tensors("e/encodings.safetensors", "text_embeddings", lambda v: v * float("nan")),
        "an image of the prompts 'a .* is not finite",
    ),
    "decided: autoencoder NaN": ("decided", b.base_of_encodings(VAE, "decoder.conv_out.bias"), "is not finite; broken"),
    "decided: base NaN": ("decided", b.base_of_encodings(UNET, "conv_out.bias"), "is not finite; broken weights"),
    "decided: features NaN": (
        "decided",
        b.network("heldout", "open_clip_model.safetensors", "visual.proj"),
        "model 'heldout' gave a value that is not finite",
    ),
    "tune: no runs": ("tune", b.key("runs", {}), "study.yaml: runs: there is none"),
    "tune: encodings of another base": ("tune", b.other_base, "encodings.safetensors: made with base .*, but"),
    "tune: encodings of another width": (
        "tune",
        b.tensors("e/encodings.safetensors", "embedding", lambda v: v[..., :3].clone()),
        "text embeddings have width 3, but the base takes 16",
    ),
    "tune: encodings NaN": (
        "tune",
        b.tensors("e/encodings.safetensors", "text_embeddings", lambda v: v * float("nan")),
        "tune: images of the base have reward nan",
    ),
    "tune: reward NaN": (
        "tune",
        b.network("proxy", "open_clip_model.safetensors", "text_projection"),
        "tune: images of the base have reward nan",
    ),
    "tune: held-out reward NaN": (
        "tune",
        b.network("heldout", "open_clip_model.safetensors", "visual.proj"),
        "tune: images of the base have .* held-out reward nan",
    ),
    "tune: rate not a number": ("tune", b.key("study.tune.rates", [float("nan")]), "rates.0: expected a finite number"),
    "export: policy missing": ("export merged", b.gone(POLICY), "no such checkpoint"),
    "export: policy cut off": ("export merged", b.truncated(POLICY), "not a readable safetensors file"),
    "export: policy of another base": ("export combined", b.other_base, "trained on base .*, but the base here is"),
    "export: policy of no base": ("export merged", b.metadata(POLICY, lambda about: {}), "trained on base unknown"),
    "export: policy NaN": ("export combined", b.tensors(POLICY, "", b.nan), "is not finite numbers; train again"),
    "export: policy of another shape": (
        "export merged",
        b.tensors(POLICY, "", lambda v: v.reshape(-1)[:1].clone()),
        "does not fit this network",
    ),
    "export: base cut off": ("export combined", b.truncated(f"models/base/{UNET}"), "changed since model"),
    # columns that say what is not so
    "scored: a wrong width": ("score", b.cell("d/images.parquet", "width", 24), "has 16x16 pixels, but .* say 24x16"),
    "encoded: a wrong height": ("encode", b.cell("d/images.parquet", "height", 8), "has 16x16 pixels, but .* say 16x8"),
    "trained: a wrong width": ("vae", b.rows("d/images.parquet", lambda r: [x.update(width=0) for x in r]), "say 0x16"),
    "reference: a wrong width": (
        "reference",
        b.rows("d/images.parquet", lambda r: [x.update(width=24) for x in r]),
        "has 16x16 pixels, but .* say 24x16",
    ),
    "a split of pairs misspelt": (
        "score",
        b.cell("d/pairs.parquet", "split", "vall"),
        "d/pairs.parquet: split 'vall' is not known, expected one of 'train', 'val'",
    ),
    "a split of prompts misspelt": (
        "encode",
        b.cell("d/prompts.parquet", "split", "test"),
        "split 'test' is not known",
    ),
    "a split of images misspelt": (
        "encode",
        b.cell("d/images.parquet", "split", "Train"),
        "split 'Train' is not known",
    ),
    "a kind of encoding misspelt": (
        "finetune",
        b.cell("e/index.parquet", "kind", "promt"),
        "kind 'promt' is not known",
    ),
    "a prompt id of two prompts": (
        "measure",
        b.cell("i/refl-s0.parquet", "prompt", "a red hexagon"),
        "i/refl-s0.parquet: prompt .* is both .* and .*; run sample again",
    ),
    "report of a prompt that the base was not measured on": (
        "report",
        b.cell("m/refl-s0.parquet", "prompt_id", "unknown", row=0),
        "m/refl-s0.parquet: prompt_id 'unknown' is in the measures of only one of refl-s0 and the base",
    ),
    "report of a prompt less": (
        "report",
        b.rows(
            "m/base.parquet",
            lambda r: r.__setitem__(slice(None), [x for x in r if x["prompt_id"] != r[0]["prompt_id"]]),
        ),
        "prompt_id .* is in the measures of only one",
    ),
    "import of changed weights": ("import taken", b.truncated("models/proxy/open_clip_model.safetensors"), "proxy"),
    "import of no folder": ("import taken", b.key("prepare.import.taken.folder", "no/where"), "no/where"),
    "report without measures": (
        "report",
        b.gone("m/refl-s0.summary.parquet"),
        "m/refl-s0.summary.parquet: no such file",
    ),
    "report of a score twice": (
        "report",
        b.rows("m/refl-s0.parquet", lambda r: r.append(r[0])),
        "m/refl-s0.parquet: metric .* stands twice under",
    ),
    "report of a mean twice": (
        "report",
        b.rows("m/refl-s0.summary.parquet", lambda r: r.append({**r[0], "mean": 9.0})),
        "m/refl-s0.summary.parquet: metric .* stands twice under",
    ),
    "report of a score that is none": (
        "report",
        b.cell("m/base.parquet", "score", float("nan")),
        "m/base.parquet: score of .* is nan, expected a finite number",
    ),
    "report of a cut log": ("report", b.truncated("r/refl-s0/train_log.parquet"), "train_log.parquet: not a readable"),
}


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory) -> World:
    return build(tmp_path_factory.mktemp("world"))


@pytest.fixture
def world(made: World, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[World]:
    yield from copies(made, tmp_path, monkeypatch)


def refused(world: World, job: str, said: str, code: int, message: str) -> None:
    lines = [line for line in said.splitlines() if line.startswith("error: ")]
    assert code == 2, said[-2000:]
    assert "Traceback" not in said
    assert len(lines) == 1, said
    assert said.splitlines()[-1] == lines[0]
    assert re.search(message, lines[0]), lines[0]
    assert len(lines[0]) < 900
    written = [path for path in world.outputs(job) if path.exists() and not path.is_dir()]
    assert not written, "written in spite of the refusal"
    assert not list(world.folder.rglob("*.tmp"))
    assert not (world.folder / "executed").exists(), "something was executed"


@pytest.mark.parametrize("case", BAD)
def test_bad_input_ends_in_one_line_and_nothing_written(world: World, case: str) -> None:
    job, breaking, message = BAD[case]
    world.forget(job)
    breaking(world)
    code, said = world.run(job)
    refused(world, job, said, code, message)


@pytest.mark.parametrize("job", ["curate", "score", "encode", "finetune", "sample base", "measure", "report"])
def test_a_folder_that_cannot_be_written_is_said_in_one_line(world: World, job: str) -> None:
    """A file stands where the folder of the outputs should be: nobody, not even root, can write below it."""
    world.forget(job)
    folder = world.outputs(job)[0].parent if job != "report" else world.outputs(job)[0]
    shutil.rmtree(folder / "lineage", ignore_errors=True)
    taken = folder.with_name("taken")
    taken.write_text("")
    changed = {flag[2:]: value.replace(f"{folder.name}/", "taken/") for flag, value in world.written(job).items()}
    code, said = world.run(job, **(changed if job != "report" else {"out": "taken/report"}))
    refused(world, job, said, code, "cannot be written: (Not a directory|File exists)")


@pytest.mark.parametrize("job", ["curate", "score", "encode", "finetune", "sample base", "measure"])
def test_a_full_disk_is_said_in_one_line(world: World, full: Path, job: str) -> None:
    changed = {flag[2:]: str(full / Path(value).name) for flag, value in world.written(job).items()}
    (full / "filler").write_bytes(b"x" * (shutil.disk_usage(full).free - 4096))
    code, said = world.run(job, **changed)
    lines = [line for line in said.splitlines() if line.startswith("error: ")]
    assert (code, len(lines)) == (2, 1), said[-2000:]
    assert "No space left on device" in lines[0]
    assert {path.name for path in full.iterdir() if path.is_file()} == {"filler"}


@pytest.fixture
def full(tmp_path: Path) -> Iterator[Path]:
    """A disk of one megabyte."""
    folder = tmp_path / "disk"
    folder.mkdir()
    mounted = subprocess.run(["mount", "-t", "tmpfs", "-o", "size=1m", "tmpfs", str(folder)], capture_output=True)
    if mounted.returncode:
        pytest.skip("a small disk cannot be mounted here")
    yield folder
    subprocess.run(["umount", "--lazy", str(folder)], check=True)  # a failed write may hold its file a while


PICTURES: dict[str, tuple[bytes, bool]] = {
    "zero bytes": (b"", False),
    "a bomb": (b.bomb(), False),
    "cut off": (b.saved("RGB")[:80], False),
    "CMYK": (b.saved("CMYK", "JPEG"), True),
    "16 bits": (b.saved("I;16"), True),
    "animated": (b.animation(), True),
    "palette": (b.saved("P"), True),
    "transparent": (b.saved("RGBA"), True),
}
"""Odd pictures of a folder, and whether they can be used."""


@pytest.mark.parametrize("case", PICTURES)
def test_single_odd_pictures_are_turned_to_rgb_or_counted_and_left_out(world: World, case: str) -> None:
    data, usable = PICTURES[case]
    b.picture("3.png", data)(world)
    b.key("curate.pairs", None)(world)
    code, said = world.run("curate")
    assert code == 0, said
    rows = tables.read("d/images.parquet", tables.IMAGES).to_pylist()
    assert len(rows) == (12 if usable else 11)
    assert all(decode(row["image"], "here").shape == (16, 16, 3) for row in rows)
    assert all(row["image"][:4] in (b"\x89PNG", b"\xff\xd8\xff\xe0") for row in rows)
    removed = json.loads(Path("d/manifest.json").read_text())["tables"]["images"]["filters"]
    assert sum(each["removed"] for each in removed) == (0 if usable else 1)


@pytest.mark.parametrize("job", ["export merged", "export combined"])
def test_an_export_replaces_nothing(world: World, job: str) -> None:
    """The folder is there already."""
    code, said = world.run(job)
    assert code == 2
    assert "is there already; name another folder, or remove it" in said.splitlines()[-1]


LOCKS = {
    "encode": "e/.state/encode-encode.lock",
    "finetune": "r/refl-s0/.state/finetune-refl-s0.lock",
    "sample": "i/.state/sample-refl-s0.lock",
}


@pytest.mark.parametrize("job", LOCKS)
def test_a_job_that_is_running_is_not_started_a_second_time(world: World, job: str) -> None:
    """Not even with other settings, which would clear its saved state; another job of the stage is not kept out."""
    world.forget(job)
    with only_one(world.folder / LOCKS[job], job):
        code, said = world.run(job)
        refused(
            world, job, said, code, "in use: process .* is at work on this job .*; wait until it has ended, or stop it"
        )
        if job == "sample":
            assert world.run("sample base")[0] == 0
    assert world.run(job)[0] == 0
    assert not (world.folder / LOCKS[job]).exists()


def test_samples_of_another_policy_are_refused(world: World) -> None:
    """The weights were trained again; the base's images name none."""
    assert world.run("measure", policy=POLICY)[0] == 0
    world.forget("measure")
    b.tensors(POLICY, "conv_in.bias", lambda values: values + 1e-3)(world)
    code, said = world.run("measure", policy=POLICY)
    refused(world, "measure", said, code, "i/refl-s0.parquet: made with policy .*, but r/.* is .*; run sample again")
    code, said = world.run("measure base", policy=POLICY)
    assert code == 2
    assert "i/base.parquet: made with policy unknown, but" in said.splitlines()[-1]
    code, said = world.run("measure", policy="r/none.safetensors")
    assert code == 2
    assert "r/none.safetensors: not readable weights: No such file" in said.splitlines()[-1]


ODD_PROMPTS = {
    "a shell command": "a red circle; rm -rf $HOME `touch executed` $(touch executed) && touch executed",
    "a path": "../../../../etc/passwd and ~/.ssh/id_rsa",
    "the other direction of writing": "a red circle and \u202e blue",
    "markup": "<script>alert('executed')</script> <img src=x onerror=alert(1)>",
    "a format string": "%s %n {0.__class__} {{wildcards.run}} ${study.name}",
    "over the token limit": "a red circle and " * 14,
    "a million characters, nearly": "blue " * 20_000,
}


@pytest.mark.parametrize("case", ODD_PROMPTS)
def test_odd_prompts_pass_through_as_they_are(world: World, case: str) -> None:
    """From the list to the images; a prompt is never more than text."""
    prompt = ODD_PROMPTS[case]
    (world.folder / "eval.txt").write_text(f"{prompt}\na small circle\n")
    world.study(lambda content: content["curate"]["filters"].update(caption_words=[1, 100_000]))
    for job in ("curate", "encode", "sample base"):
        code, said = world.run(job)
        assert code == 0, said
    sampled = {row["prompt"] for row in tables.read("i/base.parquet", tables.SAMPLES).to_pylist()}
    assert sampled == {prompt.strip(), "a small circle"}
    assert not (world.folder / "executed").exists()


def test_texts_over_the_token_limit_are_cut_with_a_count(world: World, capsys: pytest.CaptureFixture[str]) -> None:
    b.rows("d/prompts.parquet", lambda r: r[0].update(prompt="circle " * 30))(world)
    model = load_diffusion(load("models/base.json"), torch.device("cpu"), ("vae", "text_encoder"))
    prompts, images = Path("d/prompts.parquet"), Path("d/images.parquet")
    counted = encode(model, prompts, images, Path("x"), Path("y"), EncodeSettings())
    assert counted["truncated"] == 1
    assert re.search(r"encode: 1 of \d+ texts were cut at the text encoder's token limit", capsys.readouterr().out)


def test_there_are_enough_cases() -> None:
    assert len(BAD) >= 40
    assert {job.split(" ")[0] for job, *_ in BAD.values()} >= {line.split(" ")[0] for line in LINES} - {"prepare"}


APART = [
    (job, "this job reads it and would write over it", {flag: place})
    for job, flag, place in (
        ("curate", "manifest", "study.yaml"),
        ("score", "scores", "d/images.parquet"),
        ("encode", "index", "d/../d/prompts.parquet"),
        ("finetune", "weights", "e/encodings.safetensors"),
        ("sample", "samples", "e/index.parquet"),
        ("measure", "measures", "i/refl-s0.parquet"),
        ("reference", "features", "d/images.parquet"),
        ("decided", "pairs", "e/index.parquet"),
        ("tune", "table", "e/index.parquet"),
    )
] + [
    (job, "two outputs of this job have this name", dict.fromkeys(flags, "new/same"))
    for job, flags in (
        ("curate", ("prompts", "pairs")),
        ("score", ("scores", "accuracy")),
        ("encode", ("tensors", "index")),
        ("finetune", ("weights", "log")),
        ("sample base", ("samples", "latents")),
        ("measure", ("measures", "summary")),
        ("decided", ("shares", "auto")),
    )
]


@pytest.mark.parametrize("job, message, changed", APART, ids=lambda each: each if isinstance(each, str) else "")
def test_no_job_writes_over_what_it_reads_or_writes(
    world: World, job: str, message: str, changed: dict[str, str]
) -> None:
    before = {path: path.read_bytes() for path in world.folder.rglob("*") if path.is_file() and path.suffix != ".json"}
    code, said = world.run(job, **changed)
    assert code == 2
    assert message in said.splitlines()[-1]
    assert all(path.read_bytes() == data for path, data in before.items())
    assert not Path("new").exists()


WRONG_WORDS = {
    "score a model under the name of another": (
        "score",
        {"model": "models/heldout.json"},
        "record of model 'heldout', ",
    ),
    "a shard in other digits": ("sample", {"shard": "\uff12/4"}, "expected a shard and their number"),
    "export with a scale that is none": ("export combined", {"guidance": "nan"}, "--guidance nan: expected a guidance"),
    "export with a negative scale": ("export combined", {"base-guidance": "-3"}, "--base-guidance -3: expected a"),
    "export without steps": ("export combined", {"steps": "0"}, "--steps 0: expected at least 1"),
    "export with more steps than there are": (
        "export combined",
        {"steps": "5000"},
        "--steps 5000: the base was trained",
    ),
    "export into the folder of the base": ("export merged", {"out": "models/base/x"}, "lies in the folder of a model"),
}


@pytest.mark.parametrize("case", WRONG_WORDS)
def test_wrong_words_of_a_command_line(world: World, case: str) -> None:
    job, changed, message = WRONG_WORDS[case]
    world.forget(job)
    code, said = world.run(job, **changed)
    refused(world, job, said, code, re.escape(message))


@pytest.mark.parametrize("name, value", [("WORLD_SIZE", "two"), ("WORLD_SIZE", "-1"), ("PROCESSES", "0")])
def test_a_number_of_processes_that_is_none(
    world: World, name: str, value: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv(name, value)
    world.forget("finetune")
    code, said = world.run("finetune")
    refused(world, "finetune", said, code, f"{name}: '{value}' is not a number")
