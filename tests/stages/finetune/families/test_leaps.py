"""DRTune and LeapAlign against closed forms on a network of one weight, v(x) = w x, and in limits in which they are
other methods.
"""

from __future__ import annotations

import random
from collections.abc import Callable
from dataclasses import replace
from itertools import pairwise

import pytest
import torch
from torch import Tensor, nn

from stages.finetune.batch import Batch
from stages.finetune.families.reward_gradient import RewardGradient, Step
from stages.finetune.methods import draft_k, drtune, leapalign, refl
from stages.finetune.networks import Networks
from stages.finetune.settings import FinetuneSettings
from stages.finetune.training import Trainer
from stages.models.conditioning import Conditioning
from stages.models.diffusion import Denoiser
from stages.models.process_flow import FlowMatching
from stages.models.process_noise import NoiseGrid
from tests import tiny
from tests.tiny_methods import Small, smooth

STEPS, DOUBLE, W = 6, torch.float64, 0.7


class Linear(nn.Module):
    """v(x) = w x."""

    def __init__(self) -> None:
        super().__init__()
        self.w = nn.Parameter(torch.tensor(W, dtype=DOUBLE))

    def forward(self, x: Tensor, t: Tensor, encoder_hidden_states: Tensor, return_dict: bool = True) -> tuple[Tensor]:
        return (self.w * x,)


def flow() -> Networks:
    """The linear network on a flow-matching grid with deterministic steps."""
    process = FlowMatching(3.0, 1000, tiny.CPU)
    empty = Conditioning(tiny.text(1, seed=99).double())
    return Networks(Denoiser(Linear(), process), process.grid(STEPS), empty, sampler="ddim")


def noise_schedule() -> Networks:
    """The linear network on a grid of Stable Diffusion's schedule with deterministic steps."""
    return replace(tiny.networks(Linear(), STEPS, dtype=DOUBLE), sampler="ddim")


def states(networks: Networks) -> list[Tensor]:
    """The latents that enter every index of a rollout."""
    batch = tiny.batch(steps=STEPS, dtype=DOUBLE)
    return [networks.rollout(batch, batch.noise.initial(), 0, i) for i in range(STEPS)]


def slope(networks: Networks, made: Step) -> tuple[Tensor, Tensor]:
    """What is judged, and the derivative of its sum by w."""
    judged = tiny.judged(networks, tiny.batch(steps=STEPS, dtype=DOUBLE), made).x0
    [found] = torch.autograd.grad(judged.sum(), [networks.policy.network.w])  # type: ignore[list-item]
    return judged.detach(), found


def levels(networks: Networks) -> list[float]:
    return [float(s) for s in networks.grid.sigma]  # type: ignore[attr-defined]


@pytest.mark.parametrize(("indices", "m"), [((1, 4), 4), ((0, 2), 4), ((0, 1, 2, 3, 4, 5), 5), ((3,), 3)])
def test_drtune_on_a_flow_sums_the_single_steps(indices: tuple[int, ...], m: int):
    """The sampler's step has the factor 1 for its latents: d x0 / d w = sum of (s' - s) x_i over the trained i."""
    networks, batch = flow(), tiny.batch(steps=STEPS, dtype=DOUBLE)
    x, s = states(networks), [*levels(networks), 0.0]
    judged, found = slope(networks, drtune.step_with(networks, batch, indices, m))
    after = [*s[1 : m + 1], 0.0]  # the last prediction leads to clean latents
    expected = sum(((after[i] - s[i]) * x[i]).sum() for i in indices)
    torch.testing.assert_close(found, expected)
    torch.testing.assert_close(judged, (1 - s[m] * W) * x[m])


