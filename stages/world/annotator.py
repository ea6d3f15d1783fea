"""Simulated annotators: what they are shown, and which of two pictures they say they prefer.

The probability of preferring a follows Bradley and Terry (1952): sigmoid((u_a - u_b) / temperature), with the oracle's
utility u. At the default temperature about 88 % of the labels agree with the utility.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from scipy.special import expit

from stages.world.scene import COLOUR_NAMES, SHAPES, Scenes, draw_scenes, read_caption, worn
from stages.world.settings import WorldSettings

MISNAMED = 0.15
"""Share of pictures whose colour, and likewise whose shape, is drawn afresh instead of taken from the prompt."""
WORN = 0.15
"""Share of pictures that are blurred, and likewise that are grainy."""


@dataclass(frozen=True)
class Comparisons:
    """Prompts with two scenes each, as annotators get to see them."""

    prompts: list[str]
    a: Scenes
    b: Scenes


def draw_comparisons(
    settings: WorldSettings, prompts: Sequence[str], count: int, rng: np.random.Generator
) -> Comparisons:
    """`count` comparisons for prompts drawn from `prompts`; most pictures show the prompt's colour and shape."""
    chosen = [prompts[int(index)] for index in rng.integers(len(prompts), size=count)]
    return Comparisons(chosen, _candidates(settings, chosen, rng), _candidates(settings, chosen, rng))


def _candidates(settings: WorldSettings, prompts: list[str], rng: np.random.Generator) -> Scenes:
    said = [read_caption(prompt) for prompt in prompts]
    fresh = draw_scenes(settings, len(prompts), rng)
    colour, shape = fresh.colour.copy(), fresh.shape.copy()
    keep_colour, keep_shape = rng.random((2, len(prompts))) >= MISNAMED
    for row, caption in enumerate(said):
        if caption and keep_colour[row]:
            colour[row] = COLOUR_NAMES.index(caption.colour)
        if caption and keep_shape[row]:
            shape[row] = SHAPES.index(caption.shape)
    return worn(draw_scenes(settings, len(prompts), rng, shape, colour), WORN, rng)


def prefers_first(
    utility_a: np.ndarray, utility_b: np.ndarray, temperature: float, rng: np.random.Generator
) -> np.ndarray:
    """bool [n]: one annotator's vote for a in every comparison."""
    return rng.random(len(utility_a)) < expit((utility_a - utility_b) / temperature)


def agreement(utility_a: np.ndarray, utility_b: np.ndarray, votes: np.ndarray) -> float:
    """Share of votes for the picture of higher utility: the accuracy that a perfect reward model would reach."""
    return float(((utility_a > utility_b) == votes).mean())
