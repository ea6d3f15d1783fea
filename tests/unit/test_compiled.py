"""`compile: true`: the same numbers up to rounding where there is no gradient, the same bits where there is one."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional

from stages.errors import InputError
from stages.models.compiled import compiled, compiler
from stages.models.diffusion import Denoiser
from stages.models.policy import Trainable, make_policy, unchanged
from tests import tiny

COUNT = 2
needs_a_compiler = pytest.mark.skipif(not compiler()[1], reason="torch.compile needs a C++ compiler")


class Small(nn.Module):
    """A network that compiles in a second: a convolution, a normalisation, and attention to the text."""

    def __init__(self, seed: int = 0) -> None:
        super().__init__()
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(seed)
            self.conv, self.norm = nn.Conv2d(tiny.LATENT[0], tiny.LATENT[0], 3, padding=1), nn.GroupNorm(2, 4)
            self.to_q = nn.Linear(tiny.WIDTH, tiny.LATENT[0])
        self.requires_grad_(False)

    def forward(self, x: Tensor, t: Tensor, encoder_hidden_states: Tensor, return_dict: bool) -> tuple[Tensor]:
        text = self.to_q(encoder_hidden_states).mean(1)[:, :, None, None]
        return (functional.silu(self.norm(self.conv(x))) * text + t / 1000,)


def inputs(count: int = COUNT) -> tuple[Tensor, Tensor, Tensor]:
    draw = torch.Generator().manual_seed(count)
    return torch.randn(count, *tiny.LATENT, generator=draw), torch.tensor(500), tiny.text(count)


def off(found: Tensor, expected: Tensor) -> float:
    return float((found - expected).abs().max() / expected.abs().max())


def compare(network: nn.Module, kind: Trainable) -> None:
    """With the weights as they are and after a change of them, in a region where they stay and outside."""
    policy = make_policy(network, kind, targets=("to_q",))
    plain, quick = (Denoiser(policy.network, tiny.schedule(), quick=how) for how in (False, True))
    expected: list[Tensor] = []
    with torch.no_grad():
        for turn in range(2):
            for _, parameter in policy.parameters():
                parameter.add_(0.1 * turn * torch.randn(parameter.shape, generator=torch.Generator().manual_seed(7)))
            expected.append(plain.prediction(*inputs()))
            assert off(quick.prediction(*inputs()), expected[-1]) < 1e-5
            with unchanged():
                assert off(quick.prediction(*inputs()), expected[-1]) < 1e-5
                assert off(quick.prediction(*inputs()), expected[-1]) < 1e-5
    assert off(expected[0], expected[1]) > 1e-3
    with_gradient = quick.prediction(*inputs())
    assert with_gradient.requires_grad and torch.equal(with_gradient, plain.prediction(*inputs()))
    assert (quick.evaluations, quick.backward) == (7 * COUNT, COUNT)


@needs_a_compiler
@pytest.mark.parametrize("kind", ["full", "norm_affine", "lora"])
def test_same_numbers_before_and_after_a_change_of_weights(kind: Trainable) -> None:
    compare(Small(), kind)


@pytest.mark.slow
@needs_a_compiler
def test_same_numbers_of_a_unet() -> None:
    compare(tiny.unet(), "lora")


@needs_a_compiler
def test_the_order_of_batch_sizes_changes_nothing() -> None:
    found: list[list[Tensor]] = []
    for sizes in ((3, 2, 5), (5, 2, 3)):
        torch._dynamo.reset()
        compiled.cache_clear()
        quick = Denoiser(Small(), tiny.schedule(), quick=True)
        with torch.no_grad():
            made = {size: quick.prediction(*inputs(size)) for size in sizes}
        found.append([made[size] for size in sorted(sizes)])
    assert all(torch.equal(a, b) for a, b in zip(*found, strict=True))


def test_a_missing_compiler_is_one_line(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setenv("PATH", str(tmp_path))
    monkeypatch.delenv("CXX", raising=False)
    with pytest.raises(InputError, match=r"needs a C\+\+ compiler"):
        Denoiser(Small(5), tiny.schedule(), quick=True)
