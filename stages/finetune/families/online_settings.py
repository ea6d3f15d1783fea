"""Settings of soft Q-learning and of online rounds, which may learn from a surrogate of the reward. Torch-free."""

from __future__ import annotations

from dataclasses import replace
from typing import Annotated, Literal

from pydantic import Field

from stages.finetune.families.settings import TrajectorySettings
from stages.finetune.needs import Needs
from stages.params import Settings as Section


class BufferSettings(Section):
    """Trajectories that are learnt from more than once; first in, first out."""

    size: int = Field(default=1024, ge=1, description="trajectories; memory is 4 T C h w bytes each")
    draw: Literal["uniform", "prioritised"] = Field(
        default="uniform",
        description="trajectory and step uniformly, or by positive reward times discount, which then leaves the loss",
    )


class SoftQAsReleased(Section):
    """What the released SQDF code does and its paper does not say; all off. See docs/methods.md."""

    denormalise_twice: bool = Field(default=False, description="the reward sees images moved from [0, 1] to [0.5, 1]")
    positive_only: bool = Field(
        default=False, description="images whose reward is not positive are left out, their divergence too"
    )
    discount_twice: bool = Field(default=False, description="prioritised draws are discounted in the loss as well")


class SoftQSettings(Section):
    """The objective of SQDF, whatever the reward is: also of the proxy of a reward (method `online`)."""

    alpha: float = Field(
        default=4.0,
        ge=0,
        description="weight of the KL divergence from the base, in nats per latent element; twice the paper's",
    )
    gamma: float = Field(
        default=0.9, ge=0, le=1, description="discount of the reward for a sampling step before the end"
    )
    gamma_steps: int | None = Field(
        default=50,
        ge=1,
        description="sampling steps that gamma is given for: it becomes gamma^(gamma_steps / T); null: unchanged",
    )
    predictor: Literal["tweedie", "ddim2", "consistency"] = Field(
        default="tweedie",
        description="what predicts the clean latents: the base in one or two steps, or a distilled model",
    )
    model: str | None = Field(default=None, description="entry of prepare.train.consistency, for predictor consistency")
    buffer: BufferSettings | None = Field(
        default_factory=BufferSettings, description="replay buffer; null learns from fresh trajectories only"
    )
    replay: int = Field(default=1, ge=1, description="optimizer steps per collection of rollouts")
    as_released: SoftQAsReleased = Field(default_factory=SoftQAsReleased)

    def discount(self, steps: int) -> float:
        """Gamma on a grid of `steps`: as much is discounted over a whole rollout as with `gamma_steps`."""
        return self.gamma if self.gamma_steps is None else self.gamma ** (self.gamma_steps / steps)

    def check_model(self) -> None:
        """Raise ValueError unless a model is named just where one is needed."""
        if (self.predictor == "consistency") != (self.model is not None):
            raise ValueError("predictor consistency and model (an entry of prepare.train.consistency) go together")


class AscentSettings(Section):
    """The surrogate's gradient through the last steps of a rollout, as SEIKO does."""

    kind: Literal["gradient"] = Field(description="follow the surrogate's gradient through the sampling chain")
    truncate: tuple[int, int] = Field(
        default=(1, 11), description="K, the last steps with gradient, from truncate[0] <= K < truncate[1]"
    )
    base_weight: float = Field(
        default=1.0, ge=0, description="weight of the KL divergence from the base, in nats per latent element and step"
    )
    previous_weight: float = Field(
        default=1.0, ge=0, description="weight of that from the policy at the start of the round"
    )


class SurrogateSettings(Section):
    """The model of the reward: ridge regression on the features of the reward's `features` model."""

    prompts: bool = Field(
        default=True, description="products of image and text features are features too; false: the image alone"
    )
    ridge: float | None = Field(
        default=None, gt=0, description="penalty of squared weights, of standardised features; null: cross-validated"
    )
    heads: int = Field(default=8, ge=2, description="bootstrap resamples of the data, a head each")


class RoundsSettings(TrajectorySettings):
    """Rounds of queries; there are as many as optimizer steps by `round_steps`, rounded up."""

    round_steps: int = Field(default=25, ge=1, description="optimizer steps per round")
    queries: tuple[Annotated[int, Field(ge=2)], ...] = Field(
        default=(64,),
        min_length=1,
        description="images queried at the start of each round; the last is for later rounds too",
    )
    proxy: SurrogateSettings = Field(default_factory=SurrogateSettings)
    optimism: Literal["bootstrap", "ucb", "none"] = Field(
        default="ucb",
        description="uncertainty d: standard deviation of bootstrap heads, or that of a linear model; none: d = 0",
    )
    optimism_weight: float = Field(
        default=1.0, description="weight of d, added to the expected reward; below 0 it is subtracted (pessimism)"
    )

    @property
    def needs(self) -> Needs:
        """Image features for the surrogate, and one process: each of several would query the same images."""
        return replace(super().needs, features=True, texts=self.proxy.prompts, reference=True, several_processes=False)

    def queried(self, number: int) -> int:
        """Images queried at the start of round `number` (from 0)."""
        return self.queries[min(number, len(self.queries) - 1)]
