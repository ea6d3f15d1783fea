"""DDIM-InPO and SmPO: inversion of the images by the policy, in both conventions, and the losses there."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from types import ModuleType
from typing import Any

import torch
from torch import Tensor

from stages.finetune.batch import LatentPairs
from stages.finetune.families.labels import soft_label
from stages.finetune.families.noising import Inversion
from stages.finetune.families.pair_errors import Errors, Noisy, Outputs, PairErrors, both
from stages.finetune.families.pair_settings import NoisingSettings
from stages.finetune.methods import ddim_inpo, diffusion_dpo, smpo
from stages.finetune.objective import Loss
from stages.parity.checks import EXACT, Check, compare
from stages.parity.preference.given import LOSS, Given, Item, values

INVERTED = 1e-3
METHODS: dict[str, ModuleType] = {"inpo": ddim_inpo, "smpo": smpo}
LOSSES: dict[str, Callable[[PairErrors, Any], Loss]] = {"inpo": diffusion_dpo.loss, "smpo": smpo.loss}
SCORES = 0.28201571106910706 - 0.11543526500463486
"""The range of scores that the release divides a difference by (SmPO)."""


def checks(given: Given) -> Iterator[Check]:
    """The items."""
    kinds = [f"{method}.{convention}" for method in METHODS for convention in ("pinned", "new")]
    for item in given.items(*kinds):
        yield from _loss(given, item)
    arrays = given.reference.expected.arrays
    if "smpo.probs" in arrays:
        yield compare("smpo.probs", _labels(given), arrays["smpo.probs"], LOSS)
        given.reference.expected.array("smpo.probs")


def _labels(given: Given) -> Tensor:
    """The probability that the image with the higher score is preferred, of every pair."""
    scores = given.inputs["smpo_scores"]
    return soft_label(scores.amax(1), scores.amin(1), SCORES).float()


def _settings(item: Item, method: str, convention: str) -> Any:
    module = METHODS[method]
    own = module.Settings(kind=method)
    noising = own.noising.model_dump() | {"steps": item.setting("inversion_steps"), "convention": convention}
    return module.Settings(kind=method, beta=item.setting("beta"), noising=NoisingSettings.model_validate(noising))


def _loss(given: Given, item: Item) -> Iterator[Check]:
    method, convention, _ = item.name.split(".")
    settings, trained, rows = _settings(item, method, convention), given.trained(), item.setting("pairs")
    all_pairs, count = given.pairs, len(given.text)
    label = _labels(given)[rows] if method == "smpo" else all_pairs.label[rows]
    pairs = LatentPairs(all_pairs.winner[rows], all_pairs.loser[rows], label, all_pairs.weight[rows])
    clean, text = both(pairs, given.text[rows])
    t = given.inputs["inpo_timesteps"][rows]
    inversion = Inversion(settings.noising, trained.denoiser, given.reference.schedule)
    noise = given.inputs["inpo_noise"][:, [*rows, *(row + count for row in rows)]]
    # the released code inverts every pair of a batch towards the first one's timestep, and takes the first one's label;
    # only the predictions have each pair's own
    first = t[:1].expand(len(clean))
    x = inversion.inverted(clean, first, text, lambda s: noise[s])
    noisy = Noisy(x, torch.cat([t, t]), text, inversion.target(clean, x, first))
    winner, loser = Outputs.of(trained.denoiser.prediction, given.base.prediction, noisy).halves()
    errors = PairErrors(Errors.of(winner), Errors.of(loser), label[:1].expand(len(rows)), pairs.weight)
    loss = LOSSES[method](errors, settings).root
    loss.backward()
    yield compare(f"{item.name}.timesteps", t, item.setting("timesteps"), EXACT)
    yield item.check("x_t", x, INVERTED)
    yield item.check("target", noisy.target, INVERTED)
    yield item.check("model_losses", values(errors), INVERTED)
    yield item.check("ref_losses", values(errors, base=True), INVERTED)
    factor = settings.scale * (2 * errors.label - 1) if method == "smpo" else 1.0
    yield item.check("inside_term", settings.beta / 2 * factor * errors.margin, INVERTED)
    if item.has("probs"):
        yield item.check("probs", label, LOSS)
    yield item.check_loss(loss, INVERTED)
    yield item.check_share("implicit_acc", errors.margin > 0)
    yield compare(f"{item.name}.loop_times", inversion.times(int(t[0])), item.setting("loop_times"), EXACT)
    yield from given.gradients(item, trained, INVERTED)
