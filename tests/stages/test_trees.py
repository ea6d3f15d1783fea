"""Diffusion tree sampling on a tiny base: its rules against their formulas, and what every grown tree satisfies."""

from __future__ import annotations

import math
from typing import Any

import numpy as np
import pytest
import torch
from test_sample import model as model  # a fixture
from test_search import STEPS
from test_search_limits import SAMPLE
from test_search_limits import group as group  # a fixture

from stages.sample.resolve import strategy
from stages.sample.soft_values import drawn, soft_mean
from stages.sample.tree import grow
from stages.sample.trees import Trees


def tree(kind: str, **entry: Any) -> Trees:
    found = strategy("s", {"kind": kind, "reward": "proxy", "m": [6], **entry}, SAMPLE, "test").settings
    assert isinstance(found, Trees)
    return found


def test_soft_values_lie_between_the_mean_and_the_largest():
    values = [0.1, 0.7, 0.4]
    assert soft_mean(values, 3.0) == pytest.approx(math.log(np.mean(np.exp(3.0 * np.array(values)))) / 3.0)
    assert soft_mean(values, 1e-6) == pytest.approx(0.4) and soft_mean(values, 1e4) == pytest.approx(0.7, abs=1e-3)
    assert soft_mean([0.3, 0.3], 5.0) == pytest.approx(0.3)


def test_places_are_drawn_in_proportion():
    values, strength, places = [0.2, 0.5, 0.1], 4.0, np.arange(0.0005, 1, 0.001)
    shares = np.bincount([drawn(values, strength, float(u)) for u in places]) / len(places)
    expected = np.exp(strength * np.array(values))
    assert shares == pytest.approx(expected / expected.sum(), abs=2e-3)


def test_the_greedy_form_takes_the_largest_upper_bound():
    search = tree("dts_star", exploration=0.5)
    values, visits = [0.6, 0.3, 0.5], [9, 1, 3]
    bounds = [v + 0.5 * math.sqrt(math.log(13) / n) for v, n in zip(values, visits, strict=True)]
    assert search.choose(values, visits, float) == int(np.argmax(bounds)) == 1
    assert tree("dts_star", exploration=0.0).choose(values, visits, float) == 0
    assert tree("dts_star", exploration=0.5).choose([0.5, 0.5], [2, 2], float) == 0


def test_states_that_are_visited_more_may_have_more_children():
    wide = tree("dts", children=None, widening=(2.0, 0.5))
    assert [wide.limit(visits) for visits in (0, 1, 2, 4, 9)] == [1, 2, 2, 4, 6]
    assert tree("dts", children=4).limit(100) == 4


@pytest.mark.parametrize(("kind", "entry"), [
    ("dts", {"children": 2, "strength": 20.0}), ("dts", {"children": None, "widening": (1.0, 0.5)}),
    ("dts_star", {"children": 3, "exploration": 0.1}),
])  # fmt: skip
def test_every_grown_tree(group: Any, kind: str, entry: dict[str, Any]):
    """Visits are those of the rollouts, values those of the children, rewards those of the leaves' images."""
    work, own = group
    ctx, search, rollouts = work.context(own), tree(kind, **entry), 6
    with torch.no_grad():
        trees = grow(ctx, search, rollouts)
        for image, made in enumerate(trees):
            paths = [rollout.path for rollout in made.rollouts]
            assert len(paths) == rollouts and all(len(path) == STEPS + 2 for path in paths)
            assert made.nodes[0].visits == rollouts
            for number, node in enumerate(made.nodes):
                assert node.visits == sum(number in path for path in paths)
                assert len(node.children) <= made.limit(search, number)
                if node.level == made.last:
                    assert node.x is not None
                    score = search.score(ctx.take([image]), node.x)
                    assert made.rewards[number] == node.value == pytest.approx(float(score), abs=1e-4)
                else:
                    values = [made.nodes[child].value for child in node.children]
                    assert node.value == pytest.approx(soft_mean(values, search.strength))
            seen = {0}
            for path, rollout in zip(paths, made.rollouts, strict=True):  # only fresh states follow a fresh one
                first = len(path) if rollout.expanded == -1 else path.index(rollout.expanded) + 1
                assert seen.issuperset(path[:first]) and seen.isdisjoint(path[first:])
                seen |= set(path)
            best = max(made.rewards, key=lambda leaf: made.rewards[leaf])
            result = made.result(ctx, search.model_copy(update={"result": "best"}), image)
            assert result is made.nodes[best].x
    assert len({tuple(made.rewards.values()) for made in trees}) == len(trees)
