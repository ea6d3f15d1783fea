from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import torch
from diffusers.schedulers.scheduling_ddim import DDIMScheduler
from diffusers.schedulers.scheduling_ddpm import DDPMScheduler
from diffusers.schedulers.scheduling_flow_match_euler_discrete import FlowMatchEulerDiscreteScheduler

from stages.errors import InputError
from stages.models.process_config import load_process
from stages.models.process_flow import FlowMatching
from stages.models.process_noise import NoiseSchedule
from tests import tiny

STEPS = [1, 2, 7, 20, 31, 40, 50]


def pair(scheduler: type, **changes: object):
    config = tiny.SCHEDULER | changes
    theirs = scheduler.from_config(config)
    return theirs, NoiseSchedule.from_config(config, tiny.CPU)


def draws(seed: int = 0) -> tuple[torch.Tensor, torch.Tensor]:
    draw = torch.Generator().manual_seed(seed)
    return torch.randn(2, 4, 8, 8, generator=draw), torch.randn(2, 4, 8, 8, generator=draw)


def step_noise(seed: int) -> torch.Tensor:
    return torch.randn(2, 4, 8, 8, generator=torch.Generator().manual_seed(seed))


@pytest.mark.parametrize("kind", ["linear", "scaled_linear"])
def test_cumulative_products(kind: str):
    theirs, ours = pair(DDPMScheduler, beta_schedule=kind)
    torch.testing.assert_close(ours.alphas_cumprod, theirs.alphas_cumprod, rtol=1e-6, atol=0)


def test_cumulative_products_in_double_precision():
    betas = np.linspace(0.00085**0.5, 0.012**0.5, 1000, dtype=np.float64) ** 2
    np.testing.assert_allclose(tiny.schedule().alphas_cumprod.numpy(), np.cumprod(1 - betas), rtol=3e-6)


@pytest.mark.parametrize("steps", STEPS)
@pytest.mark.parametrize(("spacing", "offset"), [("leading", 0), ("leading", 1), ("trailing", 0), ("linspace", 0)])
def test_timesteps(steps: int, spacing: str, offset: int):
    theirs, ours = pair(DDPMScheduler, timestep_spacing=spacing, steps_offset=offset)
    theirs.set_timesteps(steps)
    assert ours.grid(steps).timesteps.tolist() == theirs.timesteps.tolist()


def test_timesteps_of_the_field():
    assert tiny.schedule().grid(40).timesteps[:3].tolist() == [976, 951, 926]
    assert tiny.schedule().grid(40).timesteps[-2:].tolist() == [26, 1]


