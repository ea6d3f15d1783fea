"""SQDF against closed forms, DRaFT-1, and its own parts."""

from __future__ import annotations

import random
from collections.abc import Sequence
from dataclasses import replace
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from stages.finetune.batch import Batch
from stages.finetune.families.soft_q import SoftQ
from stages.finetune.methods import draft_k, sqdf
from stages.finetune.networks import Networks
from stages.finetune.objective import Loss, Run
from stages.finetune.reward import CountedReward, LatentReward
from stages.finetune.settings import FinetuneSettings
from stages.finetune.trajectories.chain import Chain
from stages.finetune.trajectories.predictors import Predictor, Steps
from stages.finetune.trajectories.replay import Drawn, Replay
from stages.models.conditioning import Conditioning
from stages.models.diffusion import Denoiser
from stages.models.noise import GivenNoise
from stages.models.process_noise import NoiseSchedule, require_noise_schedule
from tests import tiny

DOUBLE = torch.float64


def method(
    networks: Networks, judge: Any, decode: Any = None, predictor: Predictor | None = None,
    train: FinetuneSettings | None = None, **values: Any
) -> SoftQ:  # fmt: skip
    settings = sqdf.Settings.model_validate({"kind": "sqdf", "gamma_steps": None, **values})
    train = train or FinetuneSettings()
    run = Run(networks, LatentReward(decode or (lambda x0: x0), CountedReward(judge), train), train)
    return SoftQ(settings, run, 1.0, predictor or Steps(1))


def coloured(x0: Tensor) -> Tensor:
    """A smooth decoder."""
    return torch.sigmoid(x0[:, :3]).repeat(1, 1, 2, 2)


class Line(nn.Module):
    """The exact noise prediction for data N(0, 1), sqrt(1 - abar) x, plus a shift for every timestep."""

    def __init__(self, on: NoiseSchedule, times: Tensor) -> None:
        super().__init__()
        self.on, self.times = on, times
        self.shift = nn.Parameter(torch.zeros(len(times), dtype=DOUBLE))

    def forward(self, x: Tensor, t: Tensor, encoder_hidden_states: Tensor, return_dict: bool) -> tuple[Tensor]:
        places = (self.times[None] == t.reshape(-1, 1)).double()
        shift = (places @ self.shift).reshape(-1, 1, 1, 1)
        return ((1 - self.on.alphas_cumprod[t]).sqrt().reshape(-1, 1, 1, 1) * x + shift,)


def brightness(images: Tensor, prompts: Sequence[str]) -> Tensor:
    return images.mean((1, 2, 3))


def gaussian_mean(predictor: Predictor, gamma: float) -> float:
    """The mean of the policy that minimises SQDF's loss for data N(0, 1), r(x) = x, alpha 1, 50 steps of SD's schedule.

    The loss is a parabola in every shift, so that two gradients give its minimum.
    """
    on = tiny.schedule()
    on = NoiseSchedule(on.alphas_cumprod.to(DOUBLE), on.prediction_type, on.spacing, on.offset)
    grid = on.grid(50)
    policy, base = Line(on, grid.timesteps), Line(on, grid.timesteps)
    empty = Conditioning(torch.zeros(1, 1, 1, dtype=DOUBLE))
    networks = Networks(Denoiser(policy, on), grid, empty, reference=Denoiser(base, on))
    own = method(networks, brightness, predictor=predictor, gamma=gamma, alpha=1.0)
    zeros = torch.zeros(50, 1, 1, 1, dtype=DOUBLE)
    drawn = Drawn(zeros, torch.arange(50), empty.expand(50), [""] * 50)
    slopes = []
    for value in (0.0, 1.0):
        policy.shift.data.fill_(value)
        root = own.loss(drawn, zeros).root
        slopes.append(torch.autograd.grad(root, policy.shift)[0])
    policy.shift.data = -slopes[0] / (slopes[1] - slopes[0])
    noise = GivenNoise(zeros[:1], torch.zeros(50, 1, 1, 1, 1, dtype=DOUBLE), {})
    batch = replace(tiny.batch(count=1, images=False), text=empty, noise=noise)
    return float(own.chain.roll(batch).last)


def endpoint(chain: Chain, x: Tensor, i: Tensor, text: Conditioning) -> Tensor:
    """Where the deterministic flow ends for data N(0, 1): every marginal is N(0, 1), so it stays where it is."""
    return x


