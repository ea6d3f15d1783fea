"""Scenes of the shapes world as a table of attributes, and the small language that describes them.

A scene is one object on a background. Its caption names colour and shape, sometimes size and background; position,
rotation, background hue, texture and whatever else goes unsaid is what a generator may be diverse in.
Lengths are in half sides of the frame: x and y run from -1 to 1, x to the right, y down.
"""

from __future__ import annotations

import colorsys
import re
from collections.abc import Sequence
from dataclasses import dataclass, fields, replace

import numpy as np

from stages.world.settings import COLOURS, SHAPES, WorldSettings

SMALL, LARGE = 0.453, 0.572
"""A radius below the first is called small, above the second large; between them no word fits."""
DARK, LIGHT = 0.30, 0.56
"""The same for the luma of the background's colour."""
LUMA = np.array([0.299, 0.587, 0.114])

TEXTURES = ("plain", "shaded", "striped")
COLOUR_NAMES = tuple(COLOURS)
HUES = np.array(list(COLOURS.values()))


@dataclass(frozen=True)
class Scenes:
    """`n` scenes; every field is an array of length n."""

    shape: np.ndarray
    """Index into SHAPES."""
    colour: np.ndarray
    """Index into COLOUR_NAMES."""
    x: np.ndarray
    y: np.ndarray
    radius: np.ndarray
    rotation: np.ndarray
    """Radians, clockwise on the screen."""
    rgb: np.ndarray
    """[n, 3] colour of the object, in [0, 1]."""
    background: np.ndarray
    """[n, 3] colour of the background before texture, in [0, 1]."""
    texture: np.ndarray
    """Index into TEXTURES."""
    texture_angle: np.ndarray
    texture_frequency: np.ndarray
    """Stripes per half side."""
    texture_phase: np.ndarray
    texture_strength: np.ndarray
    blur: np.ndarray
    """Standard deviation of a Gaussian blur in pixels; 0 in clean scenes."""
    grain: np.ndarray
    """Standard deviation of pixel noise, of full scale 1; 0 in clean scenes."""

    def __len__(self) -> int:
        return len(self.shape)

    def take(self, rows: np.ndarray | slice) -> Scenes:
        """The scenes at `rows`."""
        return Scenes(**{field.name: getattr(self, field.name)[rows] for field in fields(self)})

    def record(self, row: int) -> dict[str, object]:
        """The attributes of one scene as plain values, for a JSON column."""
        values: dict[str, object] = {"shape": SHAPES[self.shape[row]], "colour": COLOUR_NAMES[self.colour[row]]}
        for name in ("x", "y", "radius", "rotation", "texture_strength", "blur", "grain"):
            values[name] = round(float(getattr(self, name)[row]), 4)
        values["background"] = [round(float(v), 4) for v in self.background[row]]
        values["texture"] = TEXTURES[self.texture[row]]
        return values


def draw_scenes(
    settings: WorldSettings,
    count: int,
    rng: np.random.Generator,
    shape: np.ndarray | None = None,
    colour: np.ndarray | None = None,
) -> Scenes:
    """`count` scenes at random; `shape` and `colour` (indices into SHAPES and COLOUR_NAMES) may be given."""
    if shape is None:
        shape = rng.choice([SHAPES.index(name) for name in settings.shapes], count)
    if colour is None:
        colour = rng.choice([COLOUR_NAMES.index(name) for name in settings.colours], count)
    radius = np.exp(rng.uniform(np.log(settings.radius_low), np.log(settings.radius_high), count))
    room = 0.98 - radius
    hue = HUES[colour] + rng.uniform(-6, 6, count)
    plain = 1 - settings.shaded - settings.striped
    texture = rng.choice(3, count, p=[max(plain, 0.0), settings.shaded, settings.striped])
    strength = np.where(texture == 1, rng.uniform(0.15, 0.35, count), rng.uniform(0.08, 0.2, count))
    return Scenes(
        shape=np.asarray(shape, np.int64),
        colour=np.asarray(colour, np.int64),
        x=rng.uniform(-1, 1, count) * room,
        y=rng.uniform(-1, 1, count) * room,
        radius=radius,
        rotation=rng.uniform(-1, 1, count) * settings.rotation,
        rgb=_rgb(hue, rng.uniform(0.78, 0.96, count), rng.uniform(0.78, 0.96, count)),
        background=_backgrounds(settings, count, hue, rng),
        texture=texture,
        texture_angle=rng.uniform(0, 2 * np.pi, count),
        texture_frequency=rng.uniform(1.2, 2.4, count),
        texture_phase=rng.uniform(0, 2 * np.pi, count),
        texture_strength=np.where(texture == 0, 0.0, strength),
        blur=np.zeros(count),
        grain=np.zeros(count),
    )


def worn(scenes: Scenes, share: float, rng: np.random.Generator) -> Scenes:
    """The same scenes, a `share` of them blurred and another `share` grainy: what annotators also get to see."""
    count = len(scenes)
    blurred, grainy = rng.random(count) < share, rng.random(count) < share
    return replace(
        scenes,
        blur=np.where(blurred, rng.uniform(0.5, 1.3, count), 0.0),
        grain=np.where(grainy, rng.uniform(0.02, 0.12, count), 0.0),
    )


