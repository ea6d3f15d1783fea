"""FMTT: shifts, weights and times against their formulas, and the tilted law that particles approach."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import pytest
import torch
from test_sample import model as model  # a fixture
from test_search import STEPS
from test_search_limits import SAMPLE
from test_search_limits import group as group  # a fixture
from torch import Tensor

from stages.models.consistency import Student
from stages.models.diffusion import Denoiser
from stages.models.noise import KeyedNoise
from stages.models.process_flow import FlowGrid, FlowMatching
from stages.parity.sampling.flow_map import Flow, _Exact
from stages.sample.context import Context
from stages.sample.flow_maps import Mapped, mapped, moments_of
from stages.sample.particles import Populations
from stages.sample.resolve import strategy
from stages.sample.settings import student
from stages.sample.stepping import Predicted
from stages.sample.strategies.fmtt import Settings
from tests import tiny


def fmtt(**entry: Any) -> Settings:
    found = strategy("s", {"kind": "fmtt", "reward": "proxy", "n": [3], **entry}, SAMPLE, "test").settings
    assert isinstance(found, Settings)
    return found


def test_times_and_scales_of_both_processes():
    """x = total ((1 - t) n + t x_0) has the coefficients of the process."""
    noisy = tiny.schedule().grid(STEPS)
    for grid in (noisy, FlowMatching(1.0, 1000, tiny.CPU).grid(STEPS)):
        *moments, end = moments_of(grid)
        clean, noise = torch.full((1,), 0.3), torch.full((1,), -0.7)
        for i, moment in enumerate(moments):
            expected = moment.total * (moment.time * clean + (1 - moment.time) * noise)
            torch.testing.assert_close(grid.noised(clean, noise, i), expected, rtol=1e-5, atol=1e-6)
        times = [moment.time for moment in (*moments, end)]
        assert times == sorted(times) and (end.time, end.total) == (1.0, 1.0)
        if isinstance(grid, FlowGrid):
            assert times[:-1] == pytest.approx((1 - grid.sigma).tolist(), abs=1e-6) and moments[1].total == 1


def test_weights_are_the_times_reward_s_growth(group: Any):
    """Nothing is resampled: a weight is the first reward times the first time, and each times the time of its step."""
    work, own = group
    search, told = fmtt(strength=5.0, threshold=0.0, lookahead=2), list[Mapped]()
    start = Populations.of(work.context(own), 3)
    with torch.no_grad():
        _, weights = mapped(start, search, told.append)
    times = [moment.time for moment in moments_of(start.wide.grid)]
    total = times[0] * told[0].rewards.double()
    for i, each in enumerate(told):
        total = total + (times[i + 1] - times[i]) * each.rewards.double()
        torch.testing.assert_close(each.weights, 5.0 * total)
        assert not each.due.any()
    torch.testing.assert_close(weights, 5.0 * total)


def test_steps_are_shifted_by_half_their_variance_times_the_gradient(group: Any):
    """Against the plain step from the same latents with the same draw; the gradient by central differences."""
    work, own = group
    search, told = fmtt(strength=8.0, threshold=0.0, lookahead=2), list[Mapped]()
    start = Populations.of(work.context(own), 3)
    with torch.no_grad():
        mapped(start, search, told.append)
        wide, i, step = start.wide, 1, 1e-2
        steps, x = search.steps(wide), told[0].after
        seen, moments = steps.at(x, i), moments_of(wide.grid)
        law = steps.law(seen)
        assert law is not None
        shift = told[i].after - law.sample(wide.noise.step(i))
        factor = law.std.square() / 2 * moments[i].time * moments[i].total / moments[i + 1].total * 8.0
        gradient = shift / factor
        length = gradient.flatten(1).norm(dim=1)
        ahead = step * gradient / length.view(-1, 1, 1, 1)

        def ends(latents: Tensor) -> Tensor:
            return search.score(wide, search.end_of(wide, steps.at(latents, i)))

        slope = (ends(x + ahead) - ends(x - ahead)) / (2 * step)
    torch.testing.assert_close(slope, length, rtol=0.05, atol=1e-3)


def test_light_particles_are_resampled(group: Any):
    work, own = group
    told = list[Mapped]()
    with torch.no_grad():
        mapped(Populations.of(work.context(own), 3), fmtt(strength=300.0, threshold=1.0), told.append)
    due = [each for each in told if each.due.all()]
    assert due and all(bool((each.kept == 0).all()) for each in due)
    assert any(bool((each.ancestors != torch.arange(3)).any()) for each in due)


@pytest.mark.parametrize("threshold", [0.0, 0.5])
def test_many_particles_have_the_mean_of_the_tilted_law(threshold: float):
    """Exact flow of a Gaussian, reward of a paraboloid, 100 steps; without tilt the mean would be another."""
    draw = torch.Generator().manual_seed(3)
    mean, direction = torch.randn(2, 3, generator=draw, dtype=torch.float64).unbind()
    flow, count = Flow(mean, 0.6, direction, 0.5), 3000
    noise = KeyedNoise(0, [("particles",)], (3, 1, 1), tiny.CPU)
    search = _Exact(kind="fmtt", reward="reward", n=(count,), strength=1.0, threshold=threshold, end="noisy", flow=flow)
    with torch.no_grad():
        final, weights = mapped(Populations.of(flow.context(noise, 100), count), search)  # type: ignore[arg-type]
    shares = weights.softmax(1).flatten()
    found = (shares[:, None] * final.x.flatten(1).double()).sum(0)
    tolerance = 5 * 0.6 / count**0.5 * 2
    assert bool((found - flow.tilted_mean).abs().max() < tolerance)
    assert bool((mean - flow.tilted_mean).abs().max() > 3 * tolerance)


def distilled(group: Any, network: Any) -> Context:
    """The context of the group, with a consistency model of this network."""
    work, own = group
    return replace(work, others={student("map"): network}).context(own)


def test_a_distilled_flow_map_costs_one_evaluation_with_gradient_beside_the_step_s_own(group: Any):
    """Twice N T evaluations; its own prediction carries no gradient, since the end does not depend on it."""
    work, _ = group
    search, ctx = fmtt(strength=5.0, flow_map="map", lookahead=4), distilled(group, work.model.unet)
    with torch.no_grad():
        search.sample(ctx, 3)
    assert {tuple(cost) for cost in ctx.rows.meter.costs()} == {(6 * STEPS, 3 * STEPS, 3 * STEPS, 3 * STEPS + 1)}


def test_a_distilled_flow_map_is_the_student_s_prediction(group: Any):
    """As the distillation reads the same network, from latents in between; without strength sampling is plain."""
    work, own = group
    ctx = distilled(group, work.model.unet)
    search = fmtt(flow_map="map")
    with torch.no_grad():
        x = ctx.noise.initial()
        for i in range(STEPS):
            times = ctx.grid.timesteps[i].expand(len(x))
            expected = Student(Denoiser(work.model.unet, work.model.process))(x, times, ctx.networks.text)
            torch.testing.assert_close(search.end_of(ctx, search.steps(ctx).at(x, i)), expected)
        still = fmtt(strength=0.0, flow_map="map").sample(distilled(group, work.tuned), 3)
        plain = work.context(own)
        assert torch.allclose(still, plain.decode(search.steps(plain).finish()), atol=1e-4)


def test_the_gradient_goes_through_the_flow_map_alone(group: Any):
    """By central differences, of particles that nothing has moved yet."""
    work, _ = group
    ctx, told = distilled(group, work.model.unet), list[Mapped]()
    search = fmtt(strength=8.0, threshold=0.0, flow_map="map")
    start = Populations.of(ctx, 2)
    with torch.no_grad():
        mapped(start, search, told.append)
        wide, i, step = start.wide, 1, 1e-2
        steps, x, moments = search.steps(wide), told[0].after, moments_of(wide.grid)
        law = steps.law(steps.at(x, i))
        assert law is not None
        shift = told[i].after - law.sample(wide.noise.step(i))
        gradient = shift / (law.std.square() / 2 * moments[i].time * moments[i].total / moments[i + 1].total * 8.0)
        length = gradient.flatten(1).norm(dim=1)
        ahead = step * gradient / length.view(-1, 1, 1, 1)

        def ends(latents: Tensor) -> Tensor:
            return search.score(wide, search.end_of(wide, Predicted(i, latents, latents)))

        slope = (ends(x + ahead) - ends(x - ahead)) / (2 * step)
    torch.testing.assert_close(slope, length, rtol=0.05, atol=1e-3)
