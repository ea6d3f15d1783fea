"""Pairs of renoisings of real images: which one wins, what the job writes, what it refuses, and who learns from it."""

from __future__ import annotations

import copy
import json
import re
import shutil
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import yaml

from stages import pictures, tables
from stages.encode.encode import Made, encode
from stages.encode.settings import EncodeSettings
from stages.encode.store import Encodings
from stages.errors import InputError
from stages.models.diffusion import DiffusionModel, load_diffusion
from stages.models.record import describe
from stages.params import validate
from stages.renoise.run import renoise
from stages.renoise.settings import RenoiseSettings
from stages.resume import State
from stages.study import load
from tests import tiny
from tests.refusals import said_of
from tests.stages.curating import ROOT, curate
from workflow import dvc_file
from workflow.files import Files
from workflow.jobs import ENCODE, RENOISE, STAGES
from workflow.layout import Layout

PROMPTS = {split: {"kind": "shapes", "part": split, "limit": 4} for split in ("train", "eval")}


@pytest.fixture(scope="module")
def model() -> DiffusionModel:
    """The shipped base of the shapes world: what is said of winners needs a network that denoises."""
    record = describe("base", "diffusers", ROOT / "shipped" / "shapes" / "base")
    return load_diffusion(record, tiny.CPU, ("unet", "vae", "text_encoder"))


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Curated tables of twelve scenes and three pairs with captions of their images' own."""
    place = tmp_path_factory.mktemp("curated")
    pairs = {"kind": "shapes", "count": 6, "captions": True}
    curate(place, {"images": {"kind": "shapes", "count": 12}, "pairs": pairs, "prompts": PROMPTS, "val_share": 0.2})
    return next(file.parent for file in place.rglob("images.parquet"))


def made(model: DiffusionModel, folder: Path, place: Path, state: State | None = None, **more: Any) -> dict[str, Any]:
    """What the job writes: rows of both tables, and the manifest."""
    settings = validate(RenoiseSettings, {"steps": 8, "batch_size": 8, **more}, "renoise")
    place.mkdir(exist_ok=True)
    outputs = place / "made.parquet", place / "made_pairs.parquet", place / "manifest.json"
    counts = renoise(model, settings, 0, folder / "images.parquet", outputs, state)
    images = {row["image_id"]: row for row in tables.read(outputs[0], tables.IMAGES).to_pylist()}
    pairs = tables.read(outputs[1], tables.PAIRS).to_pylist()
    return {"images": images, "pairs": pairs, "manifest": json.loads(outputs[2].read_text()), "counts": counts}


def training(folder: Path) -> dict[str, dict[str, Any]]:
    rows = tables.read(folder / "images.parquet", tables.IMAGES).to_pylist()
    return {row["caption"]: row for row in rows if row["split"] == "train"}


def away(row: dict[str, Any], other: dict[str, Any]) -> float:
    """Root mean square difference of two images."""
    first, second = (pictures.decode(one["image"], "an image").astype(float) for one in (row, other))
    return float(np.sqrt(np.square(first - second).mean()))


def test_the_less_noised_image_wins_and_is_nearer(model: DiffusionModel, folder: Path, tmp_path: Path) -> None:
    found = made(model, folder, tmp_path, strengths=[0.75, 0.25])  # the order of the two says nothing
    real = training(folder)
    gaps = []
    for row in found["pairs"]:
        assert row["preference"] == 1 and row["split"] == "train" and row["source"] == "renoised"
        winner, loser = (found["images"][row[side]] for side in ("image_a", "image_b"))
        assert winner["split"] == loser["split"] == "pairs"
        assert winner["caption"] == row["prompt"] and winner["group"] == real[row["prompt"]]["group"]
        gaps.append(away(loser, real[row["prompt"]]) - away(winner, real[row["prompt"]]))
    assert len(gaps) >= 8 and np.mean(np.array(gaps) > 0) > 0.8 and np.mean(gaps) > 5
    assert found["manifest"]["steps"] == [6, 2] and found["manifest"]["tables"]["ties"] == 0
    counted = {key: found["manifest"]["tables"][key] for key in ("images", "pairs", "alike", "evaluations")}
    assert counted == found["counts"]
    assert counted["evaluations"] == counted["images"] * 8 and counted["pairs"] + counted["alike"] == counted["images"]


def test_equal_strengths_are_ties_of_two_noises(model: DiffusionModel, folder: Path, tmp_path: Path) -> None:
    found = made(model, folder, tmp_path, strengths=[0.5, 0.5], each=2, limit=3, name="ties")
    assert [row["preference"] for row in found["pairs"]] == [0.5] * 6
    assert all(row["image_a"] != row["image_b"] for row in found["pairs"])
    assert len(found["images"]) == 12 and len({row["pair_id"] for row in found["pairs"]}) == 6
    assert found["manifest"]["tables"]["ties"] == 6 and {row["source"] for row in found["pairs"]} == {"ties"}


