"""What every strategy and run is asked for: the same prompts, the same samples, the same noise."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch

from stages.encode.store import Encodings, Item
from stages.models.noise import KeyedNoise


@dataclass(frozen=True)
class Group:
    """Images to make together, all of one prompt or of several: the prompt and the sample number of each, from row
    `first` of the suite on.
    """

    first: int
    items: Sequence[Item]
    samples: Sequence[int]
    noise: KeyedNoise

    def __len__(self) -> int:
        return len(self.items)


@dataclass(frozen=True)
class Suite:
    """The evaluation prompts, each `samples_per_prompt` times, samples of a prompt adjacent; noise of (seed,
    prompt, sample).
    """

    encodings: Encodings
    seed: int
    samples_per_prompt: int
    batch_size: int
    device: torch.device

    def groups(self) -> list[Group]:
        """All rows of the suite in order, cut between prompts into groups of at most `batch_size` rows, or of one
        prompt where that has more; the cut never changes the noise.
        """
        items, each = self.encodings.prompts("eval"), self.samples_per_prompt
        prompts = max(1, self.batch_size // each)
        return [self._group(first * each, items[first : first + prompts]) for first in range(0, len(items), prompts)]

    def _group(self, first: int, items: list[Item]) -> Group:
        rows = [(item, n) for item in items for n in range(self.samples_per_prompt)]
        keys = [("eval", item.item_id, n) for item, n in rows]
        noise = KeyedNoise(self.seed, keys, self.encodings.latent_shape(), self.device)
        return Group(first, [item for item, _ in rows], [n for _, n in rows], noise)
