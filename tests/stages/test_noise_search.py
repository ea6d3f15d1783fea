"""Noise optimisation on a tiny base and policy: invariants, costs, gradients, and the weights of kinds of prompts."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from test_sample import model as model  # a fixture
from test_search import BOTH, STEPS, Counted, column, job, made, pixels, rewards
from torch import Tensor

from stages.errors import InputError
from stages.models.diffusion import DiffusionModel
from stages.sample.ascent import ScoredNoise, clipped, optimised, regulariser, score_noise
from stages.sample.context import Context
from stages.sample.job import RecordedReward
from stages.sample.noise_search import NoiseSearch
from stages.sample.resolve import strategy
from stages.sample.settings import SampleSettings

RENO: dict[str, Any] = {"kind": "reno", "n": [1, 4], "weights": {"proxy": 1.0}, "rate": 20.0, "apply_to": BOTH}
CARINOX = {**RENO, "kind": "carinox", "starts": 1}
KINDS = {"reno": RENO, "carinox": CARINOX}


def search_of(**entry: Any) -> NoiseSearch:
    found = strategy("s", {**RENO, **entry}, SampleSettings(steps=STEPS), "test").settings
    assert isinstance(found, NoiseSearch)
    return found


@pytest.fixture(scope="module")
def plain(model: DiffusionModel, tmp_path_factory: pytest.TempPathFactory) -> dict[tuple[str, str, str], list[Any]]:
    folder = tmp_path_factory.mktemp("noise")
    still = {"still": {**RENO, "n": [3], "rate": 0.0}}
    return made(job(model, folder, {"tuned": {"kind": "tuned"}, **KINDS, **still})[0], folder)


@pytest.fixture
def context(model: DiffusionModel, tmp_path: Path) -> Context:
    """Four images of two prompts, and two rewards."""
    work, _ = job(model, tmp_path, {}, batch_size=64)
    work = replace(work, rewards={name: RecordedReward(Counted(), name) for name in ("proxy", "other")})
    return work.context(work.suite.groups()[0])


@pytest.mark.parametrize(("name", "setting"), [("reno", "n=1"), ("carinox", "n=1"), ("still", "n=3")])
def test_one_iteration_or_a_rate_of_zero_is_plain_sampling(plain, name: str, setting: str):
    assert np.array_equal(pixels(plain["base", name, setting]), pixels(plain["base", "guidance", "g=1"]))
    assert np.array_equal(pixels(plain["run", name, setting]), pixels(plain["run", "tuned", "tuned"]))


@pytest.mark.parametrize("name", KINDS)
@pytest.mark.parametrize("run", ["base", "run"])
def test_no_image_loses_reward_and_most_gain(plain, name: str, run: str):
    one, several = (rewards(plain[run, name, f"n={n}"]) for n in (1, 4))
    assert (several >= one - 1e-3).all() and (several > one + 1e-3).mean() > 0.5  # 8-bit pixels


def test_costs_are_those_of_the_iterations(plain):
    """The last iteration carries no gradient: no step follows it."""
    for name in KINDS:
        for n in (1, 4):
            rows = plain["base", name, f"n={n}"]
            expected = {(n * STEPS, (n - 1) * STEPS, n, n)}
            assert {(r["nfe"], r["nfe_backward"], r["queries"], r["decodes"]) for r in rows} == expected
            assert set(map(tuple, column(rows, "rewards"))) == {("proxy",)}


@pytest.mark.parametrize("name", KINDS)
def test_images_do_not_depend_on_the_batch_size(model: DiffusionModel, tmp_path: Path, name: str):
    """Up to one level of 255: norms, clipping and the best iteration are those of each image."""
    entry = {**KINDS[name], "n": [3], "apply_to": ["base"]} | ({"starts": 2} if name == "carinox" else {})
    large, small = (
        made(job(model, tmp_path / str(size), {name: entry}, batch_size=size)[0], tmp_path / str(size))
        for size in (64, 3)
    )
    for key, rows in large.items():
        for counted in ("nfe", "nfe_backward", "queries", "decodes"):
            assert column(rows, counted) == column(small[key], counted)
        assert np.abs(pixels(rows) - pixels(small[key])).max() <= 1, key


def test_counts_are_those_of_executed_calls(model: DiffusionModel, tmp_path: Path):
    """Two starts of three iterations, by the network's own calls and the reward's own images."""
    entry = {**CARINOX, "n": [3], "starts": 2, "apply_to": ["base"]}
    work, reward = job(model, tmp_path, {"carinox": entry}, batch_size=64)
    sizes: list[int] = []
    hook = model.unet.register_forward_pre_hook(lambda _, given: sizes.append(len(given[0])))
    found = made(work, tmp_path)
    hook.remove()
    rows = found["base", "carinox", "n=3"]
    assert sum(column(rows, "nfe")) + sum(column(found["base", "guidance", "g=1"], "nfe")) == sum(sizes)
    assert sum(column(rows, "queries")) == reward.images == 6 * len(rows)


def test_within_combined_generation(model: DiffusionModel, tmp_path: Path):
    """The gradient goes through the base's steps and the tuned network's; one iteration is combined generation."""
    combined = {"kind": "combined", "k": [2], "base_guidance": 2.0}
    entry = {**RENO, "n": [1, 3], "apply_to": ["tuned"], "prediction": combined}
    found = made(job(model, tmp_path, {"combined": combined, "reno": entry})[0], tmp_path)
    assert np.abs(pixels(found["run", "reno", "n=1"]) - pixels(found["run", "combined", "k=2"])).max() <= 1
    assert rewards(found["run", "reno", "n=3"]).mean() > rewards(found["run", "reno", "n=1"]).mean()
    cost = 2 * 2 + STEPS - 2
    assert set(column(found["run", "reno", "n=3"], "nfe_backward")) == {2 * cost}


def total(ctx: Context, search: NoiseSearch, z: Tensor) -> Tensor:
    """The loss [B] that ReNO goes down, from its parts."""
    seen = score_noise(ctx, search, z, last=True)
    return seen.total + seen.regulariser


def test_the_gradient_is_that_of_loss_and_regulariser(context: Context):
    """By central differences along it; two rewards, and a random sampler whose draws stay."""
    search = search_of(weights={"proxy": 2.0, "other": 0.5}, regularise=0.3, clip=1e6)
    z, step = context.noise.initial(), 1e-2
    with torch.no_grad():
        (gradient,) = score_noise(context, search, z).gradients
        length = gradient.flatten(1).norm(dim=1)
        ahead = step * gradient / length.view(-1, 1, 1, 1)
        high, low = (total(context, search, z + move) for move in (ahead, -ahead))
    torch.testing.assert_close((high - low) / (2 * step), length, rtol=0.02, atol=1e-3)


def test_gradients_that_are_clipped_apart_each_have_the_regulariser(context: Context):
    search = search_of(kind="carinox", weights={"proxy": 3.0, "other": 1.0}, regularise=0.3, clip=0.2)
    z = context.noise.initial()
    with torch.no_grad():
        seen = score_noise(context, search, z)
        first, second = seen.gradients
        away = torch.func.grad(lambda x: regulariser(x, 0.3).sum())(z)
        # both rewards are one function here, so the gradients differ by their weights alone
        torch.testing.assert_close(first - away, 3 * (second - away), rtol=1e-4, atol=1e-5)
        apart = clipped(seen.gradients, 0.2)
        torch.testing.assert_close(seen.step, clipped(apart.sum(0)[None], 0.2)[0])
    assert bool((apart.flatten(2).norm(dim=2) <= 0.2 + 1e-6).all())
    torch.testing.assert_close(seen.total, seen.losses.sum(1))


def test_short_gradients_are_not_scaled():
    rows = torch.tensor([0.1, 5.0]).view(1, 2, 1, 1, 1)
    assert clipped(rows, 1.0).flatten().tolist() == pytest.approx([0.1, 1.0], abs=1e-5)


def test_the_regulariser_is_least_at_the_mode_of_the_norm():
    """The norm of d standard normal numbers has its mode at sqrt(d - 1), of four well apart from sqrt(d)."""
    d = 4
    scale = torch.linspace(0.5, 1.5, 101)
    z = torch.ones(101, 4, 1, 1) / d**0.5 * (d - 1) ** 0.5 * scale.view(-1, 1, 1, 1)
    assert int(regulariser(z, 1.0).argmin()) == 50
    torch.testing.assert_close(regulariser(z, 0.1), 0.1 * regulariser(z, 1.0))


def test_the_best_iteration_is_kept_image_by_image(context: Context):
    """With a rate that overshoots, the last iteration is not the best of every image."""
    told: list[ScoredNoise] = []
    with torch.no_grad():
        best = optimised(context, search_of(rate=400.0, clip=10.0), 6, told.append)
    totals = torch.stack([each.total for each in told])
    assert torch.equal(best.iteration, totals.argmin(0)) and torch.equal(best.loss, totals.amin(0))
    assert len(set(best.iteration.tolist()) | {5}) > 1
    for row, number in enumerate(best.iteration.tolist()):
        assert torch.equal(best.images[row], told[number].images[row])


def test_more_starts_are_never_worse(context: Context):
    few, many = (search_of(kind="carinox", starts=starts) for starts in (1, 3))
    with torch.no_grad():
        one, three = (search.sample(context, 2.0) for search in (few, many))
        first, third = (context.score(images, "proxy") for images in (one, three))
    assert bool((third >= first - 1e-5).all()) and bool((third > first + 1e-3).any())


def test_a_kind_of_prompt_asks_its_own_rewards(context: Context):
    """The first prompt is of a kind that only `other` judges; no reward is asked in vain."""
    kind = {"pattern": f"^{context.prompts[0].upper()}$", "weights": {"other": 2.0, "proxy": 0.0}}
    search = search_of(kind="carinox", categories={"first": kind, "none": {**kind, "pattern": "zzz"}}, starts=1)
    assert search.rewards() == ("proxy", "other")
    with torch.no_grad():
        seen = score_noise(context, search, context.noise.initial())
    mine = torch.tensor([prompt == context.prompts[0] for prompt in context.prompts])
    assert 0 < int(mine.sum()) < len(mine)
    asked = seen.losses != 0
    assert torch.equal(asked, torch.stack([~mine, mine], 1))
    assert [cost.queries for cost in context.rows.meter.costs()] == [1] * len(mine)


@pytest.mark.parametrize(
    ("entry", "message"),
    [
        ({"n": [0]}, "n 0 is below 1"),
        ({"weights": {"proxy": 0.0}}, "weights: every weight is 0, expected one above it"),
        ({"weights": {}}, "weights"),
        ({"kind": "carinox", "categories": {"a": {"pattern": "(", "weights": {"proxy": 1.0}}}},
         "no regular expression"),
        ({"kind": "carinox", "categories": {"a": {"pattern": "b", "weights": {"proxy": 0.0}}}},
         "categories.a.weights: every weight is 0"),
        ({"prediction": {"kind": "combined", "k": [1]}}, "prediction of kind combined cannot be applied to base"),
    ],
)  # fmt: skip
def test_settings_that_do_not_fit_are_refused(entry: dict[str, Any], message: str):
    with pytest.raises(InputError, match=message):
        search_of(**entry)


def test_rewards_need_a_gradient():
    assert search_of().needs_gradient() and search_of().rewards() == ("proxy",)