class Interrupted(Exception):
    """The job was ended between two batches."""


def test_batches_and_an_interruption_change_nothing(
    model: DiffusionModel, folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    whole = made(model, folder, tmp_path / "whole", limit=6)
    one = made(model, folder, tmp_path / "one", limit=6, batch_size=3)
    assert [row["prompt"] for row in one["pairs"]] == [row["prompt"] for row in whole["pairs"]]
    sides = [(found["images"][row["image_a"]] for found, row in zip((whole, one), rows, strict=True))
             for rows in zip(whole["pairs"], one["pairs"], strict=True)]  # fmt: skip
    assert all(away(*both) < 1 for both in sides)  # rounding of a batched network may move a level
    plain = made(model, folder, tmp_path / "plain", limit=6, batch_size=3)
    state, texts, calls = State(tmp_path / "state", "key", every=0.0), model.text, []
    real = type(texts).encode

    def encode_twice(self: Any, prompts: Any) -> Any:
        calls.append(prompts)
        if len(calls) == 2:
            raise Interrupted
        return real(self, prompts)

    monkeypatch.setattr(type(texts), "encode", encode_twice)
    with pytest.raises(Interrupted):
        made(model, folder, tmp_path / "again", state, limit=6, batch_size=3)
    assert not (tmp_path / "again" / "made.parquet").exists()
    again = made(model, folder, tmp_path / "again", State(tmp_path / "state", "key"), limit=6, batch_size=3)
    assert again["pairs"] == plain["pairs"] and again["images"] == plain["images"]
    assert len(calls) < 2 * len(plain["pairs"])


def test_encode_keeps_them_beside_curated_pairs(model: DiffusionModel, folder: Path, tmp_path: Path) -> None:
    """The curated pairs stay as they are; methods take the others by their source, or both. Without curated pairs the
    made ones are all there are.
    """
    found = made(model, folder, tmp_path, limit=4)
    added = Made(tmp_path / "made.parquet", tmp_path / "made_pairs.parquet")
    curated = tables.read(folder / "pairs.parquet", tables.CAPTIONED_PAIRS).to_pylist()
    inputs = folder / "prompts.parquet", folder / "images.parquet"
    out = tmp_path / "encodings.safetensors", tmp_path / "index.parquet"
    encode(model, *inputs, *out, EncodeSettings(batch_size=8), compared=folder / "pairs.parquet", made=added)
    store = Encodings(*out, tiny.CPU)
    mine, every = store.pairs("train", "renoised"), store.pairs("train")
    assert len(every) - len(mine) == sum(row["split"] == "train" for row in curated) > 0
    assert [pair.text for pair in mine] == [row["prompt"] for row in found["pairs"]]
    assert [pair.winner.item_id for pair in mine] == [row["image_a"] for row in found["pairs"]]
    assert all(pair.winner.text_row == pair.text_row for pair in mine)  # they have no captions of their own
    encode(model, *inputs, *out, EncodeSettings(batch_size=8), made=added)
    assert len(Encodings(*out, tiny.CPU).pairs("train")) == len(mine)
    rows = tables.read(added.images, tables.IMAGES).to_pylist()
    rows[0]["width"] += 1
    tables.write(added.images, tables.table(tables.IMAGES, rows), tables.IMAGES)
    with pytest.raises(InputError, match=rf"^{re.escape(str(added.images))}: image '{rows[0]['image_id']}'"):
        encode(model, *inputs, *out, EncodeSettings(batch_size=8), made=added)


@pytest.mark.parametrize("more, said", [
    ({"strengths": [0.5, 0.52]}, "strengths: both are 4 of 8 steps"),
    ({"strengths": [0.0, 0.5]}, "strengths.0: input should be greater than 0"),
    ({"strengths": [0.5]}, "strengths"),
    ({"each": 0}, "each"),
])  # fmt: skip
def test_settings_that_are_refused(more: dict[str, Any], said: str) -> None:
    with pytest.raises(InputError, match=said) as refusal:
        validate(RenoiseSettings, {"steps": 8, **more}, "renoise")
    assert "\n" not in str(refusal.value)


def test_a_source_without_images_is_refused(model: DiffusionModel, folder: Path, tmp_path: Path) -> None:
    with pytest.raises(InputError, match="no image of split 'train' from source 'photos'"):
        made(model, folder, tmp_path, of="photos")


# the study


def study(**more: Any) -> dict[str, Any]:
    content = copy.deepcopy(yaml.safe_load((ROOT / "studies" / "smoke.yaml").read_text()))
    content["methods"]["refl"] = {"kind": "diffusion_dpo", "source": "renoised"} | more.pop("method", {})
    content["renoise"] = {} | more.pop("renoise", {})
    content["curate"] |= more
    return content


def test_it_needs_no_other_source_of_pairs(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(ROOT)
    content = study(pairs=None)
    for clip in content["prepare"]["train"]["clip"].values():
        clip |= {"preference_steps": 0, "pair_source": ""}
    (tmp_path / "study.yaml").write_text(yaml.safe_dump(content))
    assert load(tmp_path / "study.yaml").renoise is not None


@pytest.mark.parametrize("more, said", [
    ({"renoise": {"of": "photo"}}, "renoise.of: unknown source of curate.images 'photo'"),
    ({"renoise": {"name": "annotators-a"}, "method": {"source": "annotators-a"}}, "is a source of curate.pairs too"),
    ({"renoise": {"strengths": [0.4, 0.4]}}, "methods.refl: source 'renoised' has two equal strengths"),
    ({"method": {"source": "annotators-a"}}, "renoise: no trained method learns from its pairs"),
    ({"method": {"kind": "dcpo", "captions": "curated"}}, "methods.refl.captions: is curated, but source 'renoised'"),
    ({"method": {"source": "renoise"}}, "methods.refl.source: unknown source of curate.pairs 'renoise'"),
    ({"renoise": {"steps": 1001, "strengths": [0.2, 0.8]}}, "renoise.steps: 1001, but the noise schedule"),
])  # fmt: skip
def test_studies_that_are_refused(
    more: dict[str, Any], said: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(ROOT)
    assert said in said_of(study(**more), tmp_path)


def test_ties_go_with_labels_of_a_reward(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(ROOT)
    content = study(renoise={"strengths": [0.4, 0.4]}, method={"labels": {"kind": "reward"}})
    (tmp_path / "study.yaml").write_text(yaml.safe_dump(content))
    assert load(tmp_path / "study.yaml").renoise is not None


def test_the_job_is_there_only_with_the_section() -> None:
    """Both runners have it; encode reads its tables beside the curated pairs, and no other job changes."""
    content = study()
    without = {key: value for key, value in content.items() if key != "renoise"}
    plain, with_it = (Layout("study.yaml", one) for one in (without, content))
    before, after = Files(plain), Files(with_it)
    assert RENOISE not in before.stages and RENOISE in after.stages
    added = [with_it.out(f"renoise/{name}.parquet") for name in ("pairs", "images")]
    assert set(after.inputs(ENCODE)) == {*before.inputs(ENCODE), *added}
    assert f"--made {added[0]} --made-images {added[1]}" in after.command(ENCODE)
    for stage in STAGES:
        if stage not in (RENOISE, ENCODE):
            assert after.command(stage) == before.command(stage)
    stages = [yaml.safe_load(dvc_file.of(one))["stages"] for one in (plain, with_it)]
    assert "renoise" not in stages[0] and "stages.renoise --params params.yaml" in stages[1]["renoise"]["cmd"][-1]
    assert {name: stages[0][name] for name in stages[0] if name != "encode"} == {
        name: one for name, one in stages[1].items() if name not in ("renoise", "encode")
    }


@pytest.mark.slow
def test_a_study_ends_in_a_trained_policy(tmp_path: Path) -> None:
    """The miniature study up to the run that learns from renoised pairs alone."""
    from tests.stages.test_docs_preference import run

    content = study(renoise={"steps": 6, "limit": 24, "strengths": [0.3, 0.7]})
    content["decided"], content["study"]["name"] = None, "renoised"
    content["methods"] = {"dpo": content["methods"]["refl"]}
    content["runs"], content["study"]["reference"] = {"dpo-s0": {"method": "dpo", "seed": 0}}, "dpo"
    content["sample"]["strategies"].pop("decided")
    content["report"].pop("figures")
    (tmp_path / "study.yaml").write_text(yaml.safe_dump(content))
    for name in ("Snakefile", "workflow", "stages", "profiles", "pyproject.toml", "params.yaml", "slurm"):
        (tmp_path / name).symlink_to(ROOT / name)
    (tmp_path / "data").mkdir()
    shutil.copytree(ROOT / "votes", tmp_path / "votes")
    target = "out/renoised/runs/dpo-s0/policy.safetensors"
    run(tmp_path, "-m", "snakemake", "--cores", "1", "--config", "study=study.yaml", "--", target)
    log = tables.read(tmp_path / "out/renoised/runs/dpo-s0/train_log.parquet", tables.TRAIN_LOG).to_pylist()
    assert {"loss", "accuracy", "margin"} <= {row["term"] for row in log}
    assert json.loads((tmp_path / "out/renoised/renoise/manifest.json").read_text())["tables"]["pairs"] == 24
