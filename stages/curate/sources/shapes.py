"""The simulated world as a source: scenes with captions, pairs with votes, and its prompts."""

from __future__ import annotations

import json
from collections.abc import Iterator

import numpy as np

from stages.curate.pair_settings import ShapesPairs
from stages.curate.rows import ImageRow, Offer, PairRow, PromptRow, Stream
from stages.curate.settings import ShapesImages, ShapesPrompts, source_name
from stages.pictures import encode
from stages.runtime import seed_from
from stages.world.annotator import draw_comparisons, prefers_first
from stages.world.captioner import describe
from stages.world.oracle import parse, utility
from stages.world.render import render
from stages.world.scene import Scenes, all_prompts, draw_captions, draw_scenes, evaluation_prompts
from stages.world.settings import WorldSettings
from stages.world.tastes import liked

CHUNK = 256
"""Rows drawn from one generator; chunks are always drawn whole, so that row i does not depend on the count."""


def prompts(settings: ShapesPrompts, world: WorldSettings) -> Stream[PromptRow]:
    """`train`: every sentence of the world; `eval`: those that studies keep for evaluation."""
    texts = evaluation_prompts(world) if settings.part == "eval" else all_prompts(world)
    rows = (PromptRow(f"sentence {row}", text, source_name(settings)) for row, text in enumerate(texts, 1))
    return Stream(rows, len(texts))


def images(settings: ShapesImages, world: WorldSettings, study_seed: int) -> Stream[ImageRow]:
    """Clean scenes with true captions."""

    def rows() -> Iterator[ImageRow]:
        for start in range(0, settings.count, CHUNK):
            rng = _generator(study_seed, world, "images", settings.seed, start)
            scenes = draw_scenes(world, CHUNK, rng)
            captions = draw_captions(world, scenes, rng)
            pictures = render(scenes, world.image_size, rng)
            for row in range(min(CHUNK, settings.count - start)):
                name = f"scene {start + row}"
                yield _image(name, scenes, pictures, row, captions[row], source_name(settings))

    return Stream(rows(), settings.count)


def pairs(settings: ShapesPairs, world: WorldSettings, study_seed: int) -> Stream[Offer]:
    """Two pictures for one prompt each, and the share of the simulated annotators who prefer the first.

    The prompts are distributed as the captions of scenes are.
    """

    def rows() -> Iterator[Offer]:
        for start in range(0, settings.count, CHUNK):
            yield from _judged(settings, world, study_seed, start)

    return Stream(rows(), settings.count)


def _judged(settings: ShapesPairs, world: WorldSettings, study_seed: int, start: int) -> Iterator[Offer]:
    """The pairs of one chunk."""
    rng = _generator(study_seed, world, "pairs", settings.seed, start)
    captions = draw_captions(world, draw_scenes(world, CHUNK, rng), rng)
    shown = draw_comparisons(world, captions, CHUNK, rng)
    a, b = (render(scenes, world.image_size, rng) for scenes in (shown.a, shown.b))
    judges = _generator(study_seed, world, "annotators", settings.seed, start).integers(
        max(1, settings.annotators), size=CHUNK
    )
    tastes = [settings.tastes[who % len(settings.tastes)] for who in judges]
    better, worse = (
        liked(parse(side), shown.prompts, tastes) if settings.annotators else utility(side, shown.prompts)
        for side in (a, b)
    )  # fmt: skip
    votes = [prefers_first(better, worse, world.annotator_noise, rng) for _ in range(settings.votes)]
    shares = np.mean(votes, axis=0)
    source = source_name(settings)
    said = [describe(parse(side)) if settings.captions else [""] * CHUNK for side in (a, b)]
    for row in range(min(CHUNK, settings.count - start)):
        text, name = shown.prompts[row], f"pair {start + row} of {source}"
        sides = [(f"{name}, image a", shown.a, a), (f"{name}, image b", shown.b, b)]
        brings = tuple(_image(side, scenes, drawn, row, text, source, True) for side, scenes, drawn in sides)
        pair = PairRow(name, text, sides[0][0], sides[1][0], float(shares[row]), source)
        pair.caption_a, pair.caption_b = said[0][row], said[1][row]
        pair.annotator = f"annotator {judges[row]}" if settings.annotators else ""
        yield Offer(pair, brings)


def _image(
    name: str, scenes: Scenes, pictures: np.ndarray, row: int, text: str, source: str, for_pairs: bool = False
) -> ImageRow:
    attributes = json.dumps(scenes.record(row))
    return ImageRow(name, encode(pictures[row]), text, source, attributes=attributes, for_pairs=for_pairs)


def _generator(study_seed: int, world: WorldSettings, part: str, seed: int, start: int) -> np.random.Generator:
    return np.random.default_rng(seed_from("curate", study_seed, world.seed, part, seed, start))
