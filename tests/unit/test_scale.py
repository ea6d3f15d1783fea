"""The estimates of docs/scale.md rest on counts that are known by hand."""

from __future__ import annotations

from pathlib import Path

import pytest

from benchmarks.scale import STUDY, Job, page, sampling, training
from benchmarks.search_hours import SEARCHES, Searched, images_of, searched
from benchmarks.units import UNITS
from stages.sample.meter import Cost
from stages.sample.resolve import sampling_plan

ROOT = Path(__file__).parents[2]


@pytest.fixture(autouse=True)
def _at_the_root(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(ROOT)


def test_sampling_is_counted_as_by_hand():
    base, shown, strategies = sampling(sampling_plan(STUDY))
    assert (base, shown) == (40 + 80, 2)
    assert strategies["tuned"] == 40
    assert strategies["combined"] == sum(40 - k for k in (20, 25, 30, 32, 35, 38))
    assert strategies["aig"] == 7 * (2 * 40 - 1)  # the tuned network weighs nothing in the first step
    assert strategies["aig_guided"] == 7 * (3 * 40 - 1)
    assert strategies["rlg"] == 2 * 3 * 40


def test_training_is_counted_as_by_hand():
    forward, backward, images = training(STUDY, "draft1-s1")
    assert (forward, backward, images) == (40, 1, 2000 * 32)
    forward, backward, _ = training(STUDY, "refl-s1")
    assert backward == 1
    assert 31 + 3 < forward < 31 + 6  # m evaluations and one more, m from 30 to 39


def test_hours_of_an_image_of_refl_are_those_of_the_operations():
    """m = 34.5 evaluations on average and one with gradient, decoder and reward: 35.9 TFLOP an image."""
    unit = UNITS[0]
    work = 35.5 * unit.forward + unit.backward + unit.reward_gradient
    assert work == pytest.approx(35.86, abs=0.05)
    assert Job("one", 1, 8 * work).hours(790) * 3600 == pytest.approx(0.363, abs=0.001)


def test_searches_are_counted_and_priced_as_by_hand():
    found = {(one.strategy, one.setting): one for one in searched(SEARCHES)}
    best, unit = found["best", "n=4"], UNITS[0]
    assert best.cost == Cost(nfe=4 * 2 * 100, queries=4, decodes=4)  # guided: two evaluations a step
    assert best.work(unit) == pytest.approx(800 * unit.forward + 4 * unit.decode + 4 * unit.query)
    das = found["das", "n=4"]
    assert das.gradient and das.cost.nfe_backward == das.cost.nfe == 800
    expected = 1600 * unit.forward + das.cost.queries * unit.reward_gradient + unit.decode  # the chosen one, once more
    assert das.work(unit) == pytest.approx(expected)
    shown = Searched("base", "one", "", Cost(nfe=10, nfe_backward=5, queries=1, decodes=2), gradient=True)
    assert shown.work(unit) == pytest.approx(15 * unit.forward + unit.reward_gradient + unit.decode)
    assert images_of(SEARCHES) == 400


def test_page_and_counts_agree():
    assert (ROOT / "docs/scale.md").read_text() == "\n".join(page(STUDY))