@pytest.mark.parametrize("steps", [4, 20, 31, 40])
def test_ancestral_steps(steps: int):
    theirs, ours = pair(DDPMScheduler)
    theirs.set_timesteps(steps)
    grid = ours.grid(steps)
    x, eps = draws()
    for i, t in enumerate(theirs.timesteps):
        expected = theirs.step(eps, t, x, generator=torch.Generator().manual_seed(i))
        found = grid.ancestral(x, eps, i).sample(step_noise(i) if i < steps - 1 else torch.zeros_like(x))
        torch.testing.assert_close(grid.x0(x, eps, i), expected.pred_original_sample, rtol=1e-5, atol=1e-5)
        torch.testing.assert_close(found, expected.prev_sample, rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize(
    ("spacing", "steps"),  # trailing ones divide 1000: DDIMScheduler goes back by 1000 // steps, whatever its grid
    [("leading", 4), ("leading", 20), ("leading", 31), ("leading", 40), ("trailing", 4), ("trailing", 20)],
)
def test_deterministic_steps(spacing: str, steps: int):
    theirs, ours = pair(DDIMScheduler, timestep_spacing=spacing, set_alpha_to_one=True, clip_sample=False)
    theirs.set_timesteps(steps)
    grid = ours.grid(steps)
    x, eps = draws()
    for i, t in enumerate(theirs.timesteps):
        torch.testing.assert_close(grid.ode(x, eps, i), theirs.step(eps, t, x).prev_sample, rtol=1e-5, atol=1e-5)


def test_velocity_prediction():
    theirs, ours = pair(DDPMScheduler, prediction_type="v_prediction")
    theirs.set_timesteps(20)
    grid = ours.grid(20)
    x, output = draws()
    for i, t in enumerate(theirs.timesteps):
        expected = theirs.step(output, t, x).pred_original_sample
        torch.testing.assert_close(grid.x0(x, ours.prediction(output, x, t), i), expected, rtol=2e-5, atol=2e-5)


def test_noising_with_one_or_many_timesteps():
    theirs, ours = pair(DDPMScheduler)
    clean, noise = draws()
    times = torch.tensor([10, 900])
    expected = theirs.add_noise(clean, noise, times)
    torch.testing.assert_close(ours.noised(clean, noise, times), expected)
    torch.testing.assert_close(ours.noised(clean, noise, times[1])[1], expected[1])


def test_noised_at_an_index_is_the_inverse_of_x0():
    grid = tiny.schedule().grid(20)
    clean, noise = draws()
    for i in (0, 10, 19):
        torch.testing.assert_close(grid.x0(grid.noised(clean, noise, i), noise, i), clean, rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize("steps", [0, 1001])
def test_refuses_impossible_numbers_of_steps(steps: int):
    with pytest.raises(InputError, match=f"sampling steps: {steps}"):
        tiny.schedule().grid(steps)


@pytest.mark.parametrize(("key", "value"), [("beta_schedule", "squaredcos"), ("prediction_type", "sample")])
def test_refuses_configurations_it_does_not_know(key: str, value: str):
    with pytest.raises(InputError, match=value):
        tiny.schedule(**{key: value})


# stochastic steps


@pytest.mark.parametrize("i", [0, 20, 48, 49])
def test_transitions_are_the_stochastic_steps_of_diffusers(i: int):
    config: dict[str, Any] = tiny.SCHEDULER | {"set_alpha_to_one": False}
    theirs: Any = DDIMScheduler.from_config(config)
    theirs.set_timesteps(50)
    grid, t = tiny.schedule().grid(50), theirs.timesteps[i]
    x, eps = draws()
    z = step_noise(7)
    expected = theirs.step(eps, t, x, eta=1.0, variance_noise=z).prev_sample
    torch.testing.assert_close(grid.transition(x, eps, i).sample(z), expected, rtol=1e-4, atol=1e-5)
    without = theirs.step(eps, t, x, eta=0.0).prev_sample
    torch.testing.assert_close(grid.transition(x, eps, i, eta=0.0).mean, without)


def test_transitions_of_a_batch_are_those_of_its_rows():
    grid, indices = tiny.schedule().grid(50), torch.tensor([0, 49])
    x, eps = draws()
    whole = grid.transition(x, eps, indices)
    for n, i in enumerate(indices.tolist()):
        row = grid.transition(x[n : n + 1], eps[n : n + 1], i)
        torch.testing.assert_close(whole.mean[n], row.mean[0])
        torch.testing.assert_close(whole.std[n].flatten(), row.std.flatten())


# flow matching


def flow(**changes: object) -> tuple[Any, FlowMatching]:
    config = {"_class_name": "FlowMatchEulerDiscreteScheduler", "num_train_timesteps": 1000, "shift": 3.0} | changes
    theirs, ours = FlowMatchEulerDiscreteScheduler.from_config(config), load_process(config, tiny.CPU)
    assert isinstance(theirs, FlowMatchEulerDiscreteScheduler) and isinstance(ours, FlowMatching)
    return theirs, ours


@pytest.mark.parametrize("steps", [1, 4, 28, 1000])
@pytest.mark.parametrize("shift", [1.0, 3.0])
def test_levels_of_flow_matching(steps: int, shift: float):
    theirs, ours = flow(shift=shift)
    theirs.set_timesteps(steps)
    grid = ours.grid(steps)
    torch.testing.assert_close(grid.sigma, theirs.sigmas[:-1], rtol=1e-6, atol=0)
    torch.testing.assert_close(grid.timesteps, theirs.timesteps, rtol=1e-6, atol=0)


def test_levels_of_stable_diffusion_3():
    """The first levels of 28 steps with shift 3, by hand: s' = 3 s / (1 + 2 s) for s from 1 to 0.003/1.002."""
    s = np.linspace(1, 0.003 / 1.002, 28)
    np.testing.assert_allclose(flow()[1].grid(28).sigma.numpy(), 3 * s / (1 + 2 * s), rtol=1e-6)


def test_euler_steps_along_the_velocity():
    theirs, ours = flow()
    theirs.set_timesteps(6)
    grid = ours.grid(6)
    x, v = draws()
    for i in range(6):
        expected = theirs.step(v, theirs.timesteps[i], x).prev_sample
        torch.testing.assert_close(grid.ode(x, v, i), expected, rtol=1e-5, atol=1e-5)
    torch.testing.assert_close(grid.ode(x, v, 5), grid.x0(x, v, 5))


def test_noising_start_and_x0_of_flow_matching():
    theirs, ours = flow()
    theirs.set_timesteps(6)
    grid = ours.grid(6)
    clean, noise = draws()
    for i in range(6):
        x = grid.noised(clean, noise, i)
        expected = theirs.scale_noise(clean, theirs.timesteps[i : i + 1].expand(2), noise)
        torch.testing.assert_close(x, expected, rtol=1e-5, atol=1e-5)
        torch.testing.assert_close(ours.noised(clean, noise, grid.timesteps[i]), x, rtol=1e-5, atol=1e-5)
        target = ours.target(clean, noise)
        torch.testing.assert_close(grid.x0(x, target, i), clean, rtol=1e-4, atol=1e-5)
        # the true velocity leads to the same path at the next level
        following = grid.noised(clean, noise, i + 1) if i < 5 else clean
        torch.testing.assert_close(grid.ode(x, target, i), following, rtol=1e-4, atol=1e-5)
    torch.testing.assert_close(grid.noised(clean, noise, 0), noise)


@pytest.mark.parametrize("i", [0, 2, 5])
def test_ancestral_steps_of_flow_matching_keep_the_marginal(i: int):
    """From x_s of a known x_0, a step with the true velocity ends in the distribution of x at the next level."""
    grid = flow()[1].grid(6)
    draw = torch.Generator().manual_seed(i)
    noise, fresh = (torch.randn(40_000, 1, 1, 1, generator=draw, dtype=torch.float64) for _ in range(2))
    clean = torch.full_like(noise, 0.7)
    x = grid.noised(clean, noise, i)
    made = grid.ancestral(x, noise - clean, i).sample(fresh)
    after = float(grid.following[i])
    assert abs(float(made.mean()) - (1 - after) * 0.7) < 4 * after / 200 + 1e-6
    assert abs(float(made.std()) - after) < 4 * after / 280 + 1e-6


def test_configurations_of_flow_matching_that_are_not_known():
    with pytest.raises(InputError, match="use_dynamic_shifting True of flow matching is not known"):
        flow(use_dynamic_shifting=True)
    with pytest.raises(InputError, match="rescale_betas_zero_snr is not known"):
        tiny.schedule(rescale_betas_zero_snr=True)
