"""Which of a set of real images is nearest to an image, by the root mean square difference of pixels in [0, 1]."""

from __future__ import annotations

import numpy as np

from stages.errors import InputError

CHUNK = 512


class Nearest:
    """Real images, uint8 [N, h, w, 3], ready to be compared with."""

    def __init__(self, images: np.ndarray) -> None:
        self.images = images
        self._flat = _flat(images)
        self._norms = np.square(self._flat).sum(1)

    def __call__(self, images: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """int64 [n]: number of the nearest real image of each of uint8 [n, h, w, 3], and float64 [n]: its distance.

        Raises InputError for images of another size than the real ones.
        """
        if images.shape[1:] != self.images.shape[1:]:
            raise InputError(
                f"images of {images.shape[2]}x{images.shape[1]} pixels, but the real ones that they are compared with "
                f"have {self.images.shape[2]}x{self.images.shape[1]}"
            )
        found, far = [], []
        for start in range(0, len(images), CHUNK):
            flat = _flat(images[start : start + CHUNK])
            squares = self._norms - 2 * flat @ self._flat.T
            rows = squares.argmin(1)
            found.append(rows)
            far.append(np.sqrt(np.square(flat - self._flat[rows]).mean(1, dtype=np.float64)))
        return np.concatenate(found), np.concatenate(far)


def entropy(values: np.ndarray) -> float:
    """Entropy in nats of the shares of equal values."""
    shares = np.unique(values, return_counts=True)[1] / len(values)
    return float(-(shares * np.log(shares)).sum()) + 0.0


def _flat(images: np.ndarray) -> np.ndarray:
    return images.reshape(len(images), -1).astype(np.float32) / 255
