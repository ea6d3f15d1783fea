"""AlignProp: the reward's gradient through the last steps, with both habits of the released code.

Items named `*_once` map images to [0, 1] once, which the release does not do; all else is that of the item without.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace

import torch
from torch import Tensor

from stages.finetune.families.reward_gradient import RewardGradient
from stages.finetune.methods import alignprop
from stages.models.noise import GivenNoise
from stages.parity.checks import Check, same
from stages.parity.stepwise.given import IMAGE, VALUE, Given, Item, guidance, objective
from stages.rewards.open_clip import OpenClip

SAMPLERS = {1.0: "ddpm", 0.0: "ddim"}  # by eta
ONCE = "_once"
CROP = slice(28, 36)  # the rows and columns of images that the set holds


def checks(given: Given) -> Iterator[Check]:
    """Every item of AlignProp."""
    items = {item.name: item for item in given.items("alignprop")}
    for name, item in items.items():
        yield from _item(given, item, items[name.removesuffix(ONCE)])


def _item(given: Given, item: Item, settings: Item) -> Iterator[Check]:
    noise, trained, seen = given.reference.inputs["alignprop.noise"], given.trained(), {}
    judge = given.reference.reward
    scorer = OpenClip("scorer", judge.model, replace(judge.preprocess, interpolation="bilinear"), judge._tokenize)

    def score(images: Tensor, prompts: list[str]) -> Tensor:
        seen["images"], seen["scores"] = images.detach(), scorer(images, prompts)
        return seen["scores"]

    k, coefficient = settings.setting("K"), settings.setting("loss_coeff")
    run = given.run(
        trained.denoiser, settings.setting("steps"), guidance(settings), score,  # type: ignore[arg-type]
        sampler=SAMPLERS[float(settings.setting("eta"))], reward_scale=coefficient, reward_offset=-1.0,
    )  # fmt: skip
    released = {"noisy_end": True, "denormalise_twice": item is settings}
    made = objective(alignprop, run, truncate=[k, k + 1], as_released=released)
    assert isinstance(made, RewardGradient)
    judged = made.run.reward.decode

    def decode(x0: Tensor) -> Tensor:
        seen["x0"] = x0.detach()
        return judged(x0)

    made.run = replace(made.run, reward=replace(made.run.reward, decode=decode))
    rows = range(len(given.reference.prompts))
    batch = given.batch(rows, GivenNoise(given.reference.inputs["x_T"], noise, {}))
    [loss] = made.losses([batch])
    loss.root.backward()
    if item is settings:
        yield item.check("x0", seen["x0"], VALUE)
        yield same(
            f"{item.name}.first_gradient_step", settings.setting("steps") - k, item.setting("first_gradient_step")
        )
        with torch.no_grad():
            images = given.reference.vae.decode(seen["x0"])
        yield item.check("image_crop", images[:, :, CROP, CROP], IMAGE)
        item.leave("words, not numbers", "note")
    yield item.check("scores", seen["scores"], VALUE)
    yield item.check("loss", loss.terms["loss"], VALUE)
    yield from given.gradients(item, trained)
