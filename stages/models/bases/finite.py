"""Weights that are no numbers: found while a model is recorded, before anything is computed with it. Torch-free."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from stages.errors import InputError
from stages.models.bases.weights import Tensor, tensors

EXPONENTS: dict[str, tuple[type[np.unsignedinteger], int]] = {
    "F64": (np.uint64, 0x7FF0_0000_0000_0000), "F32": (np.uint32, 0x7F80_0000), "F16": (np.uint16, 0x7C00),
    "BF16": (np.uint16, 0x7F80), "F8_E5M2": (np.uint8, 0x7C), "F8_E4M3": (np.uint8, 0x7F),
}  # fmt: skip
"""By type, the bits that are all set in infinity and NaN, and only there (IEEE 754; of F8_E4M3, which has no infinity,
in NaN: Micikevicius et al. 2022).
"""
AT_ONCE = 1 << 22
"""Values that are looked at together, so that memory does not grow with the model."""


def require_finite(path: Path, read: Callable[[str], bool] = lambda _: True) -> None:
    """Raise InputError that names a tensor of a safetensors file with a value that is infinite or NaN.

    Of the tensors, those whose names `read` takes; masks, which hold minus infinity on purpose, are left out.
    """
    length, found = tensors(path)
    for name, entry in found.items():
        checked = entry.dtype in EXPONENTS and read(name) and not name.endswith("mask")
        if checked and (odd := _count(path, 8 + length, entry)):
            raise InputError(f"{path}: {name!r} has values that are not finite: {odd} of {_size(entry)}")


def _count(path: Path, header: int, entry: Tensor) -> int:
    """The number of values that are not finite."""
    kind, exponent = EXPONENTS[entry.dtype]
    if not _size(entry):
        return 0
    values: NDArray[np.unsignedinteger] = np.memmap(path, kind, "r", header + entry.start, (_size(entry),))
    bits = kind(exponent)
    parts = (values[start : start + AT_ONCE] for start in range(0, _size(entry), AT_ONCE))
    return sum(int(np.count_nonzero((part & bits) == bits)) for part in parts)


def _size(entry: Tensor) -> int:
    return int(np.prod(entry.shape, dtype=np.int64))
