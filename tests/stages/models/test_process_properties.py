"""What holds for every diffusion process, grid and index; in double precision, so that tolerances are of rounding."""

from __future__ import annotations

import random
from typing import Any

import pytest
import torch
from diffusers.schedulers.scheduling_flow_match_euler_discrete import FlowMatchEulerDiscreteScheduler
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor
from torch.distributions import Normal, kl_divergence

from stages.models.process import DiffusionProcess, Gaussian, Grid
from stages.models.process_flow import FlowGrid, FlowMatching
from stages.models.process_noise import NoiseGrid, NoiseSchedule
from tests import tiny

B = 3
DOUBLE = torch.float64
SD3 = FlowMatching(3.0, 1000, tiny.CPU)


def schedule(**changes: object) -> NoiseSchedule:
    on = tiny.schedule(**changes)
    return NoiseSchedule(on.alphas_cumprod.to(DOUBLE), on.prediction_type, on.spacing, on.offset)


PROCESSES: dict[str, DiffusionProcess] = {
    "epsilon": schedule(),
    "v": schedule(prediction_type="v_prediction"),
    "v trailing": schedule(prediction_type="v_prediction", timestep_spacing="trailing"),
    "flow": FlowMatching(1.0, 1000, tiny.CPU),
    "flow, shifted": SD3,
}


def grid_of(process: DiffusionProcess, steps: int) -> Grid:
    made = process.grid(steps)
    return FlowGrid.of(made.process, made.sigma.to(DOUBLE)) if isinstance(made, FlowGrid) else made


def latents(seed: int, scale: float = 1.0) -> Tensor:
    return scale * torch.randn(B, 2, 2, 3, generator=torch.Generator().manual_seed(seed), dtype=DOUBLE)


@st.composite
def places(draw: Any) -> tuple[Grid, int]:
    """A grid of any process and one of its indices."""
    process = PROCESSES[draw(st.sampled_from(sorted(PROCESSES)))]
    steps = draw(st.sampled_from([1, 2, 3, 7, 20, 40, 125]))
    return grid_of(process, steps), draw(st.integers(0, steps - 1))


seeds = st.integers(0, 2**16)
scales = st.floats(0.01, 10)
etas = st.floats(0.05, 1)
quick = settings(max_examples=40, deadline=None)


def close(found: Tensor, expected: Tensor, tolerance: float = 1e-10) -> None:
    torch.testing.assert_close(found, expected, rtol=tolerance, atol=tolerance * float(1 + expected.abs().max()))


@quick
@given(places(), seeds, scales)
def test_the_target_at_noised_latents_gives_the_clean_ones_back(place: tuple[Grid, int], seed: int, scale: float):
    grid, i = place
    clean, noise = latents(seed, scale), latents(seed + 1)
    prediction = grid.process.target(clean, noise)
    close(grid.x0(grid.noised(clean, noise, i), prediction, i), clean)
    for t in (grid.timesteps[i], grid.timesteps[i].expand(B)):
        x = grid.process.noised(clean, noise, t)
        close(x, grid.noised(clean, noise, i))
        close(grid.process.x0(x, prediction, t), clean)


@quick
@given(places(), seeds)
def test_networks_may_predict_noise_or_v_or_the_velocity(place: tuple[Grid, int], seed: int):
    grid, i = place
    clean, noise, t = latents(seed), latents(seed + 1), grid.timesteps[i]
    x, output = grid.noised(clean, noise, i), grid.process.target(clean, noise)
    if isinstance(grid, NoiseGrid) and grid.process.prediction_type == "v_prediction":
        output = grid.alpha[i].sqrt() * noise - (1 - grid.alpha[i]).sqrt() * clean
    close(grid.process.prediction(output, x, t), grid.process.target(clean, noise))


