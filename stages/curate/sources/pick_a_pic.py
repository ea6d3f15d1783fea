"""Pick-a-Pic v1 and v2 as they are published: Parquet with the bytes of both images, the prompt and the judgement."""

from __future__ import annotations

from collections.abc import Iterator

from stages.curate.catalogue import Catalogue
from stages.curate.datasets import PickAPicPairs, PickAPicPrompts
from stages.curate.rows import Offer, PairRow, PromptRow, Stream
from stages.curate.settings import source_name
from stages.curate.sources import columnar
from stages.curate.sources.file import prompt_rows
from stages.curate.sources.images import read_cell
from stages.curate.sources.offers import offer
from stages.curate.sources.records import Record, open_parquet
from stages.errors import InputError

IMAGES = ("jpg_0", "jpg_1")
KEYS = ("caption", *IMAGES, "image_0_uid", "image_1_uid", "label_0", "has_label")


def prompts(settings: PickAPicPrompts) -> Stream[PromptRow]:
    """The caption of every row. Raises InputError without files of the split."""
    table = open_parquet(columnar.find(settings.path, settings.split), ("caption",))
    return prompt_rows(table, "caption", source_name(settings))


def pairs(settings: PickAPicPairs, catalogue: Catalogue) -> Stream[Offer]:
    """One pair per row, with the images by their `uid`; label_0 is 1, 0 or 0.5, rows without a label are not judged.

    Raises InputError for files without images: those sets are published too, and serve for prompts alone.
    """
    shards = columnar.find(settings.path, settings.split)
    for file in shards.files:
        names = columnar.schema(file).names
        if any(column not in names or columnar.all_null(file, column) for column in IMAGES):
            raise InputError(
                f"{file}: holds no images in {' and '.join(IMAGES)}; expected Pick-a-Pic with images "
                "(without them it serves as a source of prompts)"
            )
    table = open_parquet(shards, KEYS)

    def rows() -> Iterator[Offer]:
        for record in table.rows:
            sides = {record.label(f"image_{side}_uid"): key for side, key in enumerate(IMAGES)}
            a, b = (record.label(f"image_{side}_uid") for side in (0, 1))
            pair = PairRow(record.where, record.text("caption"), a, b, _preference(record), source_name(settings))
            yield offer(pair, lambda uid, r=record, s=sides: read_cell(r, s[uid], table.left_out), catalogue)

    return Stream(rows(), table.total, table.left_out)


def _preference(record: Record) -> float | None:
    label = record.number("label_0")
    if record.get("has_label") is False or label is None:
        return None
    if label not in (0, 0.5, 1):
        raise InputError(f"{record.where}: 'label_0' is {label:g}, expected 0, 0.5 or 1")
    return label
