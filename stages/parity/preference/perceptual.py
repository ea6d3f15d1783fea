"""NCP-DPO: states one step down, their features under the frozen UNet, and the losses of errors between these."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import torch

from stages.finetune.families.pair_errors import Noisy, Outputs, PairErrors, both
from stages.finetune.families.perceptual import chosen, moved, perceptual_errors, seen
from stages.finetune.methods import ncp_dpo
from stages.parity.checks import Check, compare, same
from stages.parity.preference.given import Given, Item, Trained, values

SWITCHES = {"use_upsample_states_num": None, "encoder_loss_coeff": 1.0}
"""Settings of the release that are not here, at the values that leave nothing out."""
SPACE = 1e-3
"""What the set's README recommends for NCP."""


def checks(given: Given) -> Iterator[Check]:
    """The items."""
    for item in given.items("ncp"):
        yield from _loss(given, item)


def settings_of(item: Item) -> ncp_dpo.Settings:
    """The settings of an item; half of beta enters the loss here, all of it in the release."""
    features = "all" if item.setting("collect_intermediate_steps") else "down"
    if features == "down" and item.setting("use_middle_states"):
        features = "middle"
    space: dict[str, Any] = {
        "features": features, "pooled": item.setting("pool_encoder"),
        "state": "previous" if item.setting("timestep") == "t-1" else "uniform",
        "network": "policy" if item.setting("use_current_unet") else "base",
    }  # fmt: skip
    keys: dict[str, Any] = {"kind": "ncp_dpo", "beta": 2 * item.setting("beta"), "space": space}
    keys["plain_weight"] = 1.0 if item.setting("method") == "both" else 0.0
    if item.setting("loss_type") == "cpo":
        keys["reference"] = {"kind": "none"}
    return ncp_dpo.Settings.model_validate(keys)


def _loss(given: Given, item: Item) -> Iterator[Check]:
    trained, settings, inputs = given.trained(), settings_of(item), given.inputs
    clean, text = both(given.pairs, given.text)
    t, noise, step = (torch.cat([inputs[n]] * 2) for n in ("ncp_timesteps", "pair_noise", "ncp_step_noise"))
    noisy = Noisy(given.reference.schedule.noised(clean, noise, t), t, text, noise)
    reference = given.base.prediction if settings.reference.kind != "none" else None
    outputs = Outputs.of(trained.denoiser.prediction, reference, noisy)
    to = torch.cat([inputs["ncp_timesteps2"]] * 2) if settings.space.state == "uniform" else None
    view = trained.denoiser if settings.space.network == "policy" else given.base
    found = seen(view, settings.space, outputs, noisy, step, to)
    ones = torch.ones(len(given.text))
    errors = perceptual_errors(found, outputs, noisy, settings.plain_weight, ones, ones)
    loss = ncp_dpo.loss(errors, settings).root
    loss.backward()
    yield from _compared(given, item, trained, errors, settings)
    yield item.check_loss(loss, SPACE)
    yield from _switches(item)
    yield same(
        f"{item.name}.feature_shape", [len(found.target), *found.target.shape[1:]], item.setting("feature_shape")
    )
    if item.has("x_prev"):
        schedule = given.reference.schedule
        for name, prediction in (("x_prev", outputs.target), ("x_prev_pred", outputs.prediction)):
            yield item.check(name, moved(schedule, noisy, prediction, step, to)[0], SPACE)
        state, later = moved(schedule, noisy, outputs.target, step, to)
        with torch.no_grad():
            yield item.check("features", chosen(view.features(state, later, text), settings.space), SPACE)


def _compared(
    given: Given, item: Item, trained: Trained, errors: PairErrors, settings: ncp_dpo.Settings
) -> Iterator[Check]:
    yield item.check("model_losses", values(errors), SPACE)
    if item.has("ref_losses"):
        yield item.check("ref_losses", values(errors, base=True), SPACE)
    yield item.check("logits", errors.margin, SPACE)
    yield item.check_share("implicit_acc", errors.margin > 0)
    yield compare(f"{item.name}.beta", settings.beta / 2, item.setting("beta"), SPACE)
    yield from given.gradients(item, trained, SPACE)


def _switches(item: Item) -> Iterator[Check]:
    for key, value in SWITCHES.items():
        yield same(f"{item.name}.{key}", value, item.setting(key))
    # the scaling of layers goes with taking all of them
    every = item.setting("collect_intermediate_steps")
    yield same(f"{item.name}.normalize_intermediate_steps", every, item.setting("normalize_intermediate_steps"))
