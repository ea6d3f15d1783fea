"""Settings that the methods of a family share. Torch-free."""

from __future__ import annotations

from dataclasses import replace
from math import comb
from typing import Literal

from pydantic import Field

from stages.finetune.needs import Needs
from stages.finetune.settings import FinetuneSettings, MethodSettings


class TrajectorySettings(MethodSettings):
    """What every trajectory method may say of its rollouts."""

    eta: float = Field(default=1.0, gt=0, le=1, description="noise of a sampling step; 1 is the ancestral sampler")

    @property
    def needs(self) -> Needs:
        """Most methods that learn from rollouts see the reward as a number."""
        return Needs(reward="value")

    def check(self, train: FinetuneSettings) -> None:
        """Rollouts are stochastic, and whole groups fit a micro-batch."""
        if train.sampler != "ddpm":
            raise ValueError(f"trajectories are stochastic, expected finetune.sampler ddpm, found {train.sampler}")
        size = train.batch_size // train.accumulate
        group = self.needs.group
        if size % group:
            raise ValueError(f"a micro-batch of {size} images does not hold whole groups of {group} per prompt")


class CollectionSettings(TrajectorySettings):
    """Rollouts that serve several optimizer steps, and which of their steps are learnt from."""

    updates: int = Field(
        default=1,
        ge=1,
        description="optimizer steps per collection of rollouts, each on an equal share of them",
    )
    epochs: int = Field(default=1, ge=1, description="passes over a collection, of `updates` optimizer steps each")
    steps_per_trajectory: int | None = Field(
        default=None, ge=1, description="sampling steps of a trajectory in the loss, drawn for each update; null: all"
    )
    state_batch: int = Field(default=64, ge=1, description="states per network evaluation; bounds memory")
    kl_weight: float = Field(
        default=0.0, ge=0, description="weight of the KL divergence from the base, in nats per latent element and step"
    )

    @property
    def needs(self) -> Needs:
        """The base is evaluated where the divergence from it has a weight."""
        return replace(super().needs, reference=self.kl_weight > 0)

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
        if size % (self.updates * self.needs.group):
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
    def needs(self) -> Needs:
        """Images of one prompt stand side by side."""
        return replace(super().needs, group=self.images_per_prompt)

    def check(self, train: FinetuneSettings) -> None:
        """A group has two images at least, so that rewards can differ within it."""
        super().check(train)
        if self.advantage == "group" and self.images_per_prompt < 2:
            raise ValueError("advantage group needs images_per_prompt of at least 2")


class PreferenceSettings(CollectionSettings):
    """Step-by-step preference: the base is the reference of every ratio."""

    beta: float = Field(
        default=1.0, gt=0, description="how strongly a preferred step must be more likely than the other"
    )
    clip: float = Field(default=0.1, gt=0, lt=1, description="ratios to the base are clipped to 1 plus and minus this")

    @property
    def needs(self) -> Needs:
        """The base is always evaluated."""
        return replace(super().needs, reference=True)


class BranchSettings(PreferenceSettings):
    """Rollouts that branch: `steps_per_trajectory` says at how many steps pairs are drawn and judged; null: all."""

    follow: Literal["better", "random"] = Field(
        default="better", description="the next state from which a rollout continues"
    )
    guidance: float = Field(
        default=0.0, ge=0, description="preferred states are moved by this times the reward's gradient (TailorPO-G)"
    )

    @property
    def needs(self) -> Needs:
        """The reward's gradient only where preferred states are moved."""
        return replace(super().needs, reward="gradient" if self.guidance > 0 else "value")


class CandidateSettings(PreferenceSettings):
    """Rollouts that draw several next states at `steps_per_trajectory` of the steps from `start` on; null: at all."""

    candidates: int = Field(default=4, ge=2, description="next states from one state; best and worst are a pair")
    start: int = Field(default=4, ge=0, description="first sampling step with candidates, counted from 0, the noisiest")
    scale: float = Field(
        default=100.0, gt=0, description="scores are multiplied by this; 100 makes a cosine one of CLIP's logits"
    )
    threshold: float = Field(
        default=0.3,
        ge=0,
        lt=1,
        description="a pair is learnt from where the softmax over both scores differs by more than this",
    )

    def among(self, steps: int) -> range:
        """The sampling steps, of `steps`, that may have candidates."""
        return range(self.start, steps)

    def learnt(self, train: FinetuneSettings) -> int:
        """Sampling steps of a trajectory with candidates."""
        return self.steps_per_trajectory or len(self.among(train.sampling_steps))

    def check(self, train: FinetuneSettings) -> None:
        """There are steps with candidates, and no more are drawn than there are."""
        super().check(train)
        left = len(self.among(train.sampling_steps))
        if left < 1:
            raise ValueError(f"start {self.start} is no step of sampling_steps {train.sampling_steps}")
        if self.steps_per_trajectory and self.steps_per_trajectory > left:
            raise ValueError(
                f"steps_per_trajectory {self.steps_per_trajectory} is more than the {left} steps from {self.start} on"
            )


class RankedSettings(CollectionSettings):
    """Lists of rollouts of a prompt, ranked by the reward."""

    images_per_prompt: int = Field(default=4, ge=2, description="rollouts of one prompt in a collection")
    list_length: int = Field(default=2, ge=2, description="rollouts in a list; 2: pairs")
    tuples: int = Field(default=1, ge=1, description="different lists of each prompt, drawn for each optimizer step")
    steps_per_trajectory: int | None = Field(
        default=3, ge=1, description="sampling steps in the loss, drawn with replacement for each update; null: T"
    )
    gamma: float = Field(
        default=0.9, gt=0, le=1, description="step i, counted from the noisiest, is drawn in proportion to gamma^i"
    )
    strength: float = Field(default=10.0, gt=0, description="C, the factor of the mean log ratio in a logit")
    clip: float = Field(default=1e-4, gt=0, description="log ratios are clipped to plus and minus this")
    against: Literal["base", "old", "both", "none"] = Field(
        default="base",
        description="log ratios to the base, to the policy that made the rollouts, the sum of both, or log densities",
    )

    @property
    def needs(self) -> Needs:
        """Rollouts of one prompt stand side by side; the base is evaluated for ratios and for the divergence."""
        base = self.against in ("base", "both") or self.kl_weight > 0
        return replace(super().needs, group=self.images_per_prompt, reference=base)

    def probabilities(self, steps: int) -> list[float]:
        """The probability of each of `steps` sampling steps to be drawn."""
        weights = [self.gamma**i for i in range(steps)]
        return [weight / sum(weights) for weight in weights]

    def shares(self, train: FinetuneSettings) -> dict[str, int]:
        """Lists stay together in the loss."""
        images = train.batch_size // train.accumulate
        return {
            "images": images, "lists of an update": images // self.images_per_prompt // self.updates * self.tuples
        }  # fmt: skip

    def check(self, train: FinetuneSettings) -> None:
        """There are as many lists as are drawn."""
        super().check(train)
        most = comb(self.images_per_prompt, self.list_length)
        if self.tuples > most:
            raise ValueError(
                f"tuples {self.tuples} is more than the {most} lists of {self.list_length} among images_per_prompt "
                f"{self.images_per_prompt}"
            )
