"""Section `renoise` of a study file: pairs that the base makes of real images. Torch-free."""

from __future__ import annotations

from typing import Annotated, Literal

from pydantic import Field, model_validator

from stages.curate.datasets import Name
from stages.params import Settings

Strength = Annotated[float, Field(gt=0, le=1)]


class RenoiseSettings(Settings):
    """Two images for each captioned training image: it is noised to a level and denoised again by the base (SDEdit), so
    that both have its composition.

    The section is optional; methods name its pairs by `source`, as those of `curate.pairs`.
    """

    name: Name = Field("renoised", description="what methods call this source of pairs")
    of: str | None = Field(None, min_length=1, description="the one source of `curate.images` taken; null: all of them")
    strengths: tuple[Strength, Strength] = Field(
        (0.3, 0.6),
        description="shares of the steps that are denoised again. Different ones: both images have the same noise, and "
        "the less noised one is preferred; equal ones: each has noise of its own, and the pair is a tie, for methods "
        "whose labels are the reward's",
    )
    each: int = Field(1, ge=1, le=16, description="pairs per image")
    limit: int | None = Field(None, ge=1, description="at most so many images, the first ones; null: all of them")
    steps: int = Field(20, ge=1, description="steps of the whole grid, of which a share is made")
    sampler: Literal["ddpm", "ddim"] = Field("ddim", description="how a step is made")
    guidance: float = Field(1.0, ge=0, description="classifier-free guidance by the caption; 1 is none")
    seed: int = Field(0, ge=0, description="of the noise")
    batch_size: int = Field(64, ge=1, description="images at a time; does not change the result")

    @property
    def begins(self) -> tuple[int, int]:
        """The index of the grid at which either image begins to be denoised; `steps` would be the image itself."""
        first, second = (self.steps - max(1, round(strength * self.steps)) for strength in self.strengths)
        return first, second

    @property
    def tied(self) -> bool:
        """Whether both images are noised alike."""
        return self.strengths[0] == self.strengths[1]

    @model_validator(mode="after")
    def _apart(self) -> RenoiseSettings:
        if not self.tied and self.begins[0] == self.begins[1]:
            raise ValueError(
                f"strengths: both are {self.steps - self.begins[0]} of {self.steps} steps; take more steps, or "
                "strengths further apart (equal ones make ties)"
            )
        return self
