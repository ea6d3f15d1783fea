"""Texts are projected once where nothing changes, and to the same bits."""

from __future__ import annotations

from collections.abc import Callable

import pytest
import torch
from torch import Tensor, nn

from stages.models.diffusion import Denoiser
from stages.models.policy import make_policy, unchanged
from stages.models.text_once import text_layers, text_once
from tests import tiny

COUNT = 3
EMPTY = tiny.text(1)


def inputs(seed: int) -> Tensor:
    return torch.randn(COUNT, *tiny.LATENT, generator=torch.Generator().manual_seed(seed))


def predictions(denoiser: Denoiser, text: Tensor, scale: float) -> list[Tensor]:
    """Predictions of three steps, whose text is sliced anew each time, as samplers do."""
    return [denoiser.prediction(inputs(i), torch.tensor(900 - i), text[:], EMPTY, scale) for i in range(3)]


@pytest.mark.parametrize("scale", [1.0, 3.0])
@pytest.mark.parametrize("kind", ["full", "lora"])
def test_the_same_bits_from_one_projection(kind: str, scale: float) -> None:
    policy = make_policy(tiny.unet(), kind)  # type: ignore[arg-type]
    denoiser, text = Denoiser(policy.network, tiny.schedule()), tiny.text(COUNT)
    layers = text_layers(policy.network)
    assert layers
    with torch.no_grad():
        expected = predictions(denoiser, text, scale)
        asked = multiplications(lambda: predictions(denoiser, text, scale))
        with unchanged(*denoiser.eager):
            found = predictions(denoiser, text, scale)
            less = multiplications(lambda: predictions(denoiser, text, scale))
    assert all(torch.equal(a, b) for a, b in zip(found, expected, strict=True))
    assert asked - less == 3 * len(layers)


def multiplications(work: Callable[[], object]) -> int:
    """How often `work` multiplies by the weight of a linear layer."""
    calls = 0
    plain = nn.functional.linear

    def counting(*args: Tensor) -> Tensor:
        nonlocal calls
        calls += 1
        return plain(*args)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("torch.nn.modules.linear.F.linear", counting)
        work()
    return calls


def test_other_texts_and_other_weights_are_not_taken_from_memory() -> None:
    policy = make_policy(tiny.unet(), "full")
    denoiser, one, other = Denoiser(policy.network, tiny.schedule()), tiny.text(COUNT), tiny.text(COUNT) * 2
    with torch.no_grad():
        expected = [predictions(denoiser, text, 2.0) for text in (one, other, one)]
        with unchanged(*denoiser.eager):
            found = [predictions(denoiser, text, 2.0) for text in (one, other, one)]
        for a, b in zip(expected, found, strict=True):
            assert all(map(torch.equal, a, b))
        assert not torch.equal(expected[0][0], expected[1][0])
        for _, parameter in policy.parameters():
            parameter.mul_(1.5)
        with unchanged(*denoiser.eager):
            assert not torch.equal(predictions(denoiser, one, 2.0)[0], expected[0][0])


def test_gradients_pass_and_regions_may_be_nested() -> None:
    policy = make_policy(tiny.unet(), "full")
    denoiser, text = Denoiser(policy.network, tiny.schedule()), tiny.text(COUNT)
    with text_once(policy.network):
        with torch.no_grad(), text_once(policy.network, policy.network):
            predictions(denoiser, text, 1.0)
        denoiser.prediction(inputs(0), torch.tensor(500), text).square().mean().backward()
    layers = text_layers(policy.network)
    assert all(layer.weight.grad is not None and layer.weight.grad.abs().max() > 0 for layer in layers)  # type: ignore[union-attr]
    assert not any("forward" in vars(layer) for layer in layers)
