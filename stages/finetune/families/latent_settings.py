"""Settings of candidates that are scored as noisy latents. Torch-free."""

from __future__ import annotations

from dataclasses import replace
from typing import Literal

from pydantic import Field

from stages.finetune.families.settings import CandidateSettings
from stages.finetune.needs import Needs
from stages.finetune.settings import FinetuneSettings


class LatentCandidateSettings(CandidateSettings):
    """The keys of candidates, with the released values; the threshold rises with the noise of the step."""

    start: int = Field(default=0, ge=0, description="first sampling step with candidates, counted from 0, the noisiest")
    end: int | None = Field(
        default=None, ge=1, description="the step before which candidates end; null: the last one too"
    )
    scale: float = Field(default=1.0, gt=0, description="scores are multiplied by this; a latent reward's are logits")
    threshold: float = Field(
        default=0.35, ge=0, lt=1, description="a pair of the step with the least noise must differ by more than this"
    )
    threshold_high: float = Field(default=0.5, ge=0, lt=1, description="the same of the step with the most noise")
    threshold_law: Literal["deviation", "variance", "timestep"] = Field(
        default="deviation", description="what of a step the threshold rises linearly with"
    )

    @property
    def needs(self) -> Needs:
        """A reward that judges noisy latents."""
        return replace(super().needs, latents=True)

    def among(self, steps: int) -> range:
        """The sampling steps, of `steps`, that may have candidates."""
        return range(self.start, steps if self.end is None else self.end)

    def check(self, train: FinetuneSettings) -> None:
        """There are steps with candidates, and the threshold does not fall."""
        if self.end is not None and not self.start < self.end <= train.sampling_steps:
            raise ValueError(
                f"end {self.end} is no step after start {self.start}, of sampling_steps {train.sampling_steps}"
            )
        super().check(train)
        if self.threshold_high < self.threshold:
            raise ValueError(f"threshold_high {self.threshold_high:g} is below threshold {self.threshold:g}")
