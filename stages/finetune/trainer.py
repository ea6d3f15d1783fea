"""The trainer of every reward-gradient method: a method says what is judged, the trainer does the rest."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from copy import copy
from dataclasses import dataclass, field, replace

import torch
from torch import Tensor, nn

from stages.finetune.batch import Batch, Judged
from stages.finetune.learner import Decode, Learner, RewardFunction, adamw, first_average, reward_loss
from stages.finetune.settings import FinetuneSettings
from stages.finetune.together import roll_out
from stages.finetune.tools import Tools

__all__ = ["Decode", "RewardFunction", "Trainer", "reward_loss"]


@dataclass
class Trainer(Learner):
    """A learner whose method, `micro_step(tools, batch)`, says which clean latents are judged."""

    micro_step: Callable[[Tools, Batch], Judged]
    ahead: Callable[[Tools, Batch], int | None] | None = field(default=None, kw_only=True)

    @classmethod
    def start(
        cls,
        tools: Tools,
        decode: Decode,
        reward: RewardFunction,
        micro_step: Callable[[Tools, Batch], Judged],
        parameters: dict[str, nn.Parameter],
        settings: FinetuneSettings,
        ahead: Callable[[Tools, Batch], int | None] | None = None,
    ) -> Trainer:
        """A trainer before its first step; `ahead` is that of the method (`batch.Ahead`), where it has one."""
        optimizer, average = adamw(parameters, settings), first_average(parameters, settings)
        return cls(tools, decode, reward, parameters, optimizer, average, settings, micro_step, ahead=ahead)

    def ready(self, batches: Sequence[Batch]) -> Sequence[Batch]:
        """The micro-batches, rolled out together as far as the method says, `rollout_batch` images at a time."""
        if self.ahead is None or self.tools.extra_step or len(batches) == 1:
            return batches
        stops = [self.ahead(self.tools, replace(batch, rng=copy(batch.rng))) for batch in batches]
        made, waiting = list(batches), [number for number, stop in enumerate(stops) if stop is not None]
        each = max(self.settings.rollout_batch // len(batches[0].prompts), 1)
        for first in range(0, len(waiting), each):
            some = waiting[first : first + each]
            where = [stop for number in some if (stop := stops[number]) is not None]
            with self._autocast():
                found = roll_out(self.tools, [batches[number] for number in some], where)
            for number, stop, x in zip(some, where, found, strict=True):
                made[number] = replace(batches[number], rolled=(stop, x))
        return made

    def backward(self, batch: Batch, share: float = 1.0) -> dict[str, Tensor]:
        """Add `share` of one micro-batch's gradient to the parameters; returns its terms, detached.

        loss = - reward_scale * mean reward + sum of weight * penalty, of the likeness too. The gradient of what judges
        images is collected at x0 and enters the network once, with the penalties.
        """
        share *= self.settings.as_released.loss_scale
        with self._autocast():
            judged = self.micro_step(self.tools, batch)
            penalty = sum((weight * value for weight, value in judged.penalties.values()), torch.zeros(()))
        pulled = self.pull(judged.x0, judged.prompts, share, likeness=judged.likeness)
        roots, gradients = [judged.x0], [pulled.gradient]
        if judged.penalties:
            roots, gradients = [*roots, penalty * share], [*gradients, None]
        torch.autograd.backward(roots, gradients)
        loss = reward_loss(pulled.rewards, self.settings.reward_scale, self.settings.reward_offset) + penalty.detach()
        parts = {f"loss_{name}": value.detach() for name, (_, value) in judged.penalties.items()}
        if judged.likeness is not None and pulled.distances is not None:
            parts["loss_likeness"] = pulled.distances.mean()
            loss = loss + judged.likeness.weight * parts["loss_likeness"]
        terms = {"reward": pulled.rewards.mean(), "loss": self.settings.as_released.loss_scale * loss}
        return terms | parts
