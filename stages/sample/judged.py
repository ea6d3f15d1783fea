"""What a reward says of images and where its gradient goes, held against what a search can work with."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

from stages.errors import InputError
from stages.rewards.base import Reward


def gradient_of(score: Tensor, x: Tensor, keep: bool = False) -> Tensor:
    """The gradient [B, ...] of the sum of scores [B] with respect to x [B, ...]; `keep` leaves the graph for another.

    Raises InputError where there is none, or one that is not finite: latents would become NaN unnoticed.
    """
    found = None
    if score.requires_grad:
        (found,) = torch.autograd.grad(score.sum(), x, retain_graph=keep, allow_unused=True)
    if found is None or not bool(torch.isfinite(found).all()):
        what = "none" if found is None else "one that is not finite"
        raise InputError(f"sampling: expected a gradient with respect to the latents, found {what}")
    return found


def judged(reward: Reward, name: str, images: Tensor, prompts: Sequence[str]) -> Tensor:
    """Rewards [B], float32 or more precise, of images [B, 3, H, W] by the model `name` of the study.

    Raises InputError where they are not one finite number for each image, or have no gradient where the images do: a
    search along the gradient would stand still.
    """
    found, said = reward(images, prompts), f"sampling: reward {name!r}"
    if not isinstance(found, Tensor) or found.shape != (len(images),):
        what = f"shape {list(found.shape)}" if isinstance(found, Tensor) else f"a {type(found).__name__}"
        raise InputError(f"{said}: found {what} for {len(images)} images, expected a tensor of shape [{len(images)}]")
    if not bool(torch.isfinite(found).all()):
        if not bool(torch.isfinite(images).all()):  # the reward is not to blame
            raise InputError(f"{said} was asked about an image that is not finite; too large a strength or step?")
        raise InputError(f"{said} gave a value that is not finite")
    if torch.is_grad_enabled() and images.requires_grad and not found.requires_grad:
        raise InputError(f"{said} gave no gradient with respect to the images, which the strategy follows")
    return found.to(torch.promote_types(found.dtype, torch.float32))  # of half precision sums would be rounded again
