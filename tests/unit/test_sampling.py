from __future__ import annotations

from collections.abc import Callable

import pytest
import torch
from torch import Tensor

from stages.errors import InputError
from stages.models.conditioning import Conditioning
from stages.models.diffusion import Denoiser, Predict
from stages.models.policy import make_policy
from stages.models.sampler import Sampler, finish, walk
from stages.sample.networks import Networks
from stages.sample.resolve import strategy
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
        Conditioning(tiny.text(COUNT)),
        Conditioning(tiny.text(1, seed=9)),
        Denoiser(base, on),
        Denoiser(tuned.network, on),
    )


def composed(nets: Networks, value: float, **settings: object) -> Predict:
    found = strategy("s", settings, STEPS, "test")
    return found.module.predict(nets, found.settings, value)


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
    same = Networks(nets.grid, nets.text, nets.empty, nets.base_network, nets.base_network)
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
        plain = nets.base_network.epsilon(x, t, nets.empty.expand(len(nets.text)))
        wanted = nets.base_network.epsilon(x, t, nets.text)
        torch.testing.assert_close(nets.base(4.0)(x, 1), plain + 4 * (wanted - plain), rtol=1e-4, atol=1e-5)
        torch.testing.assert_close(nets.base(0.0)(x, 1), plain, rtol=1e-4, atol=1e-5)
        many = nets.base_network.epsilon(x, t.expand(COUNT), nets.text, nets.empty, 4.0)
        torch.testing.assert_close(many, nets.base(4.0)(x, 1), rtol=1e-4, atol=1e-5)
    with pytest.raises(ValueError, match="empty prompt"):
        nets.base_network.epsilon(x, t, nets.text, None, 2.0)


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
    assert nets.base_network.evaluations + nets.tuned_network.evaluations == expected * COUNT


@pytest.mark.parametrize("sampler", ["ddpm", "ddim"])
def test_a_walk_can_be_cut_anywhere(sampler: Sampler):
    nets, noise = networks(), tiny.noise(COUNT, STEPS)
    predict = nets.base(1.0)
    with torch.no_grad():
        whole = sample(nets, predict, sampler)
        for cut in range(STEPS):
            x = walk(nets.grid, predict, noise.initial(), 0, cut, noise, sampler)
            assert torch.equal(finish(nets.grid, predict, x, cut, noise, sampler), whole)


def test_equal_ends_make_no_step():
    nets, noise = networks(), tiny.noise(COUNT, STEPS)
    for i in (0, 2, STEPS):
        x = noise.initial()
        assert walk(nets.grid, nets.base(1.0), x, i, i, noise) is x
    assert nets.base_network.evaluations == 0


@pytest.mark.parametrize(("start", "index"), [(2, 1), (0, STEPS - 1)])
def test_equal_ends_make_the_step_before_as_released(start: int, index: int):
    nets, noise = networks(), tiny.noise(COUNT, STEPS)
    x = noise.initial()
    with torch.no_grad():
        found = walk(nets.grid, nets.base(1.0), x, start, start, noise, extra_step=True)
        expected = nets.grid.ddpm(x, nets.base(1.0)(x, index), index, noise.step(index))
        assert torch.equal(found, expected)
        usual = walk(nets.grid, nets.base(1.0), x, 1, 3, noise, extra_step=True)
        assert torch.equal(usual, walk(nets.grid, nets.base(1.0), x, 1, 3, noise))


def test_what_is_seen_on_the_way():
    nets, indices, latents = networks(), [], []

    def seen(i: int, x: Tensor) -> None:
        indices.append(i)
        latents.append(x)

    noise = tiny.noise(COUNT, STEPS)
    sample(nets, nets.base(1.0), seen=seen)
    assert indices == list(range(STEPS))
    assert torch.equal(latents[0], noise.initial())
    with torch.no_grad():
        assert torch.equal(latents[3], walk(nets.grid, nets.base(1.0), noise.initial(), 0, 3, noise))


@pytest.mark.parametrize(
    ("k", "released", "fine"),
    [(0, False, False), (STEPS, False, False), (0, True, True), (STEPS, True, True), (6, True, False)],
)
def test_switch_steps_that_are_allowed(k: int, released: bool, fine: bool):
    values = {"kind": "combined", "k": [k], "as_released": {"extra_step": released}}
    if fine:
        assert strategy("s", values, STEPS, "test").settings.shared_steps(k) == k
    else:
        with pytest.raises(InputError, match=f"k {k} is not between"):
            strategy("s", values, STEPS, "test")
