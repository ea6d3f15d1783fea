"""Section `encode` of a study file."""

from __future__ import annotations

from typing import Literal

from pydantic import Field

from stages.params import Settings


class EncodeSettings(Settings):
    """How images and texts are encoded, once, for every later stage."""

    batch_size: int = Field(default=128, ge=1, description="images or texts per call of a network; changes no result")
    dtype: Literal["float32", "float16"] = Field(default="float32", description="how encodings are stored")
    side: int | None = Field(
        default=None,
        ge=8,
        description="images of pairs are cut to squares of so many pixels; where a study has no images at all, the "
        "side of those that are sampled; null: the size of captioned images",
    )
