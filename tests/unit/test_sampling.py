from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor

from stages.errors import InputError
from stages.models.conditioning import Conditioning
from stages.models.diffusion import Denoiser, Predict
from stages.models.policy import make_policy
from stages.models.process_flow import FlowMatching
from stages.models.process_noise import NoiseGrid, NoiseSchedule, require_noise_schedule
from stages.models.sampler import Sampler, denoise, finish
from stages.sample.mixing import Predicting
from stages.sample.networks import Networks, Rows
from stages.sample.resolve import strategy
from stages.sample.settings import Prefix, SampleSettings
from stages.sample.strategies.fusion import fused
from stages.sample.texts import Texts
from tests import tiny

STEPS, COUNT = 5, 2


def networks() -> Networks:
    """Base and a tuned network that differs from it, on one batch."""
    base = tiny.unet(0)
    tuned = make_policy(base, "full")
    draw = torch.Generator().manual_seed(2)
    with torch.no_grad():
        for _, parameter in tuned.parameters():
            parameter.add_(0.05 * torch.randn(parameter.shape, generator=draw))
    on = tiny.schedule()
    return Networks(
        on.grid(STEPS),
        Texts.of(Conditioning(tiny.text(COUNT))),
        Conditioning(tiny.text(1, seed=9)),
        Denoiser(base, on),
        Denoiser(tuned.network, on),
        Rows.of(COUNT),
    )


def mixing(**settings: object) -> Predicting:
    found = strategy("s", settings, SampleSettings(steps=STEPS), "test").settings
    assert isinstance(found, Predicting)
    return found


def composed(nets: Networks, value: float, **settings: object) -> Predict:
    return mixing(**settings).predict(nets, value)


def sample(nets: Networks, predict: Predict, sampler: Sampler = "ddpm", **more) -> Tensor:
    noise = tiny.noise(COUNT, STEPS)
    with torch.no_grad():
        return finish(nets.grid, predict, noise.initial(), 0, noise, sampler, **more)


@pytest.mark.parametrize("sampler", ["ddpm", "ddim"])
@pytest.mark.parametrize("guidance", [1.0, 3.0])
def test_base_for_every_step_is_the_base_and_for_none_is_tuned(guidance: float, sampler: Sampler):
    nets = networks()
    base = sample(nets, nets.base(guidance), sampler)
    tuned = sample(nets, nets.tuned(1.0), sampler)
    assert not torch.equal(base, tuned)
    combined = {"kind": "combined", "k": [1], "base_guidance": guidance}
    assert torch.equal(sample(nets, composed(nets, STEPS, **combined), sampler), base)
    assert torch.equal(sample(nets, composed(nets, 0, **combined), sampler), tuned)
    assert torch.equal(sample(nets, composed(nets, 0, kind="tuned"), sampler), tuned)


@pytest.mark.parametrize("guidance", [1.0, 3.0])
def test_annealed_guidance_of_a_large_power_is_the_base(guidance: float):
    nets = networks()
    aig = {"kind": "aig", "p": [1], "base_guidance": guidance}
    base = sample(nets, nets.base(guidance))
    assert torch.equal(sample(nets, composed(nets, 1e6, **aig)), base)
    assert not torch.equal(sample(nets, composed(nets, 2, **aig)), base)


def test_reinforcement_guidance_at_nought_and_one():
    nets = networks()
    rlg = {"kind": "rlg", "w": [1], "base_guidance": 2.0, "guidance": 1.5}
    base, tuned = sample(nets, nets.base(2.0)), sample(nets, nets.tuned(1.5))
    assert torch.equal(sample(nets, composed(nets, 0, **rlg)), base)
    assert torch.equal(sample(nets, composed(nets, 1, **rlg)), tuned)
    x, i = tiny.noise(COUNT, STEPS).initial(), 2
    with torch.no_grad():
        half = composed(nets, 0.5, **rlg)(x, i)
        torch.testing.assert_close(half, (nets.base(2.0)(x, i) + nets.tuned(1.5)(x, i)) / 2)


def test_tuned_equal_to_base_makes_every_strategy_the_base():
    nets = networks()
    same = Networks(nets.grid, nets.texts, nets.empty, nets.base_network, nets.base_network, Rows.of(COUNT))
    base = sample(same, same.base(1.0))
    for value, settings in (
        (2, {"kind": "combined", "k": [2]}),
        (2, {"kind": "aig", "p": [2]}),
        (1.5, {"kind": "rlg", "w": [1.5]}),
    ):
        torch.testing.assert_close(sample(same, composed(same, value, **settings)), base, rtol=1e-5, atol=1e-5)


