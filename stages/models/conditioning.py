"""What a denoiser is told about each image besides its noisy latents and the time."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, fields
from typing import overload

import torch
from torch import Tensor


@dataclass(frozen=True)
class Conditioning:
    """Rows of conditions, one per image; what a model does not use is None.

    `text` [B, length, width] are token embeddings and `mask` [B, length] is 1 where a token is no padding (PixArt).
    `pooled` [B, width] is an embedding of the whole text (SDXL, SD3). `size` [B, 6] holds the height and width that an
    image had, the corner it was cut at, and the height and width it is made at (SDXL's time ids; PixArt at 1024).
    """

    text: Tensor
    pooled: Tensor | None = None
    mask: Tensor | None = None
    size: Tensor | None = None

    @overload
    @classmethod
    def of(cls, given: Conditioning | Tensor) -> Conditioning: ...
    @overload
    @classmethod
    def of(cls, given: None) -> None: ...
    @classmethod
    def of(cls, given: Conditioning | Tensor | None) -> Conditioning | None:
        """`given` itself, or the conditioning on token embeddings alone."""
        return cls(given) if isinstance(given, Tensor) else given

    @classmethod
    def cat(cls, parts: Sequence[Conditioning]) -> Conditioning:
        """The rows of all parts one after the other; every part has the same fields."""
        columns = {name: [getattr(part, name) for part in parts] for name in FIELDS}
        return cls(**{name: torch.cat(column) for name, column in columns.items() if column[0] is not None})

    def __len__(self) -> int:
        return len(self.text)

    def __getitem__(self, rows: slice | Tensor | list[int]) -> Conditioning:
        """The chosen rows."""
        return self.map(lambda value: value[rows])

    @property
    def device(self) -> torch.device:
        """Where the tensors are."""
        return self.text.device

    def map(self, change: Callable[[Tensor], Tensor]) -> Conditioning:
        """`change` applied to every tensor."""
        return Conditioning(**{name: change(value) for name, value in self.tensors().items()})

    def tensors(self) -> dict[str, Tensor]:
        """The tensors that are there, by field."""
        return {name: value for name in FIELDS if (value := getattr(self, name)) is not None}

    def to(self, where: torch.device | torch.dtype | str) -> Conditioning:
        """On another device, or in another type."""
        return self.map(lambda value: value.to(where))

    def expand(self, count: int) -> Conditioning:
        """A single row `count` times."""
        return self.map(lambda value: value.expand(count, *value.shape[1:]))

    def mixed(self, own: float, other: Conditioning, weight: float) -> Conditioning:
        """own * embeddings + weight * those of `other`, row by row; tokens of either are no padding, sizes stay."""
        mask = None if self.mask is None or other.mask is None else torch.maximum(self.mask, other.mask)
        pooled = None if self.pooled is None or other.pooled is None else own * self.pooled + weight * other.pooled
        return Conditioning(own * self.text + weight * other.text, pooled, mask, self.size)

    def repeat(self, times: int) -> Conditioning:
        """All rows `times` times, one copy after the other."""
        return self.map(lambda value: torch.cat([value] * times))


FIELDS = tuple(field.name for field in fields(Conditioning))


def sizes(count: int, height: int, width: int) -> Tensor:
    """`size` [count, 6] of whole images of `height` x `width` pixels."""
    return torch.tensor([[height, width, 0, 0, height, width]], dtype=torch.float32).expand(count, 6)
