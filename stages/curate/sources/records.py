"""Rows of a list or table in txt, csv, tsv, json, jsonl or Parquet, one at a time, each knowing where it stands."""

from __future__ import annotations

import csv
import datetime
import math
import re
import uuid
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from decimal import Decimal
from itertools import chain
from pathlib import Path
from typing import Any

from stages import contents
from stages.curate.rows import Stream
from stages.curate.sources import columnar, json_list
from stages.curate.sources.json_list import short
from stages.errors import InputError
from stages.mappings import read_json
from stages.params import nearest
from stages.places import missing

SUFFIXES = (".txt", ".csv", ".tsv", ".json", ".jsonl", ".ndjson", *columnar.SUFFIXES)
csv.field_size_limit(2**24)
_NUMBER = re.compile(r"[-+]?([0-9]+\.?[0-9]*|\.[0-9]+)([eE][-+]?[0-9]+)?|[-+]?(inf|infinity|nan)", re.IGNORECASE)
"""A number in a text; Python would take `1_0` and digits of other scripts too."""


@dataclass(frozen=True)
class Record:
    """One row. `where` names the file and the line, entry or row; `folder` is the folder of the file."""

    where: str
    values: Mapping[str, Any]
    folder: Path

    def get(self, key: str) -> Any:
        """The value at `key`, which may reach into an object or list (`file_path.0`); None for an empty list.

        Raises InputError where there is no such key.
        """
        if key in self.values:
            return self.values[key]
        found: Any = self.values
        for part in key.split("."):
            if isinstance(found, Mapping) and part in found:
                found = found[part]
            elif isinstance(found, list) and part.isdecimal() and int(part) < len(found):
                found = found[int(part)]
            elif found == [] and part.isdecimal():
                return None
            else:
                raise InputError(f"{self.where}: there is no {key!r} here{nearest(key, map(str, self.values))}")
        return found

    def text(self, key: str) -> str:
        """The text at `key`; empty for null. Raises InputError for anything that is not text."""
        value = self.get(key)
        if value is None:
            return ""
        if isinstance(value, float) and math.isnan(value):
            return ""
        if not isinstance(value, str):
            one = f"; {key}.0 is the first of them" if isinstance(value, list) else ""
            raise InputError(f"{self.where}: {key!r} is {short(value)}, expected text{one}")
        try:
            value.encode()
        except UnicodeEncodeError:
            raise InputError(f"{self.where}: {key!r} holds half a surrogate pair, expected Unicode text") from None
        return value

    def label(self, key: str | None) -> str:
        """The text, number or date at `key` as text: a name or group. Empty without a key, for null and NaN.

        A whole number is the same label whatever its type: a column with nulls often comes as floats.
        """
        value = None if key is None else self.get(key)
        if isinstance(value, float | Decimal):
            if math.isnan(value):
                return ""
            return str(int(value)) if math.isfinite(value) and value == int(value) else str(value)
        if isinstance(value, int | datetime.date | datetime.time | uuid.UUID):
            return str(value)
        return "" if key is None else self.text(key)

    def number(self, key: str | None, wanted: str = "expected a number") -> float | None:
        """The number at `key`; None without a key, for null, NaN in place of it, and an empty cell.

        Raises InputError for other things, booleans among them.
        """
        value = None if key is None else self.get(key)
        if value is None or value == "" or (isinstance(value, float | Decimal) and math.isnan(value)):
            return None
        plain = isinstance(value, int | float | Decimal) and not isinstance(value, bool)
        if not plain and not (isinstance(value, str) and _NUMBER.fullmatch(value.strip())):
            raise InputError(f"{self.where}: {key!r} is {short(value)}, {wanted}")
        return float(value)

    def score(self, key: str | None) -> float | None:
        """The number at `key`; None without a key; an empty cell is NaN, which satisfies no bound."""
        score = self.number(key)
        return math.nan if score is None and key is not None else score


def open_records(path: str, keys: Iterable[str | None]) -> Stream[Record]:
    """The rows of a file (for Parquet also of a folder); `keys` are those that will be asked for.

    A plain string in a list stands for a row with the first key alone. Raises InputError, here or while reading, for a
    file that is missing, of an unknown kind, not UTF-8 or not of its format.
    """
    wanted = [key for key in keys if key]
    table = _open(path, wanted)
    first = next(table.rows, None)  # read at once, so that a missing column is refused before any work
    if first is None:
        return table
    for key in wanted:
        first.get(key)
    return Stream(chain([first], table.rows), table.total, table.left_out)


def column_names(path: str) -> tuple[str, ...]:
    """The columns of a table, or the keys of its first row; none for a list of plain texts."""
    if columnar.is_table(path):
        return tuple(columnar.schema(columnar.find(path).files[0]).names)
    first = next(_open(path, ()).rows, None)
    return tuple(map(str, first.values)) if first and Path(path).suffix.lower() != ".txt" else ()


