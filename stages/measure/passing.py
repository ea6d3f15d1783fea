"""Metrics of a prompt over those of its images that pass: diversity that wrong or broken images do not raise."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import TYPE_CHECKING

import numpy as np

from stages.errors import InputError
from stages.measure.settings import PASSED, PASSED_IMAGES, PassingSettings

if TYPE_CHECKING:
    from stages.measure.scored import ScoredImages


def passing(
    settings: PassingSettings, values: Mapping[str, list[float]], images: ScoredImages,
    whole: Mapping[str, float], metrics: Callable[[ScoredImages], Mapping[str, float]],
) -> dict[str, float]:  # fmt: skip
    """`passed_images`, their number, and `NAME_passed` of every metric of the prompt in `whole`, over them alone.

    `values` are those of the images by metric. Fewer than two images that pass have no diversity: then there is the
    number alone. Nothing where the default metric is not measured, as in worlds without an oracle; raises InputError
    where another one is not.
    """
    if settings.metric not in values:
        if settings == PassingSettings():
            return {}
        raise InputError(f"measure.passing.metric: {settings.metric!r} is no measured value of an image")
    rows = np.flatnonzero(np.asarray(values[settings.metric]) >= settings.least)
    found = {PASSED_IMAGES: float(len(rows))}
    if len(rows) > 1:
        again = metrics(images.take(rows))
        found |= {f"{name}{PASSED}": again[name] for name in whole if name in again}
    return found
