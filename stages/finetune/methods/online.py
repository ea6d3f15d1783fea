"""Online black-box optimisation (SEIKO: Uehara et al. 2024, arXiv 2402.16359): query, fit a surrogate, tune on that."""

from __future__ import annotations

from dataclasses import replace
from typing import TYPE_CHECKING, Annotated, Literal

from pydantic import Field

from stages.about import MethodAbout
from stages.finetune.families.online_settings import AscentSettings, RoundsSettings, SoftQSettings
from stages.finetune.method import Method
from stages.finetune.needs import Needs
from stages.finetune.settings import FinetuneSettings, check_window

if TYPE_CHECKING:
    from stages.finetune.objective import Objective, RoundObjective, Run

ABOUT = MethodAbout("SEIKO", "Uehara et al. 2024, arXiv 2402.16359", family="online")


class SqdfSettings(SoftQSettings):
    """SQDF's objective on the surrogate; its buffer is emptied every round."""

    kind: Literal["sqdf"] = Field(description="SQDF's objective on the surrogate, near the base")


class Settings(RoundsSettings):
    """Own keys: those of the rounds, and how the policy is tuned within one."""

    inner: Annotated[AscentSettings | SqdfSettings, Field(discriminator="kind")] = Field(
        default=AscentSettings(kind="gradient"), description="how the policy is tuned on the proxy within a round"
    )

    @property
    def needs(self) -> Needs:
        """Also the distilled model that SQDF's predictor names."""
        return replace(super().needs, student=self.inner.model if isinstance(self.inner, SqdfSettings) else None)

    def check(self, train: FinetuneSettings) -> None:
        """Steps with gradient lie on the grid; rollouts of SQDF do not outlast a round."""
        super().check(train)
        if isinstance(self.inner, AscentSettings):
            check_window("inner.truncate", self.inner.truncate, train.sampling_steps + 1, low=1)
            return
        self.inner.check_model()
        if self.round_steps % self.inner.replay:
            raise ValueError(f"round_steps {self.round_steps} is not a multiple of inner.replay {self.inner.replay}")


def objective(settings: Settings, run: Run) -> Objective:
    """Rounds whose inner objective sees the surrogate in place of the reward."""
    from stages.finetune.families.ascent import Ascent
    from stages.finetune.families.online import OnlineRounds
    from stages.finetune.families.soft_q import SoftQ

    def inner(tuned: Run) -> RoundObjective:
        if isinstance(settings.inner, AscentSettings):
            return Ascent(settings.inner, tuned, settings.eta)
        return SoftQ(settings.inner, tuned, settings.eta)

    return OnlineRounds(settings, run, inner)


METHOD = Method(Settings, objective)