@pytest.mark.parametrize(
    ("predictor", "gamma", "expected"),
    [(Steps(1), 1.0, 0.888), (endpoint, 1.0, 1.674), (Steps(1), 0.9, 0.177), (endpoint, 0.9, 0.222)],
)
def test_gaussian_closed_forms(predictor: Predictor, gamma: float, expected: float):
    assert gaussian_mean(predictor, gamma) == pytest.approx(expected, abs=6e-4)


def small() -> tuple[Networks, dict[str, nn.Parameter]]:
    torch.manual_seed(0)
    network = tiny.unet().double().requires_grad_(True)
    base = tiny.unet().double()
    networks = tiny.networks(network, 5, dtype=DOUBLE)
    return replace(networks, reference=Denoiser(base, networks.policy.process)), dict(network.named_parameters())


def gradients(root: Tensor, parameters: dict[str, nn.Parameter]) -> Tensor:
    found = torch.autograd.grad(root, list(parameters.values()), allow_unused=True)
    return torch.cat([g.flatten() for g in found if g is not None])


def last_states(chain: Chain, batch: Any) -> Drawn:
    made = chain.roll(batch)
    count = len(batch.prompts)
    return Drawn(made.states[len(chain) - 1], chain.index(len(chain) - 1, count), made.text, list(batch.prompts))


def test_without_discount_and_divergence_it_is_the_gradient_of_draft_1():
    """On the same state and noise, of the step as the chain makes it, and of DRaFT-1's own where it ends clean."""
    networks, parameters = small()
    batch = tiny.batch(count=3, steps=5, dtype=DOUBLE, images=False)
    own = method(networks, tiny.reward, coloured, gamma=0.0, alpha=0.0)
    noise = batch.noise.step(4)
    found = gradients(own.loss(last_states(own.chain, batch), noise).root, parameters)

    state = own.chain.roll(batch).states[4]
    step = own.chain.transition(networks.policy, state, own.chain.index(4, 3), Conditioning.of(batch.text))
    reward = tiny.reward(coloured(step.mean + step.std * noise), batch.prompts).mean()
    torch.testing.assert_close(found, gradients(-reward, parameters), rtol=1e-9, atol=1e-12)

    grid = require_noise_schedule(networks.grid, "test")
    ends_clean = replace(networks, grid=replace(grid, alpha_end=grid.alpha_prev))
    clean = method(ends_clean, tiny.reward, coloured, gamma=0.0, alpha=0.0)
    drawn = last_states(own.chain, batch)
    found = clean.loss(drawn, noise)
    assert float(found.terms["reward"]) == pytest.approx(
        float(tiny.reward(coloured(draft_1(networks, batch)), batch.prompts).mean().detach()), rel=1e-9
    )
    reward = tiny.reward(coloured(draft_1(networks, batch)), batch.prompts).mean()
    expected = gradients(-reward, parameters)
    # the divergence of a step without noise is 0 / 0; DRaFT-1 has none
    root = reward_only(clean, drawn)
    torch.testing.assert_close(gradients(root, parameters), expected, rtol=1e-7, atol=1e-10)


def draft_1(networks: Networks, batch: Batch) -> Tensor:
    return tiny.judged(networks, batch, draft_k.step_with(networks, batch, 1)).x0


def reward_only(own: SoftQ, drawn: Drawn) -> Tensor:
    found = own.chain.transition(own.run.networks.policy, drawn.x, drawn.i, drawn.text)
    x0 = own.predictor(own.chain, found.mean, drawn.i + 1, drawn.text)
    return (own.reward.gradient(x0, drawn.prompts).gradient * x0).sum()


def test_a_state_before_the_end_has_no_part_in_it_without_discount():
    networks, parameters = small()
    own = method(networks, tiny.reward, coloured, gamma=0.0, alpha=0.0)
    batch = tiny.batch(count=2, steps=5, dtype=DOUBLE, images=False)
    drawn = replace(last_states(own.chain, batch), i=own.chain.index(2, 2))
    assert not gradients(own.loss(drawn, batch.noise.step(0)).root, parameters).any()