def test_drtune_on_a_noise_schedule_carries_the_factor_of_the_latents():
    """x' = sqrt(a' / a) x + (sqrt(1 - a') - sqrt(a' (1 - a) / a)) e, and x0 = (x - sqrt(1 - a) e) / sqrt(a)."""
    networks, batch, m = noise_schedule(), tiny.batch(steps=STEPS, dtype=DOUBLE), 4
    x, grid = states(networks), networks.grid
    assert isinstance(grid, NoiseGrid)
    a = [tiny.schedule().alphas_cumprod.double()[t] for t in grid.timesteps.long()]
    expected = torch.zeros((), dtype=DOUBLE)
    for i in (1, 3):
        moved = (1 - a[i + 1]).sqrt() - (a[i + 1] * (1 - a[i]) / a[i]).sqrt()
        expected = expected + moved * x[i].sum() * (a[m] / a[i + 1]).sqrt() / a[m].sqrt()
    _, found = slope(networks, drtune.step_with(networks, batch, (1, 3), m))
    torch.testing.assert_close(found, expected, rtol=1e-6, atol=1e-9)


def gradient(made: Callable[[Networks, Batch], Step], sampler: str = "ddim") -> tuple[Tensor, float]:
    """Of all 52 weights of the small network by the loss, and the mean reward."""
    network = Small().double()
    trainer = tiny.trainer(network, made, FinetuneSettings(), STEPS, DOUBLE, decode=smooth)
    networks = replace(trainer.run.networks, sampler=sampler)  # type: ignore[arg-type]
    run = replace(trainer.run, networks=networks)
    trainer = Trainer.start(run, RewardGradient(run, lambda b: made(networks, b)), trainer.parameters)
    [terms] = trainer.backward([tiny.batch(steps=STEPS, dtype=DOUBLE)])
    return torch.cat([p.grad.flatten() for p in network.parameters() if p.grad is not None]), float(terms["reward"])


@pytest.mark.parametrize("sampler", ["ddim", "ddpm"])
@pytest.mark.parametrize("m", [2, 4])
def test_drtune_of_its_last_step_alone_is_refl(m: int, sampler: str):
    found = gradient(lambda n, b: drtune.step_with(n, b, (m,), m), sampler)
    expected = gradient(lambda n, b: refl.step_with(n, b, m, 0.0), sampler)
    torch.testing.assert_close(found[0], expected[0], rtol=1e-9, atol=1e-14)
    assert found[1] == pytest.approx(expected[1], rel=1e-12)


