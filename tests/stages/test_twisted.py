"""DAS on a tiny base: weights, shifts and tempering of every step against their formulas."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from test_sample import model as model  # a fixture
from test_search import STEPS
from test_search_limits import SAMPLE
from test_search_limits import group as group  # a fixture
from torch.distributions import Normal

from stages.sample.particles import Populations
from stages.sample.resolve import strategy
from stages.sample.strategies.das import Settings
from stages.sample.twisted import Weighed, twisted


def das(**entry: Any) -> Settings:
    found = strategy("s", {"kind": "das", "reward": "proxy", "n": [3], **entry}, SAMPLE, "test").settings
    assert isinstance(found, Settings)
    return found


def test_the_strength_rises_to_the_whole():
    search = das(gamma=0.3)
    assert [search.tempered(i) for i in range(3)] == pytest.approx([0.0, 0.3, 0.69])
    assert search.tempered(20) == 1.0 and search.ahead(1) == search.tempered(2)
    power = das(gamma=0.1, schedule=2.0)
    assert [power.tempered(i) for i in (0, 1, 5, 99)] == pytest.approx([0.0, 0.01, 0.25, 1.0])
    assert power.ahead(2) == pytest.approx(0.09)
    released = das(gamma=0.1, schedule=2.0, as_released={"straight": True})
    assert released.ahead(2) == pytest.approx(0.3) and released.tempered(3) == pytest.approx(0.09)


def test_weights_are_those_of_the_shifted_steps(group: Any):
    """Nothing is resampled: with p the plain step and q the shifted one, a weight is the sum of log p - log q and the
    strength times the last reward, but for what the twists of single steps cancel.
    """
    work, own = group
    search, told = das(strength=8.0, gamma=0.3, threshold=0.0), list[Weighed]()
    start = Populations.of(work.context(own), 3)
    with torch.no_grad():
        final, weights = twisted(start, search, told.append)
        steps = search.steps(start.wide)
        ratio = torch.zeros(len(start.ctx), 3, dtype=torch.float64)
        for i, weighed in enumerate(told):
            seen = steps.at(weighed.x, i)
            scores = search.score(start.wide, steps.x0(seen)).view(-1, 3)
            torch.testing.assert_close(weighed.rewards, scores, rtol=1e-4, atol=1e-4)
            torch.testing.assert_close(weighed.twist, search.tempered(i) * 8.0 * scores.double(), rtol=1e-4, atol=1e-3)
            before = told[i - 1].twist if i else 0.0
            torch.testing.assert_close(weighed.growth, ratio + weighed.twist - before, rtol=1e-3, atol=1e-2)
            law, after = steps.law(seen), told[i + 1].x if i < STEPS - 1 else final.x
            ratio = torch.zeros_like(ratio)
            if law is not None:
                mean, std = law.mean.double(), law.std.double()
                plain = Normal(mean, std)
                shifted = Normal(mean + std.square() * weighed.guidance.double(), std)
                ends = (one.log_prob(after.double()).flatten(1).sum(1) for one in (plain, shifted))
                high, low = ends
                ratio = (high - low).view(-1, 3)
            assert not weighed.due.any()
        expected = sum(w.growth for w in told) + ratio + 8.0 * final.scores.double() - told[-1].twist
    torch.testing.assert_close(weights.logs.log_softmax(1), expected.log_softmax(1), rtol=1e-3, atol=1e-2)


def test_steps_are_shifted_along_the_gradient_of_the_reward(group: Any):
    """By central differences along the shift: its length is the strength times that of the gradient."""
    work, own = group
    search, told = das(strength=8.0, gamma=0.3, threshold=0.0), list[Weighed]()
    start = Populations.of(work.context(own), 3)
    with torch.no_grad():
        twisted(start, search, told.append)
        steps, i, step = search.steps(start.wide), 1, 1e-2
        guidance, x = told[i].guidance, told[i].x
        length = guidance.flatten(1).norm(dim=1)
        ahead = step * guidance / length.view(-1, 1, 1, 1)
        high, low = (search.score(start.wide, steps.x0(steps.at(x + move, i))) for move in (ahead, -ahead))
        torch.testing.assert_close(search.tempered(2) * 8.0 * (high - low) / (2 * step), length, rtol=0.05, atol=1e-3)


def test_light_particles_are_resampled(group: Any):
    work, own = group
    told = list[Weighed]()
    with torch.no_grad():
        twisted(Populations.of(work.context(own), 3), das(strength=300.0, gamma=1.0, threshold=1.0), told.append)
    due = [weighed for weighed in told if weighed.due.all()]
    assert due
    for weighed in due:
        assert bool((weighed.size < 3).all()) and bool((weighed.after.exp() - 1 / 3).abs().max() < 1e-9)
