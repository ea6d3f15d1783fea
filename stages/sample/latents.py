"""Latents of the shared pass of the base, kept at every switch step, from which every run continues."""

from __future__ import annotations

from pathlib import Path

import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import save_file
from torch import Tensor

from stages.errors import InputError
from stages.runtime import whole_file

SUITE = "suite"
"""The one key of the file's metadata."""


def key(guidance: float, k: int) -> str:
    """Name of the latents [N, C, h, w] that enter index k of the base's pass at a guidance scale; rows as in the
    samples.
    """
    return f"guidance={guidance:g}/k={k}"


def save(path: Path, kept: dict[str, Tensor], suite: str = "") -> None:
    """Write the latents, whole or not at all; a study without shared steps gets a file without tensors.

    `suite` identifies everything that decides them: base, prompts, noise, steps, sampler.
    """
    with whole_file(path) as partial:
        save_file({name: value.contiguous().cpu() for name, value in kept.items()}, partial, {SUITE: suite})


def load(
    path: Path, name: str, rows: slice, shape: tuple[int, ...], device: torch.device, suite: str = ""
) -> Tensor:  # fmt: skip
    """The rows of one set of latents, each of `shape` (C, h, w).

    Raises InputError where the base's pass has not kept them, or was that of another `suite`.
    """
    try:
        with safe_open(path, "pt") as file:
            made = (file.metadata() or {}).get(SUITE)
            if suite and made and made != suite:
                raise InputError(f"{path}: of another base, or other prompts, noise or steps; run sample_base again")
            if name not in file.keys():  # noqa: SIM118 (not a mapping)
                raise InputError(f"{path}: holds no latents {name!r}; run sample_base again")
            found = file.get_slice(name)[rows]
    except FileNotFoundError:
        raise InputError(f"{path}: no such file of the base's latents") from None
    except (OSError, SafetensorError) as error:
        raise InputError(f"{path}: not a readable safetensors file of the base's latents: {error}") from None
    expected = (rows.stop - rows.start, *shape)
    if found.shape != expected or not found.is_floating_point():
        kind = f"{str(found.dtype).removeprefix('torch.')} {tuple(found.shape)}"
        raise InputError(f"{path}: latents {name!r}: found {kind}, expected float32 {expected}; run sample_base again")
    return found.to(device)
