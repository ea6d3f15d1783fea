"""The family of paired preferences: what the errors are, and the losses of its methods."""

from __future__ import annotations

import math
import random
from collections.abc import Callable
from dataclasses import replace
from typing import Any

import pytest
import torch
from torch import Tensor

from stages.errors import InputError
from stages.finetune.batch import LatentPairs
from stages.finetune.families.noising import Inversion, noising_of
from stages.finetune.families.pair_errors import Errors, Noisy, Outputs, PairErrors, pair_errors
from stages.finetune.families.pair_settings import (
    NoisingSettings,
    ReferenceSettings,
    SafeguardSettings,
    TimestepSettings,
)
from stages.finetune.families.reference import Reference
from stages.finetune.families.safeguard import loser_scale, safeguarded
from stages.finetune.families.timesteps import Timesteps
from stages.finetune.families.unpaired import ImageErrors
from stages.finetune.losses.pairs import hinge, logistic, regression, robust
from stages.finetune.methods import diffusion_dpo, diffusion_kto, diffusion_npo, dmpo, mapo, smpo
from stages.finetune.objective import Loss
from stages.models.conditioning import Conditioning
from stages.models.diffusion import Denoiser
from stages.models.process_flow import FlowMatching
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
        found = pair_errors(policy, base.prediction, LatentPairs(winner, loser, ones, ones), noise, t, text)
        for side, clean in ((found.winner, winner), (found.loser, loser)):
            for errors, network in ((side.policy, policy), (side.base, base)):
                x = process.noised(clean, noise, t)
                expected = (network.prediction(x, t, text) - noise).square().mean((1, 2, 3))
                torch.testing.assert_close(errors, expected, rtol=1e-4, atol=1e-5)
    assert policy.evaluations == base.evaluations == 8
    assert float((found.winner.log_ratio - found.winner.base + found.winner.policy).abs().max()) < 1e-6


# losses of the family


def dpo_like() -> dict[str, tuple[Callable[[PairErrors, Any], Loss], Any]]:
    """Losses of the margin, with settings under which made-up errors do not saturate them."""
    made = {
        "diffusion_dpo": (diffusion_dpo, {"beta": 2.0}), "cdpo": (diffusion_dpo, {"beta": 2.0, "label_smoothing": 0.1}),
        "robust": (diffusion_dpo, {"beta": 2.0, "label_smoothing": 0.1, "robust": True}),
        "dmpo": (dmpo, {"beta": 2.0}), "smpo": (smpo, {"beta": 2.0, "scale": 1.0}),
        "mapo": (mapo, {"factor": 2.0}),
    }  # fmt: skip
    return {name: (m.loss, m.Settings.model_validate({"kind": "x", **keys})) for name, (m, keys) in made.items()}


@pytest.mark.parametrize("name", dpo_like())
def test_the_winner_s_error_is_to_fall_and_the_loser_s_is_not(name: str):
    loss, settings = dpo_like()[name]
    pairs = given()
    loss(pairs, settings).root.backward()
    assert pairs.winner.policy.grad is not None and pairs.loser.policy.grad is not None
    assert bool((pairs.winner.policy.grad > 0).all()) and bool((pairs.loser.policy.grad <= 0).all())


def test_the_negative_network_learns_the_opposite():
    """Diffusion-NPO is Diffusion-DPO on exchanged pairs, so that its gradients have the other sign."""
    pairs, other = given(), given()
    own = diffusion_npo.Settings(kind="diffusion_npo", beta=2.0)
    diffusion_npo.loss(pairs, own).root.backward()
    same = diffusion_dpo.Settings(kind="diffusion_dpo", beta=2.0)
    diffusion_dpo.loss(replace(other, winner=other.loser, loser=other.winner), same).root.backward()
    assert pairs.winner.policy.grad is not None and other.winner.policy.grad is not None
    torch.testing.assert_close(pairs.winner.policy.grad, other.winner.policy.grad)
    assert bool((pairs.winner.policy.grad < 0).all())


@pytest.mark.parametrize("name", ["diffusion_dpo", "cdpo", "smpo"])
def test_a_logistic_loss_starts_at_log_2(name: str):
    loss, settings = dpo_like()[name]
    assert float(loss(at_start(), settings).root) == pytest.approx(math.log(2))


def test_dmpo_starts_at_the_divergence_of_a_fair_coin():
    found = dmpo.loss(at_start(), dmpo.Settings(kind="dmpo", alpha=0.1)).root
    assert float(found) == pytest.approx(0.5 * math.log(0.5 / 0.9) + 0.5 * math.log(0.5 / 0.1))