def _open(path: str, wanted: Sequence[str]) -> Stream[Record]:
    suffix = Path(path).suffix.lower()
    if columnar.is_table(path):
        return open_parquet(columnar.find(path), wanted)
    if suffix not in SUFFIXES:
        raise InputError(f"{path}: unknown kind of list {suffix!r}; known: {', '.join(SUFFIXES)}")
    file, key = Path(path), wanted[0] if wanted else "prompt"
    _require_text(file)
    if suffix == ".json":
        rows = json_list.entries(file)
        parts = (_json_record(file, f"{file}, entry {number}", value, key) for number, value in rows)
        return Stream(parts, json_list.at_most(file, key))
    total = _newlines(file) + 1
    if suffix == ".txt":
        _refuse_json(file)
        rows = ((f"{path}, line {number}", {key: line.rstrip("\r\n")}) for number, line in _lines(file))
        return Stream((Record(where, values, file.parent) for where, values in rows), total)
    if suffix in (".csv", ".tsv"):
        return Stream(_csv(file, "\t" if suffix == ".tsv" else ","), total)
    return Stream(_json_lines(file, key), total)


def open_parquet(shards: columnar.Shards, keys: Sequence[str]) -> Stream[Record]:
    """The rows of Parquet or Arrow files; `keys` are those that will be asked for."""
    return Stream(_parquet(shards.files, keys), columnar.count(shards.files), shards.left_out)


def open_lenient_tsv(path: str) -> Stream[Record]:
    """The rows of a table with tabs, in which text may follow a closing quotation mark."""
    file = Path(path)
    _require_text(file)
    return Stream(_csv(file, "\t", strict=False), _newlines(file) + 1)


def _parquet(files: Sequence[Path], keys: Sequence[str]) -> Iterator[Record]:
    for file in files:
        for number, values in columnar.rows(file, keys):
            yield Record(f"{file}, row {number}", values, file.parent)


def _csv(file: Path, delimiter: str, strict: bool = True) -> Iterator[Record]:
    reader = csv.reader((line for _, line in _lines(file)), delimiter=delimiter, strict=strict)
    first = 1
    try:
        header = next((cells for cells in reader if cells), None)
        if header is None:
            raise InputError(f"{file}: empty, expected a header line with column names")
        other = next((sign for sign in ";\t|," if sign != delimiter and sign in header[0]), "")
        if len(header) == 1 and other:
            raise InputError(
                f"{file}, line {reader.line_num}: one column, {header[0]!r}; expected cells between {delimiter!r}"
            )
        twice = next((name for name in header if header.count(name) > 1), None)
        if twice is not None:
            raise InputError(
                f"{file}, line {reader.line_num}: two columns are called {twice!r}, expected one of each name"
            )
        while (first := reader.line_num + 1) and (cells := next(reader, None)) is not None:
            if not cells:
                continue
            where = f"{file}, line {reader.line_num}"
            if len(cells) != len(header):
                raise InputError(f"{where}: {len(cells)} cells, expected {len(header)} as in the header")
            yield Record(where, dict(zip(header, cells, strict=True)), file.parent)
    except csv.Error as error:
        if str(error) == "unexpected end of data":
            raise InputError(
                f"{file}, line {first}: a quotation mark in this row is never closed; two of them stand for one"
            ) from None
        raise InputError(f"{file}, line {reader.line_num}: not valid {file.suffix[1:]}: {error}") from None


def _json_lines(file: Path, key: str) -> Iterator[Record]:
    for number, line in _lines(file):
        if not line.strip():
            continue
        where = f"{file}, line {number}"
        yield _json_record(file, where, read_json(line, where, one_line=True), key)


def _json_record(file: Path, where: str, value: Any, key: str) -> Record:
    if isinstance(value, str):
        value = {key: value}
    if not isinstance(value, dict):
        raise InputError(f"{where}: {short(value)}, expected a string or an object")
    return Record(where, value, file.parent)


def _require_text(file: Path) -> None:
    """Raise InputError for a file that is missing, or whose first bytes are those of something else than a list."""
    fault = missing(str(file), "file")
    if fault or not file.is_file():
        found = fault or "neither a file nor a folder"
        raise InputError(f"{file}: {found}, expected a list or table")
    if found := contents.not_text(contents.head(file)):
        raise InputError(f"{file}: is {found}; expected a list or table, saved as UTF-8 text")


def _refuse_json(file: Path) -> None:
    """Raise InputError for a list of plain texts whose first line is JSON: every line would be a prompt."""
    with file.open(encoding="utf-8", errors="replace") as stream:
        number, first = next(((n, line) for n, line in enumerate(stream, 1) if line.strip()), (0, ""))
    if contents.is_json(first):
        raise InputError(
            f"{file}, line {number}: is JSON, expected a text in every line; call a list in JSON .json, and one with"
            " JSON in every line .jsonl"
        )


def _lines(file: Path) -> Iterator[tuple[int, str]]:
    """Numbered lines with their ends, as UTF-8 with or without a byte order mark; a line ends in LF, CR LF or CR."""
    number = 0
    with file.open("rb") as stream:
        for block in stream:
            for data in block.splitlines(keepends=True) if b"\r" in block else (block,):
                number += 1
                try:
                    yield number, data.decode("utf-8-sig")  # lists that were put together have a mark in between too
                except UnicodeDecodeError as error:
                    byte = f"byte 0x{data[error.start]:02x}"
                    raise InputError(f"{file}, line {number}: {byte} is not UTF-8, expected UTF-8 text") from None


def _newlines(file: Path) -> int:
    with file.open("rb") as stream:
        blocks = iter(lambda: stream.read(2**20), b"")
        return sum(max(block.count(b"\n"), block.count(b"\r")) for block in blocks)
