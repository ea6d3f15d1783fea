"""NCP-DPO, Diffusion-DRO, Self-NPO, CHATS, Rethinking-DPO and DCPO: what holds of each, whatever the numbers are."""

from __future__ import annotations

import math
import random
from dataclasses import replace
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from stages.errors import InputError
from stages.finetune.batch import Batch, LatentPairs
from stages.finetune.families import perceptual, truncated
from stages.finetune.families.pair_errors import Errors, Noisy, Outputs, PairErrors, both
from stages.finetune.families.pair_variants import FeatureSpace, TruncatedSettings
from stages.finetune.families.ranked_experts import grid
from stages.finetune.methods import chats, diffusion_dro, rethinking_dpo, self_npo
from stages.finetune.settings import FinetuneSettings
from stages.finetune.training import Trainer
from stages.models.conditioning import Conditioning
from stages.models.diffusion import Denoiser
from stages.models.features import features, require_features
from stages.models.multistep import trajectory
from tests import tiny, tiny_methods

DOUBLE = torch.float64
TRAIN = FinetuneSettings.model_validate({"sampling_steps": 4, "batch_size": 4, "ema": 0.5, "optimizer": {"lr": 1e-3}})


def draws(*shape: int, seed: int = 0) -> Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed), dtype=DOUBLE)


def given(count: int = 3) -> PairErrors:
    policy = [draws(count, seed=n).abs().requires_grad_(True) for n in (0, 1)]
    ones = torch.ones(count, dtype=DOUBLE)
    sides = [Errors(e, draws(count, seed=9 + n).abs()) for n, e in enumerate(policy)]
    return PairErrors(sides[0], sides[1], ones, ones, anchor=torch.zeros(count, dtype=DOUBLE))


def first_step(kind: str, values: dict[str, Any] | None = None) -> dict[str, float]:
    made = tiny_methods.trainer(kind, values or {}, TRAIN)
    return made.step(tiny_methods.batches(tiny_methods.settings(kind, values or {}), 0, TRAIN))


# at the start


@pytest.mark.parametrize("kind", ["ncp_dpo", "chats", "rethinking_dpo", "dcpo"])
def test_a_logistic_loss_starts_at_log_2(kind: str) -> None:
    """Up to the weights of the pairs, which the made-up data has."""
    own = tiny_methods.settings(kind, {})
    weights = torch.cat([b.preferences().weight for b in tiny_methods.batches(own, 0, TRAIN)])
    assert first_step(kind)["loss"] == pytest.approx(math.log(2) * float(weights.mean()), rel=1e-6)


def test_an_expert_starts_at_the_margin_and_moves_under_it() -> None:
    found = first_step("diffusion_dro", {"margin": 0.5})
    assert found["margin"] == pytest.approx(0, abs=1e-9) and found["loss"] == pytest.approx(0.5)
    assert found["active"] == 1


# signs of derivatives


def test_both_networks_of_chats_fit_their_side() -> None:
    pairs = given()
    chats.loss(pairs, chats.Settings(kind="chats", beta=2.0)).root.backward()
    for side in (pairs.winner, pairs.loser):
        assert side.policy.grad is not None and bool((side.policy.grad > 0).all())


def test_the_hinge_of_experts_has_the_signs_of_a_preference_and_no_gradient_beyond_the_margin() -> None:
    pairs = given()
    diffusion_dro.loss(pairs, diffusion_dro.Settings(kind="diffusion_dro", margin=5.0)).root.backward()
    assert pairs.winner.policy.grad is not None and pairs.loser.policy.grad is not None
    assert bool((pairs.winner.policy.grad > 0).all()) and bool((pairs.loser.policy.grad < 0).all())
    far = given()
    far = replace(far, winner=replace(far.winner, base=far.winner.base + 9))
    loss = diffusion_dro.loss(far, diffusion_dro.Settings(kind="diffusion_dro"))
    assert float(loss.root) == 0 and float(loss.terms["active"]) == 0


