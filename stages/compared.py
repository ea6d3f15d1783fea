"""What every oracle by the nearest real image sees in images: which one it is, how far away, and statistics of both."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np

from stages.emoji import statistics
from stages.nearest import Nearest, entropy


@dataclass(frozen=True, kw_only=True)
class Compared(ABC):
    """What is seen in `n` images, each with its prompt; every field is an array of length n. Worlds add the attributes
    that they read off the nearest image.
    """

    nearest: np.ndarray
    """int32: number of the nearest real image."""
    distance: np.ndarray
    """float64: root mean square difference from it, of pixels in [0, 1]."""
    right: np.ndarray
    """bool: it shows what the prompt says."""
    colourfulness: np.ndarray
    """float64, of Hasler and Süsstrunk."""
    contrast: np.ndarray
    """float64: standard deviation of the brightness in [0, 1]."""
    sharpness: np.ndarray
    """float64: of edges, 1 for those of the nearest image."""
    excess: np.ndarray
    """float64: edges that the nearest image does not have, as a share of its own."""

    def __len__(self) -> int:
        return len(self.nearest)

    @abstractmethod
    def attributes(self) -> Mapping[str, np.ndarray]:
        """Integers [n], by name: what the prompt of these images, the same for all, leaves open."""

    def marks(self, prompts: Sequence[str]) -> Mapping[str, np.ndarray]:
        """float64 [n]: 0 or 1 for an image that shows what its prompt says, and the distance from a real one."""
        return {"caption_accuracy": self.right.astype(np.float64), "distance_to_real": self.distance}

    def diversity(self) -> Mapping[str, float]:
        """Entropies in nats of what the prompt leaves open, and their sum, of images of one prompt."""
        each = {f"{name}_entropy": entropy(values) for name, values in self.attributes().items()}
        return {"attribute_diversity": sum(each.values())} | each


def compared(images: np.ndarray, real: Nearest) -> dict[str, np.ndarray]:
    """The fields of `Compared` but `right`, of uint8 images [n, h, w, 3].

    Raises InputError for images of another size than the real ones.
    """
    nearest, distance = real(images)
    sharpness, excess = statistics.agreement(images, real.images[nearest])
    return {
        "nearest": nearest.astype(np.int32), "distance": distance,
        "colourfulness": statistics.colourfulness(images), "contrast": statistics.contrast(images),
        "sharpness": sharpness, "excess": excess,
    }  # fmt: skip
