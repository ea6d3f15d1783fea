"""Captioned images in Parquet files."""

from __future__ import annotations

from collections.abc import Iterator

from stages.curate.rows import ImageRow, Stream
from stages.curate.settings import ParquetImages, source_name
from stages.curate.sources.images import read_cell
from stages.curate.sources.records import Record, open_records


def images(settings: ParquetImages) -> Stream[ImageRow]:
    """The images of one or several Parquet or Arrow files. Pairs may name one by the column `id`.

    Raises InputError for missing files or columns, and for a column that holds no images.
    """
    keys = (settings.image, settings.caption, settings.id, settings.group, settings.quality)
    table = open_records(settings.path, keys)
    return Stream(_rows(settings, table), table.total, table.left_out)


def _rows(settings: ParquetImages, table: Stream[Record]) -> Iterator[ImageRow]:
    for record in table.rows:
        yield ImageRow(
            name=record.label(settings.id) or record.where,
            data=read_cell(record, settings.image, table.left_out),
            text=record.text(settings.caption),
            source=source_name(settings),
            group=record.label(settings.group),
            quality=record.score(settings.quality),
        )
