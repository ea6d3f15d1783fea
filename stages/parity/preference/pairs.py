"""Diffusion-DPO, DSPO and DMPO, each plain and with the safeguard of the winner."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace
from types import ModuleType
from typing import Any

import torch

from stages.finetune.families.pair_errors import Errors, Outputs
from stages.finetune.families.pair_settings import SafeguardSettings
from stages.finetune.families.safeguard import loser_scale, safeguarded
from stages.finetune.methods import diffusion_dpo, dmpo, dspo
from stages.parity.checks import Check, compare
from stages.parity.preference.given import GRADIENT, LOSS, VALUE, Given, Item, values

METHODS: dict[str, ModuleType] = {"diffusion-dpo": diffusion_dpo, "dspo": dspo, "dmpo": dmpo}


def checks(given: Given) -> Iterator[Check]:
    """The items, what they have in common, and the table of scales."""
    items = given.items("pair", "sdpo")
    if not items:
        return
    yield from _shared(given)
    for item in items:
        yield from _loss(given, item)
    if "sdpo.scale_table" in given.reference.expected.arrays:
        yield from _scales(given)


def _shared(given: Given) -> Iterator[Check]:
    expected, trained = given.reference.expected, given.trained()
    found, noise, t = given.errors(trained), given.inputs["pair_noise"], given.inputs["pair_timesteps"]
    noisy = given.reference.schedule.noised(given.latents, torch.cat([noise, noise]), torch.cat([t, t]))
    sides = [side.made_of() for side in (found.winner, found.loser)]
    references = [side.reference for side in sides if side.reference is not None]
    for name, value in (
        ("latents", given.latents), ("noisy_latents", noisy),
        ("model_pred", torch.cat([side.prediction for side in sides])), ("ref_pred", torch.cat(references)),
        ("model_losses", values(found)), ("ref_losses", values(found, base=True)),
    ):  # fmt: skip
        yield compare(f"pair.{name}", value, expected.array(f"pair.{name}"), VALUE)


def _loss(given: Given, item: Item) -> Iterator[Check]:
    trained = given.trained()
    base = given.denoiser(given.far(item.setting("far_factor"))) if item.has("far_factor") else None
    plain = given.errors(trained, base=base)
    mu, method = item.setting("mu"), METHODS[item.setting("method")]
    guard = None if mu is None else SafeguardSettings(mu=mu)
    pairs = plain if guard is None else safeguarded(plain, guard)
    keys: dict[str, Any] = {"kind": "x", "beta": item.setting("beta")}
    keys |= {"alpha": item.setting("dmpo_alpha")} if item.setting("dmpo_alpha") is not None else {}
    keys |= {"sdxl_as_released": True} if item.setting("sdxl_branch") else {}
    loss = method.loss(pairs, method.Settings.model_validate(keys)).root
    loss.backward()
    yield item.check("inside_term", item.setting("beta") / 2 * plain.margin, LOSS)
    yield item.check_loss(loss)
    yield item.check_share("implicit_acc", plain.margin > 0)
    yield compare(f"{item.name}.raw_model_loss", values(plain).mean(), item.setting("raw_model_loss"), VALUE)
    yield compare(f"{item.name}.raw_ref_loss", values(plain, base=True).mean(), item.setting("raw_ref_loss"), VALUE)
    scale = 1.0 if guard is None else float(loser_scale(plain, guard))
    yield compare(f"{item.name}.loser_scale", scale, item.setting("loser_scale"), LOSS)
    if item.has("mean_square_of_difference"):
        outputs = plain.winner.made_of()
        assert outputs.reference is not None
        apart = (outputs.prediction - outputs.reference).square().mean()
        yield compare(f"{item.name}.mean_square_of_difference", apart, item.setting("mean_square_of_difference"), LOSS)
    yield from given.gradients(item, trained, GRADIENT)


def _scales(given: Given) -> Iterator[Check]:
    """Rows [pair, or -1 for all, or -2 for all with the loser's error negated; mu; scale]."""
    table = given.reference.expected.array("sdpo.scale_table")
    found = given.errors(given.trained())
    negated = replace(found, loser=_negated(found.loser))
    scales = []
    for which, mu, _ in table.tolist():
        if which >= 0:
            scales.append(float(loser_scale(found, SafeguardSettings(mu=mu, per="pair"))[int(which)]))
        else:
            scales.append(float(loser_scale(found if which == -1 else negated, SafeguardSettings(mu=mu))))
    yield compare("sdpo.scale_table", torch.tensor(scales), table[:, 2], LOSS)


def _negated(side: Errors) -> Errors:
    outputs = side.made_of()
    opposite = Outputs(2 * outputs.target - outputs.prediction, outputs.reference, outputs.target)
    return replace(side, outputs=opposite)
