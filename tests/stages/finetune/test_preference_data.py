"""The family of preferences: where pairs and their labels come from, and what averages of the policy add."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any, cast

import pytest
import torch
from torch import Tensor

from stages.errors import InputError
from stages.finetune.batch import Batch, LatentPairs
from stages.finetune.data import with_preference
from stages.finetune.families.adaptive import AdaptivePreference, decay
from stages.finetune.families.labels import labelled, soft_label
from stages.finetune.families.pair_errors import Errors, PairErrors
from stages.finetune.families.pair_settings import LabelSettings
from stages.finetune.families.preference import PairedPreference
from stages.finetune.families.text_preference import TextPreference
from stages.finetune.families.unpaired import RewardWeighted
from stages.finetune.methods import adaptive_dpo, reward_weighted_sft
from stages.finetune.settings import FinetuneSettings
from stages.models.conditioning import Conditioning
from tests import tiny, tiny_methods

DOUBLE = torch.float64
TRAIN = FinetuneSettings.model_validate({"sampling_steps": 4, "batch_size": 4})


@dataclass
class Brightness:
    """Scores latents by their mean."""

    asked: int = 0

    def values(self, x0: Tensor, prompts: Sequence[str]) -> Tensor:
        self.asked += len(x0)
        return x0.mean((1, 2, 3))


def pairs(first: list[float], second: list[float]) -> LatentPairs:
    made = [torch.tensor(side, dtype=DOUBLE)[:, None, None, None].expand(-1, *tiny.LATENT) for side in (first, second)]
    ones = torch.ones(len(first), dtype=DOUBLE)
    return LatentPairs(made[0], made[1], 0.9 * ones, 2 * ones)


def test_the_reward_says_which_image_is_preferred() -> None:
    """The higher one wins, ties have label 1/2, weights stay."""
    given, reward = pairs([1.0, 0.0, 0.5], [0.0, 1.0, 0.5]), Brightness()
    batch = tiny_methods.batch(tiny_methods.settings("diffusion_dpo", {}), 0, 3)
    found = labelled(given, batch, LabelSettings(kind="reward"), cast(Any, reward))
    assert found.winner.mean((1, 2, 3)).tolist() == [1.0, 1.0, 0.5]
    assert found.loser.mean((1, 2, 3)).tolist() == [0.0, 0.0, 0.5]
    assert found.label.tolist() == [1.0, 1.0, 0.5] and found.weight.tolist() == [2.0] * 3
    soft = labelled(given, batch, LabelSettings(kind="reward", range=2.0), cast(Any, reward))
    assert soft.label.tolist() == pytest.approx([1 / (1 + math.exp(-0.5))] * 2 + [0.5])
    assert labelled(given, batch, LabelSettings(), cast(Any, None)) is given
    assert reward.asked == 12


def test_a_soft_label_is_at_least_a_half() -> None:
    found = soft_label(torch.tensor([1.0, 1.0]), torch.tensor([1.0, -9.0]), 1.0)
    assert found[0] == 0.5 and found[1] > 0.99


def gradient_of(kind: str, values: dict[str, Any], given: LatentPairs) -> tuple[float, float]:
    """Loss and largest gradient of a method on these pairs of real images."""
    trainer = tiny_methods.trainer(kind, values, TRAIN)
    objective = cast(Any, trainer.objective)
    objective.pairs = lambda batch: given
    [terms] = trainer.backward(tiny_methods.batches(tiny_methods.settings(kind, values), 0, TRAIN))
    return float(terms["loss"]), max(
        float(p.grad.abs().max()) for p in trainer.parameters.values() if p.grad is not None
    )


@pytest.mark.parametrize("kind", ["spin", "tdpo"])
def test_two_sides_that_are_the_same_teach_nothing(kind: str) -> None:
    """SPIN whose sampled image is the real one, TDPO whose other caption is the image's own."""
    one = torch.randn(4, *tiny.LATENT, dtype=DOUBLE)
    ones = torch.ones(4, dtype=DOUBLE)
    loss, gradient = gradient_of(kind, {}, LatentPairs(one, one, ones, ones))
    assert loss == pytest.approx(math.log(2)) and gradient < 1e-12
    assert gradient_of(kind, {}, LatentPairs(one, one.flip(0), ones, ones))[1] > 1e-6


