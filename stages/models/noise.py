"""Randomness as a function: the noise of an image depends on (seed, key, candidate, step) and on nothing else.

Batch size, order, rank and device count never change it, so image n can be made again alone, and every method and
strategy is compared on the same noise. Samplers that hold several candidates of an image number them from 0; candidate
0 has the noise of an image without others.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Protocol

import torch
from torch import Tensor

from stages.runtime import seed_from


class Noise(Protocol):
    """Where a sampler takes its random draws from."""

    def initial(self) -> Tensor:
        """x_T of the batch, [B, C, h, w], standard normal."""
        ...

    def step(self, i: int) -> Tensor:
        """The draw of the ancestral step at index i, [B, C, h, w]."""
        ...

    def extra(self, name: str) -> Tensor:
        """A further named draw of the same shape (posterior sample, forward noise, ...)."""
        ...


@dataclass(frozen=True)
class KeyedNoise:
    """Noise of a batch whose rows have `keys`, say (prompt id, sample index); drawn on the CPU, the same on any
    device.

    `candidates` are the numbers of the rows among the candidates of their image, None where all are 0.
    """

    seed: int
    keys: Sequence[tuple[object, ...]]
    shape: tuple[int, ...]
    device: torch.device
    candidates: Sequence[int] | None = None

    def repeated(self, count: int, first: int = 0) -> KeyedNoise:
        """The noise of `count` candidates of each image, numbered from `first`: row n of the batch becomes the rows
        n count to n count + count - 1. A candidate keeps its noise whichever states resampling puts into its row.

        Raises ValueError for noise that has candidates already.
        """
        if self.candidates is not None:
            raise ValueError("this noise is that of candidates already")
        keys = [key for key in self.keys for _ in range(count)]
        return replace(self, keys=keys, candidates=[first + n for _ in self.keys for n in range(count)])

    def initial(self) -> Tensor:
        """x_T of the batch."""
        return self._draw("initial")

    def step(self, i: int) -> Tensor:
        """The draw of the step at index i."""
        return self._draw(f"step {i}")

    def extra(self, name: str) -> Tensor:
        """A further named draw."""
        return self._draw(name)

    def _draw(self, what: str) -> Tensor:
        rows = torch.empty(len(self.keys), *self.shape)
        generator = torch.Generator()
        candidates = self.candidates or [0] * len(self.keys)
        for row, key, candidate in zip(rows, self.keys, candidates, strict=True):
            which = ("candidate", candidate) if candidate else ()
            generator.manual_seed(seed_from("noise", self.seed, *key, *which, what))
            torch.randn(self.shape, generator=generator, out=row)
        return rows.to(self.device, non_blocking=True)


@dataclass(frozen=True)
class GivenNoise:
    """Noise read from arrays: `start` [B, ...], `steps` [T, B, ...], `named` draws; for comparison with other code."""

    start: Tensor
    steps: Tensor
    named: dict[str, Tensor]

    def initial(self) -> Tensor:
        """The given x_T."""
        return self.start

    def step(self, i: int) -> Tensor:
        """The given draw of index i."""
        return self.steps[i]

    def extra(self, name: str) -> Tensor:
        """The given draw of that name."""
        return self.named[name]