def test_the_anchor_adds_its_weight_and_nothing_else() -> None:
    pairs = replace(given(), anchor=torch.full((3,), 0.7, dtype=DOUBLE))
    without, with_ = (
        rethinking_dpo.loss(pairs, rethinking_dpo.Settings(kind="rethinking_dpo", anchor_weight=w)) for w in (0.0, 2.0)
    )
    assert float(with_.root - without.root) == pytest.approx(1.4)
    assert float(with_.terms["anchor"]) == pytest.approx(0.7)


# NCP


def noisy(t: list[int]) -> Noisy:
    x, target = (draws(len(t), *tiny.LATENT, seed=n).float() for n in (1, 2))
    return Noisy(x, torch.tensor(t), Conditioning(tiny.text(len(t))), target)


def test_a_state_one_step_down_is_a_ddpm_step_and_stays_at_timestep_0() -> None:
    process, given_ = tiny.schedule(), noisy([0, 400])
    step = draws(2, *tiny.LATENT, seed=5).float()
    moved, t = perceptual.moved(process, given_, given_.target, step, None)
    torch.testing.assert_close(moved[0], given_.x[0])
    assert t.tolist() == [0, 399]
    grid_ = type(process.grid(2)).of(process, torch.tensor([400, 399]))
    expected = grid_.ancestral(given_.x[1:], given_.target[1:], 0).sample(step[1:])
    torch.testing.assert_close(moved[1:], expected, rtol=1e-4, atol=1e-5)


def test_a_state_at_another_timestep_has_the_predicted_clean_latents() -> None:
    process, given_ = tiny.schedule(), noisy([700, 30])
    moved, t = perceptual.moved(process, given_, given_.target, given_.x, torch.tensor([10, 900]))
    clean = process.x0(given_.x, given_.target, given_.t)
    torch.testing.assert_close(process.x0(moved, given_.target, t), clean, rtol=1e-3, atol=1e-3)


@pytest.mark.parametrize("space", [{}, {"features": "down"}, {"features": "all"}, {"pooled": True}])
def test_features_of_a_unet_have_a_gradient_by_the_prediction_alone(space: dict[str, Any]) -> None:
    network = tiny.unet(1).requires_grad_(True)
    view, given_ = Denoiser(network, tiny.schedule()), noisy([100, 600])
    prediction = draws(2, *tiny.LATENT, seed=7).float().requires_grad_(True)
    outputs = Outputs(prediction, given_.target, given_.target)
    found = perceptual.seen(view, FeatureSpace.model_validate(space), outputs, given_, given_.x, None)
    Errors.of(found).log_ratio.sum().backward()
    assert prediction.grad is not None and float(prediction.grad.abs().max()) > 0
    assert all(p.grad is None and p.requires_grad for p in network.parameters())
    assert view.evaluations == 6 and view.backward == 2
    assert found.target.shape[2:] == ((1, 1) if space.get("pooled") else (4, 4))
    assert float(Errors.of(found).base.abs().max()) == 0  # the reference predicted the truth


def test_features_are_those_that_the_whole_network_passes_through() -> None:
    network, given_ = tiny.unet(1), noisy([300])
    seen: list[Tensor] = []
    handle = network.mid_block.register_forward_hook(lambda *args: seen.append(args[2]))  # type: ignore[union-attr]
    with torch.no_grad():
        Denoiser(network, tiny.schedule()).prediction(given_.x, given_.t, given_.text)
        handle.remove()
        found = features(network, given_.x, given_.t, given_.text)
        conv = network.conv_in(given_.x)
    torch.testing.assert_close(found.middle, seen[0])
    torch.testing.assert_close(found.down[0], conv)
    assert found.ends[-1] == len(found.down) - 1 and not network.mid_block._forward_hooks  # type: ignore[union-attr]


@pytest.mark.parametrize("network", [nn.Linear(2, 2), nn.Sequential()])
def test_a_network_without_a_middle_block_is_refused(network: nn.Module) -> None:
    with pytest.raises(InputError, match="features of a denoiser are those of a UNet"):
        require_features(network)


# trajectories of a solver


