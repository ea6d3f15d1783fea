"""Settings of a reward of several tastes (PAL); torch-free."""

from __future__ import annotations

from typing import Literal

from pydantic import Field

from stages.prepare.settings import Training


class PalSettings(Training):
    """PAL: prototypes of preference on frozen features, of which every annotator has a mixture."""

    features: str = Field(
        min_length=1,
        description="model of images and texts whose frozen features are compared; the same of all entries",
    )
    source: str = Field(default="", description="learn from pairs of this `source` only; empty takes all")
    steps: int = Field(default=600, ge=1, description="optimizer steps")
    batch: int = Field(default=128, ge=1, description="pairs per step")
    lr: float = Field(default=1e-3, gt=0, description="highest learning rate")
    weight_decay: float = Field(default=1e-2, ge=0, description="decoupled weight decay")
    prototypes: int = Field(default=2, ge=1, description="K, prototypes that annotators are mixtures of; 1: one taste")
    hidden: int = Field(default=64, ge=1, description="width of the hidden layer of the maps of images and of prompts")
    mixture_rate: float = Field(
        default=20.0, gt=0, description="learning rate of the annotators' mixtures, relative to that of the maps"
    )
    annotator: str | None = Field(
        default=None, min_length=1, description="for whom the reward judges; null: the mean of all annotators' mixtures"
    )
    lone: Literal["refuse", "pool"] = Field(
        default="refuse",
        description="an annotator with one pair: refused, or one of those whose mixture is shared, as that of pairs "
        "without an annotator",
    )
