"""Reads pictures of the shapes world back into attributes, with arithmetic on pixels alone: no network to be fooled.

A picture is segmented by hue against the world's colours, and the object's mask compared with templates of every shape
(`templates.py`). On top of the parse stand the measurements that need no model: does the picture show what the caption
says, what would the annotators think of it, and how much do pictures of one prompt differ in what the prompt leaves
open.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, fields

import numpy as np

from stages.world.scene import COLOUR_NAMES, DARK, HUES, LARGE, LIGHT, LUMA, SHAPES, SMALL, read_caption
from stages.world.templates import best_shape, moments, unit_areas, unit_outlines

CHUNK = 256
MIN_AREA, MIN_IOU = 0.012, 0.6
"""An object must cover this share of the picture, and overlap its template this well, to count as drawn."""
WORLD_STD = np.array([0.27, 0.27, 0.2, 0.232, 0.232, 0.232, 0.052])
"""Standard deviations of x, y, log size, background R, G, B and background deviation over the world's own scenes."""


@dataclass(frozen=True)
class Parsed:
    """What is seen in `n` pictures; every field is an array of length n. Lengths in half sides, colours in [0, 1]."""

    colour: np.ndarray
    """Index into COLOUR_NAMES of the object's hue; -1 in an empty picture."""
    shape: np.ndarray
    """Index into SHAPES of the best template; -1 in an empty picture."""
    iou: np.ndarray
    """Overlap with that template, in [0, 1]."""
    area: np.ndarray
    """Share of the picture that the object covers."""
    x: np.ndarray
    y: np.ndarray
    log_size: np.ndarray
    """Log of the radius that the best shape has at this area."""
    chroma: np.ndarray
    """Largest minus smallest channel of the object's colour."""
    contrast: np.ndarray
    """Euclidean distance of the object's colour from the background's."""
    sharpness: np.ndarray
    """Width of the renderer's edges over that of the object's: 1 for sharp ones, towards 0 for soft ones."""
    background: np.ndarray
    """[n, 3] mean colour."""
    background_std: np.ndarray
    noise: np.ndarray
    """Median difference of a background pixel from the mean of its neighbourhood."""
    clipped: np.ndarray
    """Share of channel values at the ends of the range."""
    empty: np.ndarray
    """bool: no object of any of the world's colours."""
    box: np.ndarray
    """[n, 4] left, top, right, bottom of the pixels that the object covers by half or more; zeros where empty."""

    def marks(self, prompts: Sequence[str]) -> Mapping[str, np.ndarray]:
        """0 or 1 per image: caption_accuracy (shape and colour), either alone, everything said, and empty_share."""
        match = caption_match(self, prompts)
        found = {
            "caption_accuracy": match.both,
            "shape_accuracy": match.shape,
            "colour_accuracy": match.colour,
            "full_caption_accuracy": match.all,
            "empty_share": self.empty,
        }
        return {name: values.astype(np.float64) for name, values in found.items()}

    def diversity(self) -> Mapping[str, float]:
        """Mean pairwise distance of parsed attributes, in standard deviations of the world."""
        return {"attribute_diversity": attribute_diversity(self)}

    def boxes(self) -> list[np.ndarray]:
        """The box of the object, [1, 4]; [0, 4] in an empty picture."""
        return [self.box[row : row + 1] if np.ptp(self.box[row]) else np.zeros((0, 4)) for row in range(len(self.box))]

    def open_attributes(self) -> dict[str, np.ndarray]:
        """What a picture shows, by name, [n] or [n, D] float64; words are one-hot. `stages/decided` asks when each of
        them is settled.
        """
        words = {"colour": (self.colour, len(COLOUR_NAMES)), "shape": (self.shape, len(SHAPES))}
        return {name: (seen[:, None] == np.arange(count)).astype(float) for name, (seen, count) in words.items()} | {
            "position": np.column_stack([self.x, self.y]), "size": self.log_size, "background": self.background,
            "background texture": self.background_std, "chroma": self.chroma, "contrast": self.contrast,
            "sharpness": self.sharpness,
        }  # fmt: skip


def parse(images: np.ndarray) -> Parsed:
    """Parse uint8 [n, h, w, 3] pictures."""
    if images.ndim != 4 or images.shape[-1] != 3 or images.dtype != np.uint8:
        raise ValueError(f"expected uint8 [n, h, w, 3], found {images.dtype} {list(images.shape)}")
    if not len(images):
        images = np.zeros((0, 8, 8, 3), np.uint8)
    parts = [_parse(images[i : i + CHUNK]) for i in range(0, max(1, len(images)), CHUNK)]
    return Parsed(**{f.name: np.concatenate([getattr(p, f.name) for p in parts]) for f in fields(Parsed)})


