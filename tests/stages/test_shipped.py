"""The shipped models of the shapes world: the files are the recorded ones, and score as recorded."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
import torch
from safetensors.torch import load_file

from stages.params import read_study
from stages.prepare import quality, ship
from stages.prepare.pictures import Pictures
from stages.world import annotator, oracle
from stages.world.render import render
from stages.world.scene import all_prompts, draw_captions, draw_scenes, evaluation_prompts
from stages.world.settings import WorldSettings

ROOT = Path(__file__).parents[2]
SHIPPED = ROOT / "shipped" / "shapes"
CPU = torch.device("cpu")
REWARDS = ("proxy", "heldout", "clip", "patch")
LIMIT = 12_000_000
"""Bytes that all shipped models may take together."""


@pytest.fixture(scope="module")
def recorded() -> dict:
    return json.loads((SHIPPED / ship.DIGESTS).read_text())


@pytest.fixture(scope="module")
def fresh() -> Pictures:
    """Scenes that no recipe has drawn."""
    world, rng = WorldSettings(), np.random.default_rng(987654)
    scenes = draw_scenes(world, 300, rng)
    captions = draw_captions(world, scenes, rng)
    return Pictures(render(scenes, world.image_size), captions, [str(row) for row in range(300)], ["fresh"] * 300)


def within(recorded: float, count: int) -> float:
    """Four standard errors of a share measured on `count` samples, and never less than 0.02."""
    return max(0.02, 4 * (recorded * (1 - recorded) / count) ** 0.5)


def test_files_are_the_recorded_ones(recorded):
    assert ship.digests(SHIPPED) == recorded["files"]
    assert sum(file["bytes"] for file in recorded["files"].values()) <= LIMIT
    assert {name.split("/")[0] for name in recorded["files"]} == {"base", *REWARDS}


def test_weights_are_in_half_precision():
    for file in SHIPPED.rglob("*.safetensors"):
        assert {value.dtype for value in load_file(file).values()} <= {torch.float16, torch.int64}


def test_the_recipe_stands_in_the_studies(recorded):
    study = read_study(ROOT / "studies" / "shapes-from-scratch.yaml")
    for kind, models in recorded["recipe"]["prepare"]["train"].items():
        assert study["prepare"]["train"][kind] == models
    assert study["world"] == recorded["recipe"]["world"]


def test_the_best_guidance_is_good_enough(recorded):
    scores = recorded["scores"]["base"]
    best = max(scores["ddim"].values(), key=lambda values: values["both"])
    assert best["both"] >= 0.9
    assert best["empty"] <= 0.02
    assert scores["vae"]["both"] >= 0.97


def test_the_base_draws_as_recorded(recorded):
    pipeline = ship.load_pipeline(SHIPPED / "base", CPU)
    guidance, scores = max(recorded["scores"]["base"]["ddim"].items(), key=lambda item: item[1]["both"])
    prompts = [prompt for prompt in evaluation_prompts() for _ in range(3)]
    found = quality.fidelity(quality.draw(pipeline, prompts, float(guidance), 20, seed=77), prompts)
    for name in ("both", "colour"):
        assert found[name] >= scores[name] - within(scores[name], len(prompts)), name
    assert found["empty"] <= 0.05


def test_the_vae_keeps_what_is_recorded(recorded, fresh):
    pipeline = ship.load_pipeline(SHIPPED / "base", CPU)
    found = quality.vae_scores(pipeline.vae, fresh, quality.SHAPES, CPU)
    scores = recorded["scores"]["base"]["vae"]
    assert found["psnr"] == pytest.approx(scores["psnr"], abs=0.7)
    assert found["both"] >= scores["both"] - within(scores["both"], len(fresh))


@pytest.fixture(scope="module")
def judged() -> tuple[Pictures, quality.Pairs]:
    """Fresh comparisons by the simulated annotators."""
    world, rng = WorldSettings(), np.random.default_rng(13579)
    prompts = sorted(set(all_prompts()) - set(evaluation_prompts()))
    shown = annotator.draw_comparisons(world, prompts, 300, rng)
    sides = [render(scenes, world.image_size, rng) for scenes in (shown.a, shown.b)]
    a, b = (oracle.utility(images, shown.prompts) for images in sides)
    votes = annotator.prefers_first(a, b, world.annotator_noise, rng).astype(np.float32)
    names = [str(row) for row in range(600)]
    pictures = Pictures(np.concatenate(sides), shown.prompts * 2, names, ["fresh"] * 600)
    return pictures, quality.Pairs(shown.prompts, np.arange(300), np.arange(300, 600), votes)


@pytest.mark.parametrize("name", REWARDS)
def test_rewards_recognise_and_prefer_as_recorded(name, recorded, fresh, judged):
    embed, encode = ship.embedder(SHIPPED / name, CPU)
    scores = recorded["scores"][name]
    assert quality.retrieval(fresh, embed, encode) >= scores["retrieval"] - within(scores["retrieval"], len(fresh))
    pictures, pairs = judged
    accuracy = quality.pair_accuracy(pictures, pairs, embed, encode)
    assert accuracy == pytest.approx(scores["pair_accuracy"], abs=within(scores["pair_accuracy"], 300))


def test_proxy_and_heldout_learnt_the_annotators_taste(recorded):
    taste = {name: recorded["scores"][name]["pair_accuracy"] for name in REWARDS}
    assert min(taste["proxy"], taste["heldout"]) >= 0.75
    assert min(taste["proxy"], taste["heldout"]) > taste["clip"]
