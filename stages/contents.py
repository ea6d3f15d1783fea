"""What the first bytes of a file say it is, where it is not what its name promises."""

from __future__ import annotations

import json
from pathlib import Path

HEAD = 512
"""Bytes that are looked at."""

POINTER = b"version https://git-lfs.github.com/spec/"
"""How a Git LFS pointer begins (git-lfs, docs/spec.md)."""

_MAGIC = (
    (b"PK\x03\x04", "a zip archive"),
    (b"\x1f\x8b", "a gzip file"),
    (b"BZh", "a bzip2 file"),
    (b"\xfd7zXZ\x00", "an xz file"),
    (b"\x28\xb5\x2f\xfd", "a zstd file"),
    (b"%PDF-", "a PDF document"),
    (b"{\\rtf", "an RTF document"),
    (b"PAR1", "a Parquet file"),
    (b"ARROW1", "an Arrow file"),
    (b"\x89PNG\r\n\x1a\n", "a PNG image"),
    (b"\xff\xd8\xff", "a JPEG image"),
    (b"GIF8", "a GIF image"),
    (b"SQLite format 3\x00", "an SQLite database"),
    (b"\xd0\xcf\x11\xe0", "an old Office document"),
)
_UTF16 = (b"\xff\xfe", b"\xfe\xff")

_IMAGES = (
    (b"\x89PNG\r\n\x1a\n", "PNG"),
    (b"\xff\xd8\xff", "JPEG"),
    (b"GIF8", "GIF"),
    (b"II*\x00", "TIFF"),
    (b"MM\x00*", "TIFF"),
    (b"\x00\x00\x00\x0cjP  ", "JPEG 2000"),
    (b"\xff\x4f\xff\x51", "JPEG 2000"),
    (b"8BPS", "Photoshop"),
    (b"\xff\x0a", "JPEG XL"),
    (b"\x00\x00\x00\x0cJXL ", "JPEG XL"),
    (b"v/1\x01", "OpenEXR"),
    (b"#?RADIANCE", "Radiance HDR"),
)
_BRANDS = {b"avif": "AVIF", b"avis": "AVIF"} | dict.fromkeys(
    (b"heic", b"heix", b"hevc", b"hevx", b"heim", b"heis", b"mif1", b"msf1"), "HEIC"
)


def head(path: Path) -> bytes:
    """The first `HEAD` bytes of a file."""
    with path.open("rb") as file:
        return file.read(HEAD)


def stand_in(data: bytes) -> str:
    """What stands in the place of a file that was never fetched: a Git LFS pointer or a web page; empty for others."""
    start = data[:HEAD].removeprefix(b"\xef\xbb\xbf").lstrip()
    if start.startswith(POINTER):
        return "a Git LFS pointer, not the file itself; fetch it with `git lfs pull`"
    low = start[:64].lower()
    if low.startswith((b"<!doctype html", b"<html")):
        return "an HTML page, not the file itself; was the download refused?"
    if low.startswith(b"<?xml") and (b"<error>" in start.lower() or b"<html" in start.lower()):
        return "an error message in XML, not the file itself; was the download refused?"
    return ""


def not_text(data: bytes) -> str:
    """What a file is that is not UTF-8 text of its own, by its first bytes; empty where nothing speaks against it."""
    found = stand_in(data)
    if found or data.startswith(_UTF16):
        return found or "UTF-16 text"
    found = next((name for magic, name in _MAGIC if data.startswith(magic)), "")
    start = data[:HEAD].removeprefix(b"\xef\xbb\xbf").lstrip().lower()
    if start.startswith(b"<?xml") or (start.startswith(b"<svg") and (b"xmlns" in start or b"</" in start)):
        return "an XML document"
    return found or ("binary, or UTF-16 text" if b"\x00" in data[:HEAD] else "")


def is_json(text: str) -> bool:
    """Whether a text is an object or a list in JSON, or the first line of one that was written over several lines."""
    text = text.strip().removeprefix("\ufeff")
    if not text.startswith(("{", "[")) or len(text) == 1:
        return text in ("{", "[")
    try:
        json.loads(text)
    except (ValueError, RecursionError):
        return False
    return True


def image_format(data: bytes) -> str:
    """The image format that the first bytes speak of, whether or not it can be read; empty for none."""
    if data[4:8] == b"ftyp":
        return _BRANDS.get(data[8:12], "")
    if data[:4] == b"RIFF" and data[8:12] == b"WEBP":
        return "WebP"
    if data[:2] == b"BM" and data[6:10] == bytes(4):
        return "BMP"
    if data[:1] == b"P" and data[1:2] in b"123456" and data[2:3].isspace():
        return "PNM"
    if data[:HEAD].lstrip().startswith(b"<svg") or (data.startswith(b"<?xml") and b"<svg" in data[:HEAD]):
        return "SVG"
    return next((name for magic, name in _IMAGES if data.startswith(magic)), "")
