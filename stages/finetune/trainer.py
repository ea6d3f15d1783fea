"""The trainer of every reward-gradient method: a method says what is judged, the trainer does the rest."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch import Tensor, nn

from stages.finetune.batch import Batch, Judged
from stages.finetune.learner import Decode, Learner, RewardFunction, adamw, first_average, reward_loss
from stages.finetune.settings import FinetuneSettings
from stages.finetune.tools import Tools

__all__ = ["Decode", "RewardFunction", "Trainer", "reward_loss"]


@dataclass
class Trainer(Learner):
    """A learner whose method, `micro_step(tools, batch)`, says which clean latents are judged."""

    micro_step: Callable[[Tools, Batch], Judged]

    @classmethod
    def start(
        cls,
        tools: Tools,
        decode: Decode,
        reward: RewardFunction,
        micro_step: Callable[[Tools, Batch], Judged],
        parameters: dict[str, nn.Parameter],
        settings: FinetuneSettings,
    ) -> Trainer:
        """A trainer before its first step."""
        optimizer, average = adamw(parameters, settings), first_average(parameters, settings)
        return cls(tools, decode, reward, parameters, optimizer, average, settings, micro_step)

    def backward(self, batch: Batch, share: float = 1.0) -> dict[str, Tensor]:
        """Add `share` of one micro-batch's gradient to the parameters; returns its terms, detached.

        loss = - reward_scale * mean reward + sum of weight * penalty. The reward's gradient is collected at x0 and
        enters the network once, with the penalties.
        """
        share *= self.settings.as_released.loss_scale
        with self._autocast():
            judged = self.micro_step(self.tools, batch)
            penalty = sum((weight * value for weight, value in judged.penalties.values()), torch.zeros(()))
        rewards, gradient = self.pull(judged.x0, judged.prompts, share)
        roots, gradients = [judged.x0], [gradient]
        if judged.penalties:
            roots, gradients = [*roots, penalty * share], [*gradients, None]
        torch.autograd.backward(roots, gradients)
        loss = reward_loss(rewards, self.settings.reward_scale, self.settings.reward_offset) + penalty.detach()
        terms = {"reward": rewards.mean(), "loss": self.settings.as_released.loss_scale * loss}
        return terms | {f"loss_{name}": value.detach() for name, (_, value) in judged.penalties.items()}
