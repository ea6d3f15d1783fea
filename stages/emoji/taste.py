"""What the annotators of the emoji world truly prefer: utilities in closed form over what is seen in an image.

No term names a tone or a gender. The constants were set on real images and the annotators' drawings alone, before any
alignment was run (docs/emoji-world.md).
"""

from __future__ import annotations

from typing import Literal, Protocol, get_args

import numpy as np

Taste = Literal["both", "coarse", "fine"]
TASTES: tuple[Taste, ...] = get_args(Taste)


class Looks(Protocol):
    """What utilities are made of, arrays [n]: `stages.emoji.oracle.Seen` says what each is."""

    @property
    def right(self) -> np.ndarray: ...
    @property
    def distance(self) -> np.ndarray: ...
    @property
    def colourfulness(self) -> np.ndarray: ...
    @property
    def contrast(self) -> np.ndarray: ...
    @property
    def sharpness(self) -> np.ndarray: ...
    @property
    def excess(self) -> np.ndarray: ...


def utility(seen: Looks, taste: Taste = "both") -> np.ndarray:
    """float64 [n]: caption and soundness, which every taste has, and the terms of the taste."""
    terms = {"coarse": coarse, "fine": fine, "both": lambda each: (coarse(each) + fine(each)) / np.sqrt(2)}
    return shown(seen) + terms[taste](seen)


def shown(seen: Looks) -> np.ndarray:
    """What every taste has: the caption and soundness."""
    return 3.0 * seen.right - broken(seen)


def coarse(seen: Looks) -> np.ndarray:
    """Large-scale terms: colourfulness and contrast."""
    return seen.colourfulness / 20 + np.clip(seen.contrast, 0, 0.4) / 0.1


def fine(seen: Looks) -> np.ndarray:
    """Small-scale terms: edges as sharp as those of the real image, and no others."""
    return 8 * np.clip(seen.sharpness, 0, 1.2) - 3 * np.clip(seen.excess, 0, 1)


def broken(seen: Looks) -> np.ndarray:
    """0 for an image that is as near to a real one as real drawings in other colours are, up to 4."""
    return np.clip((seen.distance - 0.12) / 0.04, 0, 4)
