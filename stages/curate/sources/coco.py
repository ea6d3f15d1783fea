"""COCO captions as Parquet: a row per caption, with the image, its file name and its number in COCO (`cocoid`)."""

from __future__ import annotations

from collections.abc import Iterator

from stages.curate.datasets import CocoImages, CocoPrompts
from stages.curate.rows import ImageRow, PromptRow, Stream
from stages.curate.settings import source_name
from stages.curate.sources import columnar
from stages.curate.sources.file import prompt_rows
from stages.curate.sources.images import read_cell
from stages.curate.sources.records import open_parquet


def prompts(settings: CocoPrompts) -> Stream[PromptRow]:
    """Every caption, grouped by image. Raises InputError without files of the split."""
    table = open_parquet(columnar.find(settings.path, settings.split), ("caption", "cocoid"))
    return prompt_rows(table, "caption", source_name(settings), "cocoid")


def images(settings: CocoImages) -> Stream[ImageRow]:
    """Every image once, with the first of its captions, in a group of its own: an image is never in two splits."""
    table = open_parquet(columnar.find(settings.path, settings.split), ("image", "filename", "cocoid", "caption"))
    seen: set[str] = set()

    def rows() -> Iterator[ImageRow]:
        for record in table.rows:
            number = record.label("cocoid")
            if number in seen:
                table.left_out.add(record.where, "a further caption of an image")
                continue
            seen.add(number)
            data = read_cell(record, "image", table.left_out)
            name = record.label("filename") or record.where
            yield ImageRow(name, data, record.text("caption"), source_name(settings), number)

    return Stream(rows(), table.total, table.left_out)
