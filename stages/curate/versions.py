"""Which version of a data set or model is meant: source, revision, licence, digest and size of published files.

`versions.csv` beside this module lists what is known; a study may name a table of its own in `curate.versions`, whose
rows come first. Files of a source are held against the rows of its kind. Run as a program, `python -m
stages.curate.versions FILE ...` prints digest and size of files for a row of such a table.
"""

from __future__ import annotations

import argparse
import csv
import sys
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path, PurePosixPath
from typing import Any

from pydantic import Field, ValidationError

from stages.errors import InputError
from stages.params import Settings, describe
from stages.runtime import run_and_leave, sha256

SHIPPED = Path(__file__).with_name("versions.csv")
SAID = ("name", "source", "revision", "licence")


class Version(Settings):
    """One row: a published file, or several that a pattern names."""

    name: str = Field(min_length=1, description="data set or model")
    kind: str = Field(min_length=1, description="kind of source in `curate`, or model")
    source: str = Field(min_length=1, description="where it is published")
    file: str = Field(
        min_length=1, description="path below the folder of the source; `*` stands for any part of a name"
    )
    revision: str = Field("", description="commit or tag; empty where it is not pinned")
    licence: str = Field(min_length=1, description="licence or terms, or unknown")
    sha256: str = Field("", pattern="^([0-9a-f]{64})?$", description="digest of the one file; empty where not known")
    bytes: int | None = Field(None, ge=1, description="size of the one file; empty where not known")
    note: str = ""


@dataclass(frozen=True)
class Found:
    """A file of a source and the row that it fits; several rows where nothing known tells them apart."""

    file: Path
    versions: tuple[Version, ...]
    checked: bool


def summary(found: Iterable[Found]) -> list[dict[str, object]]:
    """What the files of a study are, for its manifest: an entry for all files that fit the same rows."""
    groups: dict[tuple[Version, ...], list[Found]] = {}
    for each in found:
        groups.setdefault(each.versions, []).append(each)
    return [
        {
            **{key: " or ".join(dict.fromkeys(getattr(row, key) for row in rows)) for key in SAID},
            "files": len(files),
            "checked": sum(each.checked for each in files),
        }
        for rows, files in groups.items()
    ]


def read(path: str | Path = SHIPPED) -> list[Version]:
    """The rows of a table. Raises InputError for other columns, cells that do not fit, and two rows of one file."""
    path = Path(path)
    try:
        with path.open(newline="", encoding="utf-8-sig") as file:
            rows = list(csv.DictReader(file, strict=True))
    except (OSError, UnicodeDecodeError, csv.Error) as error:
        raise InputError(f"{path}: cannot be read as a table of versions: {error}") from None
    made, seen = [], set[tuple[str, str, str]]()
    for number, row in enumerate(rows, 2):
        where = f"{path}, row {number}"
        try:
            cells: dict[Any, Any] = {key: cell for key, cell in row.items() if cell or key is None}
            if str(cells.get("bytes", "")).removeprefix("-").isdecimal():
                cells["bytes"] = int(cells["bytes"])
            version = Version.model_validate(cells)
        except ValidationError as error:
            raise InputError(describe(error, Version, f"{where}:")) from None
        key = (version.kind, version.source, version.file)
        if key in seen:
            raise InputError(f"{where}: a second row of {version.file!r} of {version.source}, expected one")
        if "*" in version.file and (version.sha256 or version.bytes):
            raise InputError(f"{where}: {version.file!r} names several files, so it has no digest and no size")
        seen.add(key)
        made.append(version)
    return made


def check(kind: str, place: str, versions: Iterable[Version]) -> Iterator[Found]:
    """Hold the files at `place`, a file or folder of a source of this kind, against the rows of `versions`.

    Of several rows for one file the first that fits is taken. Raises InputError for a file that fits none of the rows
    that give its size or digest.
    """
    rows = [version for version in versions if version.kind == kind]
    for file in sorted({file for version in rows for file in _files(Path(place), version.file)}):
        about = [version for version in rows if file in _files(Path(place), version.file)]
        pinned = [version for version in about if version.sha256 or version.bytes]
        if not pinned:
            yield Found(file, tuple(about), False)
            continue
        size = file.stat().st_size
        digest = sha256(file) if any(version.sha256 and version.bytes in (None, size) for version in pinned) else ""
        fitting = [v for v in pinned if v.bytes in (None, size) and v.sha256 in ("", digest)]
        if not fitting:
            first = pinned[0]
            wanted = f"sha256 {first.sha256}" if first.bytes in (None, size) else f"{first.bytes} bytes"
            has = f"sha256 {digest}" if first.bytes in (None, size) else f"{size}"
            raise InputError(f"{file}: is not {first.name} of the table of versions: expected {wanted}, found {has}")
        yield Found(file, (fitting[0],), True)


def _files(place: Path, pattern: str) -> Sequence[Path]:
    """The files at `place` that a row's pattern names; a source may also be the one file itself, or its own folder."""
    if place.is_file():
        return [place] if PurePosixPath(place.name).match(PurePosixPath(pattern).name) else []
    return sorted({*place.glob(pattern), *place.glob(PurePosixPath(pattern).name)})


def main() -> None:
    """Command line."""
    parser = argparse.ArgumentParser(prog="python -m stages.curate.versions", description="Digest and size of files.")
    parser.add_argument("files", nargs="*", type=Path, help="without files the shipped table is checked and printed")
    args = parser.parse_args()
    if not args.files:
        for version in read():
            print(f"{version.name}: {version.file}, {version.licence}, {version.source}")
    writer = csv.writer(sys.stdout, lineterminator="\n")
    for file in args.files:
        if not file.is_file():
            raise InputError(f"{file}: no such file")
        writer.writerow([file.name, sha256(file), file.stat().st_size])


if __name__ == "__main__":
    run_and_leave(main)