def _backgrounds(settings: WorldSettings, count: int, hue: np.ndarray, rng: np.random.Generator) -> np.ndarray:
    """[n, 3] colours at least 60 degrees of hue away from the object and never as saturated as one."""
    away = hue + rng.uniform(60, 300, count)
    saturation = np.where(rng.random(count) < settings.grey, 0.0, rng.uniform(0.15, 0.5, count))
    return _rgb(away, saturation, rng.uniform(0.08, 0.92, count))


def _rgb(hue: np.ndarray, saturation: np.ndarray, value: np.ndarray) -> np.ndarray:
    triples = zip(hue % 360 / 360, saturation, value, strict=True)
    return np.array([colorsys.hsv_to_rgb(*triple) for triple in triples]).reshape(-1, 3)


# --- the language ---------------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Caption:
    """What a caption says; `size` and `background` are empty where it leaves them open."""

    colour: str
    shape: str
    size: str = ""
    background: str = ""

    def __str__(self) -> str:
        noun = " ".join(word for word in (self.size, self.colour, self.shape) if word)
        article = "an" if noun[0] in "aeiou" else "a"
        return f"{article} {noun}" + (f" on a {self.background} background" if self.background else "")


_GRAMMAR = re.compile(
    rf"an? (?:(?P<size>small|large) )?(?P<colour>{'|'.join(COLOURS)}) (?P<shape>{'|'.join(SHAPES)})"
    r"(?: on a (?P<background>dark|light) background)?"
)


def read_caption(text: str) -> Caption | None:
    """What `text` says, or None where it is not a sentence of this language."""
    found = _GRAMMAR.fullmatch(" ".join(text.lower().split()))
    return Caption(**{name: word or "" for name, word in found.groupdict().items()}) if found else None


def size_words(scenes: Scenes) -> list[str]:
    """The word that fits the size of every scene's object, empty between small and large."""
    return ["small" if r < SMALL else "large" if r > LARGE else "" for r in scenes.radius]


def background_words(scenes: Scenes) -> list[str]:
    """The word that fits the brightness of every scene's background, empty between dark and light."""
    return ["dark" if v < DARK else "light" if v > LIGHT else "" for v in scenes.background @ LUMA]


def draw_captions(settings: WorldSettings, scenes: Scenes, rng: np.random.Generator) -> list[str]:
    """A true caption for every scene: colour and shape always, size and background sometimes, where a word fits."""
    named_size = rng.random(len(scenes)) < settings.size_words
    named_background = rng.random(len(scenes)) < settings.background_words
    sizes, backgrounds = size_words(scenes), background_words(scenes)
    return [
        str(
            Caption(
                COLOUR_NAMES[scenes.colour[row]],
                SHAPES[scenes.shape[row]],
                sizes[row] if named_size[row] else "",
                backgrounds[row] if named_background[row] else "",
            )
        )
        for row in range(len(scenes))
    ]


def describes(captions: Sequence[str], scenes: Scenes) -> np.ndarray:
    """bool [n]: whether caption i is true of scene i (False also where it is no sentence of this language)."""
    sizes, backgrounds = size_words(scenes), background_words(scenes)
    true = []
    for row, text in enumerate(captions):
        said = read_caption(text)
        true.append(
            said is not None
            and said.colour == COLOUR_NAMES[scenes.colour[row]]
            and said.shape == SHAPES[scenes.shape[row]]
            and said.size in ("", sizes[row])
            and said.background in ("", backgrounds[row])
        )
    return np.array(true, dtype=bool)


def all_minimal_prompts(settings: WorldSettings | None = None) -> list[str]:
    """Every prompt that names colour and shape alone."""
    settings = settings or WorldSettings()
    return [str(Caption(colour, shape)) for shape in settings.shapes for colour in settings.colours]


def all_prompts(settings: WorldSettings | None = None) -> list[str]:
    """Every sentence of the language, minimal ones first."""
    settings = settings or WorldSettings()
    richer = [
        str(Caption(colour, shape, size, background))
        for size in ("", "small", "large")
        for background in ("", "dark", "light")
        if size or background
        for shape in settings.shapes
        for colour in settings.colours
    ]
    return all_minimal_prompts(settings) + richer


def evaluation_prompts(settings: WorldSettings | None = None) -> list[str]:
    """The prompts a study keeps for evaluation: 12 minimal and 12 richer ones, a fixed choice.

    In the full world every colour and every shape occurs in both halves. A smaller world (fewer words) keeps one
    minimal and one richer prompt in four.
    """
    settings = settings or WorldSettings()
    shapes, colours = settings.shapes, settings.colours
    every = [
        (colours[(3 * row + 2 * half) % len(colours)], shape) for half in range(2) for row, shape in enumerate(shapes)
    ]
    count = min(12, max(1, len(shapes) * len(colours) // 4))
    extras = [("small", ""), ("", "dark"), ("large", ""), ("", "light"), ("large", "dark"), ("small", "light")]
    minimal = [str(Caption(*pair)) for pair in every[:count]]
    shifted = [(colours[(colours.index(colour) + 1) % len(colours)], shape) for colour, shape in every[:count]]
    richer = [str(Caption(*pair, *extras[(row + row // 6) % 6])) for row, pair in enumerate(shifted)]
    return minimal + richer