@quick
@given(places(), seeds, st.floats(-3, 3))
def test_predictions_are_linear_in_the_output_and_so_is_x0(place: tuple[Grid, int], seed: int, weight: float):
    """So guidance and strategies may mix predictions in place of outputs or clean latents."""
    grid, i = place
    process, t, x = grid.process, grid.timesteps[i], latents(seed)
    one, two = latents(seed + 1), latents(seed + 2)
    first, second, mixed = (process.prediction(o, x, t) for o in (one, two, one + weight * (two - one)))
    close(mixed, first + weight * (second - first))
    clean = [grid.x0(x, prediction, i) for prediction in (first, second, mixed)]
    close(clean[2], clean[0] + weight * (clean[1] - clean[0]), 1e-9)


@quick
@given(places(), seeds)
def test_the_ode_follows_the_path_of_the_truth(place: tuple[Grid, int], seed: int):
    grid, i = place
    clean, noise = latents(seed), latents(seed + 1)
    x, prediction = grid.noised(clean, noise, i), grid.process.target(clean, noise)
    for to in range(len(grid)):
        close(grid.ode(x, prediction, i, to), grid.noised(clean, noise, to))
    close(grid.ode(x, prediction, i), grid.noised(clean, noise, i + 1) if i + 1 < len(grid) else clean)


@quick
@given(places(), seeds)
def test_without_noise_a_transition_is_the_ode(place: tuple[Grid, int], seed: int):
    grid, i = place
    x, prediction = latents(seed), latents(seed + 1)
    step = grid.transition(x, prediction, i, eta=0.0)
    assert float(step.std.abs().max()) == 0
    if isinstance(grid, NoiseGrid) and i + 1 == len(grid):  # ends at timestep 0, not at clean latents
        first = torch.tensor(0)
        close(step.mean, grid.process.noised(grid.x0(x, prediction, i), prediction, first))
    else:
        close(step.mean, grid.ode(x, prediction, i))


@quick
@given(places(), seeds)
def test_the_whole_noise_of_a_schedule_is_the_ancestral_step(place: tuple[Grid, int], seed: int):
    grid, i = place
    if isinstance(grid, FlowGrid) or i + 1 == len(grid):
        return
    x, prediction = latents(seed), latents(seed + 1)
    step, ancestral = grid.transition(x, prediction, i), grid.ancestral(x, prediction, i)
    close(step.mean, ancestral.mean, 1e-9)
    close(step.std, ancestral.std, 1e-9)


@quick
@given(places(), seeds)
def test_the_last_ancestral_step_is_the_predicted_clean_latents(place: tuple[Grid, int], seed: int):
    grid, _ = place
    last = len(grid) - 1
    x, prediction = latents(seed), latents(seed + 1)
    step = grid.ancestral(x, prediction, last)
    close(step.mean, grid.x0(x, prediction, last))
    assert float(step.std) <= 1e-10


@quick
@given(places(), seeds, etas, st.data())
def test_a_row_of_a_batch_of_indices_is_that_row_alone(place: tuple[Grid, int], seed: int, eta: float, data: Any):
    grid, _ = place
    indices = data.draw(st.lists(st.integers(0, len(grid) - 1), min_size=B, max_size=B))
    i, x, prediction = torch.tensor(indices), latents(seed), latents(seed + 1)
    step, clean, after = grid.transition(x, prediction, i, eta), grid.x0(x, prediction, i), grid.ode(x, prediction, i)
    for n, own in enumerate(indices):
        rows = x[n : n + 1], prediction[n : n + 1], own
        close(step.mean[n], grid.transition(*rows, eta).mean[0])
        close(step.std[n].flatten(), grid.transition(*rows, eta).std.flatten())
        close(clean[n], grid.x0(*rows)[0])
        close(after[n], grid.ode(*rows)[0])


# densities


@quick
@given(seeds, st.floats(1e-3, 10), st.floats(1e-3, 10))
def test_densities_and_divergences_are_those_of_normal_distributions(seed: int, one: float, two: float):
    draw = torch.Generator().manual_seed(seed)
    mean, other, x = torch.randn(3, B, 2, 2, 3, generator=draw, dtype=DOUBLE)
    stds = [std * (0.5 + torch.rand(B, 1, 1, 1, generator=draw, dtype=DOUBLE)) for std in (one, two)]
    ours = [Gaussian(mean, stds[0]), Gaussian(other, stds[1])]
    theirs = [Normal(g.mean, g.std.expand_as(g.mean)) for g in ours]
    close(ours[0].log_prob(x), theirs[0].log_prob(x).mean((1, 2, 3)))
    close(ours[0].kl(ours[1]), kl_divergence(*theirs).mean((1, 2, 3)))
    assert bool((ours[0].kl(ours[1]) >= 0).all())
    assert ours[0].kl(ours[0]).tolist() == [0] * B
    close(ours[0].sample(x), mean + stds[0] * x)


