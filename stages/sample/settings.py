"""Section `sample` of a study file."""

from __future__ import annotations

from typing import Any, Literal

from pydantic import ConfigDict, Field, model_validator

from stages.params import Settings


class StrategySettings(Settings):
    """What every entry of `sample.strategies` may say; a strategy's module adds its own keys.

    Guidance is classifier-free guidance of one network; 1 is none.
    """

    kind: str = Field(description="module of stages/sample/strategies, or an installed strategy's name")
    guidance: float = Field(default=1.0, ge=0, description="guidance of the tuned network")
    base_guidance: float = Field(default=1.0, ge=0, description="guidance of the base network")

    def points(self) -> list[tuple[str, float]]:
        """The settings to sample at, as (label, value): `("k=10", 10.0)`."""
        raise TypeError(f"strategy {self.kind!r} does not say its points")

    def shared_steps(self, value: float) -> int | None:
        """How many first steps are the base's own, guided by `base_guidance`, and taken from the shared pass of the
        base; None when there is nothing to share.
        """
        return None

    def check(self, steps: int) -> None:
        """Raise ValueError when these settings do not go with `steps` sampling steps."""


class SampleSettings(Settings):
    """What is sampled, and how."""

    steps: int = Field(default=20, ge=1, description="T, sampling steps")
    sampler: Literal["ddpm", "ddim"] = Field(default="ddpm", description="ancestral or deterministic steps")
    samples_per_prompt: int = Field(default=8, ge=2, description="images a prompt; diversity needs at least two")
    batch_size: int = Field(default=96, ge=1, description="images a network call")
    compile: bool = Field(default=False, description="torch.compile for the networks; pays in jobs of many minutes")
    shards: int = Field(
        default=1, ge=1, le=1000, description="jobs that share out the images of a run, under Snakemake; same images"
    )
    guidance: tuple[float, ...] = Field(
        default=(1.0,), min_length=1, description="scales at which the base alone is sampled"
    )
    strategies: dict[str, dict[str, Any]] = Field(default_factory=dict, description="how base and tuned are combined")

    @model_validator(mode="after")
    def _own_sampling(self) -> SampleSettings:
        if 1.0 not in self.guidance:
            raise ValueError("guidance has no 1.0; the base without guidance is what every method is compared with")
        return self


class StudySeed(Settings):
    """What sampling reads of section `study`: the seed of the evaluation noise."""

    model_config = ConfigDict(extra="ignore", frozen=True)

    seed: int = Field(default=0, ge=0)


class RunIdentity(Settings):
    """What sampling reads of an entry of `runs`."""

    method: str
    seed: int = Field(ge=0)
