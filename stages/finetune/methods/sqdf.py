"""SQDF (Kang et al. 2026, arXiv 2512.04559): reparameterised policy gradient of the soft Q function, near the base."""

from __future__ import annotations

from dataclasses import replace
from typing import TYPE_CHECKING

from stages.about import MethodAbout
from stages.finetune.families.online_settings import SoftQSettings
from stages.finetune.families.settings import TrajectorySettings
from stages.finetune.method import Method
from stages.finetune.needs import Needs
from stages.finetune.settings import FinetuneSettings

if TYPE_CHECKING:
    from stages.finetune.objective import Objective, Run

ABOUT = MethodAbout("SQDF", "Kang et al. 2026, arXiv 2512.04559", family="soft Q")


class Settings(SoftQSettings, TrajectorySettings):
    """SQDF has the keys of its family, and those of its rollouts."""

    @property
    def needs(self) -> Needs:
        """The gradient of the reward is the gradient of the soft Q function, which the base predicts, or a model."""
        return replace(super().needs, reward="gradient", reference=True, student=self.model)

    def check(self, train: FinetuneSettings) -> None:
        """The model is named where one is needed."""
        super().check(train)
        self.check_model()


def objective(settings: Settings, run: Run) -> Objective:
    """The soft Q function of the training reward itself."""
    from stages.finetune.families.soft_q import SoftQ

    return SoftQ(settings, run, settings.eta)


METHOD = Method(Settings, objective)