@quick
@given(places(), seeds, etas)
def test_every_transition_has_a_density(place: tuple[Grid, int], seed: int, eta: float):
    grid, i = place
    grid.require_transitions()
    x, prediction, other, z = (latents(seed + n) for n in range(4))
    step, base = grid.transition(x, prediction, i, eta), grid.transition(x, other, i, eta)
    after = step.sample(z)
    assert bool(torch.isfinite(step.log_prob(after)).all())
    assert float(step.kl(base).min()) > 0
    expected = Normal(step.mean, step.std.expand_as(x)).log_prob(after).mean((1, 2, 3))
    close(step.log_prob(after), expected, 1e-9)


# Flow-GRPO (Liu et al. 2025, arXiv 2505.05470)


@quick
@given(st.sampled_from([1.0, 3.0, 6.0]), st.integers(2, 60), st.data(), seeds, etas)
def test_stochastic_steps_of_flow_matching_are_those_of_flow_grpo(
    shift: float, steps: int, data: Any, seed: int, a: float
):
    """x + [v + sigma^2 / (2 t) (x + (1 - t) v)] dt + sigma sqrt(-dt) noise, sigma = a sqrt(t / (1 - t)); and

    KL = -dt / 2 (sigma (1 - t) / (2 t) + 1 / sigma)^2 |v - v'|^2.
    """
    grid = grid_of(FlowMatching(shift, 1000, tiny.CPU), steps)
    assert isinstance(grid, FlowGrid)
    i = data.draw(st.integers(0, steps - 1))
    levels = [*grid.sigma.tolist(), 0.0]
    t, dt = levels[i], levels[i + 1] - levels[i]
    sigma = a * (t / (1 - (t if i else levels[1]))) ** 0.5
    x, v, other, z = (latents(seed + n) for n in range(4))
    step, base = grid.transition(x, v, i, a), grid.transition(x, other, i, a)
    expected = x + (v + sigma**2 / (2 * t) * (x + (1 - t) * v)) * dt + sigma * (-dt) ** 0.5 * z
    close(step.sample(z), expected)
    kl = -dt / 2 * (sigma * (1 - t) / (2 * t) + 1 / sigma) ** 2 * (v - other).square().mean((1, 2, 3))
    close(step.kl(base), kl)


def test_a_step_of_flow_grpo_by_hand():
    """From s = 0.5 to 0.25 with a = 1: sigma = 1, mean = x + (v + x + v / 2) (-1/4), std = 1/2."""
    grid = FlowGrid.of(SD3, torch.tensor([0.5, 0.25], dtype=DOUBLE))
    x, v = torch.full((1, 1, 1, 1), 2.0, dtype=DOUBLE), torch.full((1, 1, 1, 1), 4.0, dtype=DOUBLE)
    step = grid.transition(x, v, 0)
    assert float(step.mean) == pytest.approx(2 - (4 + 2 + 2) / 4)
    assert float(step.std) == pytest.approx(0.5)


# chains of a Gaussian example: data N(m, d^2), of which every prediction is known in closed form

M, D = 0.7, 0.4


def marginal(grid: Grid, i: int) -> tuple[float, float]:
    """Signal and noise of latents that enter index i."""
    if isinstance(grid, NoiseGrid):
        return float(grid.alpha[i].sqrt()), float((1 - grid.alpha[i]).sqrt())
    assert isinstance(grid, FlowGrid)
    return 1 - float(grid.sigma[i]), float(grid.sigma[i])


def best(grid: Grid, x: Tensor, i: int) -> Tensor:
    """The expected target given x: what a perfect network predicts."""
    a, s = marginal(grid, i)
    surprise = (x - a * M) / (a**2 * D**2 + s**2)
    clean, noise = M + a * D**2 * surprise, s * surprise
    return grid.process.target(clean, noise)


