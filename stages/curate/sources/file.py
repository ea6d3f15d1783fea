"""Prompt lists and preference pairs in a file."""

from __future__ import annotations

import math
from collections.abc import Iterator
from pathlib import Path

from stages.curate.catalogue import Catalogue
from stages.curate.rows import ImageRow, Offer, PairRow, PromptRow, Stream
from stages.curate.settings import FilePairs, FilePrompts, source_name
from stages.curate.sources.folder import read_image
from stages.curate.sources.parquet import image_bytes
from stages.curate.sources.records import Record, open_records
from stages.errors import InputError

WORDS = {"a": 1.0, "b": 0.0, "tie": 0.5}


def prompts(settings: FilePrompts) -> Stream[PromptRow]:
    """The prompts of a list, in its order. Raises InputError for a list that is missing or malformed."""
    table = open_records(settings.path, (settings.key, settings.group))
    return prompt_rows(table, settings.key, source_name(settings), settings.group)


def prompt_rows(table: Stream[Record], key: str, source: str, group: str | None = None) -> Stream[PromptRow]:
    """A prompt a record: the text at `key`."""
    rows = (PromptRow(record.where, record.text(key), source, record.label(group)) for record in table.rows)
    return Stream(rows, table.total)


def pairs(settings: FilePairs, catalogue: Catalogue) -> Stream[Offer]:
    """The comparisons of a table, each with the images that it is the first to bring.

    Without `folder`, images are named as `catalogue` knows them; with it, they are files below it. Columns of bytes
    bring images too. Raises InputError for a pair that names an image which is not there, and for votes that are none.
    """
    sides = (settings.image_a, settings.image_b)
    votes = (settings.preference, settings.votes_a, settings.votes_b)
    table = open_records(settings.path, (settings.prompt, *sides, *votes, settings.group))

    def rows() -> Iterator[Offer]:
        for record in table.rows:
            text = record.text(settings.prompt)
            (a, image_a), (b, image_b) = (_side(record, key, text, settings, catalogue) for key in sides)
            pair = PairRow(record.where, text, a, b, _preference(record, settings), source_name(settings))
            yield Offer(pair, tuple(image for image in (image_a, image_b) if image))

    return Stream(rows(), table.total)


def _side(
    record: Record, key: str, text: str, settings: FilePairs, catalogue: Catalogue
) -> tuple[str, ImageRow | None]:
    """The name under which one side's image is known, and the image itself when this pair is the first to bring it."""
    cell = record.get(key)
    if isinstance(cell, bytes | dict):
        name = f"{record.where}, {key}"
        data = image_bytes(record, key, record.folder)
    else:
        name = record.label(key)
        if not name:
            raise InputError(f"{record.where}: {key!r} is empty, expected an image")
        if settings.folder is None:
            if not catalogue.knows(name):
                raise InputError(
                    f"{record.where}: {key!r} names image {name!r}, which no source of images has; expected the name "
                    "or image_id of one, or the key `folder` that says where the images of pairs are"
                )
            if catalogue.ambiguous(name):
                raise InputError(
                    f"{record.where}: {key!r} names image {name!r}, but two different images are called so; "
                    "expected an image_id"
                )
            return name, None
        path = Path(settings.folder) / name
        name = str(path)
        if catalogue.knows(name):
            return name, None
        data = read_image(path, record.where)
    return name, ImageRow(name, data, text, source_name(settings), record.label(settings.group), for_pairs=True)


def _preference(record: Record, settings: FilePairs) -> float | None:
    """The share of votes for a, None where there is none."""
    if settings.preference is None:
        return _share(record, record.number(settings.votes_a) or 0.0, record.number(settings.votes_b) or 0.0)
    value = record.get(settings.preference)
    if isinstance(value, str) and value.strip().lower() in WORDS:
        return WORDS[value.strip().lower()]
    share = record.number(settings.preference)
    if share is None or 0 <= share <= 1:
        return share
    raise InputError(f"{record.where}: {settings.preference!r} is {share:g}, expected 0 (b) to 1 (a), or a, b or tie")


def _share(record: Record, a: float, b: float) -> float | None:
    if not (0 <= a < math.inf and 0 <= b < math.inf):
        raise InputError(f"{record.where}: {a:g} and {b:g} votes, expected counts")
    return a / (a + b) if a + b else None
