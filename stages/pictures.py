"""Images as bytes, arrays and tensors: the one way the stages decode and encode them."""

from __future__ import annotations

import io
import warnings
from collections.abc import Iterable, Mapping
from typing import TYPE_CHECKING, Any

import numpy as np
from PIL import Image, ImageOps

from stages.errors import InputError

if TYPE_CHECKING:
    from torch import Tensor

FORMATS = ("PNG", "JPEG")
"""What stages pass on to each other; curate reads more."""
MAX_PIXELS = 100_000_000


def decode_row(row: Mapping[str, Any], where: str) -> np.ndarray:
    """The image of a row of a table of images, as `decode`; raises InputError also where its columns `width` and
    `height` say another size.
    """
    image = decode(row["image"], where)
    require_size(row, image.shape[1], image.shape[0], where)
    return image


def require_size(row: Mapping[str, Any], width: int, height: int, where: str) -> None:
    """Raise InputError that starts with `where` where the columns of a row do not say `width` and `height`."""
    if (row["width"], row["height"]) != (width, height):
        stated = f"{row['width']}x{row['height']}"
        raise InputError(
            f"{where}: has {width}x{height} pixels, but its columns width and height say {stated}; run curate again"
        )


def size(data: bytes, where: str) -> tuple[int, int]:
    """Width and height by the header of an image; raises InputError that starts with `where` as `decode` does."""
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", Image.DecompressionBombWarning)
            return Image.open(io.BytesIO(data), formats=FORMATS).size
    except Exception:
        decode(data, where)  # says what is wrong
        raise


def decode(data: bytes, where: str) -> np.ndarray:
    """Image bytes as uint8 [height, width, 3]; raises InputError that starts with `where`."""
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", Image.DecompressionBombWarning)  # size is checked here, more strictly
            file = Image.open(io.BytesIO(data), formats=FORMATS)
        if file.width * file.height > MAX_PIXELS:
            raise InputError(f"{where}: {file.width}x{file.height} pixels, expected at most {MAX_PIXELS}")
        return np.asarray(file.convert("RGB"))
    except InputError:
        raise
    except Image.DecompressionBombError:
        raise InputError(f"{where}: its header promises over {MAX_PIXELS} pixels, expected at most that") from None
    except Exception as error:  # a damaged file can make a decoder raise anything
        reason = "not one of a known format" if "identify" in str(error) else " ".join(str(error).split())[:160]
        raise InputError(f"{where}: not a readable image: {reason}") from None


def fitted(data: bytes, width: int, height: int, where: str) -> bytes:
    """Image bytes scaled and cut about the centre to `width` x `height`; the same bytes where they are of that size.

    Raises InputError that starts with `where` as `decode` does.
    """
    image = decode(data, where)
    if image.shape[:2] == (height, width):
        return data
    return encode(np.asarray(ImageOps.fit(Image.fromarray(image), (width, height), Image.Resampling.LANCZOS)))


def encode(image: np.ndarray) -> bytes:
    """PNG bytes of a uint8 [height, width, 3] image."""
    buffer = io.BytesIO()
    Image.fromarray(image).save(buffer, "PNG")
    return buffer.getvalue()


def tensor(images: Iterable[bytes], where: str) -> Tensor:
    """Encoded images of one size as a float tensor [B, 3, H, W] in [0, 1]."""
    import torch

    arrays = [decode(data, where) for data in images]
    sizes = {array.shape for array in arrays}
    if len(sizes) != 1:
        raise InputError(f"{where}: images of {len(sizes)} sizes in one batch, expected one size")
    return torch.from_numpy(np.stack(arrays)).permute(0, 3, 1, 2).float() / 255


def levels(images: Tensor) -> np.ndarray:
    """uint8 [B, H, W, 3] of images [B, 3, H, W] in [0, 1], rounded to 8 bits as in a file."""
    return (images.detach().float().clamp(0, 1) * 255).round().byte().permute(0, 2, 3, 1).cpu().numpy()


def thumbnails(images: Tensor, side: int) -> list[bytes]:
    """PNG bytes of each image of a tensor [B, 3, H, W] in [0, 1], made smaller where its longer side has more than
    `side` pixels.
    """
    found = []
    for array in levels(images):
        small = Image.fromarray(array)
        small.thumbnail((side, side), Image.Resampling.LANCZOS)
        found.append(encode(np.asarray(small)))
    return found


def png(images: Tensor) -> list[bytes]:
    """PNG bytes of each image of a tensor [B, 3, H, W] in [0, 1], rounded to 8 bits."""
    return [encode(array) for array in levels(images)]