def test_the_other_caption_is_another_one() -> None:
    """The first draw that differs; an image whose draws are all its own caption keeps that."""
    trainer = tiny_methods.trainer("tdpo", {}, TRAIN)
    objective = cast(TextPreference[Any], trainer.objective)
    [batch] = tiny_methods.batches(tiny_methods.settings("tdpo", {}), 0, TRAIN)
    texts = ["a", "x", "b", "b"] + ["b"] * 4 + ["c", "c", "y", "z"] + ["q", "d", "d", "d"]

    def further(first: int, count: int) -> Batch:
        assert (first, count) == (0, 16)
        return replace(batch, prompts=texts, text=Conditioning(tiny.text(16, 5).double()))

    own = replace(batch, prompts=["a", "b", "c", "d"], further=further)
    found = objective.other_captions(own).text
    drawn, kept = tiny.text(16, 5).double(), Conditioning.of(batch.text).text
    assert torch.equal(found, torch.stack([drawn[1], kept[1], drawn[10], drawn[12]]))


def test_weights_by_the_reward_have_mean_1_and_the_better_image_the_larger() -> None:
    trainer = tiny_methods.trainer("reward_weighted_sft", {"temperature": 0.5}, TRAIN)
    objective = cast(RewardWeighted[Any], trainer.objective)
    [batch] = tiny_methods.batches(tiny_methods.settings("reward_weighted_sft", {}), 0, TRAIN)
    given = batch.preferences()
    batch = replace(batch, pairs=replace(given, weight=torch.ones_like(given.weight)))
    images = objective.images(batch)
    rewards = trainer.run.reward.values(images.clean, batch.prompts)
    assert float(images.weight.mean()) == pytest.approx(1)
    torch.testing.assert_close(images.weight.log().diff(), rewards.diff() / 0.5)
    assert reward_weighted_sft.Settings(kind="x").needs.reward == "value"


def test_both_images_of_a_pair_are_noised_alike() -> None:
    """They differ by sqrt(abar) times the difference of the clean ones, and the targets not at all."""
    trainer = tiny_methods.trainer("diffusion_dpo", {}, TRAIN)
    objective = cast(PairedPreference[Any], trainer.objective)
    [batch] = tiny_methods.batches(tiny_methods.settings("diffusion_dpo", {}), 0, TRAIN)
    given, count = batch.preferences(), len(batch.prompts)
    noisy = objective.noisy(batch, given)
    (first, second), (early, late) = noisy.x.split(count), noisy.t.split(count)
    assert torch.equal(early, late)
    scale = trainer.run.networks.policy.process.noised(torch.ones_like(first), torch.zeros_like(first), early)
    torch.testing.assert_close(first - second, scale * (given.winner - given.loser), rtol=1e-4, atol=1e-6)
    torch.testing.assert_close(*noisy.target.split(count))


def test_what_settings_of_pairs_need() -> None:
    """A reward that labels is asked for its number; an inversion wants one process; pairs are not cut in two."""
    plain = tiny_methods.settings("diffusion_dpo", {})
    judged = tiny_methods.settings("diffusion_dpo", {"labels": {"kind": "reward"}})
    inverted = tiny_methods.settings("diffusion_dpo", {"noising": {"kind": "inversion"}})
    free = tiny_methods.settings("diffusion_dpo", {"reference": {"kind": "none"}})
    assert (plain.needs.reward, judged.needs.reward) == ("none", "value")
    assert plain.needs.several_processes and not inverted.needs.several_processes
    assert plain.needs.reference and not free.needs.reference
    train = FinetuneSettings.model_validate({"sampling_steps": 4, "batch_size": 12, "accumulate": 3})
    assert plain.shares(train) == {"pairs": 4}


# Adaptive-DPO


def test_an_average_is_fast_at_first() -> None:
    assert [decay(0.9999, step) for step in (1, 2, 10)] == [0.0, 2 / 11, 10 / 19]
    assert decay(0.5, 100) == 0.5 and decay(0.9999, 10**6) == 0.9999


def margins(further: tuple[Tensor, ...] | None) -> PairErrors:
    policy = torch.tensor([0.1, 0.4, 0.2], dtype=DOUBLE)
    zeros, ones = torch.zeros(3, dtype=DOUBLE), torch.ones(3, dtype=DOUBLE)
    return PairErrors(Errors(-policy, zeros), Errors(zeros, zeros), ones, ones, further=further)


