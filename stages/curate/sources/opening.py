"""From the settings of a source to its rows: which module reads which kind."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from stages.curate.catalogue import Catalogue
from stages.curate.pair_settings import EditedPairs, PerturbedCaptions, ShapesPairs
from stages.curate.rows import ImageRow, Offer, PromptRow, Stream
from stages.curate.settings import CurateSettings, ImageSource, PairSource, PromptSource, ShapesImages, ShapesPrompts
from stages.curate.sources import (
    coco,
    edited,
    emoji,
    file,
    folder,
    hpdv2,
    image_reward_db,
    laion,
    parquet,
    perturbed,
    pick_a_pic,
    shapes,
    suites,
)
from stages.world.settings import WorldSettings

PROMPTS: dict[str, Callable[[Any], Stream[PromptRow]]] = {
    "emoji": emoji.prompts,
    "file": file.prompts,
    "hpdv2": hpdv2.prompts,
    "image_reward_db": image_reward_db.prompts,
    "pick_a_pic": pick_a_pic.prompts,
    "coco": coco.prompts,
    "laion": laion.prompts,
    "parti_prompts": suites.parti_prompts,
    "draw_bench": suites.draw_bench,
    "hpsv2_benchmark": suites.hpsv2_benchmark,
}
IMAGES: dict[str, Callable[[Any], Stream[ImageRow]]] = {
    "emoji": emoji.images,
    "folder": folder.images,
    "parquet": parquet.images,
    "coco": coco.images,
    "laion": laion.images,
    "hpdv2": hpdv2.images,
}
PAIRS: dict[str, Callable[[Any, Catalogue], Stream[Offer]]] = {
    "emoji": emoji.pairs,
    "file": file.pairs,
    "hpdv2": hpdv2.pairs,
    "image_reward_db": image_reward_db.pairs,
    "pick_a_pic": pick_a_pic.pairs,
}


def prompts(source: PromptSource, world: WorldSettings) -> Stream[PromptRow]:
    """The prompts of a source; raises InputError for one that is missing or malformed."""
    return shapes.prompts(source, world) if isinstance(source, ShapesPrompts) else PROMPTS[source.kind](source)


def images(source: ImageSource, world: WorldSettings, study_seed: int) -> Stream[ImageRow]:
    """The captioned images of a source; raises InputError for one that is missing or malformed."""
    if isinstance(source, ShapesImages):
        return shapes.images(source, world, study_seed)
    return IMAGES[source.kind](source)


def pairs(
    source: PairSource, world: WorldSettings, study_seed: int, catalogue: Catalogue, every: CurateSettings
) -> Stream[Offer]:
    """The pairs of a source, with the images that `catalogue` does not know; raises InputError as the others do.

    `every` has the other sources, of which an editor takes one.
    """
    if isinstance(source, EditedPairs):
        read = _images_of(every.criticised(source), world, study_seed, every)
        return edited.pairs(source, read, catalogue, world, every.filters.max_pixels)
    if isinstance(source, ShapesPairs):
        return shapes.pairs(source, world, study_seed)
    if isinstance(source, PerturbedCaptions):
        return perturbed.pairs(source, catalogue, world)
    return PAIRS[source.kind](source, catalogue)


def _images_of(
    source: ImageSource | PairSource, world: WorldSettings, study_seed: int, every: CurateSettings
) -> Stream[ImageRow]:
    """The images of a source of images, or those that a source of pairs brings, read once more."""
    if source in every.images:
        return images(source, world, study_seed)  # pyright: ignore[reportArgumentType]
    offers = pairs(source, world, study_seed, Catalogue(), every)  # pyright: ignore[reportArgumentType]
    return Stream((row for offer in offers.rows for row in offer.brings), 2 * offers.total)
