"""The trainer of every reward-gradient method: a method says what is judged, the trainer does the rest."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Callable, Mapping, Sequence
from copy import copy
from dataclasses import dataclass, field, replace

import torch
from torch import Tensor, nn

from stages.finetune.batch import Batch, Judged, Rolled, Rollout
from stages.finetune.learner import Decode, Learner, RewardFunction, adamw, first_average, reward_loss
from stages.finetune.settings import FinetuneSettings
from stages.finetune.together import roll_out
from stages.finetune.tools import Tools

__all__ = ["Decode", "RewardFunction", "Trainer", "reward_loss"]

Paid = dict[str, tuple[float, Tensor]]
"""Weights and values of penalties whose gradient has been taken."""


@dataclass
class Trainer(Learner):
    """A learner whose method, `micro_step(tools, batch)`, says which clean latents are judged."""

    micro_step: Callable[[Tools, Batch], Judged]
    ahead: Callable[[Tools, Batch], Rollout | None] | None = field(default=None, kw_only=True)

    @classmethod
    def start(
        cls,
        tools: Tools,
        decode: Decode,
        reward: RewardFunction,
        micro_step: Callable[[Tools, Batch], Judged],
        parameters: dict[str, nn.Parameter],
        settings: FinetuneSettings,
        ahead: Callable[[Tools, Batch], Rollout | None] | None = None,
    ) -> Trainer:
        """A trainer before its first step; `ahead` is that of the method (`batch.Ahead`), where it has one."""
        optimizer, average = adamw(parameters, settings), first_average(parameters, settings)
        return cls(tools, decode, reward, parameters, optimizer, average, settings, micro_step, ahead=ahead)

    def ready(self, batches: Sequence[Batch], share: float = 1.0) -> Sequence[Batch]:
        """The micro-batches, rolled out together as far as the method says, `rollout_batch` images at a time."""
        if self.ahead is None or self.tools.extra_step:
            return batches
        made = list(batches)
        alike: defaultdict[tuple[int, bool], list[int]] = defaultdict(list)
        begun: dict[int, tuple[Rollout, Paid]] = {}
        for number, batch in enumerate(batches):
            with self._autocast():
                rollout = self.ahead(self.tools, replace(batch, rng=copy(batch.rng)))
            if rollout is not None:
                begun[number] = replace(rollout, penalties={}), self._pay(rollout.penalties, share)
                alike[rollout.start, rollout.guided].append(number)
        each = max(self.settings.rollout_batch // len(batches[0].prompts), 1)
        for (_, guided), group in alike.items():
            tools = self.tools if guided else self.tools.without_guidance()
            for first in range(0, len(group), each):
                some = group[first : first + each]
                with self._autocast():
                    found = roll_out(tools, [batches[number] for number in some], [begun[number][0] for number in some])
                for number, x in zip(some, found, strict=True):
                    rollout, paid = begun[number]
                    made[number] = replace(batches[number], rolled=Rolled(rollout.stop, x, paid))
        return made

    def _pay(self, penalties: Mapping[str, tuple[float, Tensor]], share: float) -> Paid:
        """Take the gradient of penalties, so that their graph need not wait for the reward's; returns their values."""
        if penalties:
            total = sum((weight * value for weight, value in penalties.values()), torch.zeros(()))
            (total * share * self.settings.as_released.loss_scale).backward()
        return {name: (weight, value.detach()) for name, (weight, value) in penalties.items()}

    def backward(self, batch: Batch, share: float = 1.0) -> dict[str, Tensor]:
        """Add `share` of one micro-batch's gradient to the parameters; returns its terms, detached.

        loss = - reward_scale * mean reward + sum of weight * penalty, of the likeness too. The gradient of what judges
        images is collected at x0 and enters the network once, with the penalties that are not yet paid (`ready`).
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
        penalties = judged.penalties | (batch.rolled.paid if batch.rolled is not None else {})
        loss = reward_loss(pulled.rewards, self.settings.reward_scale, self.settings.reward_offset)
        loss = loss + sum(weight * value.detach() for weight, value in penalties.values())
        parts = {f"loss_{name}": value.detach() for name, (_, value) in penalties.items()}
        if judged.likeness is not None and pulled.distances is not None:
            parts["loss_likeness"] = pulled.distances.mean()
            loss = loss + judged.likeness.weight * parts["loss_likeness"]
        terms = {"reward": pulled.rewards.mean(), "loss": self.settings.as_released.loss_scale * loss}
        return terms | parts
