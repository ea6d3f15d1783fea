"""COCO captions as Parquet: a row a caption, with the image, its file name and its number in COCO (`cocoid`)."""

from __future__ import annotations

from collections.abc import Iterator

from stages.curate.datasets import CocoImages, CocoPrompts
from stages.curate.rows import ImageRow, PromptRow, Stream
from stages.curate.settings import source_name
from stages.curate.sources import columnar
from stages.curate.sources.file import prompt_rows
from stages.curate.sources.parquet import image_bytes
from stages.curate.sources.records import open_parquet


def prompts(settings: CocoPrompts) -> Stream[PromptRow]:
    """Every caption, grouped by image. Raises InputError without files of the split."""
    table = open_parquet(columnar.find(settings.path, settings.split), ("caption", "cocoid"))
    return prompt_rows(table, "caption", source_name(settings), "cocoid")


def images(settings: CocoImages) -> Stream[ImageRow]:
    """Every image once, with the first of its captions, in a group of its own: an image is never in two splits."""
    files = columnar.find(settings.path, settings.split)
    table = open_parquet(files, ("image", "filename", "cocoid", "caption"))
    seen: set[str] = set()

    def rows() -> Iterator[ImageRow]:
        for record in table.rows:
            number = record.label("cocoid")
            if number in seen:
                continue
            seen.add(number)
            data = image_bytes(record, "image", record.folder)
            name = record.label("filename") or record.where
            yield ImageRow(name, data, record.text("caption"), source_name(settings), number)

    return Stream(rows(), table.total)
