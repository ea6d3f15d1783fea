"""Settings of the shapes world: which words exist, what a scene may look like, how sure the annotators are."""

from __future__ import annotations

from typing import Annotated

from pydantic import Field, field_validator, model_validator

from stages.params import Settings, nearest

SHAPES = ("circle", "square", "triangle", "ring", "cross", "star")
COLOURS = {
    "red": 0.0, "orange": 29.0, "yellow": 57.0, "green": 120.0,
    "cyan": 180.0, "blue": 225.0, "purple": 274.0, "pink": 322.0,
}  # fmt: skip
"""Hue of every colour word, in degrees."""

Share = Annotated[float, Field(ge=0, le=1)]


class WorldSettings(Settings):
    """Section `world` of a study: everything that decides which scenes are drawn and how they are captioned."""

    seed: int = Field(default=0, ge=0, description="seed of scenes, captions and annotators")
    image_size: int = Field(default=32, ge=16, le=128, description="side of an image in pixels")
    shapes: tuple[str, ...] = Field(default=SHAPES, min_length=2, description="shapes that are drawn")
    colours: tuple[str, ...] = Field(default=tuple(COLOURS), min_length=2, description="colours of objects")
    radius_low: float = Field(default=0.36, gt=0.1, lt=1, description="smallest radius, in half sides of the frame")
    radius_high: float = Field(default=0.72, gt=0.1, lt=1, description="largest radius, in half sides of the frame")
    rotation: float = Field(
        default=0.6, ge=0, le=3.15, description="objects are turned by up to this much either way, in radians"
    )
    grey: Share = Field(default=0.3, description="share of scenes with a grey background")
    shaded: Share = Field(default=0.3, description="share of scenes whose background is a gradient")
    striped: Share = Field(default=0.3, description="share of scenes whose background is striped")
    size_words: Share = Field(
        default=0.42, description="share of captions that want to name the size, where a word fits"
    )
    background_words: Share = Field(
        default=0.42, description="share of captions that want to name the background, where a word fits"
    )
    annotator_noise: float = Field(
        default=0.3, gt=0, description="temperature of the simulated annotators, in units of utility"
    )

    @field_validator("shapes")
    @classmethod
    def _known_shapes(cls, names: tuple[str, ...]) -> tuple[str, ...]:
        return _known(names, SHAPES)

    @field_validator("colours")
    @classmethod
    def _known_colours(cls, names: tuple[str, ...]) -> tuple[str, ...]:
        return _known(names, tuple(COLOURS))

    @model_validator(mode="after")
    def _drawable(self) -> WorldSettings:
        if self.radius_low > self.radius_high:
            raise ValueError(f"radius_low {self.radius_low:g} is above radius_high {self.radius_high:g}")
        if self.shaded + self.striped > 1:
            raise ValueError(f"shaded {self.shaded:g} and striped {self.striped:g} are more than all scenes together")
        return self


def _known(names: tuple[str, ...], known: tuple[str, ...]) -> tuple[str, ...]:
    for name in names:
        if name not in known:
            raise ValueError(f"{name!r} is not drawn in this world{nearest(name, known)}")
    if len(set(names)) < len(names):
        raise ValueError("a name stands twice")
    return names
