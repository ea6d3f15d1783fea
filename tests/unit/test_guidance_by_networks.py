"""Strategies that guide one network by another, and density guidance: against their formulas."""

from __future__ import annotations

import math
from dataclasses import replace

import pytest
import torch
from scipy.stats import norm
from test_sampling import COUNT, STEPS, composed, mixing, networks, sample

from stages.models.diffusion import Denoiser
from stages.models.merging import merged
from stages.models.policy import make_policy
from stages.sample.networks import Networks
from stages.sample.strategies.density import factor, median_norm, scaled
from stages.sample.strategies.npo import rescaled
from tests import tiny


def with_other() -> Networks:
    """Base, tuned network, and a third one, `third`."""
    nets = networks()
    return replace(nets, others={"third": Denoiser(tiny.unet(5), tiny.schedule())})


@pytest.mark.parametrize("alpha", [0.5, -0.25])
def test_chats_adds_the_difference_between_winners_and_losers(alpha: float):
    nets, x = with_other(), tiny.noise(COUNT, STEPS).initial()
    t, empty = nets.grid.timesteps[2], nets.empty.text.expand(COUNT, -1, -1)
    told = replace(nets.text, text=-alpha * nets.text.text + (1 + alpha) * empty)
    with torch.no_grad():
        win = nets.tuned(1.0)(x, 2)
        lose = nets.others["third"].prediction(x, t, told)
        found = composed(nets, 1.5, kind="chats", s=[1.5], lose="third", alpha=alpha)(x, 2)
        torch.testing.assert_close(found, win + 1.5 * (win - lose), rtol=1e-4, atol=1e-5)
        assert torch.equal(composed(nets, 0.0, kind="chats", s=[0.0], lose="third")(x, 2), win)


def test_chats_of_one_network_without_a_mixture_is_plain_guidance():
    nets, x = with_other(), tiny.noise(COUNT, STEPS).initial()
    same = replace(nets, tuned_network=nets.base_network)
    with torch.no_grad():
        found = composed(same, 2.0, kind="chats", s=[2.0], lose="base", alpha=0.0)(x, 1)
        torch.testing.assert_close(found, same.base(3.0)(x, 1), rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("rescale", [0.0, 0.7])
def test_npo_guides_away_from_the_negative_network_without_a_prompt(rescale: float):
    nets, x = with_other(), tiny.noise(COUNT, STEPS).initial()
    with torch.no_grad():
        wanted = nets.tuned(1.0)(x, 2)
        negative = nets.others["third"].prediction(x, nets.grid.timesteps[2], nets.empty.expand(COUNT))
        guided = negative + 4 * (wanted - negative)
        level = torch.stack([w.std() / g.std() for w, g in zip(wanted, guided, strict=True)]).view(-1, 1, 1, 1)
        expected = rescale * guided * level + (1 - rescale) * guided
        found = composed(nets, 4.0, kind="npo", s=[4.0], negative="third", rescale=rescale)(x, 2)
    torch.testing.assert_close(found, expected, rtol=1e-4, atol=1e-4)
    whole = rescaled(guided, wanted, 1.0)
    torch.testing.assert_close(whole.std((1, 2, 3)), wanted.std((1, 2, 3)), rtol=1e-4, atol=1e-6)


def test_npo_merges_with_the_name_that_the_networks_have():
    asked = mixing(kind="npo", s=[2.0], negative="third", merge=0.3)
    (merge,) = asked.merges()
    assert (merge.network, merge.weight) == ("third", 0.3)
    nets, x = with_other(), tiny.noise(COUNT, STEPS).initial()
    with torch.no_grad():
        under_name = replace(nets, others={merge.name: nets.others["third"]})
        found = asked.predict(under_name, 2.0)(x, 1)
        plain = composed(nets, 2.0, kind="npo", s=[2.0], negative="third")(x, 1)
    assert torch.equal(found, plain)


def test_merged_weights_are_the_negative_ones_and_a_share_of_the_change_of_the_tuned_ones():
    base, negative = tiny.unet(0), tiny.unet(5)
    policy = make_policy(tiny.unet(0), "lora")
    tuned = policy.network
    with torch.no_grad():
        for _, parameter in policy.parameters():
            parameter.add_(0.1)
    made = merged(negative, tuned, base, 0.3)
    moved = 0
    for name, own in made.named_parameters():
        module, _, leaf = name.rpartition(".")
        change = getattr(tuned.get_submodule(module), leaf) - base.get_parameter(name)
        moved += int(bool(change.abs().max() > 1e-3))
        torch.testing.assert_close(own, negative.get_parameter(name) + 0.7 * change, rtol=1e-4, atol=1e-5)
    assert moved > 0


@pytest.mark.parametrize("q", [0.1, 0.5, 0.9])
def test_density_guidance_scales_predictions_by_the_quantile(q: float):
    nets, x = networks(), tiny.noise(COUNT, STEPS).initial()
    with torch.no_grad():
        eps = nets.tuned(1.0)(x, 2)
        found = composed(nets, q, kind="density", q=[q])(x, 2)
    for row, own in zip(found, eps, strict=True):
        expected = 1 + math.sqrt(2 * own.numel()) * norm.ppf(q) / float(own.square().sum())
        torch.testing.assert_close(row, expected * own, rtol=1e-4, atol=1e-6)


def test_a_quantile_above_the_half_makes_predicted_noise_larger():
    """Of D standard normal numbers the factor is about 1 + sqrt(2 / D) z."""
    eps = torch.randn(2, 4, 50, 50, generator=torch.Generator().manual_seed(0))
    for q, z in ((0.975, 1.96), (0.025, -1.96)):
        torch.testing.assert_close(
            factor(eps, q).flatten(), torch.full((2,), 1 + math.sqrt(2 / 10_000) * z), rtol=0, atol=2e-3
        )


def test_the_start_has_the_norm_that_is_asked_for():
    x = torch.randn(400, 3, 4, 4, generator=torch.Generator().manual_seed(1))
    assert float(x.flatten(1).norm(dim=1).median()) == pytest.approx(median_norm(48), rel=0.02)
    torch.testing.assert_close(scaled(x, 2.5).flatten(1).norm(dim=1), torch.full((400,), 2.5))
    torch.testing.assert_close(scaled(x, 2.5) / 2.5, x / x.flatten(1).norm(dim=1).view(-1, 1, 1, 1))


def test_the_median_quantile_is_the_deterministic_sampler():
    nets = networks()
    found = sample(nets, composed(nets, 0.5, kind="density", q=[0.5], norm=None), "ddim")
    torch.testing.assert_close(found, sample(nets, nets.tuned(1.0), "ddim"))
