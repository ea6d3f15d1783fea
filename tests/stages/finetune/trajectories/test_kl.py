"""The divergence from the base as a penalty of reward-gradient methods."""

from __future__ import annotations

import random
from dataclasses import replace
from typing import Any

import pytest
import torch

from stages.finetune.batch import Batch
from stages.finetune.methods import draft_k, refl
from stages.finetune.networks import Networks
from stages.finetune.settings import FinetuneSettings
from stages.models.diffusion import Denoiser
from stages.models.process_noise import require_noise_schedule
from tests import tiny

STEPS = 5


def tools(shift: float) -> Networks:
    """A policy whose weights are those of the base times 1 + shift."""
    network = tiny.unet().double()
    with torch.no_grad():
        for parameter in network.parameters():
            parameter.mul_(1 + shift)
    made = tiny.networks(network.requires_grad_(True), STEPS, dtype=torch.float64)
    return replace(made, reference=Denoiser(tiny.unet().double(), made.policy.process))


def batch(seed: int = 0) -> Batch:
    return replace(tiny.batch(steps=STEPS, dtype=torch.float64), rng=random.Random(seed))


def step_with(name: str, made: Networks, given: Batch, weight: float) -> Any:
    if name == "refl":
        settings = refl.Settings(kind="refl", middle=(3, 4), diffusion_weight=0.5, kl_weight=weight)
        return tiny.judged(made, given, refl.step(made, given, settings))
    settings = draft_k.Settings(kind="draft_k", k=2, kl_weight=weight)
    return tiny.judged(made, given, draft_k.step(made, given, settings))


@pytest.mark.parametrize("name", ["refl", "draft"])
def test_it_is_the_divergence_at_a_visited_state_and_changes_nothing_else(name: str):
    made = tools(0.02)
    visited = [batch().noise.initial()]
    for i in range(STEPS - 1):
        visited.append(made.rollout(batch(), visited[-1], i, i + 1))
    grid, seen = require_noise_schedule(made.grid, "test"), set()
    for seed in range(12):
        found = step_with(name, made, batch(seed), 0.3)
        weight, kl = found.penalties["kl"]
        plain = step_with(name, made, batch(seed), 0.0)
        assert weight == 0.3
        assert torch.equal(found.x0, plain.x0)
        possible = []
        for i, x in enumerate(visited):
            alpha, t = grid.alpha[i], grid.timesteps[i]
            after = grid.alpha[i + 1] if i + 1 < STEPS else grid.process.alphas_cumprod[0]
            variance = (1 - after) / (1 - alpha) * (1 - alpha / after)
            apart = made.policy.prediction(x, t, batch().text) - made.base.prediction(x, t, batch().text)
            factor = (1 - after - variance).sqrt() - (after * (1 - alpha) / alpha).sqrt()
            possible.append(float(((factor * apart) ** 2 / (2 * variance)).mean().detach()))
        near = [i for i, value in enumerate(possible) if value == pytest.approx(float(kl.detach()), rel=1e-6)]
        assert len(near) == 1
        seen.add(near[0])
    assert seen == (set(range(4)) if name == "refl" else set(range(STEPS)))


def test_it_is_zero_at_the_start_and_has_a_gradient_later():
    assert float(step_with("draft", tools(0.0), batch(), 1.0).penalties["kl"][1].detach()) == 0
    made = tools(0.02)
    kl = step_with("refl", made, batch(), 1.0).penalties["kl"][1]
    found = torch.autograd.grad(kl, list(made.policy.network.parameters()), allow_unused=True)
    assert any(g is not None and bool(g.abs().max() > 0) for g in found)
    assert all(p.grad is None for p in made.base.network.parameters())


@pytest.mark.parametrize("module", [draft_k, refl])
def test_deterministic_steps_have_none(module: Any):
    settings = module.Settings.model_validate({"kind": "any", "kl_weight": 0.1})
    with pytest.raises(ValueError, match=r"expected finetune\.sampler ddpm"):
        settings.check(FinetuneSettings(sampler="ddim"))
