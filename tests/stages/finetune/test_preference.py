"""The family of paired preferences: what the errors are, and the losses of its methods."""

from __future__ import annotations

import math
from dataclasses import replace

import pytest
import torch
from torch import Tensor

from stages.finetune.batch import LatentPairs
from stages.finetune.families.preference import Errors, PairErrors, pair_errors
from stages.finetune.methods import diffusion_dpo
from stages.models.conditioning import Conditioning
from stages.models.diffusion import Denoiser
from tests import tiny

DOUBLE = torch.float64
SETTINGS = diffusion_dpo.Settings(kind="diffusion_dpo", beta=200.0)


def draws(*shape: int, seed: int = 0) -> Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed), dtype=DOUBLE)


def given(count: int = 3, weight: Tensor | None = None) -> PairErrors:
    """Made-up errors; those of the policy want a gradient."""
    policy = [draws(count, seed=n).abs().requires_grad_(True) for n in (0, 1)]
    base = [draws(count, seed=n).abs() for n in (2, 3)]
    ones = torch.ones(count, dtype=DOUBLE)
    sides = [Errors(*pair) for pair in zip(policy, base, strict=True)]
    return PairErrors(sides[0], sides[1], ones, ones if weight is None else weight)


def at_start(count: int = 3) -> PairErrors:
    same = [draws(count, seed=n).abs() for n in (0, 1)]
    ones = torch.ones(count, dtype=DOUBLE)
    return PairErrors(Errors(same[0], same[0]), Errors(same[1], same[1]), ones, ones)


def test_diffusion_dpo_starts_at_log_2():
    assert float(diffusion_dpo.loss(at_start(), SETTINGS).root) == pytest.approx(math.log(2))


def test_diffusion_dpo_by_hand():
    """One pair: errors .3 and .5 of the policy, .4 and .45 of the base; the margin is (.4 - .3) - (.45 - .5) = .15."""
    one = [torch.tensor([value], dtype=DOUBLE) for value in (0.3, 0.4, 0.5, 0.45, 1.0)]
    pairs = PairErrors(Errors(one[0], one[1]), Errors(one[2], one[3]), one[4], one[4])
    assert float(pairs.margin) == pytest.approx(0.15)
    assert float(diffusion_dpo.loss(pairs, SETTINGS).root) == pytest.approx(math.log(1 + math.exp(-100 * 0.15)))


def test_winners_errors_are_to_fall_and_losers_to_rise():
    pairs = given()
    diffusion_dpo.loss(pairs, SETTINGS).root.backward()
    assert pairs.winner.policy.grad is not None and pairs.loser.policy.grad is not None
    assert bool((pairs.winner.policy.grad > 0).all()) and bool((pairs.loser.policy.grad < 0).all())
    torch.testing.assert_close(pairs.winner.policy.grad, -pairs.loser.policy.grad)


def test_exchanged_pairs_have_the_opposite_margin():
    pairs = given()
    other = replace(pairs, winner=pairs.loser, loser=pairs.winner)
    torch.testing.assert_close(other.margin, -pairs.margin)


def test_a_pair_of_weight_0_has_no_gradient():
    pairs = given(weight=torch.tensor([1.0, 0.0, 2.0], dtype=DOUBLE))
    diffusion_dpo.loss(pairs, SETTINGS).root.backward()
    assert pairs.winner.policy.grad is not None
    assert pairs.winner.policy.grad[1] == 0 and bool((pairs.winner.policy.grad[[0, 2]] > 0).all())
    each = torch.nn.functional.logsigmoid(100 * pairs.margin.detach())
    found = diffusion_dpo.loss(pairs, SETTINGS).terms["loss"]
    assert float(found) == pytest.approx(-float(each[0] + 2 * each[2]) / 3)


def test_a_strong_beta_overflows_nowhere():
    pairs = given()
    found = diffusion_dpo.loss(pairs, diffusion_dpo.Settings(kind="diffusion_dpo", beta=1e6))
    assert bool(torch.isfinite(found.root))


# errors of networks


@pytest.mark.parametrize("prediction", ["epsilon", "v_prediction"])
def test_both_images_of_a_pair_have_one_noise_and_one_timestep(prediction: str):
    process = tiny.schedule(prediction_type=prediction)
    policy, base = Denoiser(tiny.unet(1), process), Denoiser(tiny.unet(2), process)
    winner, loser, noise = (draws(2, *tiny.LATENT, seed=n).float() for n in range(3))
    t, text, ones = torch.tensor([100, 700]), Conditioning(tiny.text(2)), torch.ones(2)
    with torch.no_grad():
        found = pair_errors(policy, base, LatentPairs(winner, loser, ones, ones), noise, t, text)
        for side, clean in ((found.winner, winner), (found.loser, loser)):
            for errors, network in ((side.policy, policy), (side.base, base)):
                x = process.noised(clean, noise, t)
                expected = (network.prediction(x, t, text) - noise).square().mean((1, 2, 3))
                torch.testing.assert_close(errors, expected, rtol=1e-4, atol=1e-5)
    assert policy.evaluations == base.evaluations == 8
    assert float((found.winner.log_ratio - found.winner.base + found.winner.policy).abs().max()) < 1e-6
