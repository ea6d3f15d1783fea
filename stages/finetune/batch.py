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
class Rollout:
    """What a step does before its judged prediction, without gradient: `x` [B, C, h, w], which enter index `start`, go
    on to `stop`, `guided` as the study says or not at all.

    `penalties` are terms of the loss that are known by then, as in `Judged`.
    """

    x: Tensor
    start: int
    stop: int
    guided: bool = True
    penalties: dict[str, tuple[float, Tensor]] = field(default_factory=dict)


@dataclass(frozen=True)
class Rolled:
    """A rollout that was made before the step: `x` [B, C, h, w] enter `index`. `paid` are its penalties, whose gradient
    the parameters have got already.
    """

    index: int
    x: Tensor
    paid: dict[str, tuple[float, Tensor]] = field(default_factory=dict)


@dataclass(frozen=True)
class Batch:
    """One micro-batch: `prompts` [B], the conditioning on them, `text` [B], and the noise of each row.

    `clean` [B, C, h, w] are scaled latents of real images captioned by the prompts, None for methods that need no
    images.
    `micro` counts micro-batches from 0 over the whole training. `further(first, count)` are rows of a draw of training
    prompts that belongs to this micro-batch, beside its own, with noise of their own and no images. `rolled` is what
    the step begins with, where that was made before it (`stages.finetune.together`).
    """

    prompts: Sequence[str]
    text: Conditioning
    noise: Noise
    rng: random.Random
    micro: int
    clean: Tensor | None = None
    further: Callable[[int, int], Batch] | None = None
    rolled: Rolled | None = None

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

    The rollout that its step begins with, None where it begins otherwise. The trainer takes the gradient of the
    penalties at once, so that their graph is gone before the next one is made, and rolls several micro-batches out
    together; the step finds all that in `batch.rolled`. It draws what the step draws.
    """

    def __call__(self, tools: Tools, batch: Batch, settings: MethodSettings) -> Rollout | None: ...
