"""The benchmark of learning from pairs compares like with like: equal losses and gradients; ours encodes nothing."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import pytest
import torch
from diffusers.models.autoencoders.autoencoder_kl import AutoencoderKL

from benchmarks import pairs
from benchmarks.networks import Shape
from benchmarks.steps import GRADIENT, once

SMALL = Shape(width=8, layers=1, latent=8, batch=2, reward_side=28)


@pytest.fixture(scope="module")
def bench(tmp_path_factory: pytest.TempPathFactory) -> pairs.PairBench:
    return pairs.PairBench.of(tmp_path_factory.mktemp("pairs"), SMALL)


@pytest.mark.parametrize(
    ("plain_micro", "micro", "joined"), [(1, 1, False), (2, 2, False), (4, 1, False), (4, 4, True)]
)
def test_a_step_is_that_of_the_plain_reference(bench: pairs.PairBench, plain_micro: int, micro: int, joined: bool):
    plain, ours = bench.sides(4, plain_micro, micro, joined)
    found = pairs.compared(plain, ours)
    assert found["loss"] <= pairs.LOSS and 0 < found["gradient"] <= GRADIENT
    (theirs, evaluations), (made, own) = once(plain), once(ours)
    assert theirs.losses[0] != pytest.approx(torch.tensor(2.0).log().item(), rel=1e-4)  # the policy has left the base
    assert made.losses == pytest.approx(theirs.losses, rel=pairs.LOSS)
    assert (evaluations, own) == (2, 1)  # both networks, and of ours the policy alone is counted


def test_another_strength_is_another_loss(bench: pairs.PairBench, monkeypatch: pytest.MonkeyPatch):
    """What is compared depends on the noise, the timesteps and beta: it does not agree by itself."""
    monkeypatch.setattr(pairs, "BETA", 4000.0)
    assert pairs.compared(*bench.sides(2, 1, 1))["loss"] > 10 * pairs.LOSS


def test_the_gain_is_in_the_numbers():
    row = pairs.PairRow(4, 1, 1, False, "full", [3.0, 9.0, 3.0], [2.0, 2.0, 8.0], [6.0], [2.0], {}, 0.5)
    assert row.as_dict() | {"ratio": 1.5, "cpu_ratio": 3.0, "repaid": 0.5} == row.as_dict()  # 4 s saved by 4 pairs
    assert replace(row, cpu_seconds=[6.0]).as_dict()["repaid"] is None


def test_training_encodes_nothing(bench: pairs.PairBench, monkeypatch: pytest.MonkeyPatch):
    plain, ours = bench.sides(2, 1, 1)
    encoded: list[int] = []
    encode = AutoencoderKL.encode

    def counted(self: AutoencoderKL, x: torch.Tensor, *args: Any, **more: Any) -> Any:
        encoded.append(len(x))
        return encode(self, x, *args, **more)

    monkeypatch.setattr(AutoencoderKL, "encode", counted)
    ours.work()
    assert encoded == []
    plain.work()
    assert encoded == [4]  # both images of both pairs
