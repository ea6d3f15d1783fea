"""Reads an image by the nearest of a user's own captioned images: its caption, its attributes, and how far away it is.

No network is asked. What a caption leaves open is seen from the images: an attribute in which those with the caption
differ.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass

import numpy as np

from stages.captioned.library import Library
from stages.compared import Compared, compared
from stages.curate.text import normalised
from stages.errors import InputError
from stages.nearest import Nearest
from stages.params import nearest as similar

LONGEST_HINT = 200
"""Characters of a message that says which captions there are."""


@dataclass(frozen=True, kw_only=True)
class Seen(Compared):
    """What is seen in `n` images, each with its prompt, of A attributes; an image shows what the prompt says where that
    is the caption of the nearest image.
    """

    names: np.ndarray
    """str [n, A]: the attributes' names, the same in every row."""
    values: np.ndarray
    """int32 [n, A]: number of the nearest image's value of each attribute among all its values, sorted."""
    counts: np.ndarray
    """int32 [n, A]: how many values the attribute has among all real images, the same in every row."""
    free: np.ndarray
    """bool [n, A]: real images with the prompt as their caption differ in the attribute."""

    def attributes(self) -> Mapping[str, np.ndarray]:
        """int32 [n]: what the prompt of these images, the same for all, leaves open."""
        each = enumerate(self.names[0]) if len(self) else ()
        return {str(name): self.values[:, column] for column, name in each if self.free[:, column].all()}

    def open_attributes(self) -> Mapping[str, np.ndarray]:
        """One-hot float64 [n, D], by name, of what the prompt of these images leaves open."""
        counts = dict(zip(map(str, self.names[0]), self.counts[0], strict=True)) if len(self) else {}
        return {
            name: (values[:, None] == np.arange(counts[name])).astype(float)
            for name, values in self.attributes().items()
        }


class Oracle:
    """A user's own images, ready to be compared with."""

    def __init__(self, library: Library) -> None:
        self.library, self.nearest = library, Nearest(library.images)
        columns = list(zip(*library.values, strict=True))
        self._values = np.stack([np.unique(column, return_inverse=True)[1] for column in columns], 1).astype(np.int32)
        self._names, self._counts = np.array(library.names), self._values.max(0) + 1
        self._captions = [normalised(text) for text in library.captions]
        rows: dict[str, list[int]] = {}
        for row, text in enumerate(self._captions):
            rows.setdefault(text, []).append(row)
        self._free = {text: (self._values[own] != self._values[own[0]]).any(0) for text, own in rows.items()}

    def captions(self) -> Counter[str]:
        """How many images each caption has."""
        return Counter(self._captions)

    def left_open(self) -> dict[str, int]:
        """By attribute, in how many captions the images of one differ in it."""
        counts = np.sum([*self._free.values()], 0)
        return {str(name): int(count) for name, count in zip(self._names, counts, strict=True)}

    def knows(self, prompt: str) -> bool:
        """Whether the prompt is a caption, compared as `curate` compares prompts."""
        return normalised(prompt) in self._free

    def require(self, prompts: Iterable[str], where: str = "") -> None:
        """Raise InputError that starts with `where` for the first prompt that is the caption of no image."""
        for prompt in prompts:
            if not self.knows(prompt):
                raise InputError(
                    f"{where}prompt {prompt!r} is the caption of none of the {len(self.library.images)} real images, "
                    f"which therefore cannot say whether an image shows it{self._hint(prompt)}"
                )

    def _hint(self, prompt: str) -> str:
        """The nearest caption; nothing in place of a list of hundreds."""
        hint = similar(prompt, set(self.library.captions))
        return hint if len(hint) < LONGEST_HINT else ""

    def see(self, images: np.ndarray, prompts: Sequence[str]) -> Seen:
        """What uint8 images [n, h, w, 3] show, each with its own prompt.

        Raises InputError for a prompt that is no caption, and for images of another size than the real ones.
        """
        self.require(sorted(set(prompts)))
        asked = [normalised(prompt) for prompt in prompts]
        found = compared(images, self.nearest)
        captions = [self._captions[row] for row in found["nearest"]]
        return Seen(
            **found,
            right=np.array([caption == prompt for caption, prompt in zip(captions, asked, strict=True)], bool),
            names=np.tile(self._names, (len(images), 1)),
            values=self._values[found["nearest"]],
            counts=np.tile(self._counts, (len(images), 1)),
            free=np.stack([self._free[prompt] for prompt in asked]),
        )