def _parse(images: np.ndarray) -> Parsed:
    pixels = images.astype(np.float32) / 255
    colour, core = _find_object(pixels)
    found = colour >= 0
    outside = ~_grown(core, 2)
    background = _masked_mean(pixels, outside)
    inside_colour = _masked_mean(pixels, core)
    alpha = _coverage(pixels, core, inside_colour, background)
    area = alpha.mean((1, 2))
    x, y, spread = moments(alpha)
    shape, iou = best_shape(alpha, x, y, spread)
    found &= area > 0.25 * MIN_AREA
    radius = np.sqrt(np.maximum(4 * area, 1e-3) / unit_areas()[shape])
    return Parsed(
        colour=np.where(found, colour, -1),
        shape=np.where(found, shape, -1),
        iou=np.where(found, iou, 0.0),
        area=np.where(found, area, 0.0),
        x=x,
        y=y,
        log_size=np.log(radius),
        chroma=np.where(found, np.ptp(inside_colour, axis=1), 0.0),
        contrast=np.where(found, np.linalg.norm(inside_colour - background, axis=1), 0.0),
        sharpness=np.where(found, _sharpness(alpha, shape, radius), 0.0),
        background=background,
        background_std=_masked_std(pixels, outside, background),
        noise=_noise(pixels, outside),
        clipped=((images <= 1) | (images >= 254)).mean((1, 2, 3)),
        empty=~found,
        box=np.where(found[:, None], _boxes(alpha), 0.0),
    )


