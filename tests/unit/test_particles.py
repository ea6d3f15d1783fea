"""Parts of particle methods, by formulas and by chance."""

from __future__ import annotations

import math

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from stages.sample import particles
from stages.sample.resolve import strategy
from stages.sample.settings import SampleSettings
from stages.sample.strategies import fk

weights = st.lists(st.floats(-50, 50), min_size=1, max_size=8)
uniform = st.floats(0, 1, exclude_max=True)


@given(weights, st.lists(uniform, min_size=1, max_size=8))
@settings(max_examples=100, deadline=None)
def test_an_ancestor_is_the_first_whose_cumulative_share_exceeds_the_uniform(logs: list[float], draws: list[float]):
    found = particles.multinomial(torch.tensor([logs]), torch.tensor([draws], dtype=torch.float64))[0].tolist()
    exact = torch.tensor(logs).double().softmax(0).cumsum(0).tolist()
    expected = [next((n for n, share in enumerate(exact) if share > draw), len(logs) - 1) for draw in draws]
    assert found == expected


@given(weights, st.floats(-5, 5))
@settings(max_examples=100, deadline=None)
def test_the_effective_size_lies_between_one_and_all_and_knows_no_constant(logs: list[float], shift: float):
    size = float(particles.effective_size(torch.tensor([logs], dtype=torch.float64)))
    assert 1 - 1e-9 <= size <= len(logs) + 1e-9
    moved = particles.effective_size(torch.tensor([logs], dtype=torch.float64) + shift)
    assert float(moved) == pytest.approx(size)


def test_the_effective_size_of_equal_and_of_single_weights():
    assert particles.effective_size(torch.tensor([[3.0] * 4, [0.0, -1e9, -1e9, -1e9]])).tolist() == [4.0, 1.0]


def test_resampling_draws_in_proportion_to_the_weights():
    shares, count = torch.tensor([0.1, 0.2, 0.7]), 20000
    draws = torch.rand(1, count, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    found = particles.multinomial(shares.log()[None], draws)[0].bincount(minlength=3) / count
    for share, seen in zip(shares.tolist(), found.tolist(), strict=True):
        assert seen == pytest.approx(share, abs=4 * math.sqrt(share * (1 - share) / count))


def test_ancestors_stay_within_their_image():
    ancestors = torch.tensor([[1, 1, 0], [2, 0, 0]])
    assert particles.rows(ancestors, 3).tolist() == [1, 1, 0, 5, 3, 3]


def test_the_best_is_the_first_of_equals():
    assert particles.best(torch.tensor([[1.0, 2.0, 2.0], [0.0, -1.0, 0.0]])).tolist() == [1, 0]


NEVER, ALWAYS = torch.full((1, 2), 0.25, dtype=torch.float64), torch.zeros(1, 2, dtype=torch.float64)


def steered(rewards: list[list[float]], uniforms: Tensor = NEVER, **more: object) -> tuple[fk.FK, list[list[int]]]:
    """FK steering of one image with two particles over rewards by step; its ancestors by step."""
    values = {"kind": "fk", "n": [2], "reward": "r", "every": 1, "strength": 2.0, **more}
    given = strategy("fk", values, SampleSettings(steps=len(rewards)), "test").settings
    assert isinstance(given, fk.Settings)
    made = fk.FK(given, last=len(rewards) - 1)
    found = [made.select(i, torch.tensor([scores]), uniforms)[0].tolist() for i, scores in enumerate(rewards)]
    return made, found


@pytest.mark.parametrize("potential", ["max", "add", "diff", "rt"])
def test_potentials_multiply_to_the_tilt_of_the_last_reward(potential: str):
    """Where nothing is resampled, the weight of a particle is exp(lambda r) of its last reward."""
    rewards = [[0.1, 0.2], [0.3, -0.2], [0.15, 0.05]]
    made, ancestors = steered(rewards, potential=potential, adaptive=True)
    assert ancestors == [[0, 1]] * 3
    assert made.carried is not None
    torch.testing.assert_close(made.carried, 2.0 * torch.tensor([rewards[-1]]).double())


@pytest.mark.parametrize(
    ("potential", "logs"),
    [
        ("max", [[0.2, 0.4], [0.2, 0.8]]),
        ("add", [[0.2, 0.4], [0.3, 1.2]]),
        ("diff", [[0.2, 0.4], [-0.1, 0.4]]),
        ("rt", [[0.2, 0.4], [0.1, 0.8]]),
    ],
)
def test_potentials_of_single_steps(potential: str, logs: list[list[float]]):
    """By hand: max remembers the largest reward, add the sum, diff the last one."""
    made, _ = steered([[0.0, 0.0]], potential=potential)
    made = fk.FK(made.settings, last=9)
    for i, (rewards, expected) in enumerate(zip([[0.1, 0.2], [0.05, 0.4]], logs, strict=True)):
        made.carried = torch.zeros(1, 2, dtype=torch.float64)
        made.select(i, torch.tensor([rewards]), NEVER)
        torch.testing.assert_close(made.carried, torch.tensor([expected]).double())


def test_resampled_particles_take_over_memory_and_potentials_and_start_with_equal_weights():
    made, ancestors = steered([[5.0, 0.0], [0.1, 0.2]], ALWAYS, potential="max", adaptive=False)
    assert ancestors == [[0, 0], [0, 1]]  # with two particles the effective size is never below one half of them
    made = fk.FK(made.settings, last=9)
    made.select(0, torch.tensor([[5.0, 0.0]]), ALWAYS)
    assert made.memory is not None and made.product is not None and made.carried is not None
    assert made.memory.tolist() == [[5.0, 5.0]] and made.product.tolist() == [[10.0, 10.0]]
    assert made.carried.tolist() == [[0.0, 0.0]]


def test_without_adaptivity_particles_are_resampled_at_every_event_but_the_last():
    equal = [[0.0, 0.0]] * 3
    assert steered(equal, ALWAYS, adaptive=False)[1] == [[0, 0], [0, 0], [0, 1]]
    assert steered(equal, ALWAYS, adaptive=True)[1] == [[0, 1]] * 3


def test_dropped_weights_are_those_of_the_released_code():
    """Released: weights of an event without resampling do not count, and their potentials are not divided out."""
    rewards = [[0.1, 0.2], [0.3, 0.1]]
    made, _ = steered(rewards, potential="diff", as_released={"drop_weights": True})
    assert made.carried is not None
    torch.testing.assert_close(made.carried, 2.0 * torch.tensor([[0.2, -0.1]]).double())
    made, _ = steered(rewards, potential="max", as_released={"drop_weights": True, "last_potential": True})
    assert made.carried is not None
    torch.testing.assert_close(made.carried, 2.0 * torch.tensor([[0.3, 0.2]]).double())


def test_a_first_memory_hides_lower_rewards():
    made, _ = steered([[-1.0, -2.0], [0.0, 0.0]], potential="max", memory=0.0)
    assert made.memory is not None and made.memory.tolist() == [[0.0, 0.0]]


def test_the_result_is_the_best_or_drawn_by_weight():
    scores, uniforms = torch.tensor([[0.3, 0.1]]), torch.tensor([[0.9]], dtype=torch.float64)
    made, _ = steered([[0.1, 0.1], [0.3, 0.1]])
    assert made.result(scores, uniforms).tolist() == [0]
    made, _ = steered([[0.1, 0.1], [0.3, 0.1]], result="draw")
    assert made.result(scores, uniforms).tolist() == [1]
    assert made.result(scores, torch.zeros_like(uniforms)).tolist() == [0]
