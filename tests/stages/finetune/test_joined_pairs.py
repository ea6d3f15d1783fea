"""Losses on pairs and on single images: several micro-batches evaluated at once, as many as `gradient_batch` allows."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from torch import Tensor

from stages.finetune import method
from stages.finetune.families.pair_settings import PreferenceDataSettings
from stages.finetune.families.preference import PairedPreference
from stages.finetune.families.unpaired import LikedImages
from stages.finetune.settings import FinetuneSettings
from stages.finetune.together import groups
from tests import tiny_methods

MICRO, SIZE = 4, 6


def settings(**values: object) -> FinetuneSettings:
    """A step of four micro-batches of six rows."""
    shape = {"sampling_steps": 6, "batch_size": MICRO * SIZE, "accumulate": MICRO, "optimizer": {"lr": 1e-2}}
    return FinetuneSettings.model_validate({**shape, **values})


def of_this_family() -> list[str]:
    """Kinds of methods whose objective learns from pairs or from their images."""
    chosen = (PairedPreference, LikedImages)
    data = [kind for kind in method.kinds() if isinstance(tiny_methods.settings(kind, {}), PreferenceDataSettings)]
    return [kind for kind in data if isinstance(trained(kind, 1)[0].objective, chosen)]


def trained(kind: str, size: int) -> tuple[Any, list[int]]:
    """A trainer whose policy has left the base, and the sizes of the calls of its network with gradient."""
    made = tiny_methods.trainer(kind, {}, settings(gradient_batch=size))
    with torch.no_grad():
        for parameter in made.parameters.values():
            parameter.add_(0.1)
    sizes: list[int] = []

    def count(network: Any, given: tuple[Tensor, ...]) -> None:
        if torch.is_grad_enabled():
            sizes.append(len(given[0]))

    made.run.networks.policy.network.register_forward_pre_hook(count)
    return made, sizes


def step(kind: str, made: Any) -> tuple[dict[str, float], Tensor]:
    """The terms of an optimizer step, and its gradient."""
    batches = tiny_methods.batches(tiny_methods.settings(kind, {}), 0, made.run.settings)
    terms = made.step(batches)
    return terms, torch.cat([p.grad.flatten() for p in made.parameters.values() if p.grad is not None])


@pytest.mark.parametrize("kind", of_this_family())
def test_a_step_is_the_same_with_micro_batches_joined(kind: str) -> None:
    (alone, each), (joined, together) = trained(kind, 1), trained(kind, 10**6)
    (terms, gradient), (other_terms, other) = step(kind, alone), step(kind, joined)
    assert other_terms == pytest.approx(terms, rel=1e-9, abs=1e-12)
    torch.testing.assert_close(other, gradient, rtol=1e-8, atol=1e-11)
    policies = [made.run.networks.policy for made in (alone, joined)]
    assert policies[0].evaluations == policies[1].evaluations
    assert policies[0].backward == policies[1].backward
    assert sum(together) == sum(each) > 0
    if getattr(alone.objective, "joins", True):
        assert len(together) < len(each)
    else:
        assert together == each


@pytest.mark.parametrize(("size", "found"), [(1, [12] * 4), (24, [24, 24]), (47, [36, 12]), (48, [48])])
def test_as_many_images_as_allowed(size: int, found: list[int]) -> None:
    made, sizes = trained("diffusion_dpo", size)
    step("diffusion_dpo", made)
    assert sizes == found


def test_groups_are_whole_micro_batches_in_order() -> None:
    assert [list(group) for group in groups(5, 2, 5)] == [[0, 1], [2, 3], [4]]
    assert [list(group) for group in groups(2, 8, 1)] == [[0], [1]]


@pytest.mark.parametrize(
    ("kind", "values"),
    [
        # averages of the weights that the reference has: margins of 0, which are divided by their norm
        ("adaptive_dpo", {"reference": {"kind": "hard", "every": 1}}),
        ("adaptive_dpo", {"warm_up": 1}),
        ("diffusion_dpo", {"noising": {"kind": "inversion", "steps": 5}, "safeguard": {"per": "pair"}}),
        ("diffusion_dpo", {"labels": {"kind": "reward"}, "timesteps": {"weight": "min_snr"}}),
        ("ncp_dpo", {"space": {"network": "policy", "state": "uniform"}, "reference": {"kind": "ema", "decay": 0.9}}),
        ("ppd", {"drop": 0.5}),
        ("tkto", {"captions": "curated"}),
    ],
)
def test_steps_stay_the_same_whatever_is_compared(kind: str, values: dict[str, Any]) -> None:
    """Three steps, of five micro-batches: one by one, two at a time so that one is left over, and all together."""
    found = []
    for size in (1, 17, 10**6):
        own = tiny_methods.settings(kind, values)
        made = tiny_methods.trainer(kind, values, settings(batch_size=20, accumulate=5, gradient_batch=size))
        with torch.no_grad():
            for parameter in made.parameters.values():
                parameter.add_(0.1)
        terms = [made.step(tiny_methods.batches(own, number, made.run.settings)) for number in range(3)]
        found.append((terms, torch.cat([p.detach().flatten() for p in made.parameters.values()])))
    (alone, weights), *rest = found
    for joined, others in rest:
        for one, other in zip(alone, joined, strict=True):
            assert other == pytest.approx(one, rel=1e-7, abs=1e-9)
        torch.testing.assert_close(others, weights, rtol=1e-6, atol=1e-8)
