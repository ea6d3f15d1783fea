"""A quality score of an image that needs neither a model nor a reference."""

from __future__ import annotations

import numpy as np
from PIL.Image import Image

LUMA = np.array([0.299, 0.587, 0.114], np.float32)
FULL_CONTRAST, FULL_SHARPNESS = 0.2, 0.05


def quality(image: Image) -> float:
    """A score in [0, 1] of an RGB image: the geometric mean of three shares of its luma Y in [0, 1].

    Exposure is the share of pixels with 2/255 < Y < 253/255; contrast is min(1, std(Y) / 0.2); sharpness is
    1 - exp(-mean|4Y - its four neighbours| / 0.05). It is 0 for a blank image and falls with blur, haze and clipping.
    It knows nothing of beauty and takes noise for sharpness: it is meant to catch failed images, not to rank good ones.
    """
    luma = np.asarray(image, np.float32) @ LUMA / 255
    if min(luma.shape) < 3:
        return 0.0
    exposure = float(np.mean((luma > 2 / 255) & (luma < 253 / 255)))
    contrast = min(1.0, float(luma.std()) / FULL_CONTRAST)
    middle = luma[1:-1, 1:-1]
    edges = 4 * middle - luma[:-2, 1:-1] - luma[2:, 1:-1] - luma[1:-1, :-2] - luma[1:-1, 2:]
    sharpness = 1 - float(np.exp(-np.abs(edges).mean() / FULL_SHARPNESS))
    return (exposure * contrast * sharpness) ** (1 / 3)
