"""Section `measure` of a study file, and the seed that its bootstrap takes from `study`."""

from __future__ import annotations

from typing import Literal

from pydantic import ConfigDict, Field, field_validator, model_validator

from stages import plugins
from stages.params import Settings, nearest

PACKAGE, GROUP = "stages.measure.metrics", "imagerefl.metrics"
ALWAYS = ("rewards", "clipscore", "caption", "diversity", "attribute_diversity")
"""Metrics that are measured wherever they apply; `measure.set_metrics` adds others."""
SCOPES = ("image", "prompt", "set")
"""What a metric may be a metric of: its `SCOPE`."""
PASSED, PASSED_IMAGES = "_passed", "passed_images"
"""End of the name of a metric over the images that pass, and the metric that is their number."""


class PassingSettings(Settings):
    """Which images pass: diversity is measured over these alone, too."""

    metric: str = Field(
        default="caption_accuracy",
        description="value of an image that decides: whether it shows what its prompt says, where the world has an "
        "oracle, or a measured reward that nothing was trained on",
    )
    least: float = Field(default=1.0, description="the least value with which an image passes")


class AsReleased(Settings):
    """What the released ImageReFL code does and its paper does not say; off. See docs/reproduction.md."""

    bfloat16_means: int | None = Field(
        default=None,
        ge=1,
        description="summaries of scores of images are plain means over batches of so many images (30 there), "
        "scores and batch means in bfloat16; intervals stay as they are",
    )


class MeasureSettings(Settings):
    """What is measured of every image, of the images of every prompt, and of all images of every setting."""

    rewards: tuple[str, ...] = Field(min_length=1, description="models whose reward every image gets")
    text_image: str | None = Field(None, description="model whose cosine is reported as CLIPScore; null leaves it out")
    features: dict[str, Literal["embedding", "patches", "distance"]] = Field(
        {}, description="models whose features span a space to be diverse in: by cosine, or by distance (lpips)"
    )
    set_space: str | None = Field(None, description="embedding in `features` that set metrics compare; null: the first")
    set_metrics: tuple[str, ...] = Field((), description="metrics of sets of images, by file name in measure/metrics")
    directions: bool = Field(
        True, description="set metrics compare features scaled to one length; false compares them as they are"
    )
    neighbours: int = Field(
        3, ge=1, le=50, description="neighbour whose distance is the radius in precision and recall"
    )
    reference_images: int = Field(10_000, ge=2, description="curated images that set metrics compare with, at most")
    passing: PassingSettings | None = Field(
        PassingSettings(), description="diversity over images that pass, beside that over all; null: not measured"
    )
    as_released: AsReleased = Field(AsReleased(), description="habits of the released code")
    bootstrap: int = Field(1000, ge=100, le=100_000, description="bootstrap resamples of the prompts")
    interval: float = Field(0.95, gt=0.5, lt=1, description="share of the resamples that an interval covers")
    batch_size: int = Field(256, ge=1, description="images per network call; does not change the result")
    shards: int = Field(
        1, ge=1, le=1000, description="jobs that share out the images of a run, under Snakemake; same results"
    )

    @field_validator("set_metrics")
    @classmethod
    def _known(cls, names: tuple[str, ...]) -> tuple[str, ...]:
        known = plugins.names(PACKAGE, GROUP)
        for name in names:
            if name not in known:
                raise ValueError(f"unknown metric {name!r}{nearest(name, known)}")
        return names

    @model_validator(mode="after")
    def _space_is_an_embedding(self) -> MeasureSettings:
        if self.set_space is not None and self.features.get(self.set_space) != "embedding":
            known = [name for name, kind in self.features.items() if kind == "embedding"]
            raise ValueError(
                f"set_space {self.set_space!r} is no embedding in features{nearest(self.set_space, known)}"
            )
        return self

    @property
    def models(self) -> tuple[str, ...]:
        """Names of all models that measuring needs, each once."""
        text = (self.text_image,) if self.text_image else ()
        return tuple(dict.fromkeys([*self.rewards, *text, *self.features]))

    @property
    def spaces(self) -> dict[str, str]:
        """How the features of each model are compared; key `first` is the embedding that metrics of prompts take."""
        first = next((name for name, kind in self.features.items() if kind == "embedding"), "")
        return {**{f"{name}_diversity": kind for name, kind in self.features.items()}, "first": first}

    @property
    def space(self) -> str | None:
        """The model whose embedding set metrics compare, None where there is no embedding."""
        if self.set_space is not None:
            return self.set_space
        return next((name for name, kind in self.features.items() if kind == "embedding"), None)


class SampledSettings(Settings):
    """What identifies how the measured images were sampled, from section `sample`."""

    model_config = ConfigDict(extra="ignore", frozen=True)

    steps: int = Field(20, ge=1, description="T, sampling steps")
    sampler: Literal["ddpm", "ddim"] = Field("ddpm", description="ancestral or deterministic steps")


class StudySeed(Settings):
    """The one value that measuring reads of section `study`."""

    model_config = ConfigDict(extra="ignore", frozen=True)

    seed: int = Field(0, ge=0, description="seed of the bootstrap")
