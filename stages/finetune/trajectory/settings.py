"""Settings that trajectory methods share. Torch-free."""

from __future__ import annotations

from typing import Literal

from pydantic import Field

from stages.finetune.settings import FinetuneSettings, MethodSettings


class TrajectorySettings(MethodSettings):
    """What every trajectory method may say of its rollouts."""

    eta: float = Field(default=1.0, gt=0, le=1, description="noise of a sampling step; 1 is the ancestral sampler")

    @property
    def needs_gradient(self) -> bool:
        """Most trajectory methods see the reward as a number."""
        return False

    def check(self, train: FinetuneSettings) -> None:
        """Rollouts are stochastic, and whole groups fit a micro-batch."""
        if train.sampler != "ddpm":
            raise ValueError(f"trajectories are stochastic, expected finetune.sampler ddpm, found {train.sampler}")
        size = train.batch_size // train.accumulate
        if size % self.group:
            raise ValueError(f"a micro-batch of {size} images does not hold whole groups of {self.group} a prompt")


class CollectionSettings(TrajectorySettings):
    """Rollouts that serve several optimizer steps, and which of their steps are learnt from."""

    updates: int = Field(
        default=1, ge=1, description="optimizer steps a collection of rollouts; each learns from an equal share of them"
    )
    epochs: int = Field(default=1, ge=1, description="passes over a collection, of `updates` optimizer steps each")
    steps_per_trajectory: int | None = Field(
        default=None, ge=1, description="sampling steps of a trajectory that are learnt from, drawn anew; null: all"
    )
    state_batch: int = Field(default=64, ge=1, description="states a network evaluation; bounds memory")
    kl_weight: float = Field(
        default=0.0, ge=0, description="weight of the KL divergence from the base, in nats a number and sampling step"
    )

    @property
    def lasting(self) -> int:
        """Optimizer steps between two collections."""
        return self.updates * self.epochs

    def learnt(self, train: FinetuneSettings) -> int:
        """Sampling steps of a trajectory that an optimizer step learns from."""
        return self.steps_per_trajectory or train.sampling_steps

    def shares(self, train: FinetuneSettings) -> dict[str, int]:
        """Images are rolled out, and an optimizer step's states are learnt from."""
        own = super().shares(train)
        return own | {"states of an update": own["images"] // self.updates * self.learnt(train)}

    def check(self, train: FinetuneSettings) -> None:
        """Each update has trajectories, and no more steps are drawn than there are."""
        super().check(train)
        size = train.batch_size // train.accumulate
        if size % (self.updates * self.group):
            raise ValueError(f"a micro-batch of {size} images does not divide into {self.updates} updates of groups")
        if self.steps_per_trajectory and self.steps_per_trajectory > train.sampling_steps:
            raise ValueError(
                f"steps_per_trajectory {self.steps_per_trajectory} is more than sampling_steps {train.sampling_steps}"
            )


class AdvantageSettings(CollectionSettings):
    """Policy gradients: a reward becomes an advantage."""

    images_per_prompt: int = Field(default=1, ge=1, description="images of one prompt in a batch")
    advantage: Literal["batch", "prompt", "group"] = Field(
        default="prompt",
        description="rewards are normalised over the batch, by the prompt's own history, or over its images here",
    )
    history: int = Field(default=32, ge=1, description="rewards kept of each prompt, for `advantage: prompt`")
    least_history: int = Field(default=8, ge=1, description="with fewer rewards of a prompt the batch's are taken")
    largest_advantage: float = Field(default=5.0, gt=0, description="advantages are clamped to plus and minus this")
    clip: float = Field(default=1e-4, gt=0, description="the ratio of densities is clipped to 1 plus and minus this")

    @property
    def group(self) -> int:
        """Images of one prompt."""
        return self.images_per_prompt

    def check(self, train: FinetuneSettings) -> None:
        """A group has a spread."""
        super().check(train)
        if self.advantage == "group" and self.images_per_prompt < 2:
            raise ValueError("advantage group needs images_per_prompt of at least 2")