def test_a_trajectory_towards_one_image_stays_on_its_ray() -> None:
    """Where the prediction is exact for one clean image, every state is that image with the noise of the start."""
    process = tiny.schedule()
    clean, noise = draws(2, *tiny.LATENT), draws(2, *tiny.LATENT, seed=1)
    times = grid(10, 100, torch.tensor([3, 88]))
    assert times[0].tolist() == [903, 988] and times[-1].tolist() == [3, 88]

    def exact(x: Tensor, t: Tensor) -> Tensor:
        alpha = process.alphas_cumprod.double()[t].reshape(-1, 1, 1, 1)
        return (x - alpha.sqrt() * clean) / (1 - alpha).sqrt()

    start = process.noised(clean, noise, times[0])
    made = trajectory(process, exact, start, times)
    for state, t in zip(made.states, times, strict=True):
        torch.testing.assert_close(state, process.noised(clean, noise, t), rtol=1e-3, atol=1e-3)
    other = trajectory(process, exact, start, times, times[:, :1].expand_as(times))
    torch.testing.assert_close(other.states[:, 0], made.states[:, 0])
    assert float((other.states[-1, 1] - made.states[-1, 1]).abs().max()) > 1e-3  # as released: another grid's levels


@pytest.mark.parametrize("every, apart", [(1, 0.0), (2, 1.0)])
def test_the_network_of_the_trajectories_is_renewed(every: int, apart: float) -> None:
    """In the second step the policy's error on its own states is 0 only where it made them itself."""
    values = {"copy_every": every, "margin": 10.0}
    made = tiny_methods.trainer("diffusion_dro", values, TRAIN)
    found = {}
    for number in range(2):
        found = made.step(tiny_methods.batches(tiny_methods.settings("diffusion_dro", values), number, TRAIN))
    objective: Any = made.objective
    own = tiny_methods.batches(tiny_methods.settings("diffusion_dro", values), 1, TRAIN)
    assert math.isfinite(found["loss"])
    made.step(tiny_methods.batches(tiny_methods.settings("diffusion_dro", values), 2, TRAIN))
    if every == 2:
        objective.copy.weights = [w + 0.1 for w in objective.copy.weights]
    error = float(objective.errors(own[:1])[0].loser.policy.detach().abs().max())
    assert (error > 1e-9) == bool(apart)


# Self-NPO


SETTINGS = TruncatedSettings(kind="x")


def test_rows_that_reach_timestep_0_stay_there() -> None:
    process = tiny.schedule()
    index = torch.tensor([24, 2])
    calls: list[list[int]] = []

    def nothing(x: Tensor, t: Tensor) -> Tensor:
        calls.append(t.tolist())
        return 0 * x

    x = draws(2, *tiny.LATENT)
    end = truncated.denoised(process, SETTINGS, nothing, x, index)
    assert calls == [[999, 119], [959, 79], [919, 39], [879, 0], [839, 0], [799, 0]]
    assert end.t.tolist() == [799, 0]
    assert truncated.reached_times(process, SETTINGS, torch.tensor([999, 119])).tolist() == [799, 0]
    alphas = process.alphas_cumprod.double()
    torch.testing.assert_close(end.x[1], (alphas[0] / alphas[119]).sqrt() * x[1], rtol=1e-4, atol=1e-4)
    torch.testing.assert_close(end.target, process.x0(end.x, 0 * end.x, end.t))


def test_noise_added_again_has_the_level_of_its_timestep() -> None:
    """Of an end that is clean latents with noise: signal and variance are those of the forward process."""
    process, count = tiny.schedule(), 400
    clean = torch.ones(count, *tiny.LATENT, dtype=DOUBLE)
    t, later = torch.full((count,), 200), torch.full((count,), 640)
    end = truncated.Ends(process.noised(clean, draws(count, *tiny.LATENT), t), t, clean)
    found = truncated.renoised(process, end, later, draws(count, *tiny.LATENT, seed=1))
    alpha = float(process.alphas_cumprod[640])
    assert float(found.mean()) == pytest.approx(math.sqrt(alpha), abs=0.01)
    assert float(found.std()) == pytest.approx(math.sqrt(1 - alpha), abs=0.01)


