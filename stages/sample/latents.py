"""Latents of the shared pass of the base, kept at every switch step, from which every run continues."""

from __future__ import annotations

from pathlib import Path

import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import save_file
from torch import Tensor

from stages.errors import InputError
from stages.runtime import whole_file


def key(guidance: float, k: int) -> str:
    """Name of the latents [N, C, h, w] that enter index k of the base's pass at a guidance scale; rows as in the
    samples.
    """
    return f"guidance={guidance:g}/k={k}"


def save(path: Path, kept: dict[str, Tensor]) -> None:
    """Write the latents, whole or not at all; a study without shared steps gets a file without tensors."""
    with whole_file(path) as partial:
        save_file({name: value.contiguous().cpu() for name, value in kept.items()}, partial)


def load(path: Path, name: str, first: int, count: int, device: torch.device) -> Tensor:
    """Rows `first` to `first` + `count` of one set of latents; raises InputError when the base's pass has not kept
    it.
    """
    try:
        with safe_open(path, "pt") as file:
            if name not in file.keys():  # noqa: SIM118 (not a mapping)
                raise InputError(f"{path}: holds no latents {name!r}; run sample_base again")
            return file.get_slice(name)[first : first + count].to(device)
    except FileNotFoundError:
        raise InputError(f"{path}: no such file of the base's latents") from None
    except SafetensorError as error:
        raise InputError(f"{path}: not a readable safetensors file of the base's latents: {error}") from None
