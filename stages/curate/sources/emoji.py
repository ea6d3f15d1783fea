"""Emoji as a world of real images: images with names as captions, names as prompts, and pairs that annotators judge."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import numpy as np

from stages.curate.catalogue import Catalogue
from stages.curate.decode import Unreadable, decode, square
from stages.curate.left_out import LeftOut
from stages.curate.rows import ImageRow, Offer, PairRow, PromptRow, Stream
from stages.curate.settings import source_name
from stages.emoji import library, packages
from stages.emoji.annotator import TEMPERATURE, draw_comparisons, preference
from stages.emoji.names import EVALUATION
from stages.emoji.oracle import Oracle
from stages.emoji.packages import Entry, Wanted
from stages.emoji.settings import EmojiImages, EmojiPairs, EmojiPrompts, EmojiSource
from stages.emoji.taste import utility
from stages.errors import InputError
from stages.pictures import encode
from stages.runtime import seed_from

CHUNK = 256
"""Pairs drawn from one generator, so that pair i does not depend on the count."""
MAX_PIXELS = 2**20


def images(settings: EmojiImages) -> Stream[ImageRow]:
    """Every image of the chosen vendors, categories and part, `size` pixels wide, each in a group of its own.

    Raises InputError where packages or the Parquet are missing or of another layout.
    """
    left_out = LeftOut()
    found = list(_part(entries(settings, left_out), settings.part, left_out))

    def rows() -> Iterator[ImageRow]:
        for entry in found:
            data = _fitted(entry.read(), settings.size)
            text, known = entry.about.caption, entry.about.as_json()
            yield ImageRow(entry.name, data, text, source_name(settings), entry.name, attributes=known)

    return Stream(rows(), len(found), left_out)


def prompts(settings: EmojiPrompts) -> Stream[PromptRow]:
    """`train`: every name but the evaluation prompts; `eval`: those evaluation prompts of which there are images."""
    left_out = LeftOut()
    every = list(dict.fromkeys(entry.about.caption for entry in entries(settings, left_out)))
    if settings.part == "eval":
        texts = [text for text in EVALUATION if text in every]
        for text in set(EVALUATION) - {*every}:
            left_out.add(text, "an evaluation prompt without images")
    else:
        texts = [text for text in every if text not in EVALUATION]
    rows = (PromptRow(f"name {row}", text, source_name(settings)) for row, text in enumerate(texts, 1))
    return Stream(rows, len(texts), left_out)


def pairs(settings: EmojiPairs, catalogue: Catalogue) -> Stream[Offer]:
    """Two images for one name each, which is never an evaluation prompt, and the share of annotators who prefer a."""
    left_out = LeftOut()
    found = entries(settings, left_out)
    world = [Entry(entry.name, entry.about, _fitted(entry.read(), settings.size)) for entry in found]

    def rows() -> Iterator[Offer]:
        oracle = Oracle(world, settings.path)
        for start in range(0, settings.count, CHUNK):
            yield from _judged(settings, oracle, start)

    return Stream(rows(), settings.count, left_out)


def _judged(settings: EmojiPairs, oracle: Oracle, start: int) -> Iterator[Offer]:
    """The pairs of one chunk, which is always drawn whole."""
    rng = np.random.default_rng(seed_from("curate", "emoji pairs", settings.seed, start))
    shown = draw_comparisons(oracle, CHUNK, rng)
    first, second = (utility(oracle.see(side, shown.prompts), settings.taste) for side in (shown.a, shown.b))
    shares = preference(first, second, TEMPERATURE, settings.votes, rng)
    source = source_name(settings)
    for row in range(min(CHUNK, settings.count - start)):
        text, name = shown.prompts[row], f"pair {start + row} of {source}"
        sides = (f"{name}, image a", shown.a[row]), (f"{name}, image b", shown.b[row])
        brings = tuple(ImageRow(each, encode(image), text, source, for_pairs=True) for each, image in sides)
        yield Offer(PairRow(name, text, sides[0][0], sides[1][0], float(shares[row]), source), brings)


def entries(settings: EmojiSource, left_out: LeftOut) -> list[Entry]:
    """The images that the settings name, from packages or from Parquet; the others are counted."""
    path, wanted = Path(settings.path), Wanted(settings.vendors, settings.categories, settings.subcategories)
    if path.is_dir():
        return packages.entries(path, wanted, left_out)
    if not path.exists():
        raise InputError(f"{path}: no such file or folder, expected emoji packages or Parquet (docs/emoji-world.md)")
    found = []
    for entry in library.read(path):
        if reason := wanted.fault(entry.about):
            left_out.add(entry.name, reason)
        else:
            found.append(entry)
    return found


def _part(found: list[Entry], part: str, left_out: LeftOut) -> Iterator[Entry]:
    for entry in found:
        own = "eval" if entry.about.caption in EVALUATION else "train"
        if part in ("all", own):
            yield entry
        else:
            left_out.add(entry.name, f"of an {'evaluation' if own == 'eval' else 'other'} prompt")


def _fitted(data: bytes, size: int) -> bytes:
    """The image over white, `size` x `size`; the bytes themselves where they are no image, for `decode` to count."""
    try:
        decoded = decode(data, MAX_PIXELS)
    except Unreadable:
        return data
    return square(decoded.image, decoded.data, size)[1]
