"""Reads an image by the nearest of a user's own captioned images: its caption, its attributes, and how far away it is.

No network is asked. What a caption leaves open is seen from the images: an attribute in which those with the caption
differ.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np

from stages.captioned.library import Library
from stages.emoji import statistics
from stages.errors import InputError
from stages.nearest import Nearest, entropy
from stages.params import nearest as similar


@dataclass(frozen=True)
class Seen:
    """What is seen in `n` images, each with its prompt, of A attributes; every field is an array of length n."""

    nearest: np.ndarray
    """int32: number of the nearest real image."""
    distance: np.ndarray
    """float64: root mean square difference from it, of pixels in [0, 1]."""
    right: np.ndarray
    """bool: the caption of the nearest image is the prompt."""
    names: np.ndarray
    """str [n, A]: the attributes' names, the same in every row."""
    values: np.ndarray
    """int32 [n, A]: number of the nearest image's value of each attribute among all its values, sorted."""
    counts: np.ndarray
    """int32 [n, A]: how many values the attribute has among all real images, the same in every row."""
    free: np.ndarray
    """bool [n, A]: real images with the prompt as their caption differ in the attribute."""
    colourfulness: np.ndarray
    """float64, of Hasler and Süsstrunk."""
    contrast: np.ndarray
    """float64: standard deviation of the brightness in [0, 1]."""
    sharpness: np.ndarray
    """float64: of edges, 1 for those of the nearest image."""
    excess: np.ndarray
    """float64: edges that it has not, as a share of its own."""

    def __len__(self) -> int:
        return len(self.nearest)

    def marks(self, prompts: Sequence[str]) -> Mapping[str, np.ndarray]:
        """float64 [n]: 0 or 1 for an image that shows what its prompt says, and the distance from a real one."""
        return {"caption_accuracy": self.right.astype(np.float64), "distance_to_real": self.distance}

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

    def diversity(self) -> Mapping[str, float]:
        """Entropies in nats of what the prompt leaves open, and their sum, of images of one prompt."""
        each = {f"{name}_entropy": entropy(values) for name, values in self.attributes().items()}
        return {"attribute_diversity": sum(each.values())} | each


class Oracle:
    """A user's own images, ready to be compared with."""

    def __init__(self, library: Library) -> None:
        self.library, self.nearest = library, Nearest(library.images)
        columns = list(zip(*library.values, strict=True))
        self._values = np.stack([np.unique(column, return_inverse=True)[1] for column in columns], 1).astype(np.int32)
        self._names, self._counts = np.array(library.names), self._values.max(0) + 1
        rows: dict[str, list[int]] = {}
        for row, text in enumerate(library.captions):
            rows.setdefault(text, []).append(row)
        self._free = {text: (self._values[own] != self._values[own[0]]).any(0) for text, own in rows.items()}

    def see(self, images: np.ndarray, prompts: Sequence[str]) -> Seen:
        """What uint8 images [n, h, w, 3] show, each with its own prompt.

        Raises InputError for a prompt that is no caption, and for images of another size than the real ones.
        """
        for prompt in set(prompts) - self._free.keys():
            raise InputError(
                f"prompt {prompt!r} is the caption of none of the {len(self.library.images)} real images, which "
                f"therefore cannot say whether an image shows it{similar(prompt, self._free)}"
            )
        nearest, distance = self.nearest(images)
        sharpness, excess = statistics.agreement(images, self.library.images[nearest])
        captions = [self.library.captions[row] for row in nearest]
        return Seen(
            nearest=nearest.astype(np.int32), distance=distance,
            right=np.array([caption == prompt for caption, prompt in zip(captions, prompts, strict=True)], bool),
            names=np.tile(self._names, (len(images), 1)), values=self._values[nearest],
            counts=np.tile(self._counts, (len(images), 1)),
            free=np.stack([self._free[prompt] for prompt in prompts]),
            colourfulness=statistics.colourfulness(images), contrast=statistics.contrast(images),
            sharpness=sharpness, excess=excess,
        )  # fmt: skip
