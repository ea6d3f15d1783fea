"""SQDF (Kang et al. 2026, arXiv 2512.04559): reparameterised policy gradient of the soft Q function, near the base."""

from __future__ import annotations

from typing import TYPE_CHECKING, Literal

from pydantic import Field

from stages.about import MethodAbout
from stages.finetune.settings import FinetuneSettings
from stages.finetune.trajectory.settings import TrajectorySettings
from stages.params import Settings as Section

if TYPE_CHECKING:
    from stages.finetune.trajectory.soft_q import SoftQ
    from stages.finetune.trajectory.trainer import Method

ABOUT = MethodAbout("SQDF", "Kang et al. 2026, arXiv 2512.04559", family="soft Q")


class BufferSettings(Section):
    """Trajectories that are learnt from more than once; first in, first out."""

    size: int = Field(default=1024, ge=1, description="trajectories; memory is 4 T C h w bytes each")
    draw: Literal["uniform", "prioritised"] = Field(
        default="uniform",
        description="trajectory and step uniformly, or by positive reward times discount, which then leaves the loss",
    )


class AsReleased(Section):
    """What the released SQDF code does and its paper does not say; all off. See docs/methods.md."""

    denormalise_twice: bool = Field(default=False, description="the reward sees images moved from [0, 1] to [0.5, 1]")
    positive_only: bool = Field(
        default=False, description="images whose reward is not positive are left out, divergence and all"
    )
    discount_twice: bool = Field(default=False, description="prioritised draws are discounted in the loss as well")


class SoftQSettings(Section):
    """The objective of SQDF, whatever the reward is: also of the proxy of a reward (method `online`)."""

    alpha: float = Field(
        default=4.0, ge=0, description="weight of the KL divergence from the base, in nats a number; twice the paper's"
    )
    gamma: float = Field(
        default=0.9, ge=0, le=1, description="discount of the reward for a sampling step before the end"
    )
    gamma_steps: int | None = Field(
        default=50,
        ge=1,
        description="sampling steps that gamma is meant for: with T it becomes gamma^(this / T); null: as it is",
    )
    predictor: Literal["tweedie", "ddim2", "consistency"] = Field(
        default="tweedie",
        description="what predicts the clean latents: the base in one or two steps, or a distilled model",
    )
    model: str | None = Field(default=None, description="entry of prepare.train.consistency, for predictor consistency")
    buffer: BufferSettings | None = Field(
        default_factory=BufferSettings, description="replay buffer; null learns from fresh trajectories only"
    )
    replay: int = Field(default=1, ge=1, description="optimizer steps a collection of rollouts")
    as_released: AsReleased = Field(default_factory=AsReleased)

    def discount(self, steps: int) -> float:
        """Gamma on a grid of `steps`: as much is discounted over a whole rollout as with `gamma_steps`."""
        return self.gamma if self.gamma_steps is None else self.gamma ** (self.gamma_steps / steps)

    def check_model(self) -> None:
        """Raise ValueError unless a model is named just where one is needed."""
        if (self.predictor == "consistency") != (self.model is not None):
            raise ValueError("predictor consistency and model (an entry of prepare.train.consistency) go together")


class Settings(SoftQSettings, TrajectorySettings):
    """SQDF's own keys."""

    @property
    def needs_gradient(self) -> bool:
        """The gradient of the reward is the gradient of the soft Q function."""
        return True

    def check(self, train: FinetuneSettings) -> None:
        """The model is named where one is needed."""
        super().check(train)
        self.check_model()


def start(settings: Settings, train: FinetuneSettings) -> Method:
    """The method before its first step."""
    return soft_q(settings, train)


def soft_q(settings: SoftQSettings, train: FinetuneSettings) -> SoftQ:
    """The objective before its first step, with the predictor that it asks for."""
    from stages.finetune.trajectory.predictors import Distilled, Steps
    from stages.finetune.trajectory.soft_q import SoftQ

    predictor = Distilled() if settings.predictor == "consistency" else Steps(2 if settings.predictor == "ddim2" else 1)
    return SoftQ(settings, train.accumulate, predictor)
