"""Decoding of images against an oracle: what is kept, what is changed, and what cannot be read."""

from __future__ import annotations

import hashlib
import io
import struct
import zlib

import numpy as np
import pytest
from PIL import Image

from stages.curate import filters
from stages.curate.decode import Unreadable, decode, square
from tests.unit.picture_rows import MANY, picture, row, saved


def test_decode_keeps_the_bytes_of_plain_png_and_jpeg() -> None:
    image = picture(0)
    for kind in ("PNG", "JPEG"):
        data = saved(image, kind)
        made = decode(data, MANY)
        assert made.data == data
        assert made.image.mode == "RGB" and made.image.size == (40, 32)
    assert np.array_equal(np.asarray(decode(saved(image), MANY).image), np.asarray(image))


def test_digest_is_of_size_and_pixels_and_no_more() -> None:
    image = picture(0)
    expected = hashlib.sha256(b"40x32:" + np.asarray(image).tobytes()).hexdigest()
    for kind in ("PNG", "BMP", "TIFF", "PPM"):
        assert decode(saved(image, kind), MANY).digest == expected
    assert decode(saved(image, "WEBP", lossless=True), MANY).digest == expected
    flat = Image.new("RGB", (4, 6), "red")
    assert decode(saved(flat), MANY).digest != decode(saved(flat.resize((6, 4))), MANY).digest


def exif_of(orientation: int) -> Image.Exif:
    exif = Image.Exif()
    exif[0x0112] = orientation
    return exif


def _png_with_size(width: int, height: int) -> bytes:
    def chunk(name: bytes, body: bytes) -> bytes:
        return struct.pack(">I", len(body)) + name + body + struct.pack(">I", zlib.crc32(name + body))

    header = struct.pack(">IIBBBBB", width, height, 8, 2, 0, 0, 0)
    return (
        b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", header) + chunk(b"IDAT", zlib.compress(b"\0" * 64)) + chunk(b"IEND", b"")
    )


@pytest.mark.parametrize(
    ("data", "reason"),
    [
        (b"", "empty file"),
        (b"\0" * 100, "not an image of a known format"),
        (b"<html>404</html>", "an HTML page, not the file itself"),
        (saved(picture(0))[:-60], "."),
        (saved(picture(0), "JPEG")[:-200], "truncated"),
        (saved(picture(0))[:20], "."),
        (saved(picture(0), "WEBP")[:80], "."),
        (saved(picture(0), "EPS"), "not an image of a known format"),  # Pillow would start Ghostscript
        (_png_with_size(50_000, 50_000), "more than 100000000"),
        (_png_with_size(2_000_000_000, 2), "more than 100000000"),
        (saved(Image.fromarray(np.zeros((8, 8), np.float32)), "TIFF"), "floating-point"),
        (saved(Image.fromarray(np.full((8, 8), 70000, np.int32)), "TIFF"), "32-bit"),
    ],
)
def test_unreadable_images(data: bytes, reason: str) -> None:
    with pytest.raises(Unreadable, match=reason):
        decode(data, MANY)
    made = row(data)
    assert filters.decode(MANY).fault(made)
    assert made.image_id == ""


def test_max_pixels_is_the_largest_size_decoded() -> None:
    data = saved(picture(0, 40, 32))
    assert decode(data, 40 * 32).image.size == (40, 32)
    with pytest.raises(Unreadable, match="40x32 pixels, more than 1279"):
        decode(data, 40 * 32 - 1)


def test_sixteen_bits_become_eight() -> None:
    values = np.array([[0, 257, 32896, 65535]] * 4, np.uint16)
    made = decode(saved(Image.fromarray(values)), MANY)
    assert np.asarray(made.image)[0].tolist() == [[v] * 3 for v in (0, 1, 128, 255)]


def test_sixteen_bit_rgb_png_is_stored_with_eight() -> None:
    body = b"".join(b"\0" + struct.pack(">6H", 0, 65535, 32896, 257, 514, 771) for _ in range(2))

    def chunk(name: bytes, content: bytes) -> bytes:
        return struct.pack(">I", len(content)) + name + content + struct.pack(">I", zlib.crc32(name + content))

    header = struct.pack(">IIBBBBB", 2, 2, 16, 2, 0, 0, 0)
    deep = b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", header) + chunk(b"IDAT", zlib.compress(body)) + chunk(b"IEND", b"")
    made = decode(deep, MANY)
    assert np.asarray(made.image)[0].tolist() == [[0, 255, 128], [1, 2, 3]]
    assert made.data != deep and made.data[24] == 8


def test_cmyk_palette_grey_and_transparency() -> None:
    cyan = decode(saved(Image.new("CMYK", (20, 20), (255, 0, 0, 0)), "TIFF"), MANY).image
    assert cyan.getpixel((0, 0)) == (0, 255, 255)
    grey = decode(saved(Image.new("L", (20, 20), 77)), MANY).image
    assert grey.getpixel((0, 0)) == (77, 77, 77)
    half = decode(saved(Image.new("RGBA", (20, 20), (255, 0, 0, 0))), MANY).image
    assert half.getpixel((0, 0)) == (255, 255, 255)
    palette = Image.new("P", (20, 20), 1)
    palette.putpalette([0, 0, 0, 10, 20, 30])
    assert decode(saved(palette), MANY).image.getpixel((3, 3)) == (10, 20, 30)
    assert decode(saved(palette, transparency=1), MANY).image.getpixel((3, 3)) == (255, 255, 255)


@pytest.mark.parametrize("kind", ["GIF", "PNG", "WEBP"])
def test_first_frame_of_an_animation(kind: str) -> None:
    frames = [Image.new("RGB", (20, 20), colour) for colour in ("red", "lime", "blue")]
    options = {"lossless": True} if kind == "WEBP" else {}
    data = saved(frames[0], kind, save_all=True, append_images=frames[1:], **options)
    made = decode(data, MANY)
    assert made.image.getpixel((5, 5)) == (255, 0, 0)
    assert getattr(Image.open(io.BytesIO(made.data)), "n_frames", 1) == 1


def test_orientation_is_applied_and_dropped() -> None:
    image = picture(3)
    made = decode(saved(image, exif=exif_of(6)), MANY)
    assert np.array_equal(np.asarray(made.image), np.rot90(np.asarray(image), -1))
    assert np.array_equal(np.asarray(Image.open(io.BytesIO(made.data))), np.asarray(made.image))
    upright = saved(image, exif=exif_of(1))
    assert decode(upright, MANY).data == upright


def test_square_cuts_about_the_centre() -> None:
    wide = Image.new("RGB", (60, 20), "black")
    wide.paste("white", (20, 0, 40, 20))
    image, data = square(wide, b"", 10)
    assert image.size == (10, 10) and np.asarray(image).min() > 230  # the filter reaches a little beyond the cut
    assert np.array_equal(np.asarray(Image.open(io.BytesIO(data))), np.asarray(image))
    assert square(wide.crop((0, 0, 20, 20)), b"as it was", 20)[1] == b"as it was"
