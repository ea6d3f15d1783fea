"""Large-scale RL (Zhang et al. 2024, arXiv 2401.12244): DDPO with a reward of whole sets, and the pretraining loss."""

from __future__ import annotations

from typing import TYPE_CHECKING, Literal

from pydantic import Field

from stages.about import MethodAbout
from stages.finetune.methods import ddpo
from stages.finetune.settings import FinetuneSettings

if TYPE_CHECKING:
    from stages.finetune.trajectory.trainer import Method

ABOUT = MethodAbout("Large-scale RL", "Zhang et al. 2024, arXiv 2401.12244", family="policy gradient")


class Settings(ddpo.Settings):
    """Own keys. The set is the images of one prompt in a batch, the reward of it their diversity."""

    images_per_prompt: int = Field(default=4, ge=2, description="images of one prompt in a batch: the set")
    advantage: Literal["batch", "prompt", "group"] = Field(
        default="batch",
        description="rewards are normalised over the batch, by the prompt's own history, or over its images here",
    )
    diversity_weight: float = Field(
        default=1.0, ge=0, description="weight of a set's diversity, 1 - mean cosine of the reward's own image features"
    )
    credit: Literal["set", "own"] = Field(
        default="set", description="every image gets the diversity of its set, or its own mean distance to the others"
    )
    pretraining_weight: float = Field(default=0.1, ge=0, description="weight of the diffusion loss on real images")

    @property
    def data(self) -> Literal["prompts", "images"]:
        """Real images are needed for the pretraining loss only."""
        return "images" if self.pretraining_weight else "prompts"

    def check(self, train: FinetuneSettings) -> None:
        """A reward that all of a group share is no advantage within it."""
        super().check(train)
        if self.advantage == "group" and self.credit == "set" and self.diversity_weight:
            raise ValueError("advantage group takes out what a set shares, expected advantage batch or credit own")


def start(settings: Settings, train: FinetuneSettings) -> Method:
    """The method before its first step."""
    from stages.finetune.trajectory.clipped import LargeScaleRl

    return LargeScaleRl(settings, train.accumulate)
