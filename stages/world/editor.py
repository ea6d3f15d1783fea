"""Critiques of pictures of the shapes world by its oracle, and pictures that the renderer changes accordingly.

A critique names what the picture lacks of its caption, as `colour red, size small`. The object is drawn afresh where it
was, with what the critique asks for; the picture beneath it is filled in from around, and a background of the wrong
brightness is made darker or lighter. Everything else stays as it was, but for the object's rotation and shade.
"""

from __future__ import annotations

import colorsys
import math
from collections.abc import Mapping, Sequence

import numpy as np

from stages.world.oracle import caption_match, parse
from stages.world.render import coverage
from stages.world.scene import COLOUR_NAMES, HUES, LARGE, LUMA, SHAPES, SMALL, Scenes, read_caption
from stages.world.settings import WorldSettings

NAMES = ("colour", "shape", "size", "background")
DARKER, LIGHTER = 0.2, 0.7
"""Luma that a background is brought to which should be dark, or light."""
SHADE = 0.87
"""Saturation and value of an object that is drawn afresh: the middle of the world's range."""
MARGIN = 1.1
"""Radius of what is filled in beneath the object, in radii, beside two pixels."""
SWEEPS = 200


def criticise(images: np.ndarray, captions: Sequence[str]) -> list[str]:
    """What uint8 [n, h, w, 3] pictures lack of their captions; empty for one that lacks nothing, and for a text that is
    no caption of this world.
    """
    match = caption_match(parse(images), captions)
    found = []
    for row, text in enumerate(captions):
        said = read_caption(text)
        wrong = [name for name in NAMES if said and getattr(said, name) and not getattr(match, name)[row]]
        found.append(", ".join(f"{name} {getattr(said, name)}" for name in wrong))
    return found


def wanted(critique: str) -> dict[str, str]:
    """What a critique asks for, by name; raises ValueError for other words."""
    known = {"colour": COLOUR_NAMES, "shape": SHAPES, "size": ("small", "large"), "background": ("dark", "light")}
    found: dict[str, str] = {}
    for part in critique.split(", "):
        name, _, word = part.partition(" ")
        if word not in known.get(name, ()):
            raise ValueError(f"expected critiques such as 'colour red, size small', found {critique!r}")
        found[name] = word
    return found


def edited(images: np.ndarray, critiques: Sequence[str], world: WorldSettings) -> np.ndarray:
    """uint8 [n, h, w, 3]: the square pictures after their critiques, each of which asks for something.

    Raises ValueError for a critique in other words, and for pictures that are not square.
    """
    if images.shape[1] != images.shape[2]:
        raise ValueError(f"expected square pictures, found {images.shape[2]}x{images.shape[1]} pixels")
    asked, seen = [wanted(critique) for critique in critiques], parse(images)
    count, size = images.shape[0], images.shape[1]
    radius = np.array([_radius(one, math.exp(seen.log_size[n]), world) for n, one in enumerate(asked)])
    empty = seen.empty
    radius = np.where(empty & ~np.array(["size" in one for one in asked], bool), (SMALL + LARGE) / 2, radius)
    room = 0.98 - radius
    x, y = (np.where(empty, 0.0, np.clip(place, -room, room)) for place in (seen.x, seen.y))
    colour, shape = (
        np.array([
            words.index(one[name]) if name in one else max(int(was[n]), 0) for n, one in enumerate(asked)
        ])
        for name, words, was in (("colour", COLOUR_NAMES, seen.colour), ("shape", SHAPES, seen.shape))
    )  # fmt: skip
    drawn = _scenes(shape, colour, x, y, radius)
    cover = coverage(drawn, size)[..., None]
    pixels = images.astype(np.float64) / 255
    made = np.empty_like(pixels)
    for n in range(count):
        hole = _disc(size, seen.x[n], seen.y[n], MARGIN * math.exp(seen.log_size[n]) + 4 / size)
        beneath = pixels[n] if empty[n] else _filled(pixels[n], hole)
        made[n] = _bright(beneath, asked[n], float(seen.background[n] @ LUMA))
    made = cover * drawn.rgb[:, None, None] + (1 - cover) * made
    return np.round(np.clip(made, 0, 1) * 255).astype(np.uint8)


def _radius(asked: Mapping[str, str], radius: float, world: WorldSettings) -> float:
    """The object's radius: its own within the world's range, or the middle of what the word fits."""
    if asked.get("size") == "small":
        return (min(world.radius_low, SMALL) + SMALL) / 2
    if asked.get("size") == "large":
        return (LARGE + max(world.radius_high, LARGE)) / 2
    return float(np.clip(radius, world.radius_low, world.radius_high))


def _scenes(shape: np.ndarray, colour: np.ndarray, x: np.ndarray, y: np.ndarray, radius: np.ndarray) -> Scenes:
    """Upright objects; backgrounds and wear are none."""
    none = np.zeros(len(shape))
    rgb = np.array([colorsys.hsv_to_rgb(float(HUES[index]) / 360, SHADE, SHADE) for index in colour]).reshape(-1, 3)
    return Scenes(
        shape=shape, colour=colour, x=x, y=y, radius=radius, rotation=none, rgb=rgb,
        background=np.zeros((len(shape), 3)), texture=np.zeros(len(shape), np.int64), texture_angle=none,
        texture_frequency=none, texture_phase=none, texture_strength=none, blur=none, grain=none,
    )  # fmt: skip


def _disc(size: int, x: float, y: float, radius: float) -> np.ndarray:
    """bool [size, size]: pixels within `radius` of a place, in half sides."""
    axis = (np.arange(size) + 0.5) * 2 / size - 1
    return np.hypot(axis[None] - x, axis[:, None] - y) < radius


def _filled(pixels: np.ndarray, hole: np.ndarray) -> np.ndarray:
    """[h, w, 3] with the hole filled in smoothly: every pixel in it the mean of its four neighbours."""
    if hole.all():
        return pixels
    found = np.where(hole[..., None], pixels[~hole].mean(0), pixels)
    for _ in range(SWEEPS):
        padded = np.pad(found, ((1, 1), (1, 1), (0, 0)), mode="edge")
        around = (padded[:-2, 1:-1] + padded[2:, 1:-1] + padded[1:-1, :-2] + padded[1:-1, 2:]) / 4
        found = np.where(hole[..., None], around, found)
    return found


def _bright(pixels: np.ndarray, asked: Mapping[str, str], luma: float) -> np.ndarray:
    """The background as dark or light as asked for."""
    if asked.get("background") == "dark":
        return pixels * min(1.0, DARKER / max(luma, 1e-3))
    if asked.get("background") == "light":
        return 1 - (1 - pixels) * min(1.0, (1 - LIGHTER) / max(1 - luma, 1e-3))
    return pixels
