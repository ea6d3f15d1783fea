"""What every strategy and run is asked for: the same prompts, the same samples, the same noise."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch

from stages.encode.store import Encodings, Item
from stages.models.noise import KeyedNoise


@dataclass(frozen=True)
class Batch:
    """Images to make together: the prompt and the sample number of each, from row `first` of the suite on."""

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

    def batches(self) -> list[Batch]:
        """All rows of the suite in order, cut into batches; the cut never changes the noise."""
        rows = [(item, n) for item in self.encodings.prompts("eval") for n in range(self.samples_per_prompt)]
        return [
            self._batch(first, rows[first : first + self.batch_size]) for first in range(0, len(rows), self.batch_size)
        ]

    def _batch(self, first: int, rows: list[tuple[Item, int]]) -> Batch:
        keys = [("eval", item.item_id, n) for item, n in rows]
        noise = KeyedNoise(self.seed, keys, self.encodings.latent_shape(), self.device)
        return Batch(first, [item for item, _ in rows], [n for _, n in rows], noise)
