"""Images with everything that was computed of them once, for all metrics to share."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, TypeAlias

import numpy as np

from stages import sight

if TYPE_CHECKING:
    from stages.sight import Sight


@dataclass(frozen=True)
class ScoredImages:
    """`n` images: a batch for metrics of an image, the images of one prompt for metrics of a prompt."""

    prompts: tuple[str, ...]
    pixels: np.ndarray
    """uint8 [n, H, W, 3]."""
    rewards: Mapping[str, np.ndarray] = field(default_factory=dict)
    """Model name to float64 [n], in the order of the study file."""
    clipscore: np.ndarray | None = None
    """float64 [n] in [-1, 1]; None where the study names no such model."""
    embeddings: Mapping[str, np.ndarray] = field(default_factory=dict)
    """Model name to float32 [n, D], not normalised."""
    patches: Mapping[str, np.ndarray] = field(default_factory=dict)
    """Model name to float32 [n, N, D], not normalised, N places in reading order."""
    distances: Mapping[str, np.ndarray] = field(default_factory=dict)
    """Model name to float32 [n, D], whose squared Euclidean distances are the model's distances of images."""
    seen: Sight | None = None
    """What the first oracle among the rewards sees; None without one."""
    oracle: str = ""
    """The kind of that oracle."""

    def __len__(self) -> int:
        return len(self.prompts)

    def take(self, rows: Sequence[int] | np.ndarray) -> ScoredImages:
        """The images at `rows`."""
        index = np.asarray(rows, np.int64)
        return ScoredImages(
            prompts=tuple(self.prompts[row] for row in index),
            pixels=self.pixels[index],
            rewards={name: values[index] for name, values in self.rewards.items()},
            clipscore=None if self.clipscore is None else self.clipscore[index],
            embeddings={name: values[index] for name, values in self.embeddings.items()},
            patches={name: values[index] for name, values in self.patches.items()},
            distances={name: values[index] for name, values in self.distances.items()},
            seen=None if self.seen is None else sight.take(self.seen, index),
            oracle=self.oracle,
        )


@dataclass(frozen=True)
class Verdict:
    """A batch of images as it was scored, and the values [n] of all metrics of an image."""

    images: ScoredImages
    values: Mapping[str, np.ndarray]


Scoring: TypeAlias = Callable[[int, list[dict[str, Any]], np.ndarray], Verdict]
"""Judges a batch: its number, its rows of the samples table, its pixels uint8 [n, H, W, 3]."""


def join(parts: Sequence[ScoredImages]) -> ScoredImages:
    """The images of all `parts`, which were scored by the same models, in that order."""
    first = parts[0]
    if len(parts) == 1:
        return first
    scores = [part.clipscore for part in parts if part.clipscore is not None]
    return ScoredImages(
        prompts=tuple(prompt for part in parts for prompt in part.prompts),
        pixels=np.concatenate([part.pixels for part in parts]),
        rewards={name: np.concatenate([part.rewards[name] for part in parts]) for name in first.rewards},
        clipscore=np.concatenate(scores) if scores else None,
        embeddings={name: np.concatenate([part.embeddings[name] for part in parts]) for name in first.embeddings},
        patches={name: np.concatenate([part.patches[name] for part in parts]) for name in first.patches},
        distances={name: np.concatenate([part.distances[name] for part in parts]) for name in first.distances},
        seen=None if first.seen is None else sight.join([part.seen for part in parts if part.seen is not None]),
        oracle=first.oracle,
    )