def pushed(grid: Grid, eta: float | None) -> tuple[float, float]:
    """Mean and variance at the end of the chain from the marginal of index 0; exact, since every step is linear in x.

    Of transitions with `eta`, or of ancestral steps and the last prediction where it is None.
    """
    a, s = marginal(grid, 0)
    mean, variance = a * M, a**2 * D**2 + s**2
    for i in range(len(grid)):
        probe = torch.tensor([mean, mean + 1], dtype=DOUBLE).reshape(2, 1, 1, 1)
        prediction = best(grid, probe, i)
        step = grid.ancestral(probe, prediction, i) if eta is None else grid.transition(probe, prediction, i, eta)
        mean, above = step.mean.flatten().tolist()
        variance = (above - mean) ** 2 * variance + float(step.std.flatten()[0]) ** 2
    return mean, variance


@pytest.mark.parametrize("eta", [None, 0.0, 0.3, 0.7, 1.0])
@pytest.mark.parametrize("name", ["epsilon", "v", "flow", "flow, shifted"])
def test_chains_end_at_the_data_whatever_their_noise(name: str, eta: float | None):
    """The mean of the data, and their variance the nearer the more steps: a stochastic chain has the marginals of the
    ODE. Transitions of a noise schedule end at timestep 0, where almost nothing but data is left.
    """
    errors = []
    for steps in (50, 500):
        grid = grid_of(PROCESSES[name], steps)
        kept = float(grid.alpha_end[-1]) if isinstance(grid, NoiseGrid) and eta is not None else 1.0
        mean, variance = pushed(grid, eta)
        assert mean == pytest.approx(kept**0.5 * M)
        errors.append(abs(variance - (kept * D**2 + 1 - kept)))
    assert errors[1] < 0.008
    assert errors[1] < errors[0] / 3


@pytest.mark.parametrize("eta", [None, 0.5, 1.0])
@pytest.mark.parametrize("name", ["epsilon", "v", "flow", "flow, shifted"])
def test_steps_from_a_known_image_keep_the_marginal_exactly(name: str, eta: float | None):
    """Data of one image: q(x_next | x, x_0) maps q(x_i | x_0) to q(x_{i+1} | x_0). Not so the SDE of Flow-GRPO, which
    is exact for short steps only.
    """
    grid = grid_of(PROCESSES[name], 12)
    if isinstance(grid, FlowGrid) and eta is not None:
        return
    clean = torch.full((2, 1, 1, 1), M, dtype=DOUBLE)
    for i in range(11):
        a, s = marginal(grid, i)
        noise = torch.tensor([0.0, 1.0], dtype=DOUBLE).reshape(2, 1, 1, 1)
        x, target = grid.noised(clean, noise, i), grid.process.target(clean, noise)
        step = grid.ancestral(x, target, i) if eta is None else grid.transition(x, target, i, eta)
        mean, above = step.mean.flatten().tolist()
        after, left = marginal(grid, i + 1)
        assert mean == pytest.approx(after * M)
        assert (above - mean) ** 2 + float(step.std.flatten()[0]) ** 2 == pytest.approx(left**2)
        assert s > left and a < after


# timesteps of training


@given(st.sampled_from(sorted(PROCESSES)), st.integers(1, 50), seeds)
@settings(max_examples=30, deadline=None)
def test_training_timesteps_are_those_of_the_scheduler(name: str, count: int, seed: int):
    process = PROCESSES[name]
    found = process.random_timesteps(random.Random(seed), count)
    assert found.shape == (count,)
    assert torch.equal(found, process.random_timesteps(random.Random(seed), count))
    if isinstance(process, FlowMatching):
        theirs = FlowMatchEulerDiscreteScheduler(num_train_timesteps=1000, shift=process.shift)
        times = torch.as_tensor(theirs.timesteps)
        assert float((found[:, None] - times[None]).abs().amin(1).max()) < 1e-3
    else:
        assert found.dtype == torch.int64 and int(found.min()) >= 0 and int(found.max()) < 1000
