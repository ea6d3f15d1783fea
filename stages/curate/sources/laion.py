"""LAION-style data: Parquet metadata as a list of prompts, webdataset tars of img2dataset as captioned images.

A tar holds, for each key, an image, a caption (.txt) and metadata (.json), in any order. Metadata that the tar
lacks are taken from the Parquet file of the same name beside it, by the column `key`.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

from stages import contents
from stages.curate.datasets import LaionImages, LaionPrompts
from stages.curate.left_out import LeftOut
from stages.curate.rows import ImageRow, PromptRow, Stream
from stages.curate.settings import source_name
from stages.curate.sources import columnar, tars
from stages.curate.sources.file import prompt_rows
from stages.curate.sources.records import Record, open_parquet
from stages.curate.sources.tars import Sample
from stages.errors import InputError
from stages.mappings import read_json

CAPTIONS = ("TEXT", "caption")
LACKS = "its metadata have no"


def prompts(settings: LaionPrompts) -> Stream[PromptRow]:
    """The captions of the metadata. Raises InputError for files that are missing or have none."""
    shards = columnar.find(settings.path)
    names = columnar.schema(shards.files[0]).names
    key = next((name for name in CAPTIONS if name in names), CAPTIONS[0])
    return prompt_rows(open_parquet(shards, (key,)), key, source_name(settings))


def images(settings: LaionImages) -> Stream[ImageRow]:
    """The images of all tars. Metadata beyond the bounds of the settings make an image unfit.

    Raises InputError for tars that are missing or damaged, captions that are not UTF-8, and where the metadata of the
    first image lack the key that a bound asks for.
    """
    left_out = LeftOut()
    found = tars.find(settings.path, left_out)
    for tar in found:
        left_out.read(_beside(tar))

    def rows() -> Iterator[ImageRow]:
        for tar in found:
            known = _known(tar)
            for number, sample in enumerate(tars.samples(tar, left_out)):
                row = _row(sample, known, settings)
                if number == 0 and tar == found[0] and row.unfit.startswith(LACKS):
                    raise InputError(f"{row.name}: {row.unfit}")
                yield row

    return Stream(rows(), sum(_count(tar) for tar in found), left_out)


def _text(sample: Sample, suffixes: Sequence[str]) -> str:
    """The text in the first of these files; empty without one."""
    data = sample.first(suffixes)
    if said := contents.stand_in(data):
        raise InputError(f"{sample.where}: its .{suffixes[0]} is {said}")
    try:
        text = data.decode("utf-8-sig")
    except UnicodeDecodeError:
        raise InputError(f"{sample.where}: its .{suffixes[0]} is not UTF-8, expected UTF-8 text") from None
    if suffixes == tars.TEXTS and contents.is_json(text):
        raise InputError(f"{sample.where}: its .{suffixes[0]} is JSON; expected a caption in plain text")
    return text


def _metadata(sample: Sample, known: Mapping[str, Mapping[str, Any]]) -> Mapping[str, Any]:
    """What the .json says, else the Parquet file beside the tar."""
    if "json" not in sample.files:
        return known.get(sample.key, {})
    value = read_json(_text(sample, ("json",)), f"{sample.where}: its .json")
    if not isinstance(value, dict):
        raise InputError(f"{sample.where}: its .json holds {type(value).__name__}, expected an object")
    return value


def _row(sample: Sample, beside: Mapping[str, Mapping[str, Any]], settings: LaionImages) -> ImageRow:
    known = Record(sample.where, _metadata(sample, beside), Path())
    caption = _text(sample, tars.TEXTS)
    if not caption.strip():
        caption = next((known.text(key) for key in CAPTIONS if key in known.values), "")
    return ImageRow(
        name=sample.where,
        data=sample.first(tars.IMAGES),
        text=caption,
        source=source_name(settings),
        quality=known.score(settings.quality),
        unfit=_unfit(known, settings),
    )


def _unfit(known: Record, settings: LaionImages) -> str:
    """The first bound that an image does not keep; one whose value is null keeps none."""
    bounds = (
        ("punsafe", "max_unsafe", 1),
        ("pwatermark", "max_watermark", 1),
        ("similarity", "min_similarity", -1),
    )
    for key, setting, sign in bounds:
        bound = getattr(settings, setting)
        if bound is None:
            continue
        if key not in known.values:
            return f"{LACKS} {key!r}, on which `{setting}` is a bound; `{setting}: null` keeps all"
        value = known.score(key)
        if value is None or not sign * value <= sign * bound:
            return f"{key} {value:g}, bound {bound:g}"
    return ""


def _beside(tar: Path) -> Path:
    """The Parquet file with the tar's name, which need not be there."""
    stem = tars.stem(tar)
    return stem.with_name(f"{stem.name}{columnar.PARQUET}")


def _known(tar: Path) -> dict[str, Mapping[str, Any]]:
    """Rows of the Parquet file beside a tar by their key; a shard has some ten thousand."""
    file = _beside(tar)
    if not file.is_file() or "key" not in (names := columnar.schema(file).names):
        return {}
    return {str(values["key"]): values for _, values in columnar.rows(file, names)}


def _count(tar: Path) -> int:
    """How many samples a tar has at most, from the file beside it where there is one."""
    file = _beside(tar)
    return columnar.count([file]) if file.is_file() else tars.count(tar)
