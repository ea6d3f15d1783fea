"""An entry of `runs` that names a checkpoint which was not trained here. Torch-free."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, ClassVar

from pydantic import Field

from stages.params import Settings

SEED = 0
"""The training seed that tables give to a checkpoint."""


class CheckpointSettings(Settings):
    """One entry of `runs`: a checkpoint of the study's base that was trained elsewhere; its key is any name."""

    TAG: ClassVar[str] = "<checkpoint>"

    checkpoint: str = Field(
        min_length=1,
        description="a LoRA folder, a diffusers folder, or a single .safetensors file of the base's architecture",
    )


def names_checkpoint(entry: object) -> bool:
    """Whether an entry of `runs` names a checkpoint, and not a method to train with."""
    return isinstance(entry, Mapping) and "checkpoint" in entry


def with_methods(runs: Mapping[str, Any]) -> dict[str, Any]:
    """The entries of `runs` as tables and report name them: a checkpoint is a method of the run's own name, with one
    training seed.
    """
    own = {name: {"method": name, "seed": SEED} for name, entry in runs.items() if names_checkpoint(entry)}
    return {name: own.get(name, entry) for name, entry in runs.items()}