def test_annealed_guidance_mixes_with_its_weight():
    from stages.sample.strategies.aig import weight

    nets = networks()
    assert [weight(i, 40, 2) for i in (0, 10, 20, 39)] == [0, 0.0625, 0.25, pytest.approx(0.950625)]
    x = tiny.noise(COUNT, STEPS).initial()
    with torch.no_grad():
        found = composed(nets, 2, kind="aig", p=[2])(x, 3)
        expected = 0.64 * nets.base(1.0)(x, 3) + 0.36 * nets.tuned(1.0)(x, 3)
    torch.testing.assert_close(found, expected)


def test_guidance_is_the_sum_over_two_calls():
    nets = networks()
    x, t = tiny.noise(COUNT, STEPS).initial(), nets.grid.timesteps[1]
    with torch.no_grad():
        plain = nets.base_network.prediction(x, t, nets.empty.expand(len(nets.text)))
        wanted = nets.base_network.prediction(x, t, nets.text)
        torch.testing.assert_close(nets.base(4.0)(x, 1), plain + 4 * (wanted - plain), rtol=1e-4, atol=1e-5)
        torch.testing.assert_close(nets.base(0.0)(x, 1), plain, rtol=1e-4, atol=1e-5)
        many = nets.base_network.prediction(x, t.expand(COUNT), nets.text, nets.empty, 4.0)
        torch.testing.assert_close(many, nets.base(4.0)(x, 1), rtol=1e-4, atol=1e-5)
    with pytest.raises(ValueError, match="empty prompt"):
        nets.base_network.prediction(x, t, nets.text, None, 2.0)


@pytest.mark.parametrize(
    ("make", "expected"),
    [
        (lambda n: n.base(1.0), STEPS),
        (lambda n: n.base(3.0), 2 * STEPS),
        (lambda n: composed(n, 2, kind="combined", k=[2], base_guidance=3.0), 2 * 2 + 3),
        (lambda n: composed(n, 2, kind="aig", p=[2]), 2 * STEPS - 1),
        (lambda n: composed(n, 1e6, kind="aig", p=[2], base_guidance=2.0), 2 * STEPS),
        (lambda n: composed(n, 0.5, kind="rlg", w=[0.5]), 2 * STEPS),
        (lambda n: composed(n, 1, kind="rlg", w=[1]), STEPS),
    ],
)
def test_evaluations_an_image(make: Callable[[Networks], Predict], expected: int):
    nets = networks()
    sample(nets, make(nets))
    assert [cost.nfe for cost in nets.rows.meter.costs()] == [expected] * COUNT
    assert nets.tuned_network is not None
    assert nets.base_network.evaluations + nets.tuned_network.evaluations == expected * COUNT


@pytest.mark.parametrize("sampler", ["ddpm", "ddim"])
def test_a_walk_can_be_cut_anywhere(sampler: Sampler):
    nets, noise = networks(), tiny.noise(COUNT, STEPS)
    predict = nets.base(1.0)
    with torch.no_grad():
        whole = sample(nets, predict, sampler)
        for cut in range(STEPS):
            x = denoise(nets.grid, predict, noise.initial(), 0, cut, noise, sampler)
            assert torch.equal(finish(nets.grid, predict, x, cut, noise, sampler), whole)


def test_equal_ends_make_no_step():
    nets, noise = networks(), tiny.noise(COUNT, STEPS)
    for i in (0, 2, STEPS):
        x = noise.initial()
        assert denoise(nets.grid, nets.base(1.0), x, i, i, noise) is x
    assert nets.base_network.evaluations == 0


@pytest.mark.parametrize(("start", "index"), [(2, 1), (0, STEPS - 1)])
def test_equal_ends_make_the_step_before_as_released(start: int, index: int):
    nets, noise = networks(), tiny.noise(COUNT, STEPS)
    x = noise.initial()
    with torch.no_grad():
        found = denoise(nets.grid, nets.base(1.0), x, start, start, noise, extra_step=True)
        expected = nets.grid.ancestral(x, nets.base(1.0)(x, index), index).sample(noise.step(index))
        assert torch.equal(found, expected)
        usual = denoise(nets.grid, nets.base(1.0), x, 1, 3, noise, extra_step=True)
        assert torch.equal(usual, denoise(nets.grid, nets.base(1.0), x, 1, 3, noise))


def test_what_is_seen_on_the_way():
    nets, indices, latents = networks(), [], []

    def seen(i: int, x: Tensor) -> None:
        indices.append(i)
        latents.append(x)

    noise = tiny.noise(COUNT, STEPS)
    sample(nets, nets.base(1.0), on_step=seen)
    assert indices == list(range(STEPS))
    assert torch.equal(latents[0], noise.initial())
    with torch.no_grad():
        assert torch.equal(latents[3], denoise(nets.grid, nets.base(1.0), noise.initial(), 0, 3, noise))


@pytest.mark.parametrize(
    ("k", "released", "fine"),
    [(0, False, False), (STEPS, False, False), (0, True, True), (STEPS, True, True), (6, True, False)],
)
def test_switch_steps_that_are_allowed(k: int, released: bool, fine: bool):
    values = {"kind": "combined", "k": [k], "as_released": {"extra_step": released}}
    if fine:
        assert mixing(**values).shared_prefix(k) == Prefix(1.0, k)
    else:
        with pytest.raises(InputError, match=f"k {k} is not between"):
            mixing(**values)


