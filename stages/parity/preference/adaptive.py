"""Adaptive-DPO: the uncertainty of policy and averages, the weights of pairs, and the losses."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace
from typing import Any

import torch

from stages.finetune.families.adaptive import decay
from stages.finetune.losses.pairs import hinge, logistic, robust
from stages.finetune.methods import adaptive_dpo
from stages.parity.checks import Check, compare, same
from stages.parity.preference.given import LOSS, Given, Item

ADAPTIVE = 3e-4
"""What the set's README recommends for Adaptive-DPO. The margin of an average near the base is a difference of errors
400 times as large, so that a few roundings of these are 1e-4 of it."""
STEPS = (1, 2, 3, 5, 10, 100, 1000, 10000)
NOMINAL = (0.9999, 0.5)
WEIGHTS = {"linear": "linear", "quardratic": "quadratic", "sqrt": "sqrt", "sigmoid": "sigmoid"}
SWITCHES = {
    "weight_normalization": False, "use_weight_std_standarization": False, "flip_un_label": False,
    "rewight_intercept": 1.0,
}  # fmt: skip
"""Settings of the release that are not here, at the values that leave nothing out."""
AVERAGES = (("mix", 0.25), ("far", 0.7))
"""Networks that stand for the two averages."""


def checks(given: Given) -> Iterator[Check]:
    """The items, and the decay of the averages."""
    arrays = given.reference.expected.arrays
    if "adaptive.ema_decays" in arrays:
        found = torch.tensor([[decay(nominal, step) for nominal in NOMINAL] for step in STEPS], dtype=torch.float64)
        yield compare("adaptive.ema_decays", found, given.reference.expected.array("adaptive.ema_decays"), LOSS)
    for item in given.items("adaptive"):
        yield from _weighted(given, item) if item.setting("use_self_logit_reweight") else _plain(given, item)


def _plain(given: Given, item: Item) -> Iterator[Check]:
    """Losses without weights, which other methods have too; beta is all of what enters the loss."""
    trained, beta, smoothing = given.trained(), 2 * item.setting("beta"), item.setting("label_smoothing")
    pairs = given.errors(trained)
    losses = {
        "hinge": lambda: hinge(pairs.margin, beta), "robust": lambda: robust(pairs.margin, beta, smoothing),
        "conservative": lambda: logistic(pairs.margin, beta, 1 - smoothing),
    }  # fmt: skip
    loss = pairs.mean(losses[item.setting("loss_type")]())
    loss.backward()
    yield item.check("logits", pairs.margin, LOSS)
    yield item.check_loss(loss, ADAPTIVE)
    yield item.check_share("implicit_acc", pairs.margin > 0)
    yield from given.gradients(item, trained, ADAPTIVE)


def _settings(item: Item) -> adaptive_dpo.Settings:
    keys: dict[str, Any] = {
        "kind": "adaptive_dpo", "beta": 2 * item.setting("beta"), "tau": item.setting("rewight_temparature"),
        "rho": item.setting("logits_rho"), "normalise": item.setting("use_logits_normalization"),
        "weight": WEIGHTS[item.setting("weight_type")], "averages": item.setting("use_ema"),
        "margin": item.setting("margin_type") if item.setting("use_margin") else "none",
        "warm_up": item.setting("ema_warmup_steps"),
    }  # fmt: skip
    if item.setting("loss_type") == "ipo":
        keys["ipo_tau"] = item.setting("ipo_beta")
    return adaptive_dpo.Settings.model_validate(keys)


def _weighted(given: Given, item: Item) -> Iterator[Check]:
    trained, settings = given.trained(), _settings(item)
    pairs = given.errors(trained)
    with torch.no_grad():
        averages = [given.errors(given.trained(getattr(given, name)(share))) for name, share in AVERAGES]
    margins = tuple(found.margin for found in averages) if settings.averages else ()
    active = item.setting("step") >= settings.warm_up or not settings.averages
    pairs = replace(pairs, further=margins if active else None)
    loss = adaptive_dpo.loss(pairs, settings).root
    loss.backward()
    for key, value in SWITCHES.items():
        yield same(f"{item.name}.{key}", value, item.setting(key))
    u, spread = adaptive_dpo.uncertainty(pairs, settings)
    yield item.check("logits", pairs.margin, LOSS)
    if item.has("logits_ema1"):
        for n, found in enumerate(averages, 1):  # 0 in the warm-up, in which the release evaluates no average
            yield item.check(f"logits_ema{n}", found.margin if active else 0 * found.margin, ADAPTIVE)
    if item.has("std"):
        yield item.check("std", spread, ADAPTIVE)
    yield item.check("weight", u, ADAPTIVE)
    yield item.check("batch_weight", adaptive_dpo.weights(u, settings), ADAPTIVE)
    yield item.check_loss(loss, ADAPTIVE)
    yield item.check_share("implicit_acc", pairs.margin > 0)
    yield from given.gradients(item, trained, ADAPTIVE)
