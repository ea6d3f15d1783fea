"""Photographic variance: how much saturation, brightness and contrast differ among the images of a prompt."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING

import numpy as np

from stages.about import MetricAbout

if TYPE_CHECKING:
    from stages.measure.scored import ScoredImages

ABOUT = MetricAbout(
    "Photographic variance score", "Chen et al. 2025, arXiv 2512.24146",
    labels={"pvs": "photographic variance"}, rising="more diverse",
)  # fmt: skip

SCOPE = "prompt"
LUMA = np.array([0.299, 0.587, 0.114])
"""Weights of red, green and blue in a grey value, as OpenCV and Pillow convert (ITU-R BT.601)."""


def metric(images: ScoredImages) -> Mapping[str, float]:
    """`pvs`, in [0, 1.25]; nothing for a single image.

    std(s) + std(v) + std(c) (Chen et al. 2025, eq. 19), population deviations over images. The paper takes it over all
    images of a benchmark whose prompts ask for tones; here it is taken over the images of a prompt, where it shows what
    the prompt leaves open. All values are on the scale [0, 1], which the paper does not state.
    """
    if len(images) < 2:
        return {}
    return {"pvs": float(np.array([tones(picture) for picture in images.pixels]).std(axis=0).sum())}


def tones(pixels: np.ndarray) -> tuple[float, float, float]:
    """Of an image uint8 [H, W, 3]: mean saturation and mean value of HSV in [0, 1], standard deviation of grey."""
    colours = pixels.astype(np.float64) / 255
    high, low = colours.max(axis=-1), colours.min(axis=-1)
    saturation = (high - low) / np.where(high > 0, high, 1)
    return float(saturation.mean()), float(high.mean()), float((colours @ LUMA).std())
