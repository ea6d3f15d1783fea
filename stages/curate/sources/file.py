"""Prompt lists and preference pairs in a file."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

from stages import walk
from stages.curate.catalogue import Catalogue
from stages.curate.left_out import LeftOut
from stages.curate.pair_settings import JUDGED, FilePairs
from stages.curate.rows import ImageRow, Offer, PairRow, PromptRow, Stream
from stages.curate.settings import FilePrompts, source_name
from stages.curate.sources.images import (
    from_base64,
    is_image,
    locate,
    read_cell,
    read_file,
    refuse_address,
    refuse_base64,
)
from stages.curate.sources.json_list import short_text
from stages.curate.sources.records import Record, column_names, open_records
from stages.errors import InputError

LARGEST = 1e30
"""The largest weight or number of votes: products and sums of them are finite in 32 bits."""
WORDS = {"a": 1.0, "b": 0.0, "tie": 0.5}
BETTER_AND_WORSE = (("chosen", "rejected"), ("image_chosen", "image_rejected"), ("winner", "loser"))
"""Columns of the preferred image and the other one, as tables of preferences call them."""


def prompts(settings: FilePrompts) -> Stream[PromptRow]:
    """The prompts of a list, in its order. Raises InputError for a list that is missing or malformed."""
    table = open_records(settings.path, (settings.key, settings.group))
    return prompt_rows(table, settings.key, source_name(settings), settings.group)


def prompt_rows(table: Stream[Record], key: str, source: str, group: str | None = None) -> Stream[PromptRow]:
    """A prompt per record: the text at `key`."""
    rows = (PromptRow(record.where, record.text(key), source, record.label(group)) for record in table.rows)
    return Stream(rows, table.total, table.left_out)


def pairs(settings: FilePairs, catalogue: Catalogue) -> Stream[Offer]:
    """The comparisons of a table, each with the images that it is the first to bring.

    Without `folder`, images are named as `catalogue` knows them; with it, they are files below it. Columns of bytes
    or base64 bring images too. Raises InputError for a pair that names an image which is not there, and for votes that
    are no counts.
    """
    sides, votes = columns_of(settings)
    own = settings.caption_a, settings.caption_b
    table = open_records(
        settings.path, (settings.prompt, *sides, *votes, settings.group, settings.weight, settings.annotator, *own)
    )
    left_out = table.left_out
    if settings.folder is not None:
        below = _searched(Path(settings.folder))
        left_out.add_unread(below.unread)
        left_out.unless_read((file for file in below.files if is_image(file)), "an image that no pair names")
        left_out.unless_read(file for file in below.files if not is_image(file))
        left_out.read(Path(settings.path))

    def rows() -> Iterator[Offer]:
        for record in table.rows:
            text = record.text(settings.prompt)
            (a, image_a), (b, image_b) = (_side(record, key, text, settings, catalogue, left_out) for key in sides)
            preference = preference_of(record, settings) if votes else 1.0
            who = record.label(settings.annotator)
            said = ["" if key is None else record.text(key) for key in own]
            pair = PairRow(
                record.where, text, a, b, preference, source_name(settings), weight_of(record, settings.weight), who,
                *said,
            )  # fmt: skip
            yield Offer(pair, tuple(image for image in (image_a, image_b if b != a else None) if image))

    return Stream(rows(), table.total, left_out)


def columns_of(settings: FilePairs) -> tuple[tuple[str, str], tuple[str | None, ...]]:
    """Keys of image a and image b, and of the judgement; none where image a is the preferred one by its column."""
    if settings.chosen is not None and settings.rejected is not None:
        return (settings.chosen, settings.rejected), ()
    plain = (settings.image_a, settings.image_b), (settings.preference, settings.votes_a, settings.votes_b)
    if settings.model_fields_set & set(JUDGED):
        return plain
    names = column_names(settings.path)
    lower = {name.lower(): name for name in names}
    ranked = next(((lower[a], lower[b]) for a, b in BETTER_AND_WORSE if a in lower and b in lower), None)
    return (ranked, ()) if ranked and settings.image_a not in names else plain


def _searched(folder: Path) -> walk.Found:
    if not folder.is_dir():
        raise InputError(f"{folder}: no such folder, expected the folder of the images of pairs")
    return walk.search(folder)


def _side(
    record: Record, key: str, text: str, settings: FilePairs, catalogue: Catalogue, left_out: LeftOut
) -> tuple[str, ImageRow | None]:
    """The name under which one side's image is known, and the image itself when this pair is the first to bring it."""
    cell = record.get(key)
    where = f"{record.where}: {key!r}"
    encoded = from_base64(cell, where) if isinstance(cell, str) else None
    if isinstance(cell, bytes | dict) or encoded is not None:
        name = f"{record.where}, {key}"
        data = read_cell(record, key, left_out) if encoded is None else encoded
    else:
        name = record.label(key)
        if not name:
            raise InputError(f"{where} is empty, expected an image")
        refuse_address(name, where)
        if settings.folder is None:
            return _known(name, where, catalogue), None
        path = locate(Path(settings.folder), name)
        refuse_base64(name, path, where)
        left_out.read(path)
        name = str(path)
        if catalogue.knows(name):
            return name, None
        data = read_file(path, record.where)
    return name, ImageRow(name, data, text, source_name(settings), record.label(settings.group), for_pairs=True)


def _known(name: str, where: str, catalogue: Catalogue) -> str:
    """The name of a curated image. Raises InputError where there is none of this name, or more than one."""
    found = catalogue.named(name)
    if found is None:
        raise InputError(
            f"{where} names image {short_text(name)}, which no source of images has; expected the name or image_id of "
            "one, or the key `folder` that says where the images of pairs are"
        )
    if catalogue.ambiguous(found):
        raise InputError(
            f"{where} names image {short_text(name)}, but two different images are called so; expected an image_id"
        )
    return found


def preference_of(record: Record, settings: FilePairs) -> float | None:
    """The share of votes for a, None where there is none."""
    if settings.preference is None:
        return _share(record, record.number(settings.votes_a) or 0.0, record.number(settings.votes_b) or 0.0)
    value = record.get(settings.preference)
    if isinstance(value, str) and value.strip().lower() in WORDS:
        return WORDS[value.strip().lower()]
    wanted = "expected 0 (b) to 1 (a), or a, b or tie"
    share = record.number(settings.preference, wanted)
    if share is None or 0 <= share <= 1:
        return share
    raise InputError(f"{record.where}: {settings.preference!r} is {share:.17g}, {wanted}")


def weight_of(record: Record, key: str | None) -> float:
    """The weight of a pair. Raises InputError for one that is missing, negative or beyond 32 bits."""
    weight = 1.0 if key is None else record.number(key)
    if weight is None or not 0 <= weight <= LARGEST:
        raise InputError(
            f"{record.where}: {key!r} is {record.get(str(key))!r}, expected a weight from 0 to {LARGEST:.0e}"
        )
    return weight


def _share(record: Record, a: float, b: float) -> float | None:
    if not (0 <= a <= LARGEST and 0 <= b <= LARGEST):
        raise InputError(f"{record.where}: {a:g} and {b:g} votes, expected counts")
    return a / (a + b) if a + b else None
