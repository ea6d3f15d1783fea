"""Diffusion-KTO: its five utilities and three reference points, on labelled images."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import torch
from torch import Tensor

from stages.finetune.families.pair_errors import Errors, Noisy, Outputs
from stages.finetune.families.unpaired import ImageErrors
from stages.finetune.methods import diffusion_kto
from stages.models.diffusion import Denoiser
from stages.parity.checks import Check, compare
from stages.parity.preference.given import LOSS, VALUE, Given, Item, Trained


def checks(given: Given) -> Iterator[Check]:
    """The items, and what they have in common."""
    items = given.items("kto")
    if items:
        yield from _shared(given)
    for item in items:
        yield from _loss(given, item)


def _noisy(given: Given, rows: list[int], other_prompts: bool = False) -> Noisy:
    """Some of the labelled images noised; `other_prompts`: image i of them has the prompt of image i - 1."""
    t, noise = given.inputs["kto_timesteps"][rows], given.inputs["kto_noise"][rows]
    clean, process = given.latents[rows], given.reference.schedule
    prompts = [row % len(given.text) for row in rows]
    prompts = [prompts[-1], *prompts[:-1]] if other_prompts else prompts
    return Noisy(process.noised(clean, noise, t), t, given.text[prompts], process.target(clean, noise))


def _shared(given: Given) -> Iterator[Check]:
    expected, noisy = given.reference.expected, _noisy(given, list(range(len(given.latents))))
    outputs = Outputs.of(given.trained().denoiser.prediction, given.base.prediction, noisy)
    for name, value in (
        ("latents", given.latents), ("noisy_latents", noisy.x), ("model_pred", outputs.prediction),
        ("ref_pred", outputs.reference),
    ):  # fmt: skip
        yield compare(f"kto.{name}", value, expected.array(f"kto.{name}"), VALUE)


def _images(given: Given, item: Item, trained: Trained, reference: Denoiser, mismatched: bool) -> ImageErrors:
    rows = item.setting("items")
    errors = Errors.of(Outputs.of(trained.denoiser.prediction, reference.prediction, _noisy(given, rows)))
    other = None
    if mismatched:
        with torch.no_grad():
            noisy = _noisy(given, rows, other_prompts=True)
            other = Errors.of(Outputs.of(trained.denoiser.prediction, reference.prediction, noisy))
    liked = given.inputs["kto_labels"][rows] == 1
    return ImageErrors(errors, liked, torch.ones(len(rows)), other)


def _settings(item: Item) -> diffusion_kto.Settings:
    group = item.setting("loss_type") == "kto_gp"
    keys: dict[str, Any] = {
        "kind": "diffusion_kto", "beta": item.setting("beta"), "utility": item.setting("halo"),
        "point": item.setting("bce_offset"), "liked_weight": item.setting("lambda_liked"),
        "disliked_weight": item.setting("lambda_disliked"), "group_as_released": group,
    }  # fmt: skip
    return diffusion_kto.Settings.model_validate(keys)


def _loss(given: Given, item: Item) -> Iterator[Check]:
    trained, settings = given.trained(), _settings(item)
    far = item.setting("reference") == "far"
    reference = given.denoiser(given.far(given.config["kto_far"])) if far else given.base
    images = _images(given, item, trained, reference, settings.point == "original")
    loss = diffusion_kto.loss(images, settings)
    loss.root.backward()
    gain = images.errors.log_ratio - diffusion_kto.reference_point(images, settings.point)
    sign = 2 * images.liked.to(gain) - 1
    yield item.check("model_losses", images.errors.policy, VALUE)
    yield item.check("ref_losses", images.errors.base, VALUE)
    if images.mismatched is not None:
        yield item.check("model_losses_mismatched", images.mismatched.policy, VALUE)
        yield item.check("ref_losses_mismatched", images.mismatched.base, VALUE)
    # differences of errors: their tolerance is that of the errors
    unit = float(images.errors.policy.detach().abs().max())
    z0 = item.expected.array(f"{item.name}.z0")
    yield compare(f"{item.name}.z0", loss.terms["point"], z0, VALUE, scale=unit)
    yield item.check("g_minus_z0", gain, LOSS)
    yield item.check("signed_scaled", sign * settings.beta * gain, LOSS)
    yield from _utilities(item, settings, images, gain, sign, loss.root)
    yield item.check_loss(loss.root)
    yield compare(f"{item.name}.accuracy", loss.terms["accuracy"], item.setting("accuracy"), LOSS)
    yield from given.gradients(item, trained)


def _utilities(
    item: Item, settings: diffusion_kto.Settings, images: ImageErrors, gain: Tensor, sign: Tensor, loss: Tensor
) -> Iterator[Check]:
    """The utility and the loss of every image; one of the whole batch where there is one utility of it."""
    if settings.group_as_released:
        yield item.check("utility", (1 - loss)[None], LOSS)
        yield item.check("loss_items", loss[None], LOSS)
        return
    found = diffusion_kto.utility(settings.utility, gain, sign, settings.beta)
    weight = torch.where(images.liked, settings.liked_weight, settings.disliked_weight)
    yield item.check("utility", found, LOSS)
    yield item.check("loss_items", weight * (1 - found), LOSS)
