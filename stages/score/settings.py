"""Section `score` of a study file."""

from __future__ import annotations

from pydantic import Field

from stages.params import Settings


class ScoreSettings(Settings):
    """Which rewards judge the curated images and pairs."""

    rewards: tuple[str, ...] = Field(description="models that score every curated image and both sides of every pair")
    batch_size: int = Field(256, ge=1, description="images per network call; does not change the result")
