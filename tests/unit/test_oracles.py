"""Samplers, strategies and DRaFT where everything is known: Gaussian data and Gaussian mixtures with the exact score.

For data N(m, s^2) the exact noise prediction is linear in x, so every step is an affine map and the moments of samples
follow from a recursion in NumPy, for any number of steps; only the draws are left to chance. How far those moments are
from the data's is the error of discretisation, which the tests state too.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace
from functools import partial

import pytest
import torch
from torch import Tensor, nn

from stages.finetune.batch import Batch
from stages.finetune.families.reward_gradient import RewardGradient, Step
from stages.finetune.methods import draft_k
from stages.finetune.networks import Networks as TrainingNetworks
from stages.finetune.objective import Run
from stages.finetune.reward import CountedReward, LatentReward
from stages.finetune.settings import FinetuneSettings
from stages.finetune.training import Trainer
from stages.models.conditioning import Conditioning
from stages.models.diffusion import Denoiser
from stages.models.noise import GivenNoise
from stages.models.sampler import Sampler, finish
from stages.sample.mixing import Predicting
from stages.sample.networks import Networks, Rows
from stages.sample.resolve import strategy
from stages.sample.settings import SampleSettings
from stages.sample.texts import Texts
from tests import tiny
from tests.pixelwise_world import ABAR
from tests.pixelwise_world import Step as WorldStep

COUNT, SHAPE = 4000, (4, 2, 2)
MEAN, STD = 0.8, 0.5


class Gaussian(nn.Module):
    """The exact noise prediction for data N(mean + shift, std^2); `shift` [4] is a parameter, one number a channel."""

    def __init__(self, shift: float = 0.0) -> None:
        super().__init__()
        self.shift = nn.Parameter(torch.full((4,), shift))

    def forward(self, x: Tensor, t: Tensor, encoder_hidden_states: Tensor, return_dict: bool = True) -> tuple[Tensor]:
        abar = torch.from_numpy(ABAR).to(x)[t]
        away = x - abar.sqrt() * (MEAN + self.shift.to(x)[:, None, None])
        return ((1 - abar).sqrt() * away / (abar * STD**2 + 1 - abar),)


class Mixture(nn.Module):
    """The exact noise prediction for numbers from sum of weight_k N(mean_k, std^2)."""

    WEIGHTS, MEANS, STD = (0.3, 0.7), (-1.0, 1.5), 0.2

    def forward(self, x: Tensor, t: Tensor, encoder_hidden_states: Tensor, return_dict: bool = True) -> tuple[Tensor]:
        abar = torch.from_numpy(ABAR).to(x)[t]
        variance = abar * self.STD**2 + 1 - abar
        away = torch.stack([x - abar.sqrt() * mean for mean in self.MEANS])
        weights = torch.tensor(self.WEIGHTS, dtype=x.dtype).log().reshape(-1, 1, 1, 1, 1)
        share = torch.softmax(weights - away.square() / (2 * variance), 0)
        return ((1 - abar).sqrt() * (share * away).sum(0) / variance,)


def noise(steps: int, count: int = COUNT, seed: int = 0) -> GivenNoise:
    draw = torch.Generator().manual_seed(seed)
    return GivenNoise(torch.randn(count, *SHAPE, generator=draw), torch.randn(steps, count, *SHAPE, generator=draw), {})


def sampled(network: nn.Module, steps: int, sampler: Sampler) -> Tensor:
    on = tiny.schedule()
    predict = Denoiser(network, on).predict(on.grid(steps), tiny.text(COUNT))
    given = noise(steps)
    with torch.no_grad():
        return finish(on.grid(steps), predict, given.initial(), 0, given, sampler)


@dataclass(frozen=True)
class Moments:
    """Mean and standard deviation of samples, and the derivative of the mean by a shift in the last steps."""

    mean: float
    std: float
    slope: float


def moments(
    steps: int, sampler: str, shift: Callable[[int], float] = lambda i: 0.0, last: int | None = None
) -> Moments:
    """By the recursion. `shift(i)` moves the mean that the prediction at index i is exact for; `last` counts steps from
    the end whose shift the slope is by, all of them when None.
    """
    mean, variance, slope = 0.0, 1.0, 0.0
    for i in range(steps):
        at = WorldStep.at(steps, i)
        # eps = gain (x - a m), and x0 = (x - b eps) / a
        gain = at.b / (at.a**2 * STD**2 + at.b**2)
        of_x, of_m = (1 - at.b * gain) / at.a, at.b * gain
        fresh = 0.0
        if i < steps - 1 and sampler == "ddpm":
            of_x, of_m, fresh = at.c * of_x + at.d, at.c * of_m, at.s**2
        elif i < steps - 1:
            after = WorldStep.at(steps, i + 1)
            of_x, of_m = after.a * of_x + after.b * gain, after.a * of_m - after.b * gain * at.a
        trained = last is None or i >= steps - last
        mean, variance = of_x * mean + of_m * (MEAN + shift(i)), of_x**2 * variance + fresh
        slope = of_x * slope + (of_m if trained else 0.0)
    return Moments(mean, variance**0.5, slope)


@pytest.mark.parametrize("sampler", ["ddpm", "ddim"])
@pytest.mark.parametrize("steps", [2, 10, 50])
def test_samples_of_a_gaussian_have_the_moments_of_the_recursion(steps: int, sampler: Sampler):
    """Up to chance: four standard errors of a mean and of a standard deviation."""
    found, expected = sampled(Gaussian(), steps, sampler), moments(steps, sampler)
    size = found.numel() ** 0.5
    assert float(found.mean()) == pytest.approx(expected.mean, abs=4 * expected.std / size)
    assert float(found.std()) == pytest.approx(expected.std, abs=4 * expected.std / (2**0.5 * size))


@pytest.mark.parametrize(
    ("sampler", "mean", "std"),  # largest relative errors at 50 and at 500 steps
    [("ddpm", (0.002, 0.0015), (0.10, 0.02)), ("ddim", (0.04, 0.035), (0.05, 0.007))],
)
def test_discretisation_error_falls_with_the_steps(sampler: str, mean: tuple[float, float], std: tuple[float, float]):
    """The last step takes the mean of x0, so the spread is short. That of the mean stays with deterministic steps: they
    carry on that sampling starts at mean 0, where noised data would have its own times 0.07.
    """
    for place, steps in enumerate((50, 500)):
        found = moments(steps, sampler)
        assert abs(found.mean / MEAN - 1) < mean[place]
        assert abs(found.std / STD - 1) < std[place]


@pytest.mark.parametrize("sampler", ["ddpm", "ddim"])
def test_samples_of_a_mixture_have_its_components(sampler: Sampler):
    """At 200 steps; within four standard errors, and 2 % of the distance of the components for discretisation.

    Weights may be off by 0.025: deterministic steps carry on that sampling starts at mean 0 and not at 0.07 times that
    of the data, which is 0.02 of a component.
    """
    found = sampled(Mixture(), 200, sampler).flatten()
    slack = 0.02 * (Mixture.MEANS[1] - Mixture.MEANS[0])
    middle = sum(Mixture.MEANS) / 2
    for weight, mean, part in zip(Mixture.WEIGHTS, Mixture.MEANS, (found < middle, found > middle), strict=True):
        chosen = found[part]
        assert float(part.float().mean()) == pytest.approx(weight, abs=0.025)
        assert float(chosen.mean()) == pytest.approx(mean, abs=4 * Mixture.STD / len(chosen) ** 0.5 + slack)
        assert float(chosen.std()) == pytest.approx(Mixture.STD, abs=slack)


STRATEGIES: dict[str, tuple[dict[str, object], float, Callable[[int], float]]] = {
    "reinforcement guidance": ({"kind": "rlg", "w": [1.7]}, 1.7, lambda i: 1.7 * 0.6),
    "annealed guidance": ({"kind": "aig", "p": [2]}, 2.0, lambda i: 0.6 * (i / 10) ** 2),
    "combined": ({"kind": "combined", "k": [4]}, 4.0, lambda i: 0.6 if i >= 4 else 0.0),
    "tuned": ({"kind": "tuned"}, 0.0, lambda i: 0.6),
}


@pytest.mark.parametrize("sampler", ["ddpm", "ddim"])
@pytest.mark.parametrize("name", STRATEGIES)
def test_strategies_on_gaussians_are_shifts_of_the_mean(name: str, sampler: Sampler):
    """Base and tuned differ by a shift of 0.6; a mixture of their predictions is the prediction of a mixed shift."""
    settings, value, shift = STRATEGIES[name]
    on = tiny.schedule()
    base, tuned = (Denoiser(Gaussian(by), on) for by in (0.0, 0.6))
    text, empty = Conditioning(tiny.text(COUNT)), Conditioning(tiny.text(1))
    nets = Networks(on.grid(10), Texts.of(text), empty, base, tuned, Rows.of(COUNT))
    mixing = strategy(name, settings, SampleSettings(steps=10), "test").settings
    assert isinstance(mixing, Predicting)
    predict = mixing.predict(nets, value)
    given = noise(10)
    with torch.no_grad():
        x0 = finish(nets.grid, predict, given.initial(), 0, given, sampler)
    expected = moments(10, sampler, shift)
    assert float(x0.mean()) == pytest.approx(expected.mean, abs=4 * expected.std / x0.numel() ** 0.5)
    assert expected.mean != pytest.approx(moments(10, sampler).mean, abs=0.1)


DIRECTION = torch.tensor([1.0, -0.5, 0.25, 0.0])


def trainer(network: Gaussian, step, lr: float, steps: int, sampler: Sampler = "ddpm") -> Trainer:
    """A trainer with the reward direction . x0, averaged over places; latents are the images."""
    settings = FinetuneSettings.model_validate({"optimizer": {"lr": lr, "clip_norm": None}, "judge_batch": 4096})
    on = tiny.schedule()
    networks = TrainingNetworks(Denoiser(network, on), on.grid(steps), Conditioning(tiny.text(1)), sampler=sampler)

    def reward(images: Tensor, prompts: object) -> Tensor:
        return torch.einsum("bchw,c->b", images, DIRECTION) / 4

    run = Run(networks, LatentReward(lambda x0: x0, CountedReward(reward), settings), settings)
    return Trainer.start(run, RewardGradient(run, partial(step, networks)), dict(network.named_parameters()))


def batch(steps: int, count: int, seed: int = 0) -> Batch:
    import random

    return Batch(["p"] * count, Conditioning(tiny.text(count)), noise(steps, count, seed), random.Random(seed), 0)


@pytest.mark.parametrize("sampler", ["ddpm", "ddim"])
@pytest.mark.parametrize("k", [1, 3, 10])
def test_draft_follows_a_linear_reward_by_the_known_slope(k: int, sampler: Sampler):
    """The gradient by the shift is the direction of the reward times the slope of the last k steps, without chance."""
    network = Gaussian()
    made = trainer(network, lambda t, b: draft_k.step_with(t, b, k), 1e-3, 10, sampler)
    made.backward([batch(10, 3)])
    slope = moments(10, sampler, last=k).slope
    assert network.shift.grad is not None
    torch.testing.assert_close(network.shift.grad, -slope * DIRECTION, rtol=1e-4, atol=1e-6)


def test_draft_finds_the_optimum_of_a_linear_reward_with_a_quadratic_cost():
    """Reward d . x0 less c/2 |shift|^2 is largest at shift = slope d / c."""
    network, cost = Gaussian(), 0.5

    def step(networks: TrainingNetworks, given: Batch) -> Step:
        judged = yield from draft_k.step_with(networks, given, 2)
        return replace(judged, penalties={"cost": (cost, network.shift.square().sum() / 2)})

    made = trainer(network, step, 3e-2, 5)
    for n in range(200):
        made.step([batch(5, 2, seed=n)])
    expected = moments(5, "ddpm", last=2).slope / cost * DIRECTION
    torch.testing.assert_close(network.shift.detach(), expected, rtol=0, atol=0.01)