def test_the_loss_in_one_graph():
    """Discounted reward of the base's prediction at x', and the divergence there, by autograd through everything."""
    networks, parameters = small()
    with torch.no_grad():
        for parameter in parameters.values():
            parameter.mul_(1.01)
    own = method(networks, tiny.reward, coloured, gamma=0.8, alpha=0.3)
    batch = tiny.batch(count=3, steps=5, dtype=DOUBLE, images=False)
    states, steps, text = batch.noise.initial(), torch.tensor([0, 3, 4]), Conditioning.of(batch.text)
    noise = batch.noise.step(1)
    found = own.loss(Drawn(states, steps, text, list(batch.prompts)), noise)
    chain = own.chain
    ours, base = (chain.transition(d, states, steps, text) for d in networks.denoisers.values())
    after = ours.mean + ours.std * noise
    times = steps + 1
    rows = times < 5
    eps = chain.prediction(networks.base, after[rows], times[rows], text[rows])
    alpha = require_noise_schedule(networks.grid, "test").alpha[times[rows]].reshape(-1, 1, 1, 1)
    clean = torch.cat([(after[rows] - (1 - alpha).sqrt() * eps) / alpha.sqrt(), after[~rows]])
    rewards = tiny.reward(coloured(clean), batch.prompts)
    kl = ((ours.mean - base.mean) ** 2 / (2 * ours.std**2)).mean((1, 2, 3))
    loss = (-(torch.tensor([0.8**4, 0.8, 1.0], dtype=DOUBLE) * rewards) + 0.3 * kl).mean()
    torch.testing.assert_close(found.terms["loss"], loss.detach())
    torch.testing.assert_close(gradients(found.root, parameters), gradients(loss, parameters), rtol=1e-8, atol=1e-12)


def test_two_deterministic_steps_are_the_samplers():
    """From an even distance to the end: one DDIM step half way, and the prediction there."""
    networks, _ = small()
    chain = Chain.of(networks)
    batch = tiny.batch(count=2, steps=5, dtype=DOUBLE, images=False)
    x, text = batch.noise.initial(), Conditioning.of(batch.text)
    found = Steps(2)(chain, x, torch.tensor([1, 5]), text)
    eps = networks.base.prediction(x, networks.grid.timesteps[1], text)
    clean, after = networks.grid.x0(x, eps, 1), require_noise_schedule(networks.grid, "test").alpha[3]
    half = after.sqrt() * clean + (1 - after).sqrt() * eps
    expected = networks.grid.x0(half, networks.base.prediction(half, networks.grid.timesteps[3], text), 3)
    torch.testing.assert_close(found[0], expected[0])
    assert torch.equal(found[1], x[1])


def test_released_switches():
    networks, _ = small()
    batch = tiny.batch(count=4, steps=5, dtype=DOUBLE, images=False)
    seen: list[Tensor] = []

    def reward(images: Tensor, prompts: Sequence[str]) -> Tensor:
        seen.append(images.detach())
        return images.mean((1, 2, 3)) - 0.5

    found = {}
    for released in ({}, {"denormalise_twice": True}, {"positive_only": True}):
        own = method(networks, reward, torch.sigmoid, gamma=1.0, alpha=0.5, as_released=released)
        drawn = last_states(own.chain, batch)
        found[str(released)] = own.loss(drawn, batch.noise.step(1))
    torch.testing.assert_close(seen[1], seen[0] / 2 + 0.5)
    rewards = seen[0].mean((1, 2, 3)) - 0.5
    assert (rewards > 0).any()
    assert (rewards <= 0).any()
    expected = -(rewards * (rewards > 0)).mean()
    assert float(found["{'positive_only': True}"].terms["loss"]) == pytest.approx(float(expected), rel=1e-6, abs=1e-3)


