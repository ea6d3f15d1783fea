"""A JSON list read entry by entry, however long it is."""

from __future__ import annotations

import codecs
import json
import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from stages.errors import InputError
from stages.mappings import DECODER, KeyTwice, twice

BLOCK = 2**20
LONGEST = 2**26
"""Characters of the longest entry that is read."""

_BLANK = re.compile(r"[ \t\r\n]*")


def entries(file: Path) -> Iterator[tuple[int, Any]]:
    """Numbered entries of the list in `file`, which is UTF-8 with or without a byte order mark.

    Raises InputError, when it gets there, for what is not UTF-8, not JSON or not a list.
    """
    text = _Text(file)
    if text.next_sign() != "[":
        raise text.not_a_list()
    text.at += 1
    if text.next_sign() == "]":
        text.at += 1
        text.expect_end()
        return
    number = 1
    while True:
        yield number, text.value()
        sign = text.next_sign()
        text.at += 1
        if sign == "]":
            text.expect_end()
            return
        if sign != ",":
            text.at -= 1
            raise text.wrong("expected ',' or ']'")
        number += 1


def at_most(file: Path, key: str) -> int:
    """About how many entries the list has: as often as the first part of `key` stands in quotation marks, or, where it
    never does, half as many as quotation marks.
    """
    name, texts = json.dumps(key.split(".")[0]).encode(), 0
    found = 0
    with file.open("rb") as stream:
        for block in iter(lambda: stream.read(BLOCK), b""):
            found += block.count(name)
            texts += block.count(b'"')
    return found or texts // 2


def short(value: object) -> str:
    """Type and value in at most some sixty characters."""
    return f"{type(value).__name__} {short_text(value)}"


def short_text(value: object) -> str:
    """A value as Python writes it, in at most sixty characters."""
    text = repr(value[:60] if isinstance(value, str | bytes) else value)
    cut = isinstance(value, str | bytes) and len(value) > 60
    return text if len(text) <= 60 and not cut else text[:57] + "..."


class _Text:
    """The part of a file that is being read: `data` from `at` on, and the number of lines before it."""

    def __init__(self, file: Path) -> None:
        self.file, self.data, self.at, self.lines = file, "", 0, 0
        self._blocks = self._read()

    def more(self, characters: int = 1) -> bool:
        """Read on by at least so many characters, forgetting what lies behind; False at the end of the file."""
        blocks = []
        while characters > 0 and (block := next(self._blocks, "")):
            blocks.append(block)
            characters -= len(block)
        if blocks:
            self.lines += self.data.count("\n", 0, self.at)
            self.data, self.at = "".join([self.data[self.at :], *blocks]), 0
        return bool(blocks)

    def next_sign(self) -> str:
        """The next character that is not blank, which stays to be read; empty at the end."""
        while True:
            self.at = _behind_blanks(self.data, self.at)
            if self.at < len(self.data):
                return self.data[self.at]
            if not self.more():
                return ""

    def value(self) -> Any:
        """The value that stands here. Where no comma or closing bracket follows, more is read: it may go on."""
        self.next_sign()
        while True:
            known = len(self.data) - self.at
            try:
                value, end = DECODER.raw_decode(self.data, self.at)
                after = _behind_blanks(self.data, end)
                if self.data[after : after + 1] in (",", "]") or known > LONGEST or not self.more(max(BLOCK, known)):
                    break
            except json.JSONDecodeError as error:
                if known > LONGEST or not self.more(max(BLOCK, known)):
                    raise self.wrong(error.msg, error.pos) from None
            except KeyTwice as error:
                before = self.lines + self.data.count("\n", 0, self.at)
                raise twice(error, self.data[self.at :], str(self.file), before) from None
            except RecursionError as error:
                raise InputError(f"{self.file}: not valid JSON: {error}") from None
        self.at = end
        return value

    def expect_end(self) -> None:
        """Raise InputError when anything but blanks follows."""
        if self.next_sign():
            raise self.wrong("extra data")

    def wrong(self, message: str, at: int | None = None) -> InputError:
        """The error for what stands at `at` (here) in the data."""
        line = self.lines + self.data.count("\n", 0, self.at if at is None else at) + 1
        return InputError(f"{self.file}, line {line}: not valid JSON: {message}")

    def not_a_list(self) -> InputError:
        """The error for a file that does not begin as a list does."""
        while self.more(BLOCK) and len(self.data) < LONGEST:
            pass
        try:
            value = json.loads(self.data)
        except json.JSONDecodeError as error:
            return self.wrong(error.msg, error.pos)
        return InputError(f"{self.file}: holds {short(value)}, expected a list of strings or objects")

    def _read(self) -> Iterator[str]:
        decoder, lines = codecs.getincrementaldecoder("utf-8-sig")(), 1
        with self.file.open("rb") as stream:
            while True:
                block = stream.read(BLOCK)
                try:
                    text = decoder.decode(block, final=not block)
                except UnicodeDecodeError as error:
                    line = lines + error.object.count(b"\n", 0, error.start)
                    byte = f"byte 0x{error.object[error.start]:02x}"
                    raise InputError(f"{self.file}, line {line}: {byte} is not UTF-8, expected UTF-8 text") from None
                lines += block.count(b"\n")
                if text:
                    yield text
                if not block:
                    return


def _behind_blanks(text: str, start: int) -> int:
    """Where the first character from `start` on stands that is not blank, or where the text ends."""
    found = _BLANK.match(text, start)
    assert found is not None, "the pattern fits the empty text, too"
    return found.end()