@pytest.mark.parametrize("label, gradient", [(0.5, False), (0.8, True)])
def test_an_undecided_pair_has_no_gradient(label: float, gradient: bool):
    """SmPO, and Diffusion-DPO with soft labels at the start."""
    for loss, settings in (
        (smpo.loss, smpo.Settings(kind="smpo", beta=2.0)),
        (diffusion_dpo.loss, diffusion_dpo.Settings(kind="diffusion_dpo", beta=2.0, soft_labels=True)),
    ):
        policy = [draws(3, seed=n).abs().requires_grad_(True) for n in (0, 1)]
        sides = [Errors(one, one.detach()) for one in policy]
        ones = torch.ones(3, dtype=DOUBLE)
        loss(PairErrors(sides[0], sides[1], label * ones, ones), settings).root.backward()  # type: ignore[arg-type]
        assert policy[0].grad is not None
        assert bool((policy[0].grad.abs() > 1e-6).all()) == gradient
        assert gradient or float(policy[0].grad.abs().max()) < 1e-12


def test_robust_is_unbiased_under_exchanged_labels():
    """The mean of its loss over right and exchanged labels is the loss of right labels."""
    wrong, margin = 0.2, torch.linspace(-2, 2, 5, dtype=DOUBLE)
    mixed = (1 - wrong) * robust(margin, 2.0, wrong) + wrong * robust(-margin, 2.0, wrong)
    torch.testing.assert_close(mixed, logistic(margin, 2.0))


def test_hinge_and_regression_in_closed_form():
    margin = torch.tensor([-1.0, 0.0, 0.5, 3.0], dtype=DOUBLE)
    torch.testing.assert_close(hinge(margin, 2.0), torch.tensor([2.0, 1.0, 0.5, 0.0], dtype=DOUBLE))
    torch.testing.assert_close(hinge(margin, 1.0), torch.tensor([1.5, 1.0, 0.75, 0.0], dtype=DOUBLE))
    torch.testing.assert_close(regression(margin, 0.5), torch.tensor([2.25, 0.25, 0.0, 6.25], dtype=DOUBLE))


def test_mapo_s_score_keeps_its_digits_in_single_precision():
    errors = torch.tensor([1e-6, 1e-4, 0.3])
    torch.testing.assert_close(mapo.score(errors, 0.5).double(), mapo.score(errors.double(), 0.5), rtol=1e-6, atol=0)


# the safeguard


def outputs(seed: int, count: int = 4) -> Outputs:
    return Outputs(*(draws(count, 4, 3, 3, seed=n) for n in (seed, seed + 1, 9)))


def guarded(alike: float, count: int = 4) -> PairErrors:
    """Pairs whose losers' differences are partly those of the winners."""
    winner, loser = outputs(0, count), outputs(3, count)
    loser = replace(loser, prediction=loser.target + alike * (winner.prediction - winner.target) + loser.prediction)
    ones = torch.ones(count, dtype=DOUBLE)
    return PairErrors(Errors.of(winner), Errors.of(loser), ones, ones)


@pytest.mark.parametrize("per", ["pair", "micro_batch"])
@pytest.mark.parametrize("mu", [0.0, 0.3, 0.9, 1.0])
@pytest.mark.parametrize("alike", [-2.0, 0.0, 0.5, 5.0])
def test_the_safeguard_keeps_the_winner_s_decrease(per: Any, mu: float, alike: float):
    """<g_w, -g_w + lambda g_l> <= -mu |g_w|^2, per pair or summed over the micro-batch."""
    pairs = guarded(alike)
    scale = loser_scale(pairs, SafeguardSettings(mu=mu, per=per))
    winner, loser = (
        (side.made_of().prediction - side.made_of().target).flatten(1) for side in (pairs.winner, pairs.loser)
    )
    change = (winner * (-winner + scale.reshape(-1, 1) * loser)).sum(1)
    limit = -mu * winner.square().sum(1)
    if per == "micro_batch":
        change, limit = change.sum(), limit.sum()
    assert bool((change <= limit + 1e-6).all())
    assert bool((scale >= 0).all()) and bool((scale <= 1).all())


def test_the_safeguard_changes_the_loser_s_gradient_alone():
    pairs = guarded(2.0)
    policy = [draws(4, seed=n).abs().requires_grad_(True) for n in (0, 1)]
    pairs = replace(pairs, winner=replace(pairs.winner, policy=policy[0]), loser=replace(pairs.loser, policy=policy[1]))
    settings = SafeguardSettings(mu=0.5)
    found = safeguarded(pairs, settings)
    torch.testing.assert_close(found.margin, pairs.margin)
    scale = float(loser_scale(pairs, settings))
    assert 0 < scale < 1
    found.margin.sum().backward()
    torch.testing.assert_close(policy[1].grad, torch.full_like(policy[1], scale))
    torch.testing.assert_close(policy[0].grad, torch.full_like(policy[0], -1.0))


