"""Draws scenes: anti-aliased signed-distance shapes over plain, shaded or striped backgrounds."""

from __future__ import annotations

import numpy as np
from numpy.typing import ArrayLike

from stages.world.scene import SHAPES, Scenes

CHUNK = 256


def _ngon(count: int, radius: float, inner: float | None = None, turn: float = 0.0) -> np.ndarray:
    """[k, 2] corners of a regular polygon, or of a star when an `inner` radius is given; the first corner points up."""
    corners = count * (2 if inner else 1)
    angles = turn - np.pi / 2 + 2 * np.pi * np.arange(corners) / corners
    radii = np.where(np.arange(corners) % 2, inner, radius) if inner else np.full(corners, radius)
    return np.stack([radii * np.cos(angles), radii * np.sin(angles)], 1)


_ARM, _REACH = 0.32, 0.94
POLYGONS: dict[str, np.ndarray] = {
    "square": _ngon(4, 1.02, turn=np.pi / 4),
    "triangle": _ngon(3, 1.0),
    "star": _ngon(5, 1.0, inner=0.44),
    "cross": np.array([
        (-_ARM, -_REACH), (_ARM, -_REACH), (_ARM, -_ARM), (_REACH, -_ARM), (_REACH, _ARM), (_ARM, _ARM),
        (_ARM, _REACH), (-_ARM, _REACH), (-_ARM, _ARM), (-_REACH, _ARM), (-_REACH, -_ARM), (-_ARM, -_ARM),
    ]),
}  # fmt: skip
"""Corners of the polygonal shapes at radius 1, clockwise on the screen."""

CIRCLE, RING, HALF_WIDTH = 0.86, 0.69, 0.23


def distance(shape: str, x: ArrayLike, y: ArrayLike) -> np.ndarray:
    """Signed distance of points to `shape` at radius 1, upright, at the origin: negative inside."""
    x, y = np.asarray(x), np.asarray(y)
    if shape == "circle":
        return np.hypot(x, y) - CIRCLE
    if shape == "ring":
        return np.abs(np.hypot(x, y) - RING) - HALF_WIDTH
    return _polygon_distance(POLYGONS[shape], x, y)


def _polygon_distance(corners: np.ndarray, x: np.ndarray, y: np.ndarray) -> np.ndarray:
    """Distance to the nearest edge, signed by the parity of the edges that a ray to the right crosses."""
    nearest = np.full(x.shape, np.inf, x.dtype)
    inside = np.zeros(x.shape, bool)
    for (ax, ay), (bx, by) in zip(corners.astype(x.dtype), np.roll(corners, -1, 0).astype(x.dtype), strict=True):
        ex, ey, px, py = bx - ax, by - ay, x - ax, y - ay
        along = np.clip((px * ex + py * ey) / (ex * ex + ey * ey), 0, 1)
        nearest = np.minimum(nearest, (px - along * ex) ** 2 + (py - along * ey) ** 2)
        crosses = (ay > y) != (by > y)
        if ey:
            inside ^= crosses & (px < py * (ex / ey))
    return np.where(inside, -1, 1) * np.sqrt(nearest)


def render(scenes: Scenes, image_size: int, rng: np.random.Generator | None = None) -> np.ndarray:
    """uint8 [n, image_size, image_size, 3]; `rng` feeds the grain of worn scenes and may be left out for clean ones."""
    images = np.empty((len(scenes), image_size, image_size, 3), np.uint8)
    for start in range(0, len(scenes), CHUNK):
        part = scenes.take(slice(start, start + CHUNK))
        images[start : start + CHUNK] = np.round(_floats(part, image_size, rng) * 255)
    return images


def _floats(scenes: Scenes, size: int, rng: np.random.Generator | None) -> np.ndarray:
    axis = ((np.arange(size) + 0.5) * 2 / size - 1).astype(np.float32)
    grid_y, grid_x = np.meshgrid(axis, axis, indexing="ij")
    cover = _coverage(scenes, grid_x, grid_y, size)[..., None]
    image = cover * scenes.rgb[:, None, None] + (1 - cover) * _background(scenes, grid_x, grid_y)
    for row in np.flatnonzero(scenes.blur > 0):
        image[row] = _blurred(image[row], float(scenes.blur[row]))
    if rng is not None and (scenes.grain > 0).any():
        image = image + rng.standard_normal(image.shape) * scenes.grain[:, None, None, None]
    return np.clip(image, 0, 1)


def coverage(scenes: Scenes, image_size: int) -> np.ndarray:
    """[n, image_size, image_size] share of every pixel that the object of a scene covers."""
    axis = ((np.arange(image_size) + 0.5) * 2 / image_size - 1).astype(np.float32)
    grid_y, grid_x = np.meshgrid(axis, axis, indexing="ij")
    return _coverage(scenes, grid_x, grid_y, image_size)


def _coverage(scenes: Scenes, grid_x: np.ndarray, grid_y: np.ndarray, size: int) -> np.ndarray:
    """[n, size, size] share of every pixel that the object covers."""
    cover = np.empty((len(scenes), size, size), np.float32)
    for index, name in enumerate(SHAPES):
        rows = np.flatnonzero(scenes.shape == index)
        if not len(rows):
            continue
        x, y, radius, turn = (_column(getattr(scenes, key)[rows]) for key in ("x", "y", "radius", "rotation"))
        dx, dy = (grid_x - x) / radius, (grid_y - y) / radius
        away = distance(name, np.cos(turn) * dx + np.sin(turn) * dy, np.cos(turn) * dy - np.sin(turn) * dx)
        cover[rows] = np.clip(0.5 - away * radius * size / 2, 0, 1)
    return cover


def _background(scenes: Scenes, grid_x: np.ndarray, grid_y: np.ndarray) -> np.ndarray:
    """[n, size, size, 3]: brightness varies along one direction, linearly or as a wave."""
    angle, strength = _column(scenes.texture_angle), _column(scenes.texture_strength)
    along = np.cos(angle) * grid_x + np.sin(angle) * grid_y
    wave = np.sin(2 * np.pi * _column(scenes.texture_frequency) * along + _column(scenes.texture_phase))
    change = strength * np.where(_column(scenes.texture) == 2, wave, along)
    return np.clip(scenes.background[:, None, None] * (1 + change[..., None]) + 0.25 * change[..., None], 0.02, 0.98)


def _blurred(image: np.ndarray, sigma: float) -> np.ndarray:
    reach = int(np.ceil(3 * sigma))
    taps = np.exp(-0.5 * (np.arange(-reach, reach + 1) / sigma) ** 2)
    taps /= taps.sum()
    for axis in (0, 1):
        pad = [(reach, reach) if a == axis else (0, 0) for a in range(3)]
        padded = np.pad(image, pad, mode="edge")
        length = image.shape[axis]
        image = sum(tap * padded.take(range(k, k + length), axis) for k, tap in enumerate(taps))  # pyright: ignore
    return image


def _column(values: np.ndarray) -> np.ndarray:
    return values.astype(np.float32)[:, None, None]
