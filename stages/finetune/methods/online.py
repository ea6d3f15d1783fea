"""Online black-box optimisation (SEIKO: Uehara et al. 2024, arXiv 2402.16359): query, fit a proxy, tune on that."""

from __future__ import annotations

from typing import TYPE_CHECKING, Annotated, Literal

from pydantic import Field

from stages.about import MethodAbout
from stages.finetune.methods.sqdf import SoftQSettings
from stages.finetune.settings import FinetuneSettings, check_window
from stages.finetune.trajectory.settings import TrajectorySettings
from stages.params import Settings as Section

if TYPE_CHECKING:
    from stages.finetune.trajectory.trainer import Method

ABOUT = MethodAbout("SEIKO", "Uehara et al. 2024, arXiv 2402.16359", family="online")


class GradientSettings(Section):
    """The proxy's gradient through the last steps of a rollout, as SEIKO does."""

    kind: Literal["gradient"] = Field(description="follow the proxy's gradient through the sampling chain")
    truncate: tuple[int, int] = Field(
        default=(1, 11), description="K, the last steps with gradient, from truncate[0] <= K < truncate[1]"
    )
    base_weight: float = Field(
        default=1.0, ge=0, description="weight of the KL divergence from the base, in nats a number and sampling step"
    )
    previous_weight: float = Field(
        default=1.0, ge=0, description="weight of that from the policy that was asked about at the start of the round"
    )


class SqdfSettings(SoftQSettings):
    """SQDF's objective on the proxy; its buffer starts anew every round."""

    kind: Literal["sqdf"] = Field(description="SQDF's objective on the proxy, near the base")


class ProxySettings(Section):
    """The model of the reward: ridge regression on the features of the reward's `features` model."""

    prompts: bool = Field(
        default=True, description="products of image and text features are features too; false: the image alone"
    )
    ridge: float | None = Field(
        default=None, gt=0, description="penalty of squared weights, of standardised features; null: cross-validated"
    )
    heads: int = Field(default=8, ge=2, description="bootstrap resamples of the data, a head each")


class Settings(TrajectorySettings):
    """Own keys. The number of rounds is that of optimizer steps by `round_steps`, rounded up."""

    round_steps: int = Field(default=25, ge=1, description="optimizer steps a round")
    queries: tuple[Annotated[int, Field(ge=2)], ...] = Field(
        default=(64,), min_length=1, description="images asked about at the start of each round; the last one stays"
    )
    proxy: ProxySettings = Field(default_factory=ProxySettings)
    optimism: Literal["bootstrap", "ucb", "none"] = Field(
        default="ucb", description="what is doubt: deviation of bootstrap heads, or that of a linear model; or nothing"
    )
    optimism_weight: float = Field(
        default=1.0, description="deviations added to the expected reward; below 0 they are taken off (pessimism)"
    )
    inner: Annotated[GradientSettings | SqdfSettings, Field(discriminator="kind")] = Field(
        default=GradientSettings(kind="gradient"), description="how the policy is tuned on the proxy within a round"
    )

    @property
    def needs_features(self) -> bool:
        """The proxy is fitted on them."""
        return True

    @property
    def alone(self) -> bool:
        """Every process would ask about the same images."""
        return True

    @property
    def model(self) -> str | None:
        """The distilled model that SQDF's predictor names."""
        return self.inner.model if isinstance(self.inner, SqdfSettings) else None

    def asked(self, number: int) -> int:
        """Images asked about at the start of round `number` (from 0)."""
        return self.queries[min(number, len(self.queries) - 1)]

    def check(self, train: FinetuneSettings) -> None:
        """Steps with gradient lie on the grid; rollouts of SQDF do not outlast a round."""
        super().check(train)
        if isinstance(self.inner, GradientSettings):
            check_window("inner.truncate", self.inner.truncate, train.sampling_steps + 1, low=1)
            return
        self.inner.check_model()
        if self.round_steps % self.inner.replay:
            raise ValueError(f"round_steps {self.round_steps} is not a multiple of inner.replay {self.inner.replay}")


def start(settings: Settings, train: FinetuneSettings) -> Method:
    """The method before its first step."""
    from stages.finetune.methods.sqdf import soft_q
    from stages.finetune.trajectory.ascent import Ascent
    from stages.finetune.trajectory.online import Online

    inner = settings.inner
    made = soft_q(inner, train) if isinstance(inner, SqdfSettings) else Ascent(inner, train.accumulate)
    return Online(settings, train.accumulate, made)