# images one by one


def images(liked: list[bool]) -> ImageErrors:
    policy, base = draws(len(liked), seed=1).abs().requires_grad_(True), draws(len(liked), seed=2).abs()
    return ImageErrors(Errors(policy, base), torch.tensor(liked), torch.ones(len(liked), dtype=DOUBLE))


@pytest.mark.parametrize("utility", ["sigmoid", "loss_averse", "risk_seeking_1", "risk_seeking_2", "risk_seeking_3"])
def test_errors_of_liked_images_are_to_fall_and_those_of_disliked_ones_to_rise(utility: Any):
    found = images([True, False, True, False])
    settings = diffusion_kto.Settings(kind="diffusion_kto", beta=2.0, utility=utility)
    diffusion_kto.loss(found, settings).root.backward()
    sign = torch.where(found.liked, 1.0, -1.0)
    assert found.errors.policy.grad is not None
    assert bool((sign * found.errors.policy.grad > 0).all())


@pytest.mark.parametrize("liked", [[True, True], [False, False], [True, False]])
def test_reference_points_of_a_micro_batch_of_one_kind_are_numbers(liked: list[bool]):
    found, gain = images(liked), images(liked).errors.log_ratio.detach()
    assert float(diffusion_kto.reference_point(found, "none")) == pytest.approx(max(0.0, float(gain.mean())))
    assert float(diffusion_kto.reference_point(found, "sigmoid")) == pytest.approx(float(gain.mean()))


# timesteps and references


@pytest.mark.parametrize("settings, low, high", [
    ({"law": "uniform"}, 0, 999), ({"law": "window", "window": [0.2, 0.3]}, 200, 299),
    ({"law": "sigmoid", "bias": -5.0}, 300, 999),
])  # fmt: skip
def test_laws_of_timesteps(settings: dict[str, Any], low: int, high: int):
    law = Timesteps(TimestepSettings.model_validate(settings), tiny.schedule())
    found = law.draw(random.Random(0), 2000)
    assert found.dtype == torch.int64
    share = ((found >= low) & (found <= high)).float().mean()
    assert share == 1 if settings["law"] != "sigmoid" else share > 0.95
    assert int(found.max()) > (low + high) / 2 > int(found.min())


def test_weights_of_timesteps():
    process, t = tiny.schedule(), torch.tensor([1, 300, 900])
    snr = process.alphas_cumprod[t] / (1 - process.alphas_cumprod[t])
    weight = Timesteps(TimestepSettings(weight="min_snr", gamma=5.0), process).weight(t)
    assert weight is not None
    torch.testing.assert_close(weight, torch.minimum(snr, torch.tensor(5.0)) / snr)
    assert float(weight[0]) < 0.01 and float(weight[2]) == 1
    debiased = Timesteps(TimestepSettings(weight="debiased"), process).weight(t)
    assert debiased is not None
    torch.testing.assert_close(debiased, snr**-0.5)
    noisy = Noisy(draws(3, *tiny.LATENT), t, Conditioning(tiny.text(3)), draws(3, *tiny.LATENT, seed=1), debiased)
    plain = Errors.of(Outputs.of(lambda x, *_: 2 * x, None, replace(noisy, weight=None))).policy
    torch.testing.assert_close(Errors.of(Outputs.of(lambda x, *_: 2 * x, None, noisy)).policy, debiased * plain)


@pytest.mark.parametrize("settings", [{"law": "sigmoid"}, {"weight": "min_snr"}, {"weight": "debiased"}])
def test_a_ratio_that_flow_matching_lacks_is_refused(settings: dict[str, Any]):
    process = FlowMatching(1.0, 1000, tiny.CPU)
    with pytest.raises(InputError, match="needs a noise schedule, but the base is a flow-matching model"):
        Timesteps(TimestepSettings.model_validate(settings), process)
    drawn = Timesteps(TimestepSettings(law="window", window=(0.5, 1.0)), process).draw(random.Random(0), 50)
    assert bool((drawn > 500).all()) and bool((drawn <= 1000).all())


