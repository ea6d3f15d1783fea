"""Weight files of one part of a model: which are there, in which variant, whole or in pieces. Torch-free."""

from __future__ import annotations

import struct
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from stages import contents
from stages.errors import InputError
from stages.mappings import DECODER

STEMS = ("diffusion_pytorch_model", "model", "pytorch_model")
"""File names of diffusers, of transformers, and of transformers before safetensors."""
ENDINGS = (".safetensors", ".bin", ".ckpt", ".pt", ".pth", ".msgpack", ".h5", ".onnx", ".pb")


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
        for asked in variants:
            if found := _one(folder, asked, ending) or _pieces(folder, asked, ending):
                return found
    stem = "model" if folder.name.startswith("text_encoder") else STEMS[0]
    lacking = f"{stem}.{variant}.safetensors" if variant else f"{stem}.safetensors{_others(folder)}"
    return Weights((), variant, (lacking,))


def _others(folder: Path) -> str:
    """A note on weights that are there and are not read: for other libraries, or with names that nothing has."""
    named = [path for path in sorted(folder.glob("*.*")) if path.suffix.lower() in ENDINGS]
    others = [path.name for path in named if path.is_file()]
    lost = [path.name for path in named if path.is_symlink() and not path.exists()]
    note = f" (there is {', '.join(others[:3])}, which is not read)" if others else ""
    return f" ({lost[0]} is a link to nothing)" if lost else note


def check_safetensors(path: Path) -> None:
    """Raise InputError where a safetensors file is shorter or longer than its header says; reads the header only."""
    size = path.stat().st_size
    length, header = _header(path)
    try:
        end = max((entry["data_offsets"][1] for name, entry in header.items() if name != "__metadata__"), default=0)
    except (AttributeError, KeyError, TypeError):
        raise _no_safetensors(path) from None
    if size != 8 + length + end:
        raise InputError(f"{path}: holds {size} bytes, but its header speaks of {8 + length + end}; cut off?")


def tensor_names(path: Path) -> list[str]:
    """Names of the tensors in a safetensors file, from its header; raises InputError for another file."""
    return [name for name in _header(path)[1] if name != "__metadata__"]


def shapes(path: Path) -> dict[str, tuple[int, ...]]:
    """Shapes of the tensors in a safetensors file by their names, from its header; raises InputError for another
    file.
    """
    entries = {name: entry for name, entry in _header(path)[1].items() if name != "__metadata__"}
    try:
        return {name: tuple(map(int, entry["shape"])) for name, entry in entries.items()}
    except (KeyError, TypeError, ValueError):
        raise _no_safetensors(path) from None


def metadata(path: Path) -> dict[str, str]:
    """What a safetensors file says of itself, from its header; raises InputError for another file."""
    found = _header(path)[1].get("__metadata__") or {}
    if not isinstance(found, dict):
        raise _no_safetensors(path)
    return {str(key): str(value) for key, value in found.items()}


def linear_layers(path: Path) -> list[str]:
    """Names of the layers in a safetensors file whose weight is a matrix, from its header."""
    entries = {name: entry for name, entry in _header(path)[1].items() if name.endswith(".weight")}
    try:
        return [name.removesuffix(".weight") for name, entry in entries.items() if len(entry["shape"]) == 2]
    except (KeyError, TypeError):
        raise _no_safetensors(path) from None


def _header(path: Path) -> tuple[int, dict[str, Any]]:
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


def _no_safetensors(path: Path) -> InputError:
    found = contents.stand_in(contents.head(path))
    return InputError(f"{path}: {f'is {found}' if found else 'not a safetensors file, or cut off in its header'}")


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