def test_averages_with_the_policy_s_weights_have_its_margins() -> None:
    trainer = tiny_methods.trainer("adaptive_dpo", {}, TRAIN)
    objective = cast(AdaptivePreference[Any], trainer.objective)
    [batch] = tiny_methods.batches(tiny_methods.settings("adaptive_dpo", {}), 0, TRAIN)
    with torch.no_grad():
        for parameter in trainer.parameters.values():
            parameter.add_(0.1)
    objective.averages[0].copy()
    [found] = objective.errors([batch])
    assert found.further is not None and float(found.margin.detach().abs().max()) > 1e-4
    torch.testing.assert_close(found.further[0], found.margin.detach())
    assert float(found.further[1].abs().max()) < 1e-9  # the other one still is the base


def test_networks_that_agree_do_not_doubt() -> None:
    """Then, and in the warm-up, all weights are 1; a pair that they disagree on counts less."""
    settings = adaptive_dpo.Settings(kind="x", beta=2.0)
    own = margins(()).margin
    for agreed in (margins(None), margins((own, own))):
        u, _ = adaptive_dpo.uncertainty(agreed, settings)
        assert float(u.abs().max()) < 1e-12 and adaptive_dpo.weights(u, settings).tolist() == pytest.approx([1] * 3)
    other = own * torch.tensor([1.0, 1.0, -1.0], dtype=DOUBLE)
    u, _ = adaptive_dpo.uncertainty(margins((own, other)), settings)
    weight = adaptive_dpo.weights(u, settings)
    assert int(weight.argmin()) == 2 and weight[2] < 0.5


# data that cannot be learnt from


@dataclass(frozen=True)
class Labelled:
    label: float


def test_ties_are_left_out_unless_a_method_takes_them() -> None:
    some = [Labelled(1.0), Labelled(0.5), Labelled(0.6)]
    assert [pair.label for pair in with_preference(cast(Any, some), False, "run 'x'")] == [1.0, 0.6]
    assert len(with_preference(cast(Any, some), True, "run 'x'")) == 3
    with pytest.raises(InputError, match=r"^run 'x': all 2 training pairs are ties") as found:
        with_preference(cast(Any, [Labelled(0.5)] * 2), False, "run 'x'")
    assert "\n" not in str(found.value)
    kinds = {"diffusion_dpo": False, "balanced_dpo": True, "reward_weighted_sft": True, "diffusion_kto": False}
    assert {kind: tiny_methods.settings(kind, {}).needs.ties for kind in kinds} == kinds
    assert tiny_methods.settings("diffusion_dpo", {"soft_labels": True}).needs.ties


@pytest.mark.parametrize("kind, values, why", [
    ("diffusion_kto", {"likes": 1.0}, "likes"), ("diffusion_kto", {"likes": 0.0}, "likes"),
    ("diffusion_dpo", {"beta": 0}, "beta"), ("ipo", {"tau": 0}, "tau"), ("tkto", {"beta": -1}, "beta"),
    ("diffusion_dpo", {"label_smoothing": 0.5}, "label_smoothing"), ("diffusion_dpo", {"robust": True}, "robust needs"),
    ("diffusion_dpo", {"soft_labels": True, "label_smoothing": 0.1}, "soft_labels takes the place"),
    ("smpo", {"labels": {"range": 1.0}}, "range goes with kind reward"),
])  # fmt: skip
def test_settings_that_teach_nothing_are_refused(kind: str, values: dict[str, Any], why: str) -> None:
    with pytest.raises(ValueError, match=why):
        tiny_methods.settings(kind, values)


@pytest.mark.parametrize("kind, values, why", [
    ("dspo", {"reference": {"kind": "none"}}, "DSPO compares predictions"),
    ("spin", {"reference": {"kind": "none"}}, "expected hard or frozen"),
    ("spin", {"labels": {"kind": "reward"}}, "preferred by rule"),
])  # fmt: skip
def test_settings_that_do_not_go_together_are_refused(kind: str, values: dict[str, Any], why: str) -> None:
    with pytest.raises(ValueError, match=why):
        tiny_methods.settings(kind, values).check(TRAIN)