def test_references_follow_the_policy():
    """A copy is renewed every two steps, an average moves in every step but the first; the policy stays as it is."""
    networks = tiny.networks(tiny.unet().requires_grad_(True), 4)
    hard = Reference(ReferenceSettings(kind="hard", every=2), networks)
    average = Reference(ReferenceSettings(kind="ema", decay=0.75), networks)
    x, t, text = draws(1, *tiny.LATENT).float(), torch.tensor([500]), Conditioning(tiny.text(1))

    def moved(reference: Reference) -> float:
        assert reference.earlier is not None
        own = next(iter(reference.earlier.parameters)).detach().flatten()[0]
        return float(own - reference.earlier.weights[0].flatten()[0])

    for step, (copied, averaged) in enumerate([(0.0, 0.0), (1.0, 0.75), (0.0, 0.75 * 1.75)]):
        for reference in (hard, average):
            reference.advance(step)
        assert moved(hard) == pytest.approx(copied, abs=1e-6)
        assert moved(average) == pytest.approx(averaged, abs=1e-5)
        before, own = networks.policy.prediction(x, t, text).detach(), hard.prediction(x, t, text)
        assert own is not None and torch.equal(own, before) == (copied == 0)
        torch.testing.assert_close(networks.policy.prediction(x, t, text).detach(), before)
        with torch.no_grad():
            for parameter in networks.policy.network.parameters():
                parameter.add_(1.0)


@pytest.mark.parametrize("keys, why", [
    ({"kind": "ema"}, "decay goes with kind ema"), ({"kind": "hard", "decay": 0.5}, "decay goes with kind ema"),
    ({"kind": "hard"}, "every goes with kind hard"), ({"kind": "frozen", "every": 3}, "every goes with kind hard"),
])  # fmt: skip
def test_keys_of_another_reference_are_refused(keys: dict[str, Any], why: str):
    with pytest.raises(ValueError, match=why):
        ReferenceSettings.model_validate(keys)


# inversion


@pytest.mark.parametrize("convention", ["pinned", "new"])
def test_inversion_takes_each_image_towards_its_own_timestep(convention: Any):
    policy = Denoiser(tiny.unet(1), tiny.schedule())
    inversion = Inversion(NoisingSettings(kind="inversion", convention=convention), policy, tiny.schedule())
    clean, text = draws(3, *tiny.LATENT).float(), Conditioning(tiny.text(3))
    stops = torch.tensor([50, 450, 990])

    def noise(s: int) -> Tensor:
        return draws(3, *tiny.LATENT, seed=s).float()

    together = inversion.inverted(clean, stops, text, noise)
    for row in range(3):
        one = slice(row, row + 1)
        alone = inversion.inverted(clean[one], stops[one], text[one], lambda s, one=one: noise(s)[one])
        torch.testing.assert_close(together[one], alone, rtol=1e-4, atol=1e-5)
    assert bool(torch.isfinite(together).all())
    every = sum(len(inversion.times(stop)) for stop in stops.tolist())
    assert policy.evaluations == 2 * every


@pytest.mark.parametrize("average", [False, True])
def test_a_step_of_the_inversion_is_that_of_ddim_upwards(average: bool):
    """x' = sqrt(high) x0 + sqrt(1 - high) eps with x0 = (x - sqrt(1 - low) eps) / sqrt(low)."""
    process, policy = tiny.schedule(), Denoiser(tiny.unet(1), tiny.schedule())
    inversion = Inversion(NoisingSettings(kind="inversion", average=average), policy, process)
    low, high = inversion.levels()[3:5]
    x, text = draws(2, *tiny.LATENT).float(), Conditioning(tiny.text(2))
    before, after = process.alphas_cumprod[low], process.alphas_cumprod[high]
    with torch.no_grad():

        def moved(eps: Tensor) -> Tensor:
            return after.sqrt() * (x - (1 - before).sqrt() * eps) / before.sqrt() + (1 - after).sqrt() * eps

        eps = policy.prediction(x, torch.full((2,), low), text)
        if average:
            eps = (eps + policy.prediction(moved(eps), torch.full((2,), low), text)) / 2
        torch.testing.assert_close(inversion.step(x, low, high, text), moved(eps), rtol=1e-4, atol=1e-5)


def test_inversion_of_nothing_is_the_image():
    """New convention, towards a timestep below the first level: no step, and the target is what is left of noise."""
    inversion = Inversion(
        NoisingSettings(kind="inversion", convention="new"), Denoiser(tiny.unet(), tiny.schedule()), tiny.schedule()
    )
    clean, text, t = draws(1, *tiny.LATENT).float(), Conditioning(tiny.text(1)), torch.tensor([0])
    assert torch.equal(inversion(clean, clean, t, text, lambda s: clean).x, clean)


def test_inversion_of_flow_matching_is_refused():
    policy = Denoiser(tiny.unet(), FlowMatching(1.0, 1000, tiny.CPU))
    with pytest.raises(InputError, match="inversion is defined on a noise schedule"):
        noising_of(NoisingSettings(kind="inversion"), policy)
