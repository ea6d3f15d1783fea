"""Randomness as a function: the noise of an image depends on (seed, key, candidate, step) and on nothing else.

Batch size, order, rank and device count never change it, so image n can be made again alone, and every method and
strategy is compared on the same noise. Samplers that hold several candidates of an image number them from 0; candidate
0 has the noise of an image without others.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field, replace
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

    def uniform(self, name: str, count: int) -> Tensor:
        """`count` named draws per row, float64 [B, count], uniform in [0, 1)."""
        ...

    def rows(self, rows: Sequence[int], candidates: Sequence[int]) -> Noise:
        """The noise of the chosen rows, each as the candidate of its image with that number."""
        ...


@dataclass(frozen=True)
class KeyedNoise:
    """Noise of a batch whose rows have `keys`, such as (prompt id, sample index); drawn on the CPU, the same on any
    device.

    `candidates` are the numbers of the rows among the candidates of their image, None where all are 0.
    """

    seed: int
    keys: Sequence[tuple[object, ...]]
    shape: tuple[int, ...]
    device: torch.device
    candidates: Sequence[int] | None = None

    def initial(self) -> Tensor:
        """x_T of the batch."""
        return self._draw("initial")

    def step(self, i: int) -> Tensor:
        """The draw of the step at index i."""
        return self._draw(f"step {i}")

    def extra(self, name: str) -> Tensor:
        """A further named draw."""
        return self._draw(name)

    def uniform(self, name: str, count: int) -> Tensor:
        """`count` named draws per row."""
        found = torch.empty(len(self.keys), count, dtype=torch.float64)
        for row, generator in zip(found, self._generators(name), strict=True):
            torch.rand(count, generator=generator, out=row, dtype=torch.float64)
        return found.to(self.device, non_blocking=True)

    def rows(self, rows: Sequence[int], candidates: Sequence[int]) -> KeyedNoise:
        """The chosen rows. A candidate keeps its noise whichever latents resampling puts into its row."""
        return replace(self, keys=[self.keys[row] for row in rows], candidates=candidates)

    def _draw(self, what: str) -> Tensor:
        rows = torch.empty(len(self.keys), *self.shape)
        for row, generator in zip(rows, self._generators(what), strict=True):
            torch.randn(self.shape, generator=generator, out=row)
        return rows.to(self.device, non_blocking=True)

    def _generators(self, what: str) -> Iterator[torch.Generator]:
        """One generator, seeded anew for each row."""
        generator = torch.Generator()
        for key, candidate in zip(self.keys, self.candidates or [0] * len(self.keys), strict=True):
            own = ("candidate", candidate) if candidate else ()
            generator.manual_seed(seed_from("noise", self.seed, *key, *own, what))
            yield generator


@dataclass(frozen=True)
class GivenNoise:
    """Noise read from arrays: `start` [B, ...], `steps` [T, B, ...], `named` and `uniforms`; for comparison with other
    code. Its row n is candidate 0 of image n.
    """

    start: Tensor
    steps: Tensor
    named: dict[str, Tensor]
    uniforms: dict[str, Tensor] = field(default_factory=dict)

    def initial(self) -> Tensor:
        """The given x_T."""
        return self.start

    def step(self, i: int) -> Tensor:
        """The given draw of index i."""
        return self.steps[i]

    def extra(self, name: str) -> Tensor:
        """The given draw of that name."""
        return self.named[name]

    def uniform(self, name: str, count: int) -> Tensor:
        """The first `count` given numbers of that name."""
        return self.uniforms[name][:, :count]

    def rows(self, rows: Sequence[int], candidates: Sequence[int]) -> GivenNoise:
        """The chosen rows; raises ValueError for a candidate that is not given."""
        if any(candidates):
            raise ValueError("given noise has one candidate per image")
        place = list(rows)
        named, uniforms = (
            {name: value[place] for name, value in given.items()} for given in (self.named, self.uniforms)
        )
        return GivenNoise(self.start[place], self.steps[:, place], named, uniforms)
