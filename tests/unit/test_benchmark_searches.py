"""The benchmark of searches: counts follow from the settings, and prices are per count."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from functools import cache
from pathlib import Path

import pytest
from torch import Tensor, nn
from torch.utils.hooks import RemovableHandle

from benchmarks.networks import Shape
from benchmarks.searches import REWARD, SEARCHES, STEPS, Prices, Row, counted, job
from stages.sample.job import RecordedReward, Sampling

T, IMAGES = STEPS, 2


@pytest.fixture(scope="module")
def work(tmp_path_factory: pytest.TempPathFactory) -> Sampling:
    return job(Path(tmp_path_factory.mktemp("searches")), Shape(width=8, layers=1, batch=IMAGES, reward_side=32))


@dataclass(frozen=True)
class Executed:
    """What a search counted, and the rows that went through the UNet, the decoder and the reward."""

    counts: dict[str, int]
    rows: dict[str, int]


@pytest.fixture(scope="module")
def executed(work: Sampling) -> Callable[[str], Executed]:
    """A search by its name, executed once for all tests."""
    return cache(lambda name: execute(work, name))


def execute(work: Sampling, name: str) -> Executed:
    rows = {"nfe": 0, "decodes": 0, "queries": 0}

    def watch(key: str, module: nn.Module) -> RemovableHandle:
        def add(_: nn.Module, given: tuple[Tensor, ...]) -> None:
            rows[key] += len(given[0])

        return module.register_forward_pre_hook(add)

    reward = work.rewards[REWARD].reward

    class Watched:
        name, differentiable = reward.name, True

        def __call__(self, images: Tensor, prompts: Sequence[str]) -> Tensor:
            rows["queries"] += len(images)
            return reward(images, prompts)

    hooks = [watch("nfe", work.model.unet), watch("decodes", work.model.vae.network.decoder)]
    found = counted(replace(work, rewards={REWARD: RecordedReward(Watched(), "watched")}), name)
    for hook in hooks:
        hook.remove()
    return Executed(found, rows)


EXPECTED = {
    "best_of_n": (4 * T, 0, 4, 4),
    "fk": (4 * T, 0, 4 * (T // 2 + 1), 4 * (T // 2 + 1)),
    "code": (1 + 4 * (T - 1), 0, 4 * T // 2, 4 * T // 2),
    "svdd": (1 + 4 * (T - 1), 0, 4 * (T - 1) + 1, 4 * (T - 1)),
    "dlbs": (2 + 2 * 2 * 2 * (T - 1), 0, 2 * 2 * (T - 1) + 2, 2 * 2 * (T - 1) + 2),
    "das": (2 * T, 2 * T, 2 * T + 1, 2 * T),
}
"""Evaluations, those with gradient, decodings and queries of an image, by the table in docs/sampling.md."""


@pytest.mark.parametrize("name", EXPECTED)
def test_counts_are_those_of_the_table_in_the_docs(executed: Callable[[str], Executed], name: str) -> None:
    found = executed(name).counts
    per_image = tuple(found[key] / IMAGES for key in ("nfe", "nfe_backward", "decodes", "queries"))
    assert (per_image[0], per_image[1], per_image[3]) == (EXPECTED[name][0], EXPECTED[name][1], EXPECTED[name][3])
    assert EXPECTED[name][3] <= per_image[2] <= EXPECTED[name][2] + 2  # the result may be decoded once more


@pytest.mark.parametrize("name", ["dts", "dts_star", "dsearch"])
def test_counts_of_random_searches_stay_within_their_bounds(executed: Callable[[str], Executed], name: str) -> None:
    found = executed(name).counts
    if name == "dsearch":
        assert T * IMAGES < found["nfe"] <= found["queries"] + 2 * IMAGES * T
    else:
        assert T * IMAGES < found["nfe"] <= 4 * T * IMAGES
        assert found["queries"] <= 4 * IMAGES


@pytest.mark.parametrize("name", SEARCHES)
def test_counts_are_those_of_the_executed_rows(executed: Callable[[str], Executed], name: str) -> None:
    """Nothing is counted that was kept."""
    found = executed(name)
    assert {key: found.counts[key] for key in found.rows} == found.rows


def test_a_search_is_priced_by_the_moments_around_it() -> None:
    mean = Prices.mean(Prices(1.0, 2.0, 3.0, 4.0), Prices(3.0, 4.0, 5.0, 8.0))
    assert mean == Prices(2.0, 3.0, 4.0, 6.0)


def test_every_search_has_an_expectation() -> None:
    assert set(SEARCHES) == {*EXPECTED, "dts", "dts_star", "dsearch"}


def test_a_ratio_is_over_what_the_counts_amount_to() -> None:
    """An evaluation with gradient is priced with its decoding and query, and with nothing else of them."""
    prices = Prices(evaluation=1.0, decoding=10.0, query=100.0, gradient=1000.0)
    assert prices.of({"nfe": 5, "nfe_backward": 0, "decodes": 3, "queries": 2}) == 235
    assert prices.of({"nfe": 5, "nfe_backward": 2, "decodes": 3, "queries": 2}) == 2013
    assert Row("svdd", 1, {}, [3.0, 1.0, 2.0], 4.0).ratio == 0.5