def _find_object(pixels: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """The colour index of the object (-1 for none) and bool [n, h, w] of the pixels that surely show it.

    Saturated pixels vote for the colour nearest in hue; a colour that lies along the frame is background.
    """
    high, low = pixels.max(-1), pixels.min(-1)
    chroma = high - low
    nearest = np.abs((_hue(pixels, high, chroma)[..., None] - HUES + 180) % 360 - 180).argmin(-1)
    weight = np.clip((chroma - 0.35) / 0.2, 0, 1)
    frame = np.zeros(pixels.shape[1:3], bool)
    frame[[0, -1]] = frame[:, [0, -1]] = True
    votes = np.zeros((len(pixels), len(HUES)))
    for index in range(len(HUES)):
        mine = weight * (nearest == index)
        along_frame = ((nearest == index) & (chroma > 0.3))[:, frame].mean(1)
        votes[:, index] = mine.mean((1, 2)) * (along_frame < 0.2)
    colour = votes.argmax(1)
    core = (nearest == colour[:, None, None]) & (weight > 0.5)
    found = (core.mean((1, 2)) > 0.25 * MIN_AREA) & (votes.max(1) > 0)
    return np.where(found, colour, -1), core & found[:, None, None]


def _hue(pixels: np.ndarray, high: np.ndarray, chroma: np.ndarray) -> np.ndarray:
    """Hue in degrees (HSV)."""
    red, green, blue = (pixels[..., channel] for channel in range(3))
    safe = np.maximum(chroma, 1e-6)
    sixth = np.where(
        high == red, (green - blue) / safe, np.where(high == green, 2 + (blue - red) / safe, 4 + (red - green) / safe)
    )
    return sixth * 60 % 360


def _coverage(pixels: np.ndarray, core: np.ndarray, inside: np.ndarray, outside: np.ndarray) -> np.ndarray:
    """[n, h, w] in [0, 1]: where each pixel lies between the background's colour and the object's, near the core."""
    line = (inside - outside)[:, None, None]
    along = ((pixels - outside[:, None, None]) * line).sum(-1) / np.maximum((line**2).sum(-1), 1e-6)
    return np.clip(along, 0, 1) * _grown(core, 1)


def _grown(mask: np.ndarray, steps: int) -> np.ndarray:
    from scipy import ndimage  # slow to import, and not needed by code that parses no image

    return ndimage.binary_dilation(mask, np.ones((1, 3, 3), bool), iterations=steps)


def _masked_mean(pixels: np.ndarray, mask: np.ndarray) -> np.ndarray:
    count = np.maximum(mask.sum((1, 2)), 1)[:, None]
    return (pixels * mask[..., None]).sum((1, 2)) / count


def _masked_std(pixels: np.ndarray, mask: np.ndarray, mean: np.ndarray) -> np.ndarray:
    squares = ((pixels - mean[:, None, None]) ** 2 * mask[..., None]).mean(-1).sum((1, 2))
    return np.sqrt(squares / np.maximum(mask.sum((1, 2)), 1))


def _noise(pixels: np.ndarray, mask: np.ndarray) -> np.ndarray:
    from scipy import ndimage

    smooth = ndimage.uniform_filter(pixels, 3, mode="nearest", axes=(1, 2))
    rough = np.abs(pixels - smooth).mean(-1)
    return np.array([np.median(r[m]) if m.any() else 0.0 for r, m in zip(rough, mask, strict=True)])


def _sharpness(alpha: np.ndarray, shape: np.ndarray, radius: np.ndarray) -> np.ndarray:
    """A ramp of one pixel holds 2/3 of 4 a (1 - a) for every pixel of outline; a softer edge holds more."""
    outline = unit_outlines()[shape] * radius * alpha.shape[1] / 2
    return np.clip(2 / 3 * outline / np.maximum((4 * alpha * (1 - alpha)).sum((1, 2)), 1e-3), 0, 1)


def _boxes(alpha: np.ndarray) -> np.ndarray:
    """[n, 4] left, top, right, bottom of the pixels of every mask above one half, in half sides; zeros without any."""
    size = alpha.shape[1]
    inside = np.asarray(alpha >= 0.5)
    edges = []
    for axis in (1, 2):  # columns that hold a pixel, then rows
        held = inside.max(axis)
        edges.append((held.argmax(1), size - held[:, ::-1].argmax(1)))
    (left, right), (top, bottom) = edges
    box = np.stack([left, top, right, bottom], axis=1) * 2 / size - 1
    return np.where(inside.max((1, 2))[:, None], box, 0.0)


@dataclass(frozen=True)
class Match:
    """Whether pictures show what their captions say; every field is a bool array.

    `size` and `background` are True where the caption leaves them open, with some tolerance beyond the words' limits.
    `both` is colour and shape, `all` everything that the caption says.
    """

    colour: np.ndarray
    shape: np.ndarray
    both: np.ndarray
    size: np.ndarray
    background: np.ndarray
    all: np.ndarray


def caption_match(images: np.ndarray | Parsed, captions: Sequence[str]) -> Match:
    """Strict comparison of pictures with captions; a caption outside the world's language matches nothing.

    The object must cover MIN_AREA; its hue must be nearest to the captioned colour; its best template, with an overlap
    above MIN_IOU, must be the captioned shape.
    """
    seen = images if isinstance(images, Parsed) else parse(images)
    said = [read_caption(text) for text in captions]
    drawn = ~seen.empty & (seen.area > MIN_AREA)
    want_colour = np.array([COLOUR_NAMES.index(s.colour) if s else -2 for s in said])
    want_shape = np.array([SHAPES.index(s.shape) if s else -2 for s in said])
    colour = drawn & (seen.colour == want_colour)
    shape = drawn & (seen.shape == want_shape) & (seen.iou > MIN_IOU)
    radius, luma = np.exp(seen.log_size), seen.background @ LUMA
    size = drawn & _fits(
        [s.size if s else None for s in said], small=radius < SMALL + 0.04, large=radius > LARGE - 0.04
    )
    background = _fits([s.background if s else None for s in said], dark=luma < DARK + 0.05, light=luma > LIGHT - 0.05)
    both = colour & shape
    return Match(colour, shape, both, size, background, both & size & background)


def _fits(words: list[str | None], **truth: np.ndarray) -> np.ndarray:
    return np.array(
        [word == "" or (word is not None and bool(truth[word][row])) for row, word in enumerate(words)], bool
    )


def utility(images: np.ndarray | Parsed, captions: Sequence[str]) -> np.ndarray:
    """float [n]: what the simulated annotators truly prefer.

    First of all the right shape and colour; then large, centred, saturated, sharp objects that stand out from an even
    background; noise and blown-out pixels cost. A size or background that contradicts the caption costs as well.
    """
    seen = images if isinstance(images, Parsed) else parse(images)
    match = caption_match(seen, captions)
    size = np.clip((seen.log_size - np.log(0.36)) / np.log(2), -0.3, 1.1)
    off_centre = np.hypot(seen.x, seen.y)
    looks = (
        0.9 * size
        - 0.9 * np.clip(off_centre, 0, 1)
        + 0.8 * np.clip((seen.chroma - 0.5) / 0.4, -0.5, 1)
        + 0.6 * np.clip(seen.contrast, 0, 1.2)
        + 0.5 * seen.sharpness
        + 0.5 * np.clip((seen.iou - MIN_IOU) / 0.3, -1, 1)
    )
    faults = 4 * np.clip(seen.background_std, 0, 0.3) + 8 * np.clip(seen.noise - 0.02, 0, 0.1) + 2 * seen.clipped
    words = 1.5 * match.colour + 1.5 * match.shape + 0.7 * (match.size & ~seen.empty) + 0.7 * match.background
    return np.where(seen.empty, -1.5, looks) - faults + words


def attribute_diversity(images: np.ndarray | Parsed) -> float:
    """Mean pairwise distance of one group's pictures in what captions leave open; 0 for fewer than two pictures.

    The attributes are x, y, log size, background R, G, B and the background's deviation, each divided by its standard
    deviation in the world (WORLD_STD); the distance is Euclidean divided by the root of the number of attributes.
    """
    seen = images if isinstance(images, Parsed) else parse(images)
    if len(seen.x) < 2:
        return 0.0
    points = attributes(seen) / WORLD_STD
    gaps = np.linalg.norm(points[:, None] - points[None], axis=-1) / np.sqrt(points.shape[1])
    return float(gaps[np.triu_indices(len(points), 1)].mean())


def attributes(seen: Parsed) -> np.ndarray:
    """[n, 7]: x, y, log size, background R, G, B, background deviation."""
    return np.column_stack([seen.x, seen.y, seen.log_size, seen.background, seen.background_std])