def test_drtune_trains_evenly_spaced_steps():
    draws = random.Random(0)
    for count, k in ((20, 2), (19, 2), (7, 3), (5, 5), (3, 4)):
        drawn = [drtune.trained(count, k, draws) for _ in range(300)]
        every = {index for indices in drawn for index in indices}
        assert {len(indices) for indices in drawn} == {min(k, count)}
        assert {b - a for indices in drawn for a, b in pairwise(indices)} <= {count // min(k, count)}
        assert min(every) == 0
        assert max(every) == count - 1


@pytest.mark.parametrize("nested", [0.0, 0.3, 1.0])
@pytest.mark.parametrize(("k", "j"), [(0, 3), (1, 5), (4, 5)])
def test_leapalign_on_a_flow_has_the_gradient_of_the_paper(k: int, j: int, nested: float):
    """Equation 10 with v = w x: d x0 / d w = -s_j x_j - (s_k - s_j) x_k + nested s_j (s_k - s_j) w x_k."""
    networks, batch = flow(), tiny.batch(steps=STEPS, dtype=DOUBLE)
    x, s = states(networks), levels(networks)
    _, found = slope(networks, leapalign.step_with(networks, batch, k, j, nested, None))
    leap = s[k] - s[j]
    expected = (-s[j] * x[j] - leap * x[k] + nested * s[j] * leap * W * x[k]).sum()
    torch.testing.assert_close(found, expected)


@pytest.mark.parametrize("make", [flow, noise_schedule])
@pytest.mark.parametrize(("k", "j"), [(0, 1), (1, 3), (2, 5)])
def test_leapalign_judges_the_end_of_the_rollout(make: Callable[[], Networks], k: int, j: int):
    networks, batch = make(), tiny.batch(steps=STEPS, dtype=DOUBLE)
    judged, _ = slope(networks, leapalign.step_with(networks, batch, k, j, 0.3, 0.1))
    expected = tiny.judged(networks, batch, draft_k.step_with(networks, batch, 1)).x0
    torch.testing.assert_close(judged, expected.detach())


def test_leaps_over_the_last_two_steps_are_draft_2():
    """The leaps are then the sampler's own deterministic steps."""
    found = gradient(lambda n, b: leapalign.step_with(n, b, STEPS - 2, STEPS - 1, 1.0, None))
    expected = gradient(lambda n, b: draft_k.step_with(n, b, 2))
    torch.testing.assert_close(found[0], expected[0], rtol=1e-9, atol=1e-14)
    assert found[1] == pytest.approx(expected[1], rel=1e-12)


def test_leaps_over_the_last_two_steps_without_the_nested_gradient_are_drtune():
    found = gradient(lambda n, b: leapalign.step_with(n, b, STEPS - 2, STEPS - 1, 0.0, None))
    expected = gradient(lambda n, b: drtune.step_with(n, b, (STEPS - 2, STEPS - 1), STEPS - 1))
    torch.testing.assert_close(found[0], expected[0], rtol=1e-9, atol=1e-14)


def test_leapalign_weighs_images_by_the_errors_of_their_leaps():
    """By hand, from the states of a rollout: 1 / (max(d_j, floor) + max(d_0, floor)), and they weigh the reward."""
    networks, batch, k, j = flow(), tiny.batch(steps=STEPS, dtype=DOUBLE), 0, 3
    x, s = states(networks), levels(networks)
    judged = tiny.judged(networks, batch, leapalign.step_with(networks, batch, k, j, 0.3, 1e-6))
    end = (1 - s[-1] * W) * x[-1]
    d_j = (x[j] - (1 - (s[k] - s[j]) * W) * x[k]).abs().mean((1, 2, 3))
    d_0 = (end - (1 - s[j] * W) * x[j]).abs().mean((1, 2, 3))
    assert judged.weights is not None
    torch.testing.assert_close(judged.weights, 1 / (d_j + d_0))
    errors = torch.full((2, 1, 1, 1), 0.05), torch.tensor([0.2, 0.3]).reshape(2, 1, 1, 1)
    torch.testing.assert_close(leapalign.weight(*errors, 0.1), 1 / torch.tensor([0.3, 0.4]))


def test_weights_of_images_weigh_their_rewards():
    """Both images by the same factor: so many times the gradient and the loss, and the same logged reward."""
    plain = gradient(lambda n, b: leapalign.step_with(n, b, 1, 3, 0.3, None))
    floored = gradient(lambda n, b: leapalign.step_with(n, b, 1, 3, 0.3, 1e3))
    torch.testing.assert_close(floored[0], plain[0] / 2e3, rtol=1e-9, atol=1e-16)
    assert floored[1] == plain[1]


def test_evaluations():
    for made, expected in (
        (lambda n, b: drtune.step_with(n, b, (1, 3), 4), (5, 2)),
        (lambda n, b: leapalign.step_with(n, b, 1, 3, 0.3, 0.1), (STEPS, 2)),
        (lambda n, b: leapalign.step_with(n, b, 1, STEPS - 1, 0.3, 0.1), (STEPS, 2)),
    ):
        networks, batch = flow(), tiny.batch(count=1, steps=STEPS, dtype=DOUBLE)
        tiny.judged(networks, batch, made(networks, batch))
        assert (networks.policy.evaluations, networks.policy.backward) == expected


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        (drtune.Settings(kind="drtune", middle=(4, 7)), "sampling_steps"),
        (drtune.Settings(kind="drtune", middle=(1, 6), k=3), "more than the 2 steps"),
        (leapalign.Settings(kind="leapalign", window=(4, 7)), "sampling_steps"),
        (leapalign.Settings(kind="leapalign", window=(2, 3)), "expected two"),
    ],
)
def test_settings_that_no_rollout_has_are_refused(settings: drtune.Settings | leapalign.Settings, message: str):
    with pytest.raises(ValueError, match=message):
        settings.check(FinetuneSettings(sampling_steps=STEPS))
