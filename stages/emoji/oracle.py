"""Reads an image of the emoji world: the nearest real image says what it shows, the distance to it how broken it is.

No network is asked. Distance is the root mean square difference of pixels in [0, 1]. The nearest real image gives
concept, vendor, tone and gender; statistics of the image and of the nearest one give what tastes are made of.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from stages.compared import Compared, compared
from stages.emoji.library import read
from stages.emoji.names import TONES
from stages.emoji.packages import Entry
from stages.errors import InputError
from stages.nearest import Nearest
from stages.pictures import decode

NONE = ""


@dataclass(frozen=True, kw_only=True)
class Seen(Compared):
    """What is seen in `n` images, each with its prompt; an image shows what the prompt says where it is of the prompt's
    concept, and of its gender where it names one.
    """

    vendor: np.ndarray
    """int8: number of the nearest image's vendor."""
    tone: np.ndarray
    """int8: number of its tone; -1 where it has none."""
    gender: np.ndarray
    """int8: number of its gender; images that name none have a number too."""
    toned: np.ndarray
    """bool: there are images of several tones of what the prompt names, so it leaves the tone open."""
    ungendered: np.ndarray
    """bool: likewise for the gender."""

    def attributes(self) -> Mapping[str, np.ndarray]:
        """int8 [n]: what the prompt of these images, the same for all, leaves open."""
        found = {"style": self.vendor}
        found |= {"tone": self.tone} if self.toned.all() else {}
        return found | ({"gender": self.gender} if self.ungendered.all() else {})

    def open_attributes(self) -> Mapping[str, np.ndarray]:
        """One-hot float64 [n, D], by name, of what the prompt of these images leaves open."""
        numbers = np.arange(-1, len(TONES))
        return {name: (values[:, None] == numbers).astype(float) for name, values in self.attributes().items()}


class Oracle:
    """The real images, ready to be compared with."""

    def __init__(self, entries: Sequence[Entry], where: str = "the real images") -> None:
        """Raises InputError where the images are not of one size."""
        self.images = _stack(entries, where)
        self.about = [entry.about for entry in entries]
        self.nearest = Nearest(self.images)
        self._vendor, self._tone, self._gender = (
            _numbered([getattr(about, key) for about in self.about]) for key in ("vendor", "tone", "gender")
        )
        self._tone[[about.tone == NONE for about in self.about]] = -1
        self._concepts = _numbered([about.concept for about in self.about], np.int32)
        self._named: dict[str, list[int]] = {}
        for row, about in enumerate(self.about):
            self._named.setdefault(about.caption, []).append(row)

    @classmethod
    def load(cls, path: str | Path) -> Oracle:
        """From Parquet of real images; raises InputError as `library.read` does."""
        return cls(read(path), str(path))

    def see(self, images: np.ndarray, prompts: Sequence[str]) -> Seen:
        """What uint8 images [n, h, w, 3] show, each with its own prompt; no image shows what is no name of an emoji.

        Raises InputError for images of another size than the real ones.
        """
        found, named = compared(images, self.nearest), [self._named.get(prompt, []) for prompt in prompts]
        nearest = found["nearest"]
        return Seen(
            **found,
            right=np.array([self._shows(near, rows) for near, rows in zip(nearest, named, strict=True)], bool),
            vendor=self._vendor[nearest],
            tone=self._tone[nearest],
            gender=self._gender[nearest],
            toned=np.array([len(np.unique(self._tone[rows])) > 1 for rows in named], bool),
            ungendered=np.array([self._leaves_gender_open(rows) for rows in named], bool),
        )

    def _shows(self, near: int, named: list[int]) -> bool:
        """Whether the real image `near` shows what the name of those in `named` says."""
        return any(
            self._concepts[near] == self._concepts[row] and self.about[row].gender in (NONE, self.about[near].gender)
            for row in named
        )

    def _leaves_gender_open(self, named: list[int]) -> bool:
        if not named or any(self.about[row].gender != NONE for row in named):
            return False
        return len(np.unique(self._gender[self._concepts == self._concepts[named[0]]])) > 1


def _numbered(values: Sequence[str], kind: type = np.int8) -> np.ndarray:
    """The number of each value among the distinct ones, which are sorted."""
    return np.unique(np.array(values), return_inverse=True)[1].astype(kind)


def _stack(entries: Sequence[Entry], where: str) -> np.ndarray:
    arrays = [decode(entry.read(), f"{where}: image {entry.name}") for entry in entries]
    sizes = {array.shape for array in arrays}
    if len(sizes) != 1:
        raise InputError(f"{where}: images of {len(sizes)} sizes, expected one")
    return np.stack(arrays)
