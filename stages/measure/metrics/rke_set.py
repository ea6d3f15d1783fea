"""RKE of all images of a setting: how many different images they amount to, whatever their prompts."""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING

from stages.about import MetricAbout
from stages.measure.statistics import second_order_number

if TYPE_CHECKING:
    import numpy as np

    from stages.measure.statistics import Reference

ABOUT = MetricAbout(
    "RKE of the set", "Jalali, Li and Farnia 2023, arXiv 2302.05656", labels={"rke_set": "RKE of all images"},
    rising="more diverse",
)  # fmt: skip

SCOPE = "set"
RANGE = (1.0, float("inf"))


def metric(features: np.ndarray, reference: Reference) -> Callable[[np.ndarray], float]:
    """Between 1 and the number of images, by cosine (`measure.directions` makes no difference); needs no real images.

    Prompts differ from each other, so part of it is the diversity of the prompts: compare only equal prompts.
    """
    return lambda rows: second_order_number(features[rows])
