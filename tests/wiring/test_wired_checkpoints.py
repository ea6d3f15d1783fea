"""Checkpoints from elsewhere through every stage: sampled, measured and reported, without a run that is trained."""

from __future__ import annotations

import json
import shutil

import pyarrow.parquet as pq
import pytest
import torch
import yaml
from safetensors.torch import save_file

from stages.models.diffusion import load_diffusion
from stages.models.record import load
from stages.sample.made_by import digest_of, policy_of
from tests import original_layout, tiny
from tests.wiring import mini

RUNS = ("merged", "single", "adapter")


@pytest.fixture(scope="module")
def study(tmp_path_factory: pytest.TempPathFactory) -> mini.Mini:
    """A finished study of three checkpoints: one network as a diffusers folder and as a single file, and a LoRA."""
    root = tmp_path_factory.mktemp("theirs")
    made = mini.write(root)
    base = load_diffusion(load(made.out / "models/base.json"), tiny.CPU, parts=("unet",))
    with torch.no_grad():
        base.unet.conv_out.bias.add_(0.1)  # type: ignore[operator, union-attr]
    shutil.copytree(root / "base", root / "merged")
    base.unet.save_pretrained(root / "merged/unet")
    save_file(original_layout.original(root / "merged"), root / "single.safetensors")
    layer, draw = "mid_block.attentions.0.transformer_blocks.0.attn2.to_q", torch.Generator().manual_seed(2)
    weight = base.unet.get_parameter(f"{layer}.weight")
    matrices = {"lora_A": (2, weight.shape[1]), "lora_B": (weight.shape[0], 2)}
    (root / "adapter").mkdir()
    save_file(
        {f"unet.{layer}.{name}.weight": torch.randn(shape, generator=draw) for name, shape in matrices.items()},
        root / "adapter/pytorch_lora_weights.safetensors",
    )
    raw = made.raw
    raw["runs"] = {name: {"checkpoint": name} for name in ("merged", "adapter")}
    raw["runs"]["single"] = {"checkpoint": "single.safetensors"}
    raw["methods"], raw["study"]["reference"] = {}, "merged"
    raw["sample"]["strategies"] = {name: raw["sample"]["strategies"][name] for name in ("tuned", "combined")}
    made.params.write_text(yaml.safe_dump(raw, sort_keys=False))
    for name in RUNS:
        made.made.add(f"runs/{name}")
        written = ("--policy", f":runs/{name}/policy.safetensors", "--record", f":runs/{name}/checkpoint.json")
        made.call("checkpoints", "--run", name, *mini.BASE, *written)
    for name in ("base", *RUNS):
        made.make("measures", name)
    for name in raw["score"]["rewards"]:
        made.make("scores", name)
    folders = [part for name in ("data", "scores", "runs", "samples", "measures") for part in (f"--{name}", f":{name}")]
    made.call("report", *folders, "--out", ":report")
    return made


def test_two_forms_of_one_network_make_the_same_images(study: mini.Mini) -> None:
    folder, single = (pq.read_table(study.out / f"samples/{name}.parquet") for name in ("merged", "single"))
    assert folder["image"] == single["image"]
    assert set(folder["method"].to_pylist()) == {"merged"} and set(folder["train_seed"].to_pylist()) == {0}


def test_samples_and_lineage_name_the_checkpoint(study: mini.Mini) -> None:
    for name in RUNS:
        policy = study.out / f"runs/{name}/policy.safetensors"
        assert policy_of(study.out / f"samples/{name}.parquet") == digest_of(policy)
        record = load(study.out / f"runs/{name}/checkpoint.json", name)
        lineage = json.loads((study.out / f"lineage/import_policy-{name}.json").read_text())
        assert set(record.files.values()) <= {file["sha256"] for file in lineage["inputs"]}
        assert lineage["parameters"]["digest"] == record.digest
    kept = {name: load(study.out / f"runs/{name}/checkpoint.json").options["kept"] for name in RUNS}
    assert kept == {"merged": "full", "single": "full", "adapter": "lora"}


def test_the_report_shows_checkpoints_by_the_name_of_their_run(study: mini.Mini) -> None:
    numbers = json.loads((study.out / "report/metrics.json").read_text())
    assert list(numbers["runs"]) == ["merged", "adapter", "single"]
    assert numbers["runs"]["merged"] == numbers["runs"]["single"] != numbers["runs"]["adapter"]
    page = (study.out / "report/index.html").read_text()
    assert all(f">{name}<" in page for name in RUNS)
    assert not (study.out / "runs/merged/train_log.parquet").exists()
