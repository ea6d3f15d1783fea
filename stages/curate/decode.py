"""From the bytes of an image file to 8-bit RGB, or a reason why not."""

from __future__ import annotations

import hashlib
import io
import warnings
from dataclasses import dataclass

import numpy as np
from PIL import Image, ImageOps

from stages import contents
from stages.pictures import encode

FORMATS = ("PNG", "JPEG", "WEBP", "GIF", "BMP", "TIFF", "PPM", "AVIF", "JPEG2000")
"""File formats that are read. Formats for which Pillow starts another program (EPS, WMF) are not among them."""

ORIENTATION = 0x0112


class Unreadable(Exception):
    """The bytes are not an image that can be used; the message says why."""


@dataclass(frozen=True)
class Decoded:
    """An image as 8-bit RGB, bytes of a PNG or JPEG that show exactly it, and the SHA-256 of size and pixels."""

    image: Image.Image
    data: bytes
    digest: str


def decode(data: bytes, max_pixels: int) -> Decoded:
    """Decode the bytes of an image file.

    The first frame of an animation is taken, EXIF orientation applied, transparency laid over white, CMYK, palette
    and grey turned to RGB, 16 bits per channel to 8. PNG and JPEG that need none of this keep their bytes; everything
    else becomes a PNG. Raises Unreadable.
    """
    if not data:
        raise Unreadable("empty file")
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # corrupt metadata beside sound pixels; size is checked here, more strictly
        try:
            file = Image.open(io.BytesIO(data), formats=FORMATS)
            width, height = file.size
            if width * height > max_pixels:
                raise Unreadable(f"{width}x{height} pixels, more than {max_pixels}")
            file.load()
            plain = _is_plain(file, data)
            image = _rgb(file)
        except Unreadable:
            raise
        except Image.DecompressionBombError:
            raise Unreadable(f"more than {max_pixels} pixels") from None
        except Exception as error:  # a damaged file can make a decoder raise anything
            raise Unreadable(_reason(error, data)) from None
    return Decoded(image, data if plain else encode(np.asarray(image)), pixel_digest(image))


def pixel_digest(image: Image.Image) -> str:
    """SHA-256, in hexadecimal, of the size and the pixels of an RGB image."""
    size = f"{image.width}x{image.height}:".encode()
    return hashlib.sha256(size + image.tobytes()).hexdigest()


def square(image: Image.Image, data: bytes, side: int, squash: bool = False) -> tuple[Image.Image, bytes]:
    """Image and bytes scaled and cut about the centre to `side` x `side`; unchanged when they are of that size.

    With `squash` nothing is cut, and width and height are scaled each by its own factor.
    """
    if image.size == (side, side):
        return image, data
    size, way = (side, side), Image.Resampling.LANCZOS
    fitted = image.resize(size, way) if squash else ImageOps.fit(image, size, way)
    return fitted, encode(np.asarray(fitted))


def _is_plain(file: Image.Image, data: bytes) -> bool:
    """Whether any reader of PNG and JPEG gets our pixels from `data` as it is."""
    if file.format not in ("PNG", "JPEG") or file.mode != "RGB" or "transparency" in file.info:
        return False
    deep = file.format == "PNG" and data[24] == 16  # bit depth in the header; Pillow has already dropped the lower byte
    animated = getattr(file, "n_frames", 1) > 1
    return not deep and not animated and file.getexif().get(ORIENTATION, 1) == 1


def _rgb(file: Image.Image) -> Image.Image:
    image = ImageOps.exif_transpose(file)
    if image.mode == "F":
        raise Unreadable("floating-point pixels, whose range is not known")
    if image.mode.startswith("I"):
        values = np.asarray(image)
        if values.min() < 0 or values.max() > 65535:
            raise Unreadable("32-bit integer pixels, whose range is not known")
        return Image.fromarray(np.round(values / 257).astype(np.uint8)).convert("RGB")
    if image.has_transparency_data:
        image = image.convert("RGBA")
        white = Image.new("RGBA", image.size, "white")
        return Image.alpha_composite(white, image).convert("RGB")
    rgb = image.convert("RGB")
    return rgb if rgb is not file else file.copy()


def _reason(error: Exception, data: bytes) -> str:
    text = " ".join(str(error).split()) or type(error).__name__
    if not text.startswith("cannot identify"):
        return text[:160]
    found = contents.image_format(data)
    said = f"a damaged {found} image, or of a kind that is not read; PNG and JPEG are" if found else ""
    return contents.stand_in(data) or said or "not an image of a known format"