def test_second_timesteps_are_noisier_than_the_end() -> None:
    ends = torch.tensor([998, 0, 500] * 50)
    found = truncated.second_times(random.Random(0), ends, 999)
    assert bool((found > ends).all()) and bool((found <= 999).all()) and set(found[::3].tolist()) == {999}


@pytest.mark.parametrize("loss", ["huber", "l2"])
def test_no_difference_is_no_loss(loss: Any) -> None:
    own = self_npo.Settings(kind="self_npo", loss=loss)
    assert float(self_npo.loss(torch.zeros(2, *tiny.LATENT), own).root) == pytest.approx(0)
    assert float(self_npo.loss(torch.ones(2, *tiny.LATENT), own).root) == pytest.approx(1, rel=2e-3)


def test_the_worse_prediction_is_the_one_without_a_prompt() -> None:
    wanted, plain = draws(2, 3), draws(2, 3, seed=1)
    torch.testing.assert_close(truncated.extrapolated(wanted, plain, -1), plain)
    torch.testing.assert_close(truncated.extrapolated(wanted, plain, 0), wanted)


# CHATS


def chats_run(saves: str) -> Trainer:
    own = {"saves": saves, "prompt_drop": 0.5}
    made = tiny_methods.trainer("chats", own, TRAIN)
    for number in range(3):
        made.step(tiny_methods.batches(tiny_methods.settings("chats", own), number, TRAIN))
    return made


def test_a_run_for_each_side_trains_the_same_two_networks() -> None:
    winner, loser = chats_run("winner"), chats_run("loser")
    kept = {name: value for name, value in winner.parameters.items() if not name.startswith("companion: ")}
    assert len(kept) == 4 and len(winner.parameters) == 8
    for name, value in kept.items():
        torch.testing.assert_close(loser.parameters[f"companion: {name}"], value)
        torch.testing.assert_close(winner.parameters[f"companion: {name}"], loser.parameters[name])
        assert float((value - loser.parameters[name]).detach().abs().max()) > 1e-6
    averaged = winner.averaged()
    assert averaged is not None and averaged.keys() == kept.keys()


# DCPO


def test_the_loser_has_another_caption_and_the_winner_its_own() -> None:
    own = tiny_methods.settings("dcpo", {})
    objective: Any = tiny_methods.trainer("dcpo", {}, TRAIN).objective
    [batch] = tiny_methods.batches(own, 0, TRAIN)
    found = objective.pairs(batch)
    text = Conditioning.of(batch.text).text
    assert found.loser_text is not None
    assert bool((found.loser_text.text != text).flatten(1).any(1).all())
    torch.testing.assert_close(found.winner, batch.preferences().winner)


def test_with_one_caption_for_all_it_is_diffusion_dpo() -> None:
    def step(kind: str) -> float:
        made = tiny_methods.trainer(kind, {}, TRAIN)
        own, found = tiny_methods.settings(kind, {}), {}
        for number in range(2):
            found = made.step([alike(batch) for batch in tiny_methods.batches(own, number, TRAIN)])
        return found["loss"]

    assert step("dcpo") == pytest.approx(step("diffusion_dpo"), rel=1e-9)


