"""Statistics of images in closed form: colourfulness, contrast, and how well an image's edges agree with another's."""

from __future__ import annotations

import numpy as np

LUMA = np.array([0.299, 0.587, 0.114], np.float32)
"""Weights of R, G, B in brightness (ITU-R BT.601)."""


def colourfulness(images: np.ndarray) -> np.ndarray:
    """[n] of uint8 [n, h, w, 3]: Hasler and Süsstrunk (2003), 0 for grey, over 100 for extremely colourful.

    With rg = R - G and yb = (R + G) / 2 - B: sqrt(var rg + var yb) + 0.3 sqrt(mean(rg)^2 + mean(yb)^2).
    """
    red, green, blue = np.moveaxis(images.astype(np.float32), -1, 0)
    opponents = np.stack([red - green, (red + green) / 2 - blue])
    spread, mean = opponents.var((2, 3)).sum(0), np.square(opponents.mean((2, 3))).sum(0)
    return (np.sqrt(spread) + 0.3 * np.sqrt(mean)).astype(np.float64)


def contrast(images: np.ndarray) -> np.ndarray:
    """[n] of uint8 [n, h, w, 3]: standard deviation of the brightness in [0, 1], at most 0.5."""
    return brightness(images).std((1, 2)).astype(np.float64)


def agreement(images: np.ndarray, others: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """How brightness gradients g of uint8 images [n, h, w, 3] go with those r of others: sharpness and excess, [n].

    Sharpness is <g, r> / <r, r>: 1 for the same edges, less for softer ones, about 0 for edges elsewhere. Excess is the
    rest, |g - sharpness r| / |r|: grain, halos and edges that the other image lacks.
    """
    g, r = (gradients(brightness(each)) for each in (images, others))
    power = np.maximum((r * r).sum(1), 1e-6)
    sharpness = (g * r).sum(1) / power
    rest = np.linalg.norm(g - sharpness[:, None] * r, axis=1) / np.sqrt(power)
    return sharpness.astype(np.float64), rest.astype(np.float64)


def brightness(images: np.ndarray) -> np.ndarray:
    """float32 [n, h, w] in [0, 1] of uint8 [n, h, w, 3]."""
    return images.astype(np.float32) @ LUMA / 255


def gradients(levels: np.ndarray) -> np.ndarray:
    """float32 [n, D]: differences of neighbours across and down, of [n, h, w]."""
    across, down = np.diff(levels, axis=2), np.diff(levels, axis=1)
    return np.concatenate([across.reshape(len(levels), -1), down.reshape(len(levels), -1)], 1)
