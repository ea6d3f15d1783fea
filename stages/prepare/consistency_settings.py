"""Settings of a consistency model that is distilled from the base. Torch-free."""

from __future__ import annotations

from pydantic import Field

from stages.prepare.settings import Training


class ConsistencySettings(Training):
    """A copy of the base that predicts, from any state of the sampler's grid, where the deterministic sampler ends."""

    steps: int = Field(default=1000, ge=1, description="optimizer steps")
    lr: float = Field(default=3e-5, gt=0, description="highest learning rate")
    hold: float = Field(
        default=0.3, ge=0, le=1, description="share of the steps before the learning rate falls linearly"
    )
    weight_decay: float = Field(default=0.0, ge=0, description="decoupled weight decay")
    ema: float = Field(default=0.98, ge=0, lt=1, description="decay of the averaged weights; 0 keeps the last weights")
    sampling_steps: int = Field(default=20, ge=2, description="T of the grid; that of the rollouts it is used in")
    guidance: float = Field(
        default=1.0, ge=0, description="classifier-free guidance that is baked in; that of the rollouts it is used in"
    )
    held_out: int = Field(default=24, ge=1, description="evaluation prompts of the acceptance check, three images each")
