"""LAION-style data: Parquet metadata as a list of prompts, webdataset tars of img2dataset as captioned images.

A tar holds, for each key, an image, a caption (.txt) and metadata (.json) one after another. Metadata that the tar
lacks are taken from the Parquet file of the same name beside it, by the column `key`.
"""

from __future__ import annotations

import json
import tarfile
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

from stages.curate.datasets import LaionImages, LaionPrompts
from stages.curate.rows import ImageRow, PromptRow, Stream
from stages.curate.settings import source_name
from stages.curate.sources import columnar
from stages.curate.sources.file import prompt_rows
from stages.curate.sources.records import Record, open_parquet
from stages.errors import InputError

IMAGES = ("jpg", "jpeg", "png", "webp")
CAPTIONS = ("TEXT", "caption")


def prompts(settings: LaionPrompts) -> Stream[PromptRow]:
    """The captions of the metadata. Raises InputError for files that are missing or have none."""
    files = columnar.find(settings.path)
    names = columnar.schema(files[0]).names
    key = next((name for name in CAPTIONS if name in names), CAPTIONS[0])
    return prompt_rows(open_parquet(files, (key,)), key, source_name(settings))


def images(settings: LaionImages) -> Stream[ImageRow]:
    """The images of all tars. Metadata beyond the bounds of the settings make an image unfit.

    Raises InputError for tars that are missing or damaged, captions that are not UTF-8, and metadata without the key
    that a bound asks for.
    """
    root = Path(settings.path)
    tars = [root] if root.is_file() else sorted(root.rglob("*.tar"))
    if not tars:
        raise InputError(f"{root}: no tars here, expected a webdataset: files such as 00000.tar")
    rows = (_row(sample, settings) for tar in tars for sample in _samples(tar))
    return Stream(rows, sum(_count(tar) for tar in tars))


class _Sample:
    """The files of one key, by suffix."""

    def __init__(self, tar: Path, key: str, beside: Mapping[str, Mapping[str, Any]]) -> None:
        self.where, self.key, self.files = f"{tar}, {key}", key, dict[str, bytes]()
        self._beside = beside

    def text(self, suffix: str) -> str:
        """The text in one of the files; empty without it."""
        try:
            return self.files.get(suffix, b"").decode("utf-8-sig")
        except UnicodeDecodeError:
            raise InputError(f"{self.where}: its .{suffix} is not UTF-8, expected UTF-8 text") from None

    def metadata(self) -> Mapping[str, Any]:
        """What the .json says, else the Parquet file beside the tar."""
        if "json" not in self.files:
            return self._beside.get(self.key, {})
        try:
            value = json.loads(self.text("json"))
        except ValueError as error:
            raise InputError(f"{self.where}: its .json is not valid JSON: {error}") from None
        if not isinstance(value, dict):
            raise InputError(f"{self.where}: its .json holds {type(value).__name__}, expected an object")
        return value


def _samples(tar: Path) -> Iterator[_Sample]:
    """The samples of a tar in its order, one in memory at a time."""
    beside = _beside(tar)
    sample: _Sample | None = None
    try:
        with tarfile.open(tar, "r|*") as archive:
            for member in archive:
                if not member.isfile():
                    continue
                folder, _, name = member.name.rpartition("/")
                stem, _, suffix = name.partition(".")
                key = f"{folder}/{stem}" if folder else stem
                if sample is None or sample.key != key:
                    if sample is not None:
                        yield sample
                    sample = _Sample(tar, key, beside)
                content = archive.extractfile(member)
                sample.files[suffix.lower()] = content.read() if content else b""
    except (tarfile.TarError, OSError, EOFError) as error:
        raise InputError(f"{tar}: not a readable tar: {error}") from None
    if sample is not None:
        yield sample


def _row(sample: _Sample, settings: LaionImages) -> ImageRow:
    known = Record(sample.where, sample.metadata(), Path())
    caption = sample.text("txt")
    if not caption:
        caption = next((known.text(key) for key in CAPTIONS if key in known.values), "")
    return ImageRow(
        name=sample.where,
        data=next((sample.files[suffix] for suffix in IMAGES if suffix in sample.files), b""),
        text=caption,
        source=source_name(settings),
        quality=known.score(settings.quality),
        unfit=_unfit(known, settings),
    )


def _unfit(known: Record, settings: LaionImages) -> str:
    """The first bound that an image does not keep; one whose value is null keeps none."""
    bounds = (
        ("punsafe", settings.max_unsafe, 1),
        ("pwatermark", settings.max_watermark, 1),
        ("similarity", settings.min_similarity, -1),
    )
    for key, bound, sign in bounds:
        if bound is None:
            continue
        value = known.score(key)
        if value is None or not sign * value <= sign * bound:
            return f"{key} {value:g}, bound {bound:g}"
    return ""


def _beside(tar: Path) -> dict[str, Mapping[str, Any]]:
    """Rows of the Parquet file with the tar's name by their key; a shard has some ten thousand."""
    file = tar.with_suffix(".parquet")
    if not file.is_file() or "key" not in (names := columnar.schema(file).names):
        return {}
    return {str(values["key"]): values for _, values in columnar.rows(file, names)}


def _count(tar: Path) -> int:
    """How many samples a tar has at most, from the file beside it where there is one."""
    file = tar.with_suffix(".parquet")
    if file.is_file():
        return columnar.count([file])
    try:
        with tarfile.open(tar) as archive:
            names = (member.name.rpartition("/")[2].partition(".") for member in archive)
            return sum(suffix.lower() in IMAGES for _, _, suffix in names)
    except (tarfile.TarError, OSError, EOFError) as error:
        raise InputError(f"{tar}: not a readable tar: {error}") from None
