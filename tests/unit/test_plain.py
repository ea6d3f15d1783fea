"""The benchmarks compare like with like: the plain reference makes the same numbers, with more evaluations."""

from __future__ import annotations

import pytest

from benchmarks.networks import Shape
from benchmarks.sides import Bench
from benchmarks.steps import GRADIENT, LOSS, PIXEL, differences, gradient_difference, once

SMALL = Shape(width=8, layers=1, latent=8, batch=2, reward_side=28)


@pytest.fixture(scope="module")
def bench(tmp_path_factory: pytest.TempPathFactory) -> Bench:
    return Bench.of(tmp_path_factory.mktemp("bench"), SMALL, steps=6, switches=(2, 4))


@pytest.mark.parametrize(
    ("name", "middles", "plain_evaluations", "evaluations"),
    [
        ("refl", (31,), 31 + 1 + 1, 31 + 1),
        ("refl", (33, 31), 32 + 1 + 1, 32 + 1),
        ("imagerefl", (30,), 2, 1),
        ("imagerefl", (32,), 2 + 2, 2 + 1),
        ("draft1", (0, 0), 31, 31),
    ],
)
def test_micro_steps_are_those_of_the_plain_reference(
    bench: Bench, name: str, middles: tuple[int, ...], plain_evaluations: int, evaluations: int
):
    plain, ours = bench.training(name, middles=middles)
    (theirs, their_count), (made, count) = once(plain), once(ours)
    assert (their_count, count) == (plain_evaluations, evaluations)
    assert differences(theirs, made)["loss"] <= LOSS
    assert 0 < gradient_difference(plain, ours)["gradient"] <= GRADIENT
    for parameter in ours.parameters.values():
        assert parameter.grad is not None
        parameter.grad.mul_(1.01)
    assert gradient_difference(plain, ours)["gradient"] == pytest.approx(0.01, rel=0.1)


def test_a_sweep_is_that_of_the_plain_reference(bench: Bench):
    plain, ours = bench.sampling()
    (theirs, their_count), (made, count) = once(plain), once(ours)
    assert their_count == 3 * 6 + (2 + 4)  # 6 each, and as many more for guidance as the base makes steps
    assert count == 2 * 4 + (6 + 4 + 2)  # the guided steps up to the last switch once, then every tail
    assert differences(theirs, made)["image"] <= PIXEL
    swapped = dict(zip(made.images, reversed(list(made.images.values())), strict=True))
    assert differences(theirs, type(made)(images=swapped))["image"] > PIXEL
