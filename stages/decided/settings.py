"""Section `decided` of a study file: what is settled when during denoising. Torch-free."""

from __future__ import annotations

from typing import Annotated

from pydantic import ConfigDict, Field, field_validator

from stages.params import Settings

Share = Annotated[float, Field(gt=0, lt=1)]


class DecidedSettings(Settings):
    """What is drawn again, and the rule by which `auto` is resolved from the result.

    The section is optional; a study without it has no such job.
    """

    prompts: int = Field(
        default=24, ge=2, description="training prompts, spread over their table; all where there are fewer"
    )
    samples: int = Field(default=4, ge=2, description="images per prompt, each drawn again once at every index")
    indices: tuple[int, ...] | None = Field(
        default=None, min_length=1, description="indices of the sampler's grid to draw again from; null: all of them"
    )
    guidance: float = Field(default=1.0, ge=0, description="classifier-free guidance of the base; 1 is none")
    batch_size: int = Field(default=96, ge=1, description="images per network call; does not change the result")
    diversity: str = Field(description="the measured diversity whose open share decides what `auto` stands for")
    open: Share = Field(
        default=0.1, description="`start: auto` is the first index from which on at most this share is open"
    )
    k_open: tuple[Share, ...] = Field(
        default=(0.5, 0.25, 0.1, 0.05),
        min_length=1,
        description="`k: auto` stands for the first indices from which on at most each of these shares is open",
    )

    @field_validator("indices")
    @classmethod
    def _ascending(cls, indices: tuple[int, ...] | None) -> tuple[int, ...] | None:
        if indices is not None and (list(indices) != sorted(set(indices)) or indices[0] < 0):
            raise ValueError(f"expected indices from 0 on in ascending order, found {list(indices)}")
        return indices

    def grid(self, steps: int) -> tuple[int, ...]:
        """The indices to draw again from on a grid of `steps`; raises ValueError for one that is not on it."""
        if self.indices is None:
            return tuple(range(steps))
        if self.indices[-1] >= steps:
            raise ValueError(f"indices: {self.indices[-1]} is not below {steps}, the number of sampling steps")
        return self.indices

    def evaluations(self, steps: int) -> int:
        """Network evaluations per image: T of its own trajectory, and T - i of what is drawn again from each index i;
        with guidance, each counts twice.
        """
        return (steps + sum(steps - i for i in self.grid(steps))) * (1 if self.guidance == 1.0 else 2)


class GridSettings(Settings):
    """What the job reads of section `sample`."""

    model_config = ConfigDict(extra="ignore", frozen=True)

    steps: int = Field(default=20, ge=1, description="T, sampling steps")


class DecidedStudy(Settings):
    """What the job reads of section `study`: the seed of noise and bootstrap."""

    model_config = ConfigDict(extra="ignore", frozen=True)

    seed: int = Field(default=0, ge=0)
