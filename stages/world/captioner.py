"""Captions of pictures by the oracle, and other captions that differ from one in a word.

Everything that a word fits is named, so that two pictures of one prompt mostly have different captions.
"""

from __future__ import annotations

import random
from dataclasses import replace

import numpy as np

from stages.world.oracle import Parsed
from stages.world.scene import (
    COLOUR_NAMES,
    DARK,
    LARGE,
    LIGHT,
    LUMA,
    SHAPES,
    SMALL,
    Caption,
    read_caption,
)
from stages.world.settings import WorldSettings

SIZES, BACKGROUNDS = ("small", "large"), ("dark", "light")


def describe(seen: Parsed) -> list[str]:
    """A caption of every picture: colour and shape, size and background where a word fits; empty where there is no
    object.
    """
    radius, luma = np.exp(seen.log_size), seen.background @ LUMA
    return [
        ""
        if seen.empty[row]
        else str(
            Caption(
                COLOUR_NAMES[seen.colour[row]],
                SHAPES[seen.shape[row]],
                "small" if radius[row] < SMALL else "large" if radius[row] > LARGE else "",
                "dark" if luma[row] < DARK else "light" if luma[row] > LIGHT else "",
            )
        )
        for row in range(len(seen.empty))
    ]


def exchanged(caption: str, world: WorldSettings, rng: random.Random) -> str | None:
    """The caption with one word for another colour, shape, size or background; None for a text that is no caption of
    this world.
    """
    said = read_caption(caption)
    if said is None:
        return None
    words = {"colour": world.colours, "shape": world.shapes, "size": SIZES, "background": BACKGROUNDS}
    named = [name for name in words if getattr(said, name)]
    name = rng.choice(named)
    others = [word for word in words[name] if word != getattr(said, name)]
    return str(replace(said, **{name: rng.choice(others)}))