@pytest.mark.parametrize("kind", ["dcpo", "tdpo", "tkto"])
def test_curated_captions_stay_with_their_images(kind: str) -> None:
    """Of both images for DCPO; TDPO and TKTO take the preferred image with both captions."""
    own = tiny_methods.settings(kind, {"captions": "curated"})
    assert own.needs.data == "pairs" and own.needs.captions
    objective: Any = tiny_methods.trainer(kind, {"captions": "curated"}, TRAIN).objective
    [batch] = tiny_methods.batches(own, 0, TRAIN)
    given, found = batch.preferences(), objective.pairs(batch)
    assert given.captions is not None
    assert torch.equal(found.winner, given.winner)
    assert torch.equal(found.loser, given.loser if kind == "dcpo" else given.winner)
    clean, texts = both(found, Conditioning.of(batch.text))
    assert torch.equal(clean, torch.cat([found.winner, found.loser]))
    assert torch.equal(texts.text, torch.cat([given.captions[0].text, given.captions[1].text]))
    assert not torch.equal(texts.text[: len(clean) // 2], Conditioning.of(batch.text).text)


def test_of_one_image_with_one_caption_nothing_is_learnt() -> None:
    """TDPO on curated captions starts at log 2 times the weights; equal captions have no gradient."""
    own = tiny_methods.settings("tdpo", {"captions": "curated"})
    for same in (True, False):
        made = tiny_methods.trainer("tdpo", {"captions": "curated"}, TRAIN)
        [batch] = tiny_methods.batches(own, 0, TRAIN)
        given = one_caption(batch.preferences()) if same else batch.preferences()
        [terms] = made.backward([replace(batch, pairs=given)])
        size = max(float(p.grad.abs().max()) for p in made.parameters.values() if p.grad is not None)
        assert float(terms["loss"]) == pytest.approx(math.log(2) * float(given.weight.mean()))
        assert (size < 1e-12) == same


def one_caption(pairs: LatentPairs) -> LatentPairs:
    assert pairs.captions is not None
    return replace(pairs, captions=(pairs.captions[0], pairs.captions[0]))


def alike(batch: Batch) -> Batch:
    """All rows, and all further ones, with one prompt."""
    assert batch.further is not None
    further = batch.further
    same = replace(batch, prompts=["a"] * len(batch.prompts))
    return replace(same, further=lambda first, count: alike(further(first, count)))


# bad settings


@pytest.mark.parametrize("kind, values, said", [
    ("ncp_dpo", {"safeguard": {}, "plain_weight": 1.0}, "safeguard does not go with plain_weight"),
    ("ncp_dpo", {"space": {"features": "up"}}, r"space\.features"),
    ("diffusion_dro", {"noising": {"kind": "inversion"}}, "noising.kind inversion: .*expected forward"),
    ("diffusion_dro", {"timesteps": {"law": "sigmoid"}}, "timesteps.law sigmoid: .*expected uniform"),
    ("diffusion_dro", {"labels": {"kind": "reward"}}, "labels: the pairs are made of real images"),
    ("diffusion_dro", {"copy_every": 0}, "copy_every"),
    ("self_npo", {"reference": {"kind": "none"}}, "reference.kind none: expected ema, hard or frozen"),
    ("self_npo", {"levels": 1}, "levels"),
    ("chats", {"safeguard": {}}, "safeguard: each network fits its own side"),
    ("chats", {"noising": {"kind": "inversion"}}, "noising.kind inversion: .*expected forward"),
    ("chats", {"reference": {"kind": "hard", "every": 2}}, "reference.kind hard: .*expected frozen or none"),
    ("chats", {"prompt_drop": 1.5}, "prompt_drop"),
    ("rethinking_dpo", {"anchor_weight": -1}, "anchor_weight"),
    ("dcpo", {"beta": 0}, "beta"),
    ("dcpo", {"captions": "curated", "labels": {"kind": "reward"}}, "labels: curated captions go with curated labels"),
    ("tkto", {"captions": "given"}, "captions"),
])  # fmt: skip
def test_bad_settings_are_refused_in_one_line(kind: str, values: dict[str, Any], said: str) -> None:
    with pytest.raises((ValueError, InputError), match=said):
        tiny_methods.trainer(kind, values, TRAIN)


@pytest.mark.parametrize("kind", ["ncp_dpo", "diffusion_dro", "self_npo"])
def test_a_flow_matching_base_is_refused(kind: str) -> None:
    from stages.models.process_flow import FlowMatching

    own = tiny_methods.settings(kind, {})
    run = tiny_methods.trainer(kind, {}, TRAIN).run
    flow = FlowMatching(1.0, 1000, tiny.CPU)
    networks = replace(run.networks, policy=Denoiser(run.networks.policy.network, flow), grid=flow.grid(4))
    if networks.reference is not None:
        networks = replace(networks, reference=Denoiser(networks.reference.network, flow))
    with pytest.raises(InputError, match="but the base is a flow-matching model"):
        objective = tiny_methods.definition(kind).objective(own, replace(run, networks=networks))
        list(objective.losses(tiny_methods.batches(own, 0, TRAIN)))
