"""One micro-batch."""

from __future__ import annotations

import random
from collections.abc import Callable, Sequence
from dataclasses import dataclass

from torch import Tensor

from stages.models.conditioning import Conditioning
from stages.models.noise import Noise


@dataclass(frozen=True)
class LatentPairs:
    """Two images for each row: scaled latents of the preferred one, `winner`, and of the other, `loser` [B, C, h, w].

    `label` [B] is the probability that the winner is preferred, `weight` [B] that of the pair in the loss. `loser_text`
    [B] conditions the losers where their text is another one than that of the row, `winner_text` the winners.
    `captions` are the winners' own captions and the losers', [B] each, where the data has them; methods that learn from
    them use them as the texts. `annotators` [B] says who judged, empty texts where nobody is named.
    """

    winner: Tensor
    loser: Tensor
    label: Tensor
    weight: Tensor
    loser_text: Conditioning | None = None
    winner_text: Conditioning | None = None
    captions: tuple[Conditioning, Conditioning] | None = None
    annotators: Sequence[str] = ()


@dataclass(frozen=True)
class Batch:
    """One micro-batch: `prompts` [B], the conditioning on them, `text` [B], and the noise of each row.

    `clean` [B, C, h, w] are scaled latents of real images captioned by the prompts, `pairs` pairs of images for the
    prompts; each is None for methods that do not need it. `micro` counts micro-batches from 0 over the whole training.
    `further(first, count)` are rows of a draw of training prompts that belongs to this micro-batch, beside its own,
    with noise of their own and no images.
    """

    prompts: Sequence[str]
    text: Conditioning
    noise: Noise
    rng: random.Random
    micro: int
    clean: Tensor | None = None
    further: Callable[[int, int], Batch] | None = None
    pairs: LatentPairs | None = None

    def draw(self, window: tuple[int, int]) -> int:
        """An index drawn uniformly from window[0] <= i < window[1], one for the whole micro-batch."""
        return self.rng.randrange(*window)

    def real(self) -> Tensor:
        """The scaled latents of real images [B, C, h, w]; raises ValueError where the method has declared no need of
        images.
        """
        if self.clean is None:
            raise ValueError("this micro-batch has no real images: the method does not declare that it needs them")
        return self.clean

    def preferences(self) -> LatentPairs:
        """The pairs of images; raises ValueError where the method has declared no need of pairs."""
        if self.pairs is None:
            raise ValueError("this micro-batch has no pairs of images: the method does not declare that it needs them")
        return self.pairs


def optimizer_step(batches: Sequence[Batch]) -> int:
    """The optimizer step (from 0) that these micro-batches make together."""
    return batches[0].micro // len(batches)
