"""What the first bytes of files say."""

from __future__ import annotations

import io

import pytest
from PIL import Image

from stages import contents

POINTER = b"version https://git-lfs.github.com/spec/v1\noid sha256:4d7a2146\nsize 12345\n"
STAND_INS = {
    "pointer": (POINTER, "a Git LFS pointer"),
    "pointer after a byte order mark": (b"\xef\xbb\xbf" + POINTER, "a Git LFS pointer"),
    "page": (b"<!DOCTYPE html>\n<html lang=en>", "an HTML page"),
    "page without a doctype": (b"\n  <html><head><title>404</title>", "an HTML page"),
    "error of a bucket": (
        b'<?xml version="1.0"?>\n<Error><Code>AccessDenied</Code></Error>',
        "an error message in XML",
    ),
}


@pytest.mark.parametrize("case", STAND_INS)
def test_stand_ins(case: str) -> None:
    data, said = STAND_INS[case]
    assert contents.stand_in(data).startswith(said)
    assert contents.not_text(data) == contents.stand_in(data)


@pytest.mark.parametrize(
    "text",
    ["", "a cat\n", "version 2 of a cat", "an <html> tag on a t-shirt", "<svg> art", "猫\n", "\ufeffa cat", "PK fire"],
)
def test_texts_are_texts(text: str) -> None:
    assert contents.stand_in(text.encode()) == contents.not_text(text.encode()) == ""


NO_TEXTS = {
    "zip": (b"PK\x03\x04\x14\x00", "a zip archive"),
    "gzip": (b"\x1f\x8b\x08\x00", "a gzip file"),
    "UTF-16": ("a cat".encode("utf-16"), "UTF-16 text"),
    "UTF-16 without a mark": ("a cat".encode("utf-16-le"), "binary, or UTF-16 text"),
    "PDF": (b"%PDF-1.7", "a PDF document"),
    "Parquet": (b"PAR1\x15\x04", "a Parquet file"),
}


@pytest.mark.parametrize("case", NO_TEXTS)
def test_what_is_no_text(case: str) -> None:
    data, said = NO_TEXTS[case]
    assert contents.not_text(data) == said
    assert contents.stand_in(data) == ""


@pytest.mark.parametrize("kind", ["PNG", "JPEG", "GIF", "BMP", "TIFF", "WEBP", "PPM", "AVIF", "JPEG2000"])
def test_formats_that_are_read_are_recognised(kind: str) -> None:
    buffer = io.BytesIO()
    Image.new("RGB", (8, 8), "red").save(buffer, kind)
    assert contents.image_format(buffer.getvalue()[: contents.HEAD])


@pytest.mark.parametrize(
    ("data", "expected"),
    [
        (b"\x00\x00\x00\x18ftypheic\x00\x00", "HEIC"),
        (b"\x00\x00\x00\x18ftypmp42\x00\x00", ""),
        (b'<?xml version="1.0"?>\n<svg xmlns="http://www.w3.org/2000/svg">', "SVG"),
        (b"8BPS\x00\x01", "Photoshop"),
        (b"", ""),
        (b"P", ""),
        (b"BMW is a car", ""),
        (b"a text", ""),
    ],
)
def test_other_formats(data: bytes, expected: str) -> None:
    assert contents.image_format(data) == expected
