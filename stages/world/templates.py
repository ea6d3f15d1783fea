"""Which shape a mask shows: it is brought to a standard position and size by its moments and compared with templates of
every shape in every rotation.
"""

from __future__ import annotations

from functools import lru_cache

import numpy as np

from stages.world.render import CIRCLE, POLYGONS, RING, distance
from stages.world.scene import SHAPES

GRID, REACH = 28, 2.2
"""Side of the standard mask, and how far it reaches in radii of gyration."""
ROTATIONS = 12
PERIOD = {"square": 4, "triangle": 3, "cross": 4, "star": 5}
"""Rotational symmetry of the shapes; circle and ring have every one."""


def moments(alpha: np.ndarray) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Centre and radius of gyration of every mask, in half sides."""
    size = alpha.shape[1]
    axis = (np.arange(size) + 0.5) * 2 / size - 1
    total = np.maximum(alpha.sum((1, 2)), 1e-6)
    x = (alpha.sum(1) * axis).sum(1) / total
    y = (alpha.sum(2) * axis).sum(1) / total
    square = (alpha.sum(1) * axis**2).sum(1) / total + (alpha.sum(2) * axis**2).sum(1) / total
    return x, y, np.sqrt(np.maximum(square - x**2 - y**2, 1e-4))


def best_shape(alpha: np.ndarray, x: np.ndarray, y: np.ndarray, spread: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Index into SHAPES of the template that overlaps each mask [n, h, w] best, and that overlap, in [0, 1]."""
    masks = _standard(alpha, x, y, spread).reshape(len(alpha), -1)
    templates, owner = _templates()
    both = masks @ templates.T
    iou = both / np.maximum(masks.sum(1)[:, None] + templates.sum(1) - both, 1)
    best = iou.argmax(1)
    return owner[best], iou[np.arange(len(best)), best]


def _standard(alpha: np.ndarray, x: np.ndarray, y: np.ndarray, spread: np.ndarray) -> np.ndarray:
    """[n, GRID, GRID] of 0 and 1: the mask around its centre, scaled to a radius of gyration of 1."""
    size = alpha.shape[1]
    axis = (np.arange(GRID) + 0.5) * 2 * REACH / GRID - REACH
    made = np.empty((len(alpha), GRID, GRID), np.float32)
    for row, mask in enumerate(alpha):
        across = ((x[row] + axis * spread[row] + 1) * size - 1) / 2
        down = ((y[row] + axis * spread[row] + 1) * size - 1) / 2
        made[row] = _resample(_resample(mask, down).T, across).T > 0.5
    return made


def _resample(values: np.ndarray, rows: np.ndarray) -> np.ndarray:
    """Linear interpolation of `values` along axis 0 at fractional `rows`; 0 outside."""
    low = np.floor(rows).astype(int)
    share = (rows - low)[:, None]
    padded = np.zeros((len(values) + 2, values.shape[1]), values.dtype)
    padded[1:-1] = values
    first, second = (np.clip(low + k, 0, len(values) + 1) for k in (1, 2))
    return padded[first] * (1 - share) + padded[second] * share


@lru_cache(maxsize=1)
def _templates() -> tuple[np.ndarray, np.ndarray]:
    """[t, GRID * GRID] standard masks of all shapes in all rotations, and the shape that each belongs to."""
    fine = (np.arange(128) + 0.5) / 64 - 1
    grid_x, grid_y = np.meshgrid(fine * 1.1, fine * 1.1)
    masks, owner = [], []
    for index, name in enumerate(SHAPES):
        turns = np.arange(ROTATIONS) * 2 * np.pi / PERIOD[name] / ROTATIONS if name in PERIOD else [0.0]
        for turn in turns:
            rx, ry = np.cos(turn) * grid_x + np.sin(turn) * grid_y, np.cos(turn) * grid_y - np.sin(turn) * grid_x
            mask = (distance(name, rx, ry) < 0).astype(np.float32)[None]
            masks.append(_standard(mask, *moments(mask))[0].reshape(-1))
            owner.append(index)
    return np.stack(masks), np.array(owner)


@lru_cache(maxsize=1)
def unit_areas() -> np.ndarray:
    """Area of every shape at radius 1."""
    fine = (np.arange(400) + 0.5) / 200 - 1
    grid_x, grid_y = np.meshgrid(fine * 1.1, fine * 1.1)
    return np.array([(distance(name, grid_x, grid_y) < 0).mean() * 4 * 1.21 for name in SHAPES])


@lru_cache(maxsize=1)
def unit_outlines() -> np.ndarray:
    """Length of every shape's outline at radius 1."""
    round_ones = {"circle": 2 * np.pi * CIRCLE, "ring": 4 * np.pi * RING}
    sides = {
        name: np.linalg.norm(corners - np.roll(corners, -1, 0), axis=1).sum() for name, corners in POLYGONS.items()
    }
    return np.array([(round_ones | sides)[name] for name in SHAPES])
