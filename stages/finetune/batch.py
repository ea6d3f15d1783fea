"""What a method is given and what it gives back."""

from __future__ import annotations

import random
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import Protocol

from torch import Tensor

from stages.finetune.settings import MethodSettings
from stages.finetune.tools import Tools
from stages.models.conditioning import Conditioning
from stages.models.noise import Noise


@dataclass(frozen=True)
class Batch:
    """One micro-batch: `prompts` [B], the conditioning on them, `text` [B], and the noise of each row.

    `clean` [B, C, h, w] are scaled latents of real images captioned by the prompts, None for methods that need no
    images.
    `micro` counts micro-batches from 0 over the whole training. `further(first, count)` are rows of a draw of training
    prompts that belongs to this micro-batch, beside its own, with noise of their own and no images. `rolled` are an
    index and the latents [B, C, h, w] that enter it, where they were made before the step (`stages.finetune.together`).
    """

    prompts: Sequence[str]
    text: Conditioning
    noise: Noise
    rng: random.Random
    micro: int
    clean: Tensor | None = None
    further: Callable[[int, int], Batch] | None = None
    rolled: tuple[int, Tensor] | None = None

    def draw(self, window: tuple[int, int]) -> int:
        """An index drawn uniformly from window[0] <= i < window[1], one for the whole micro-batch."""
        return self.rng.randrange(*window)


@dataclass(frozen=True)
class Likeness:
    """A further term of the loss: `weight` times the mean of 1 - cosine between the reward's features of the judged
    images and of the real ones, whose latents are `real` [N, C, h, w].

    ImageReFL's code, image_refl_trainer_v2.py. There features are CLIP ViT-B/32's and real images come from their
    files; here they are decoded from their latents.
    """

    weight: float
    real: Tensor


@dataclass(frozen=True)
class Judged:
    """The clean latents a method wants judged, [N, C, h, w] with a graph to the policy, and the prompt of each.

    `penalties` are further terms of the loss: name to (weight, scalar tensor). `likeness` is one on the images.
    """

    x0: Tensor
    prompts: Sequence[str]
    penalties: dict[str, tuple[float, Tensor]] = field(default_factory=dict)
    likeness: Likeness | None = None


class Step(Protocol):
    """The function `step` of a method's module."""

    def __call__(self, tools: Tools, batch: Batch, settings: MethodSettings) -> Judged: ...


class Ahead(Protocol):
    """The function `ahead` that a method's module may have.

    The index to which its step rolls a micro-batch out from noise without gradient, None where it does not; the trainer
    then does so for several micro-batches at once, and `Tools.from_noise` has it at hand. It draws what the step draws.
    """

    def __call__(self, tools: Tools, batch: Batch, settings: MethodSettings) -> int | None: ...