def noise_grid(nets: Networks) -> NoiseGrid:
    return require_noise_schedule(nets.grid, "test")


def fusion_by_hand(x: np.ndarray, eps: np.ndarray, noise: np.ndarray, nets: Networks, i: int) -> np.ndarray:
    """Fusion sampling as the released code writes it, with the variance that diffusers gives its DDIM steps."""
    from diffusers.schedulers.scheduling_ddim import DDIMScheduler

    scheduler: Any = DDIMScheduler.from_config(tiny.SCHEDULER | {"set_alpha_to_one": False})
    products, times = scheduler.alphas_cumprod.double().numpy(), nets.grid.timesteps.tolist()
    t, prev_t = times[i], times[i + 1] if i + 1 < len(times) else 0
    variance = float(scheduler._get_variance(t, prev_t))
    a, prev = products[t], products[prev_t]
    x = x - eps * variance * np.sqrt(1 - a) / (1 - prev)
    return x + np.sqrt(variance) * noise * np.sqrt((1 - a) * (2 - 2 * prev - variance)) / (1 - prev)


def test_fusion_draws_noise_anew_as_the_released_code():
    nets = networks()
    x, eps, noise = (torch.randn(COUNT, *tiny.LATENT, generator=torch.Generator().manual_seed(n)) for n in range(3))
    for i in range(STEPS):
        arrays = [value.double().numpy() for value in (x, eps, noise)]
        expected = fusion_by_hand(arrays[0], arrays[1], arrays[2], nets, i)
        np.testing.assert_allclose(fused(noise_grid(nets), x, eps, i, noise).numpy(), expected, rtol=1e-4, atol=1e-5)


def test_fusion_keeps_the_level_of_noise():
    """For eps the noise in x itself: what is left of it and what is new have the same variance as before, exactly."""
    on = tiny.schedule()
    grid = NoiseSchedule(on.alphas_cumprod.double(), on.prediction_type, on.spacing, on.offset).grid(40)
    one, zero = torch.ones(1, 1, 1, 1, dtype=torch.float64), torch.zeros(1, 1, 1, 1, dtype=torch.float64)
    for i in range(40):
        old = (1 - grid.alpha[i]).sqrt() * one
        kept, new = fused(grid, old, one, i, zero), fused(grid, zero, zero, i, one)
        assert float(kept**2 + new**2) == pytest.approx(float(1 - grid.alpha[i]), rel=1e-9)
        assert float(new) > 0 and abs(float(kept)) < float(old)


@pytest.mark.parametrize("k", [0, 2])
def test_fusion_is_combined_generation_with_new_noise(k: int):
    nets, noise = networks(), tiny.noise(COUNT, STEPS)
    noise.named.update({f"fusion {i}": noise.steps[i].flip(0) for i in range(STEPS)})
    settings = {"kind": "fusion", "k": [k], "base_guidance": 2.0, "guidance": 1.5, "base_direction": 0.5}
    found = mixing(**settings)
    predict, enter = found.predict(nets, float(k)), found.renoise(nets, float(k), noise)
    x = noise.initial()
    with torch.no_grad():
        made = finish(nets.grid, predict, x, 0, noise, "ddim", enter=enter)
        evaluations = sum(cost.nfe for cost in nets.rows.meter.costs())
        for i in range(STEPS):
            if i < k:
                x = nets.grid.ode(x, nets.base(2.0)(x, i), i)
                continue
            x = fused(noise_grid(nets), x, nets.tuned(1.5)(x, i), i, noise.extra(f"fusion {i}"))
            eps = nets.tuned(1.5)(x, i) + 0.5 * (nets.base(1.0)(x, i) - nets.base(0.0)(x, i))
            x = nets.grid.ode(x, eps, i) if i + 1 < STEPS else nets.grid.x0(x, eps, i)
    torch.testing.assert_close(made, x, rtol=1e-4, atol=1e-5)
    assert evaluations == COUNT * (2 * k + (2 + 2 + 2) * (STEPS - k))
    assert found.shared_prefix(float(k)) == (Prefix(2.0, k) if k else None)


def test_fusion_refuses_what_it_cannot_do():
    with pytest.raises(InputError, match=f"k {STEPS} is not between 0 and {STEPS - 1}"):
        mixing(kind="fusion", k=[STEPS])
    nets = replace(networks(), grid=FlowMatching(3.0, 1000, torch.device("cpu")).grid(STEPS))
    with pytest.raises(InputError, match="strategy fusion is defined on a noise schedule"):
        mixing(kind="fusion", k=[1]).renoise(nets, 1.0, tiny.noise(COUNT, STEPS))