@pytest.mark.parametrize(
    ("released", "offset"),
    [
        ({}, 5.0),
        ({"positive_only": True}, 5.0),
        ({"positive_only": True}, -5.0),
        ({"positive_only": True, "denormalise_twice": True}, 5.0),
    ],
)
def test_the_logged_loss_has_the_gradient_that_is_trained(released: dict[str, bool], offset: float):
    """By central differences along the gradient, with an offset that moves every shifted reward across 0."""
    networks, parameters = small()
    with torch.no_grad():
        for parameter in parameters.values():
            parameter.mul_(1.01)
    batch = tiny.batch(count=4, steps=5, dtype=DOUBLE, images=False)
    seen: list[Tensor] = []

    def reward(images: Tensor, prompts: Sequence[str]) -> Tensor:
        found = images.mean((1, 2, 3))
        seen.append(found.detach())
        return found - seen[0].mean()  # some are above 0, some below

    train = FinetuneSettings(reward_offset=offset, reward_scale=1.7)
    own = method(networks, reward, torch.sigmoid, train=train, gamma=0.8, alpha=0.3, as_released=released)
    drawn = Drawn(batch.noise.initial(), torch.tensor([0, 3, 4, 4]), Conditioning.of(batch.text), list(batch.prompts))

    def loss() -> Loss:
        return own.loss(drawn, batch.noise.step(1))

    slope = gradients(loss().root, parameters)
    along, size = slope / slope.norm(), 1e-4
    values, places = [], dict(zip(parameters, along.split([p.numel() for p in parameters.values()]), strict=True))
    for sign in (1, -2):
        with torch.no_grad():
            for name, parameter in parameters.items():
                parameter += sign * size * places[name].reshape(parameter.shape)
        values.append(float(loss().terms["loss"]))
    assert (values[0] - values[1]) / (2 * size) == pytest.approx(float(slope.norm()), rel=1e-4)


def test_nothing_is_logged_where_nothing_is_trained():
    """No image has a positive reward: neither offset nor divergence count."""
    networks, parameters = small()
    with torch.no_grad():
        for parameter in parameters.values():
            parameter.mul_(1.01)
    batch = tiny.batch(count=3, steps=5, dtype=DOUBLE, images=False)
    own = method(
        networks, lambda images, _: images.mean((1, 2, 3)) - 1.0, torch.sigmoid,
        train=FinetuneSettings(reward_offset=3.0), alpha=0.5, as_released={"positive_only": True},
    )  # fmt: skip
    found = own.loss(last_states(own.chain, batch), batch.noise.step(1))
    assert not gradients(found.root, parameters).any()
    assert float(found.terms["loss"]) == 0.0


def trajectory(n: int) -> Any:
    networks = tiny.networks(tiny.unet(), 4)
    batch = tiny.batch(count=2, steps=4, seed=n, images=False)
    return Chain.of(networks).roll(replace(batch, prompts=[f"{n} a", f"{n} b"]))


def test_the_buffer_is_first_in_first_out_and_keeps_what_belongs_together():
    buffer, made = Replay(3, "uniform", 0.9), [trajectory(n) for n in range(2)]
    for n, found in enumerate(made):
        buffer.add(found, torch.tensor([n + 0.25, n + 0.5]))
    assert [kept.prompt for kept in buffer.kept] == ["0 b", "1 a", "1 b"]
    drawn = buffer.draw(3, random.Random(0))
    assert sorted(drawn.prompts) == ["0 b", "1 a", "1 b"]
    for x, i, prompt, text in zip(drawn.x, drawn.i.tolist(), drawn.prompts, drawn.text.text, strict=True):
        n, row = int(prompt[0]), "ab".index(prompt[2])
        assert torch.equal(x, made[n].states[i, row])
        assert torch.equal(text, made[n].text.text[row])
    assert buffer.bytes == 3 * 4 * 256 * 4


def test_prioritised_draws_go_by_positive_reward_and_discount():
    buffer = Replay(4, "prioritised", 0.5)
    buffer.add(trajectory(0), torch.tensor([3.0, -1.0]))
    buffer.add(trajectory(1), torch.tensor([1.0, 0.0]))
    drawn = buffer.draw(6000, random.Random(1))
    assert set(drawn.prompts) == {"0 a", "1 a"}
    assert drawn.prompts.count("0 a") / 6000 == pytest.approx(0.75, abs=0.03)
    shares = [(drawn.i == i).float().mean().item() for i in range(4)]
    assert shares == pytest.approx([1 / 15, 2 / 15, 4 / 15, 8 / 15], abs=0.03)
    buffer = Replay(2, "prioritised", 0.5)
    buffer.add(trajectory(0), torch.tensor([-3.0, -1.0]))
    assert set(buffer.draw(50, random.Random(1)).prompts) == {"0 a", "0 b"}


def test_discount_on_other_grids():
    settings = sqdf.Settings(kind="sqdf", gamma=0.9)
    assert settings.discount(50) == pytest.approx(0.9)
    assert settings.discount(20) == pytest.approx(0.768, abs=1e-3)
    assert sqdf.Settings(kind="sqdf", gamma=0.9, gamma_steps=None).discount(20) == 0.9
