"""The stochastic sampler, what it records, and what holds for every method that learns from it."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor

from stages.encode.store import Encodings
from stages.errors import InputError
from stages.finetune.budget import costs
from stages.finetune.cost import Cost
from stages.finetune.data import Data
from stages.finetune.methods import d3po, ddpo, dpok, hrf, large_scale_rl, sqdf
from stages.finetune.networks import Networks
from stages.finetune.resolve import TrainingPlan
from stages.finetune.settings import FinetuneSettings, StudySettings
from stages.finetune.trajectories.chain import Chain
from stages.models.diffusion import Autoencoder, Denoiser
from stages.models.process import Gaussian
from tests import tiny
from tests.trajectories import EVERY, STEPS, batch, chain, gradient, settings_of, trainer, weights


def test_the_chain_is_the_ancestral_sampler_but_for_its_last_step():
    networks = tiny.networks(tiny.unet(), STEPS)
    given = batch()
    made = Chain.of(networks).roll(given)
    for i in range(STEPS):
        torch.testing.assert_close(made.states[i], networks.rollout(given, given.noise.initial(), 0, i))
        torch.testing.assert_close(made.noise[i], given.noise.step(i), rtol=1e-3, atol=1e-3)
    end = networks.x0(given, made.states[STEPS - 1], STEPS - 1)
    assert 0 < float((made.last - end).abs().mean()) < 0.1
    assert made.std[-1] > 0.01
    tensors = [made.states, made.means, made.std, made.log_density, made.text.text]
    assert made.bytes == sum(4 * value.numel() for value in tensors)


def test_a_grid_that_ends_without_noise_is_refused():
    networks = tiny.networks(tiny.unet(), STEPS)
    grid = tiny.schedule(steps_offset=0).grid(STEPS)
    with pytest.raises(InputError, match="grid ends at timestep 0"):
        Chain.of(replace(networks, grid=grid))


def test_densities_again_are_those_recorded_and_the_ratio_starts_at_one():
    made = trainer(*EVERY["ddpo"])
    given = batch()
    trajectory = chain(made).roll(given)
    for i in range(STEPS):
        steps = chain(made).index(i, 4)
        again = chain(made).transition(made.run.networks.policy, trajectory.states[i], steps, given.text)
        torch.testing.assert_close(again.log_prob(trajectory.states[i + 1]), trajectory.log_density[i])
        normal = torch.distributions.Normal(again.mean, again.std.expand_as(again.mean))
        expected = normal.log_prob(trajectory.states[i + 1]).mean((1, 2, 3))
        torch.testing.assert_close(trajectory.log_density[i], expected, rtol=1e-4, atol=1e-4)
    terms = made.step([given])
    assert terms["ratio"] == pytest.approx(1, abs=1e-5)
    assert terms["kl"] == 0
    assert terms["kl_per_dim"] == 0
    later = made.step([batch(1)])
    assert later["ratio"] != 1
    assert later["kl"] == pytest.approx(later["kl_per_dim"] * 256)
    assert later["kl"] > 0


def test_divergence_is_that_of_normal_distributions():
    draw = torch.Generator().manual_seed(0)
    one, two = torch.randn(2, 3, 4, 8, 8, generator=draw, dtype=torch.float64)
    std = torch.tensor([0.5, 1.0, 2.0], dtype=torch.float64).reshape(3, 1, 1, 1)
    normals = [torch.distributions.Normal(mean, std.expand_as(mean)) for mean in (one, two)]
    expected = torch.distributions.kl_divergence(*normals).sum((1, 2, 3))
    torch.testing.assert_close(Gaussian(one, std).kl(Gaussian(two, std)) * 256, expected)


def test_updates_share_out_the_rows_and_steps_are_drawn():
    made = trainer(ddpo, {"advantage": "batch", "updates": 2, "steps_per_trajectory": 2})
    made.objective.collect([batch()])
    seen = []
    for step in range(2):
        rows, steps = made.objective.states(made.objective.held[0], batch(step), step)  # type: ignore[attr-defined]
        assert len(rows) == len(steps) == 4
        seen += rows.tolist()
    assert sorted(seen) == [0, 0, 1, 1, 2, 2, 3, 3]


def test_two_micro_batches_are_one_batch():
    """Advantages are those of the whole batch, whichever way it is divided."""
    made = {n: trainer(ddpo, {"advantage": "batch", "estimator": "score"}, accumulate=n) for n in (1, 2)}
    whole = batch()
    halves = [
        replace(
            whole, prompts=whole.prompts[rows], text=whole.text[rows], micro=place,
            noise=replace(whole.noise, keys=whole.noise.keys[rows]),  # type: ignore[attr-defined, type-var]
        )
        for place, rows in enumerate((slice(0, 2), slice(2, 4)))
    ]  # fmt: skip
    one, two = made[1].step([whole]), made[2].step(halves)
    torch.testing.assert_close(gradient(made[2]), gradient(made[1]), rtol=1e-3, atol=1e-6)
    assert two["reward"] == pytest.approx(one["reward"], rel=1e-5)


@pytest.mark.parametrize("name", EVERY)
def test_no_gradient_reaches_what_is_frozen(name: str):
    base = tiny.unet()
    vae = tiny.vae()
    made = trainer(*EVERY[name], base=base, decode=Autoencoder(vae).decode)
    seen: list[Tensor] = []
    made.step([batch()])
    assert float(gradient(made).norm()) > 0
    for network in (base, vae):
        seen += [p for p in network.parameters() if p.grad is not None or p.requires_grad]
    assert not seen


@pytest.mark.slow
@pytest.mark.parametrize("name", EVERY)
def test_going_on_from_a_state_is_going_straight_on(name: str, tmp_path: Path):
    straight = trainer(*EVERY[name], optimizer={"lr": 1e-3}, ema=0.5)
    logs = [straight.step([batch(step)]) for step in range(5)]
    first = trainer(*EVERY[name], optimizer={"lr": 1e-3}, ema=0.5)
    for step in range(3):
        first.step([batch(step)])
    torch.save(first.state_dict(), tmp_path / "state.pt")
    second = trainer(*EVERY[name], optimizer={"lr": 1e-3}, ema=0.5)
    second.load_state_dict(torch.load(tmp_path / "state.pt", weights_only=True))
    again = [second.step([batch(step)]) for step in (3, 4)]
    assert again == logs[3:]
    assert torch.equal(weights(second), weights(straight))
    assert second.counters() == straight.counters()


def test_prompts_stand_side_by_side_with_noise_of_their_own(tmp_path: Path):
    store = Encodings(*tiny.encodings(tmp_path), tiny.CPU)
    data = Data(store, store.prompts("train"), 0, 4, 1, 1.0, tiny.CPU, False, 2)
    made = data.batch(0, 0)
    assert made.prompts[0] == made.prompts[1] != made.prompts[2] == made.prompts[3]
    initial = made.noise.initial()
    assert not torch.equal(initial[0], initial[1])


@pytest.mark.parametrize(
    ("module", "values", "train", "message"),
    [
        (ddpo, {}, {"sampler": "ddim"}, "expected finetune.sampler ddpm"),
        (ddpo, {"images_per_prompt": 3}, {}, "whole groups of 3"),
        (ddpo, {"advantage": "group"}, {}, "at least 2"),
        (ddpo, {"estimator": "score", "epochs": 2}, {}, "expected updates 1 and epochs 1"),
        (ddpo, {"updates": 3}, {}, "does not divide into 3 updates"),
        (ddpo, {"steps_per_trajectory": 30}, {}, "more than sampling_steps"),
        (hrf, {"window": 30}, {}, "more than sampling_steps"),
        (dpok, {"advantage": "batch"}, {}, "expected advantage prompt"),
        (sqdf, {"predictor": "consistency"}, {}, "go together"),
        (d3po, {"state_batch": 3}, {}, "odd"),
        (large_scale_rl, {"advantage": "group"}, {}, "expected advantage batch or credit own"),
    ],
)
def test_refuses_settings(module: Any, values: dict[str, Any], train: dict[str, Any], message: str):
    with pytest.raises(ValueError, match=message):
        settings_of(module, values).check(FinetuneSettings.model_validate(train))


@pytest.mark.parametrize("name", EVERY)
def test_a_budget_counts_what_training_evaluates(name: str):
    """Where pairs are forked at the last step there is nothing to predict: that method counts by its own indices."""
    module, values = EVERY[name]
    if name == "tailorpo":  # the guided one forks at every step
        values = values | {"steps_per_trajectory": None}
    made = trainer(module, values)
    kind = settings_of(module, values)
    study = StudySettings(reward="r", heldout="h")
    plan = TrainingPlan("x-s0", "x", 0, module.METHOD, module, kind, made.run.settings, study)
    counted = costs(plan, tiny.schedule())
    for step in range(3):
        before = Cost.of(made.run.networks)
        made.step([batch(step)])
        assert next(counted) == Cost.of(made.run.networks) - before


def test_networks_without_a_reference_say_so():
    with pytest.raises(ValueError, match="no reference"):
        _ = Networks(Denoiser(tiny.unet(), tiny.schedule()), tiny.schedule().grid(2), tiny.text(1)).base  # type: ignore[arg-type]
