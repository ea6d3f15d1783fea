"""AlignProp (Prabhudesai et al. 2023): the reward's gradient through a randomly truncated sampling chain."""

from __future__ import annotations

from typing import TYPE_CHECKING

from pydantic import Field

from stages.about import MethodAbout
from stages.finetune.family import reward_gradient
from stages.finetune.methods import draft_k
from stages.finetune.settings import FinetuneSettings, MethodSettings, check_window
from stages.params import Settings as Section

if TYPE_CHECKING:
    from stages.finetune.batch import Batch
    from stages.finetune.families.reward_gradient import Step
    from stages.finetune.networks import Networks

ABOUT = MethodAbout("AlignProp", "Prabhudesai et al. 2023, arXiv 2310.03739", family="reward gradient")


class AsReleased(Section):
    """What the released code does and the paper does not say; all off."""

    noisy_end: bool = Field(
        default=False, description="the last step ends at timestep 0 with its noise, and that state is scored"
    )
    denormalise_twice: bool = Field(default=False, description="the reward sees images moved from [0, 1] to [0.5, 1]")


class Settings(MethodSettings):
    """AlignProp's own keys."""

    truncate: tuple[int, int] = Field(
        (1, 5), description="K, the last steps with gradient, from truncate[0] <= K < truncate[1]"
    )

    as_released: AsReleased = Field(default_factory=AsReleased)

    def check(self, train: FinetuneSettings) -> None:
        """The window names possible numbers of steps."""
        check_window("truncate", self.truncate, train.sampling_steps + 1, low=1)


def step(networks: Networks, batch: Batch, settings: Settings) -> Step:
    """One micro-batch: DRaFT-K with K drawn for it (predictions before a random step carry no gradient)."""
    k = batch.draw(settings.truncate)
    return noisy_end(networks, batch, k) if settings.as_released.noisy_end else draft_k.step_with(networks, batch, k)


def noisy_end(networks: Networks, batch: Batch, k: int) -> Step:
    """DRaFT-K that judges the state after the last step of the recorded sampler, at timestep 0 and with its noise.

    The released pipeline (DDIM with eta 1, here sampler `ddpm`; eta 0, here `ddim`) decodes that state.
    """
    from stages.finetune.families.reward_gradient import StepOutput
    from stages.finetune.rollouts import Rollout

    networks.grid.require_transitions()
    last = len(networks.grid) - 1
    x = yield Rollout(batch.noise.initial(), 0, last + 1 - k)
    x = networks.steps(batch, x, last + 1 - k, last)
    eta = 1.0 if networks.sampler == "ddpm" else 0.0
    end = networks.grid.transition(x, networks.prediction(batch, x, last), last, eta)
    return StepOutput(end.sample(batch.noise.step(last)), batch.prompts)


def twice(settings: Settings) -> bool:
    """Whether the reward sees images moved to [0.5, 1]."""
    return settings.as_released.denormalise_twice


METHOD = reward_gradient(Settings, step, twice=twice)
