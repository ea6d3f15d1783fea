"""Captioned images in Parquet files."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

from stages.curate.rows import ImageRow, Stream
from stages.curate.settings import ParquetImages, source_name
from stages.curate.sources.folder import read_image
from stages.curate.sources.records import Record, open_records
from stages.errors import InputError


def images(settings: ParquetImages) -> Stream[ImageRow]:
    """The images of one or several Parquet files. Pairs may name one by the column `id`.

    Raises InputError for missing files or columns, and for a column that holds no images.
    """
    keys = (settings.image, settings.caption, settings.id, settings.group, settings.quality)
    table = open_records(settings.path, keys)
    return Stream(_rows(settings, table.rows), table.total)


def _rows(settings: ParquetImages, records: Iterator[Record]) -> Iterator[ImageRow]:
    for record in records:
        yield ImageRow(
            name=record.label(settings.id) or record.where,
            data=image_bytes(record, settings.image, record.folder),
            text=record.text(settings.caption),
            source=source_name(settings),
            group=record.label(settings.group),
            quality=record.score(settings.quality),
        )


def image_bytes(record: Record, key: str, folder: Path) -> bytes:
    """The bytes of the image at `key`: bytes, a struct of bytes and path, or a path below `folder`; empty for null."""
    cell = record.get(key)
    if isinstance(cell, dict):
        cell = cell.get("bytes") or cell.get("path")
    if cell is None or isinstance(cell, bytes):
        return cell or b""
    if isinstance(cell, str):
        return read_image(folder / cell, record.where)
    raise InputError(
        f"{record.where}: {key!r} is {type(cell).__name__}, expected bytes, a struct with bytes or path, or a path"
    )
