"""Policy gradients on the density of single sampling steps: the family of DDPO.

A method is the loss of some steps, from their log densities under the policy and under the one that made the rollouts
and from the advantages of their images.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Generic, TypeVar

import torch
from torch import Tensor

from stages.finetune.batch import Batch
from stages.finetune.families.settings import AdvantageSettings
from stages.finetune.objective import Loss, Run
from stages.finetune.trajectories.advantages import History, grouped, normalised
from stages.finetune.trajectories.collection import States, StatesObjective
from stages.finetune.trajectories.kl import mse_to_base
from stages.models.process import Gaussian

A = TypeVar("A", bound=AdvantageSettings)


@dataclass(frozen=True)
class StepDensities:
    """N sampling steps: `log_prob` [N] of each under the policy, with gradient, and under the policy that made the
    rollouts, `old_log_prob` [N]; both are means over C, h, w. `advantage` [N] is that of the whole image.
    """

    log_prob: Tensor
    old_log_prob: Tensor
    advantage: Tensor

    @property
    def ratio(self) -> Tensor:
        """Density under the policy over that of the policy of the rollouts, [N]."""
        return torch.exp(self.log_prob - self.old_log_prob)


@dataclass(frozen=True)
class Collected:
    """The images of a collection: `latents` [N, C, h, w], those of one prompt of a batch side by side; `rewards` [N],
    `prompts` [N], and the `history` of rewards of every prompt before them.
    """

    latents: Tensor
    rewards: Tensor
    prompts: Sequence[str]
    history: History


@dataclass(frozen=True)
class Rules(Generic[A]):
    """What a method says: see `policy_gradient` in `stages/finetune/family.py`."""

    loss: Callable[[StepDensities, A], Loss]
    window: Callable[[int, int, A], range] | None = None
    advantages: Callable[[Collected, A], Tensor] | None = None
    bonus: Callable[[Run, Tensor, A], tuple[Tensor, dict[str, float]]] | None = None
    auxiliary: Callable[[Run, Batch, A], Iterator[Loss]] | None = None
    squared: Callable[[A], bool] | None = None


class PolicyGradient(StatesObjective[A]):
    """The objective of a method with these rules; `history` holds the last rewards of every prompt."""

    def __init__(self, settings: A, run: Run, rules: Rules[A]) -> None:
        super().__init__(settings, run)
        self.rules = rules
        self.history = History(settings.history, settings.least_history)

    def advantages(self, last: Tensor, rewards: Tensor, prompts: Sequence[str]) -> tuple[Tensor, dict[str, float]]:
        """Advantages [N] of the rewards, which the rules may have changed."""
        terms: dict[str, float] = {}
        if self.rules.bonus is not None:
            bonus, terms = self.rules.bonus(self.run, last, self.settings)
            rewards = rewards + bonus
        advantages = self.rules.advantages or normalised_advantages
        return advantages(Collected(last, rewards, prompts, self.history), self.settings), terms

    def loss(self, found: Gaussian, states: States) -> Loss:
        """The mean loss of the policy's steps at `states`."""
        densities = StepDensities(found.log_prob(states.next), states.old_log_prob, states.advantage)
        return self.rules.loss(densities, self.settings)

    def divergence(self, prediction: Tensor, found: Gaussian, states: States) -> tuple[Tensor, dict[str, Tensor]]:
        """The KL divergence from the base, or the mean squared difference of predictions where the rules say so."""
        if self.rules.squared is None or not self.rules.squared(self.settings):
            return super().divergence(prediction, found, states)
        mse = mse_to_base(self.chain, prediction, states.x, states.i, states.text).mean()
        return mse, {"mse_to_base": mse}

    def window(self, count: int, step: int) -> range:
        """Steps of a trajectory of `count` that may be learnt from at optimizer step `step`."""
        return (
            super().window(count, step) if self.rules.window is None else self.rules.window(count, step, self.settings)
        )

    def auxiliary(self, batch: Batch, place: int) -> Iterator[Loss]:
        """The auxiliary loss of a micro-batch, where the rules have one."""
        if self.rules.auxiliary is not None:
            for loss in self.rules.auxiliary(self.run, batch, self.settings):
                yield loss.share(1.0, place)

    def state_dict(self) -> dict[str, Any]:
        """The current collection and the history of every prompt."""
        return super().state_dict() | {"history": self.history.state_dict()}

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Go on from what was saved."""
        super().load_state_dict(state)
        self.history.load_state_dict(state["history"])


def normalised_advantages(collected: Collected, settings: AdvantageSettings) -> Tensor:
    """Rewards [N] normalised over the batch, by their prompt's history or over their group, as the study says."""
    if settings.advantage == "group":
        return grouped(collected.rewards, settings.images_per_prompt)
    if settings.advantage == "batch":
        return normalised(collected.rewards)
    return collected.history.advantages(collected.rewards, collected.prompts)
