"""Diffusion-KTO (Li et al. 2024): the utility of images that are liked or disliked, each by itself."""

from __future__ import annotations

from typing import TYPE_CHECKING, Literal

from pydantic import Field

from stages.about import MethodAbout
from stages.finetune.families.pair_settings import UnpairedSettings
from stages.finetune.family import unpaired_preference

if TYPE_CHECKING:
    from torch import Tensor

    from stages.finetune.families.unpaired import ImageErrors
    from stages.finetune.objective import Loss

ABOUT = MethodAbout("Diffusion-KTO", "Li et al. 2024, arXiv 2404.04465", family="preference")
Utility = Literal["sigmoid", "loss_averse", "risk_seeking_1", "risk_seeking_2", "risk_seeking_3"]
Point = Literal["none", "sigmoid", "original"]


class Settings(UnpairedSettings):
    """Diffusion-KTO's own keys."""

    likes: float = Field(default=0.8, gt=0, lt=1, description="share of liked images, as released")
    beta: float = Field(
        default=1000.0,
        gt=0,
        description="all of it enters the loss, as in the paper and the release; with Diffusion-DPO's half it is 2000",
    )
    utility: Utility = Field(
        default="sigmoid", description="of a gain; the published results are those of the sigmoid, see docs/methods.md"
    )
    point: Point = Field(
        default="none",
        description="z0, the gain that counts as none: the mean gain over the micro-batch, at least 0; the average of "
        "the means over liked and disliked images; or the mean gain with the prompts of other images",
    )
    liked_weight: float = Field(default=1.0, gt=0, description="weight of liked images in the loss")
    disliked_weight: float = Field(default=1.0, gt=0, description="weight of disliked images in the loss")
    group_as_released: bool = Field(
        default=False,
        description="the released option kto_gp: one utility of the mean gain, which is not scaled by beta, with the "
        "gradient of the mean scaled gain",
    )


def reference_point(images: ImageErrors, rule: Point) -> Tensor:
    """z0 [], without gradient, from the gains g = r - e of the images of all processes."""
    gain = images.errors.log_ratio.detach()
    if rule == "sigmoid":
        sides = [images.mean_where(gain, liked) for liked in (True, False)]
        there = [bool((images.of_all((images.liked == liked).to(gain)) > 0).any()) for liked in (True, False)]
        # a micro-batch of one kind has one mean
        return sum(side for side, any_ in zip(sides, there, strict=True) if any_) / gain.new_tensor(sum(there))
    if rule == "original":
        assert images.mismatched is not None
        return images.of_all(images.mismatched.log_ratio).mean()
    return images.of_all(gain).mean().clamp(min=0)


def utility(kind: Utility, gain: Tensor, sign: Tensor, beta: float) -> Tensor:
    """h [N] of gains g - z0 [N], sign 1 for liked and -1 for disliked images (the release's train.py)."""
    import torch
    from torch.nn.functional import logsigmoid

    signed = sign * beta * gain
    if kind == "sigmoid":
        return torch.sigmoid(signed)
    if kind == "loss_averse":
        return logsigmoid(signed)
    if kind == "risk_seeking_1":
        return -sign * logsigmoid(-beta * gain)
    if kind == "risk_seeking_2":
        return sign * torch.exp(beta * gain / 100) - 1
    return -logsigmoid(-signed)


def loss(images: ImageErrors, settings: Settings) -> Loss:
    """w (1 - h), w the weight of liked or of disliked images."""
    import torch

    from stages.finetune import stop
    from stages.finetune.objective import Loss

    point = reference_point(images, settings.point)
    gain = images.errors.log_ratio - point
    sign = 2 * images.liked.to(gain) - 1
    weight = torch.where(images.liked, settings.liked_weight, settings.disliked_weight).to(gain)
    right = (sign * gain > 0).float().mean()
    if settings.group_as_released:
        scaled = images.mean(weight * sign * settings.beta * gain)
        value = images.of_all(images.errors.log_ratio).mean() + scaled - stop.gradient(scaled)
        return Loss.of(1 - torch.sigmoid(value), accuracy=right, point=point)
    each = weight * (1 - utility(settings.utility, gain, sign, settings.beta))
    return Loss.of(images.mean(each), accuracy=right, point=point)


METHOD = unpaired_preference(Settings, loss, mismatched=lambda own: own.point == "original")
