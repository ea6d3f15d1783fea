"""Settings of a reward of noisy latents (LRM); torch-free."""

from __future__ import annotations

from typing import Literal

from pydantic import Field, model_validator

from stages.prepare.settings import Training


class LatentSettings(Training):
    """LRM: the first half of the base's network, trained on pairs whose images are noised to one timestep."""

    source: str = Field(default="", description="learn from pairs of this `source` only; empty takes all")
    steps: int = Field(default=1000, ge=1, description="optimizer steps; released: 4000")
    batch: int = Field(default=16, ge=1, description="pairs per step")
    lr: float = Field(default=1e-4, gt=0, description="highest learning rate; released: 1e-5 from weights of CLIP")
    weight_decay: float = Field(default=0.0, ge=0, description="decoupled weight decay")
    largest: int = Field(default=951, ge=1, description="largest timestep that images are noised to; the least is 1")
    dimensions: int = Field(default=32, ge=1, description="of the space in which latents and texts are compared")
    scales: Literal["all", "middle"] = Field(
        default="all",
        description="features of every block on the way down and the middle one, or the middle one's alone",
    )
    guided: Literal["none", "middle", "all"] = Field(
        default="middle", description="which of them are guided as predictions are; released: the middle one"
    )
    guidance: float = Field(default=7.5, ge=0, description="its strength; 1 is none")
    contrast: float = Field(
        default=0.0, ge=0, description="weight of telling apart prompts and images within a batch; released: 0"
    )

    @model_validator(mode="after")
    def _guided(self) -> LatentSettings:
        if self.scales == "middle" and self.guided == "all":
            raise ValueError("guided all goes with scales all, expected middle")
        return self
