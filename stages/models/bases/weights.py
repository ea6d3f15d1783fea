"""Weight files of one part of a model: which are there, in which variant, whole or in pieces. Torch-free."""

from __future__ import annotations

import math
import struct
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from functools import lru_cache, wraps
from pathlib import Path
from typing import Any, TypeGuard, TypeVar

from stages import contents
from stages.errors import InputError
from stages.mappings import DECODER

STEMS = ("diffusion_pytorch_model", "model", "pytorch_model")
"""File names of diffusers, of transformers, and of transformers before safetensors."""
ENDINGS = (".safetensors", ".bin", ".ckpt", ".pt", ".pth", ".msgpack", ".h5", ".onnx", ".pb")


METADATA = "__metadata__"
"""The entry in the header of a safetensors file that is no tensor."""
BITS = {
    "BOOL": 8, "F4": 4, "F6_E2M3": 6, "F6_E3M2": 6, "U8": 8, "I8": 8, "F8_E5M2": 8, "F8_E4M3": 8, "F8_E8M0": 8,
    "F8_E4M3FNUZ": 8, "F8_E5M2FNUZ": 8, "I16": 16, "U16": 16, "F16": 16, "BF16": 16, "I32": 32, "U32": 32, "F32": 32,
    "C64": 64, "F64": 64, "I64": 64, "U64": 64,
}  # fmt: skip
"""Bits of a value by its type, as safetensors 0.8 names the types."""
FLOATS = ("F64", "F32", "F16", "BF16", "F8_E5M2", "F8_E4M3")
"""Types that hold weights."""
JUST_NOW = 2_000_000_000
"""Nanoseconds after which a file that is written again has another time, whatever the clock of its file system."""
T = TypeVar("T")


def _once_a_file(read: Callable[[Path], T]) -> Callable[[Path], T]:
    """`read`, called once per file as long as the file stays the same: checks of a study look at a header for its
    size, for its layers and for its shapes, and the header of a large model takes tens of milliseconds to read. Errors
    are not remembered.
    """

    @lru_cache(maxsize=64)
    def remembered(path: Path, *_: int) -> T:
        return read(path)

    @wraps(read)
    def once(path: Path) -> T:
        stat = path.stat()
        if time.time_ns() - stat.st_mtime_ns < JUST_NOW:
            return read(path)
        # copying and unpacking may give contents of the same size an old time, but no old time of the change itself
        return remembered(path, stat.st_dev, stat.st_ino, stat.st_size, stat.st_mtime_ns, stat.st_ctime_ns)

    return once


