"""Simulated annotators of the emoji world: what they are shown, and which of two images they say they prefer.

They are shown real images as an image editor or a bad printer leaves them. The probability of preferring a follows
Bradley and Terry (1952): sigmoid((u_a - u_b) / temperature).
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from scipy import ndimage
from scipy.special import expit

from stages.emoji.names import EVALUATION
from stages.emoji.oracle import Oracle
from stages.emoji.packages import About
from stages.emoji.statistics import LUMA

OTHER_NAME = 0.2
"""Share of comparisons in which one of the two images shows another name than the prompt."""
TEMPERATURE = 0.7


@dataclass(frozen=True)
class Comparisons:
    """Prompts with two images each, uint8 [n, h, w, 3]."""

    prompts: list[str]
    a: np.ndarray
    b: np.ndarray


def draw_comparisons(oracle: Oracle, count: int, rng: np.random.Generator) -> Comparisons:
    """`count` comparisons for names that are no evaluation prompts, each name as likely as any other."""
    rows = rows_by_name(oracle.about)
    names = sorted(set(rows) - {*EVALUATION})
    prompts = [names[int(index)] for index in rng.integers(len(names), size=count)]
    sides = []
    for _ in range(2):
        shown = [rng.choice(rows[prompt]) for prompt in prompts]
        sides.append(np.array(shown))
    other, side = rng.random(count) < OTHER_NAME, rng.integers(2, size=count)
    strangers = [rng.choice(rows[names[int(index)]]) for index in rng.integers(len(names), size=count)]
    for number, each in enumerate(sides):
        mine = other & (side == number)
        each[mine] = np.array(strangers)[mine]
    a, b = (np.stack([worn(oracle.images[row], _like(oracle, rows, row, rng), rng) for row in each]) for each in sides)
    return Comparisons(prompts, a, b)


def rows_by_name(about: Sequence[About]) -> dict[str, list[int]]:
    """The rows of each caption."""
    rows: dict[str, list[int]] = {}
    for row, each in enumerate(about):
        rows.setdefault(each.caption, []).append(row)
    return rows


def worn(image: np.ndarray, other: np.ndarray, rng: np.random.Generator) -> np.ndarray:
    """A uint8 image [h, w, 3] after some of what may happen to it; `other` is a further image of the same name."""
    x = image.astype(np.float32) / 255
    if rng.random() < 0.1:
        share = rng.uniform(0.25, 0.5)
        x = (1 - share) * x + share * other.astype(np.float32) / 255
    if rng.random() < 0.1:
        x = _slipped(x, rng)
    if rng.random() < 0.6:
        x = ndimage.gaussian_filter(x, (*[rng.uniform(0.2, 0.9)] * 2, 0), mode="nearest")
    elif rng.random() < 0.4:
        soft = ndimage.gaussian_filter(x, (0.8, 0.8, 0), mode="nearest")
        x = x + rng.uniform(0.2, 1.2) * (x - soft)
    if rng.random() < 0.2:
        x = x + rng.normal(0, rng.uniform(0.02, 0.1), x.shape)
    grey = (x @ LUMA)[..., None]
    x = grey + rng.uniform(0.5, 1.6) * (x - grey)
    x = 1 - rng.uniform(0.7, 1.2) * (1 - x)
    return (np.clip(x, 0, 1) * 255).round().astype(np.uint8)


def _slipped(x: np.ndarray, rng: np.random.Generator) -> np.ndarray:
    """A band of rows or columns moved along itself by up to a fifth of the side."""
    side = len(x)
    axis, start, height = (
        int(rng.integers(2)),
        int(rng.integers(side * 3 // 4)),
        int(rng.integers(side // 5, side // 2)),
    )
    band = slice(start, start + height)
    moved = np.roll(x, int(rng.integers(2, side // 5 + 2)) * (1 if rng.random() < 0.5 else -1), 1 - axis)
    made = x.copy()
    made[(band, slice(None)) if axis == 0 else (slice(None), band)] = moved[
        (band, slice(None)) if axis == 0 else (slice(None), band)
    ]
    return made


def _like(oracle: Oracle, rows: dict[str, list[int]], row: int, rng: np.random.Generator) -> np.ndarray:
    return oracle.images[int(rng.choice(rows[oracle.about[row].caption]))]


def preference(
    utility_a: np.ndarray, utility_b: np.ndarray, temperature: float, votes: int, rng: np.random.Generator
) -> np.ndarray:
    """float [n]: share of `votes` annotators who prefer a."""
    return rng.binomial(votes, expit((utility_a - utility_b) / temperature)) / votes
