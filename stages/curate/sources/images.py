"""Bytes of images: of files, found by names that differ in spelling only, and of the cells of a table."""

from __future__ import annotations

import base64
import binascii
import os
import re
import unicodedata
from pathlib import Path

from stages import contents
from stages.curate.left_out import LeftOut
from stages.curate.sources.json_list import short
from stages.curate.sources.records import Record
from stages.errors import InputError

SUFFIXES = (
    ".jpg", ".jpeg", ".png", ".webp", ".jpe", ".jfif", ".gif", ".bmp", ".dib", ".tif", ".tiff", ".ppm", ".pgm", ".pbm",
    ".pnm", ".avif", ".avifs", ".jp2", ".j2k", ".jpf", ".jpx", ".apng",
    ".heic", ".heif", ".hif", ".jxl", ".svg", ".psd", ".exr", ".hdr", ".tga", ".ico", ".raw", ".dng", ".cr2", ".cr3",
    ".nef", ".arw",
)  # fmt: skip
"""Names of image files, the usual ones first; the last two lines are of formats that are not read, but counted."""

_BASE64 = re.compile(r"[A-Za-z0-9+/_\s-]+={0,2}\s*")
_LONGEST = 4096
"""Characters of a path on most systems."""


def is_image(file: Path) -> bool:
    """Whether a file is an image by its name or, where the name says nothing, by its first bytes."""
    if file.suffix.lower() in SUFFIXES:
        return True
    try:
        return bool(contents.image_format(contents.head(file)))
    except OSError:
        return False


def locate(root: Path, name: str) -> Path:
    """The file `name` below `root`. Where there is none, the one whose name differs only in its Unicode normal form
    (macOS stores accents as characters of their own), in upper and lower case, or in the sign between folders.
    """
    path = root / name
    if len(name) > _LONGEST or "\0" in name or os.path.lexists(path):
        return path
    found = root
    for part in name.replace("\\", "/").split("/"):
        if not os.path.lexists(found / part):
            try:
                alike = [other for other in sorted(each.name for each in found.iterdir()) if _same(other, part)]
            except OSError:
                return path
            if len(alike) != 1:
                return path
            part = alike[0]
        found /= part
    return found


def read_file(path: Path, where: str) -> bytes:
    """The bytes of an image file. Raises InputError that starts with `where` when it is missing or cannot be read."""
    try:
        return path.read_bytes()
    except FileNotFoundError:
        link = ": it is a link to nothing" if path.is_symlink() else ""
        raise InputError(f"{where}: image {_shown(path)} does not exist{link}") from None
    except (OSError, ValueError) as error:  # a name with a null character is a ValueError
        reason = error.strerror if isinstance(error, OSError) else str(error)
        raise InputError(f"{where}: image {_shown(path)} cannot be read: {reason}") from None


def read_cell(record: Record, key: str, left_out: LeftOut) -> bytes:
    """The bytes of the image at `key`: bytes, a struct of bytes and path, base64 (with or without `data:image/...`), or
    a path below the folder of the table; empty for null.
    """
    cell = record.get(key)
    if isinstance(cell, dict):
        if not {"bytes", "path"} & cell.keys():
            raise InputError(
                f"{record.where}: {key!r} is a struct of {', '.join(cell)}, expected one with bytes or path"
            )
        cell = cell.get("bytes") or cell.get("path")
    if cell is None or isinstance(cell, bytes):
        return cell or b""
    if not isinstance(cell, str):
        raise InputError(
            f"{record.where}: {key!r} is {short(cell)}, expected bytes, a struct with bytes or path, base64, or a path"
        )
    encoded = from_base64(cell, f"{record.where}: {key!r}")
    if encoded is not None:
        return encoded
    refuse_address(cell, f"{record.where}: {key!r}")
    path = locate(record.folder, cell)
    refuse_base64(cell, path, f"{record.where}: {key!r}")
    left_out.read(path)
    return read_file(path, record.where)


def from_base64(text: str, where: str) -> bytes | None:
    """The bytes of an image in base64, None for other text. Raises InputError for other `data:` addresses."""
    if text.startswith("data:"):
        about, comma, body = text.partition(",")
        if not comma or not about.endswith(";base64"):
            raise InputError(f"{where} is {short(text)}, expected data:image/...;base64,...")
    else:
        body = text
        if len(text) < 64 or not _BASE64.fullmatch(text) or not contents.image_format(_decoded(text[:64])):
            return None
    found = _decoded(body)
    if not found:
        raise InputError(f"{where} is {short(text)}, which is not base64")
    return found


def refuse_base64(text: str, path: Path, where: str) -> None:
    """Raise InputError for a text in base64 that is no image, where no file of this name is at `path` either."""
    if len(text) >= 64 and _BASE64.fullmatch(text) and not (len(text) <= _LONGEST and os.path.lexists(path)):
        raise InputError(f"{where} is {short(text)}: neither a file nor an image of a known format in base64")


def refuse_address(text: str, where: str) -> None:
    """Raise InputError for an address of the web: nothing is fetched."""
    if re.match(r"(https?|ftp|file|s3|gs|hf)://", text, re.IGNORECASE):
        raise InputError(f"{where} is {short(text)}; images are not fetched: download them and name the files")


def _decoded(text: str) -> bytes:
    """The bytes that a text in base64, in either alphabet, stands for; empty for other text."""
    body = "".join(text.split()).rstrip("=").translate(str.maketrans("-_", "+/"))
    try:
        return base64.b64decode(body[: len(body) // 4 * 4] + _rest(body), validate=True)
    except binascii.Error:
        return b""


def _rest(body: str) -> str:
    """The characters after the last whole group of four, padded with `=`; a single one stands for no byte."""
    rest = body[len(body) // 4 * 4 :]
    return rest + "=" * (4 - len(rest)) if len(rest) > 1 else ""


def _same(name: str, other: str) -> bool:
    return unicodedata.normalize("NFC", name).casefold() == unicodedata.normalize("NFC", other).casefold()


def _shown(path: Path) -> str:
    """A path in a message: not longer than a line, and quoted in ASCII where it does not look like what it is."""
    text = str(path)
    text = text if len(text) <= 200 else f"{text[:197]}..."
    return (
        text if text.isprintable() and text == text.strip() and unicodedata.is_normalized("NFC", text) else ascii(text)
    )