@dataclass(frozen=True)
class Tensor:
    """A tensor as the header of a safetensors file has it; `start` and `end` are bytes after the header."""

    dtype: str
    shape: tuple[int, ...]
    start: int
    end: int

    @property
    def bytes(self) -> int:
        """Bytes that its values take."""
        return -(-BITS[self.dtype] * math.prod(self.shape) // 8)


@dataclass(frozen=True)
class Weights:
    """`files` of a part in one `variant` (None: the plain one), and what is `missing` of them."""

    files: tuple[Path, ...]
    variant: str | None = None
    missing: tuple[str, ...] = ()

    @property
    def safetensors(self) -> bool:
        """Whether they are safetensors files, not torch's own."""
        return all(path.suffix in (".safetensors", ".json") for path in self.files)


def is_weights(path: Path) -> bool:
    """Whether a file holds weights, or says where pieces of weights are."""
    return path.suffix in ENDINGS or ".index." in path.name


def find_weights(folder: Path, variant: str | None = None) -> Weights:
    """The weights in `folder`, safetensors before torch's own format.

    Without `variant` the plain files, or the only variant there is. What is lacking stands in `missing`.
    """
    variants = [variant] if variant else [None, *_variants(folder)]
    for ending in ("safetensors", "bin"):
        for variant in variants:
            if found := _one(folder, variant, ending) or _pieces(folder, variant, ending):
                return found
    stem = "model" if folder.name.startswith("text_encoder") else STEMS[0]
    lacking = f"{stem}.{variant}.safetensors" if variant else f"{stem}.safetensors{_others(folder)}"
    return Weights((), variant, (lacking,))


def _others(folder: Path) -> str:
    """A note on weights that are there and are not read: for other libraries, or with other names than those read."""
    named = [path for path in sorted(folder.glob("*.*")) if path.suffix.lower() in ENDINGS]
    others = [path.name for path in named if path.is_file()]
    lost = [path.name for path in named if path.is_symlink() and not path.exists()]
    note = f" (there is {', '.join(others[:3])}, which is not read)" if others else ""
    return f" ({lost[0]} is a link to nothing)" if lost else note


@_once_a_file
def check_safetensors(path: Path) -> None:
    """Raise InputError where a safetensors file is shorter or longer than its header says, or where its header is not
    one: the library would refuse the file only when it is loaded. Reads the header only.
    """
    size = path.stat().st_size
    length, entries = tensors(path)
    metadata(path)
    end = max((entry.end for entry in entries.values()), default=0)
    if size != 8 + length + end:
        raise InputError(f"{path}: holds {size} bytes, but its header speaks of {8 + length + end}; cut off?")
    at = 0
    for name, entry in sorted(entries.items(), key=lambda item: (item[1].start, item[1].end)):
        if entry.start != at or entry.end - entry.start != entry.bytes:
            raise _no_safetensors(path, f"{name!r} is {entry.bytes} bytes from {at} on, not {entry.start}-{entry.end}")
        at = entry.end


def tensor_names(path: Path) -> list[str]:
    """Names of the tensors in a safetensors file, from its header; raises InputError for another file."""
    return list(tensors(path)[1])


def shapes(path: Path) -> dict[str, tuple[int, ...]]:
    """Shapes of the tensors in a safetensors file by their names, from its header; raises InputError for another
    file.
    """
    return {name: entry.shape for name, entry in tensors(path)[1].items()}


def dtypes(path: Path) -> dict[str, str]:
    """Types of the tensors in a safetensors file by their names, as its header calls them (`F32`); raises InputError
    for another file.
    """
    return {name: entry.dtype for name, entry in tensors(path)[1].items()}


def metadata(path: Path) -> dict[str, str]:
    """What a safetensors file says of itself, from its header; raises InputError for another file."""
    found = _header(path)[1].get(METADATA) or {}
    if not isinstance(found, dict) or not all(isinstance(value, str) for value in found.values()):
        raise _no_safetensors(path, f"{METADATA} is no mapping of texts")
    return dict(found)  # so that callers do not change what is remembered


def linear_layers(path: Path) -> list[str]:
    """Names of the layers in a safetensors file whose weight is a matrix, from its header."""
    matrices = [name for name, shape in shapes(path).items() if len(shape) == 2]
    return [name.removesuffix(".weight") for name in matrices if name.endswith(".weight")]


@_once_a_file
def tensors(path: Path) -> tuple[int, Mapping[str, Tensor]]:
    """Length of the header of a safetensors file in bytes, and its tensors by their names; raises InputError for
    another file.
    """
    length, header = _header(path)
    return length, {name: _tensor(path, name, entry) for name, entry in header.items() if name != METADATA}


def _tensor(path: Path, name: str, entry: object) -> Tensor:
    if not isinstance(entry, dict) or not isinstance(dtype := entry.get("dtype"), str) or dtype not in BITS:
        raise _no_safetensors(path, f"{name!r} has no known dtype")
    shape, place = entry.get("shape"), entry.get("data_offsets")
    if not (_counts(shape) and _counts(place) and len(place) == 2):
        raise _no_safetensors(path, f"{name!r} has no shape or no data_offsets")
    return Tensor(dtype, tuple(shape), place[0], place[1])


def _counts(value: object) -> TypeGuard[list[int]]:
    return isinstance(value, list) and all(type(count) is int and count >= 0 for count in value)


@_once_a_file
def _header(path: Path) -> tuple[int, Mapping[str, Any]]:
    """Length and content of the header of a safetensors file."""
    try:
        with open(path, "rb") as file:
            (length,) = struct.unpack("<Q", file.read(8))
            header = DECODER.decode(file.read(length).decode() if length < path.stat().st_size else "")
    except (struct.error, ValueError):
        raise _no_safetensors(path) from None
    if not isinstance(header, dict):
        raise _no_safetensors(path)
    return length, header


def _no_safetensors(path: Path, why: str = "") -> InputError:
    found = contents.stand_in(contents.head(path))
    said = f"not a safetensors file, or cut off in its header{f': {why}' if why else ''}"
    return InputError(f"{path}: {f'is {found}' if found else said}")


def _variants(folder: Path) -> list[str]:
    """Variants by the names of files (`model.fp16.safetensors`), those with a full name only."""
    found = set()
    for path in folder.glob("*.*"):
        parts = path.name.split(".")
        if len(parts) == 3 and parts[0] in STEMS and is_weights(path) and "index" not in parts:
            found.add(parts[1])
        if path.name.endswith(".json") and len(parts) == 5 and parts[2] == "index":
            found.add(parts[3])
    return sorted(found - {"non_ema"})


def _one(folder: Path, variant: str | None, ending: str) -> Weights | None:
    for stem in STEMS:
        path = folder / ".".join(part for part in (stem, variant, ending) if part)
        if path.is_file():
            return Weights((path,), variant)
    return None


def _pieces(folder: Path, variant: str | None, ending: str) -> Weights | None:
    for stem in STEMS:
        index = folder / ".".join(part for part in (stem, ending, "index", variant, "json") if part)
        if not index.is_file():
            continue
        try:
            names = sorted(set(DECODER.decode(index.read_text(encoding="utf-8"))["weight_map"].values()))
            missing = tuple(name for name in names if not (folder / name).is_file())
        except (ValueError, KeyError, AttributeError, TypeError):
            raise InputError(f"{index}: not an index of weights") from None
        return Weights((index, *(folder / name for name in names)), variant, missing)
    return None
