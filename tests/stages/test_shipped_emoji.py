"""The shipped emoji world: files are the recorded ones, models score as recorded, images are of free vendors."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
import torch
from diffusers.schedulers.scheduling_ddpm import DDPMScheduler
from safetensors.torch import load_file

from stages import tables
from stages.emoji import library
from stages.emoji.names import EVALUATION
from stages.models.record import describe
from stages.params import read_study
from stages.prepare import quality, ship
from stages.prepare.pictures import read_pictures
from stages.rewards.base import Oracle, load_reward, require_oracle

ROOT = Path(__file__).parents[2]
SHIPPED = ROOT / "shipped" / "emoji"
IMAGES = SHIPPED / "images.parquet"
CPU = torch.device("cpu")
LIMIT = 40_000_000
"""Bytes that all of it may take together."""


@pytest.fixture(scope="module")
def recorded() -> dict:
    return json.loads((SHIPPED / ship.DIGESTS).read_text())


@pytest.fixture(scope="module")
def oracle() -> Oracle:
    return require_oracle(load_reward(describe("oracle", "nearest_image", IMAGES)))


def test_files_are_the_recorded_ones(recorded):
    found = {name: about for name, about in ship.digests(SHIPPED).items() if name != "LICENSES.md"}
    assert found == {name: about for name, about in recorded["files"].items() if name != "LICENSES.md"}
    assert sum(file["bytes"] for file in recorded["files"].values()) <= LIMIT
    trained = recorded["recipe"]["prepare"]["train"]
    names = {*trained["base"], *trained["clip"], *trained["consistency"], "images.parquet", "LICENSES.md"}
    assert {name.split("/")[0] for name in recorded["files"]} == names


def test_weights_are_in_half_precision():
    for file in SHIPPED.rglob("*.safetensors"):
        assert {value.dtype for value in load_file(file).values()} <= {torch.float16, torch.int64}


def test_the_recipe_stands_in_the_studies(recorded):
    study = read_study(ROOT / "studies" / "emoji-from-scratch.yaml")
    for kind, models in recorded["recipe"]["prepare"]["train"].items():
        assert study["prepare"]["train"][kind] == models
    assert study["curate"] == recorded["recipe"]["curate"]


def test_images_are_those_of_free_vendors_and_have_their_licences():
    vendors = {entry.about.vendor for entry in library.read(IMAGES)}
    assert vendors == {"google", "twitter"}
    said = (
        (SHIPPED / "LICENSES.md").read_text()
        + (ROOT / "NOTICE").read_text()
        + (ROOT / "docs/emoji-world.md").read_text()
    )
    for words in ("Noto Emoji", "Apache License 2.0", "Twemoji", "CC-BY 4.0"):
        assert said.count(words) >= 2, words


def test_every_evaluation_prompt_has_all_tones_of_both_vendors():
    rows = [entry.about for entry in library.read(IMAGES)]
    for prompt in EVALUATION:
        kinds = {(about.vendor, about.tone) for about in rows if about.caption == prompt}
        assert len(kinds) >= 11, prompt


@pytest.mark.slow
def test_the_base_draws_what_is_recorded(recorded, oracle):
    pipeline = ship.load_pipeline(SHIPPED / "base", CPU)
    pipeline.scheduler = DDPMScheduler.from_config(pipeline.scheduler.config)
    prompts = [prompt for prompt in EVALUATION for _ in range(4)]
    images = quality.draw(pipeline, prompts, 1.0, 20, seed=77)
    found = quality.by_oracle(oracle, prompts).shares(images, prompts)["caption_accuracy"]
    said = recorded["scores"]["base"]["ddpm"]["1"]["caption_accuracy"]
    assert found >= said - 4 * (max(said * (1 - said), 0.01) / len(prompts)) ** 0.5


def test_the_vae_keeps_what_is_recorded(recorded, oracle):
    pipeline = ship.load_pipeline(SHIPPED / "base", CPU)
    held_out = read_pictures(IMAGES, "val")
    found = quality.vae_scores(pipeline.vae, held_out, quality.by_oracle(oracle, EVALUATION), CPU)
    said = recorded["scores"]["base"]["vae"]
    assert found["psnr"] == pytest.approx(said["psnr"], abs=0.3)
    assert found["caption_accuracy"] >= said["caption_accuracy"] - 0.03


@pytest.mark.parametrize("name", ["proxy", "heldout", "clip"])
def test_the_rewards_find_names_as_recorded(recorded, name):
    held_out = read_pictures(IMAGES, "val")
    found = quality.retrieval(held_out.of("", "validation images"), *ship.embedder(SHIPPED / name, CPU))
    assert found == pytest.approx(recorded["scores"][name]["retrieval"], abs=0.05)


def test_what_is_shipped_is_an_images_table():
    rows = tables.read(IMAGES, tables.IMAGES, ["split", "width", "height"]).to_pylist()
    assert {row["split"] for row in rows} == {"train", "val"}
    assert {(row["width"], row["height"]) for row in rows} == {(32, 32)}
    assert np.isclose(sum(row["split"] == "val" for row in rows) / len(rows), 0.05, atol=0.02)
