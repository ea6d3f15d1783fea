"""PSO: the steps of a distilled model, what is learnt from them, and the network that training starts as."""

from __future__ import annotations

from dataclasses import replace
from types import SimpleNamespace
from typing import Any

import pytest
import torch
from torch import Tensor

from stages.errors import InputError
from stages.finetune.context import TrainingContext
from stages.finetune.families.distilled import FewSteps, few_steps
from stages.finetune.settings import FinetuneSettings
from stages.models.diffusion import Denoiser
from stages.models.process_flow import FlowMatching
from stages.models.process_noise import NoiseGrid
from tests import tiny, tiny_methods

TRAIN = FinetuneSettings.model_validate({"sampling_steps": 20, "batch_size": 4, "optimizer": {"lr": 1e-3}})


def draws(*shape: int, seed: int = 0) -> Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


def chain(rule: Any, steps: int = 4) -> tuple[FewSteps, NoiseGrid]:
    networks = few_steps(tiny.networks(tiny_methods.Small().double(), 20, 3.0, torch.float64), steps)
    assert isinstance(networks.grid, NoiseGrid) and networks.guidance == 1
    return FewSteps(networks, 1.0, rule), networks.grid


def test_a_few_steps_begin_at_the_last_timestep() -> None:
    assert chain("renoise")[1].timesteps.tolist() == [999, 749, 499, 249]
    assert chain("renoise", 2)[1].timesteps.tolist() == [999, 499]


def test_noise_anew_forgets_the_state() -> None:
    made, grid = chain("renoise")
    x, prediction, i = draws(2, *tiny.LATENT), draws(2, *tiny.LATENT, seed=1), torch.tensor([0, 2])
    found = made.step(x, prediction, i)
    clean = grid.x0(x, prediction, i)
    for row, at in enumerate(i.tolist()):
        after = grid.alpha[at + 1]
        torch.testing.assert_close(found.mean[row], after.sqrt().double() * clean[row])
        torch.testing.assert_close(found.std[row].flatten()[0].double(), (1 - after).sqrt().double())


def test_the_posterior_is_that_of_the_ancestral_sampler() -> None:
    made, grid = chain("ancestral")
    x, prediction = draws(1, *tiny.LATENT), draws(1, *tiny.LATENT, seed=1)
    for i in range(3):
        found, expected = made.step(x, prediction, torch.tensor([i])), grid.ancestral(x, prediction, i)
        torch.testing.assert_close(found.mean, expected.mean)
        torch.testing.assert_close(found.std.flatten()[0], expected.std, rtol=1e-5, atol=0)


@pytest.mark.parametrize("rule", ["renoise", "ancestral"])
def test_the_last_step_ends_at_clean_latents_and_has_no_density(rule: str) -> None:
    own = tiny_methods.settings("pso", {"rule": rule})
    objective: Any = tiny_methods.trainer("pso", {"rule": rule}, TRAIN).objective
    [batch] = tiny_methods.batches(own, 0, TRAIN)
    made = objective.roll(batch)
    grid = objective.run.networks.grid
    prediction = objective.run.networks.policy.prediction(made.states[3], grid.timesteps[3], batch.text)
    torch.testing.assert_close(made.last, grid.x0(made.states[3], prediction.detach(), 3))
    assert made.std[-1] == 0 and bool((made.log_density[-1] == 0).all())
    assert bool(torch.isfinite(made.log_density).all()) and bool((made.std[:-1] > 0).all())
    assert list(objective.window(4, 0)) == [0, 1, 2]


def test_two_rollouts_of_a_pair_begin_apart() -> None:
    objective: Any = tiny_methods.trainer("pso", {}, TRAIN).objective
    [batch] = tiny_methods.batches(tiny_methods.settings("pso", {}), 0, TRAIN)
    made = objective.roll(batch)
    assert float((made.states[0][0] - made.states[0][1]).abs().max()) > 0.1
    assert batch.prompts[0] == batch.prompts[1]


def test_policy_and_reference_start_as_the_distilled_model(monkeypatch: pytest.MonkeyPatch) -> None:
    base, student = tiny.unet(1), tiny.unet(2)
    asked: list[str] = []

    def loaded(_: object, plan: object, name: str) -> Denoiser:
        asked.append(name)
        return Denoiser(student, tiny.schedule())

    monkeypatch.setattr(TrainingContext, "student", loaded)
    context = TrainingContext(None, SimpleNamespace(unet=base), None, {})  # type: ignore[arg-type]
    plan = tiny_methods.plan("pso", {"model": "mine"}, TRAIN)
    assert context.start(plan) is student and asked == ["mine"]
    weight = next(iter(dict(context.policy(plan).parameters()).values()))
    torch.testing.assert_close(weight, next(student.parameters()))
    assert context.start(tiny_methods.plan("d3po", {}, TRAIN)) is base


@pytest.mark.parametrize("values, train, said", [
    ({}, {"trainable": "lora"}, "trainable lora: the policy starts as the distilled model, expected full"),
    ({}, {"trainable": "norm_affine"}, "trainable norm_affine"),
    ({"steps_per_trajectory": 4}, {}, "steps_per_trajectory 4 is more than the 3 of few_steps"),
    ({"few_steps": 1}, {}, "few_steps"),
    ({"eta": 0.5}, {}, "eta 0.5: the noise of a few-step sampler"),
    ({"state_batch": 3}, {}, "state_batch 3 is odd"),
])  # fmt: skip
def test_bad_settings_are_refused(values: dict[str, Any], train: dict[str, Any], said: str) -> None:
    with pytest.raises((ValueError, InputError), match=said):
        tiny_methods.trainer("pso", values, FinetuneSettings.model_validate({**TRAIN.model_dump(), **train}))


def test_a_flow_matching_base_is_refused() -> None:
    networks = tiny.networks(tiny_methods.Small().double(), 4, 1.0, torch.float64)
    flow = Denoiser(networks.policy.network, FlowMatching(1.0, 1000, tiny.CPU))
    with pytest.raises(InputError, match=r"few-step sampling .* flow-matching model"):
        few_steps(replace(networks, policy=flow), 4)
