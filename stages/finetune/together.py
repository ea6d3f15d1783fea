"""Micro-batches of one optimizer step that are rolled out together: the same numbers in fewer and larger passes.

Micro-batches bound the memory of gradients; rollouts have none. A small network spends much of an evaluation on what
does not grow with the batch.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from stages.finetune.batch import Batch, Rollout
from stages.finetune.tools import Tools
from stages.models.conditioning import Conditioning
from stages.models.noise import Noise


@dataclass(frozen=True)
class Joined:
    """The noise of several batches, one after the other."""

    parts: Sequence[Noise]

    def initial(self) -> Tensor:
        """x_T of all."""
        return torch.cat([part.initial() for part in self.parts])

    def step(self, i: int) -> Tensor:
        """The draws of the ancestral step at index i."""
        return torch.cat([part.step(i) for part in self.parts])

    def extra(self, name: str) -> Tensor:
        """A further named draw."""
        return torch.cat([part.extra(name) for part in self.parts])


def join(batches: Sequence[Batch]) -> Batch:
    """One batch of the rows of all, as far as a rollout needs them."""
    first = batches[0]
    if len(batches) == 1:
        return first
    prompts = [prompt for batch in batches for prompt in batch.prompts]
    text = Conditioning.cat([Conditioning.of(batch.text) for batch in batches])
    return Batch(prompts, text, Joined([batch.noise for batch in batches]), first.rng, first.micro)


def roll_out(tools: Tools, batches: Sequence[Batch], rollouts: Sequence[Rollout]) -> list[Tensor]:
    """Latents [B, C, h, w] of each batch that enter the last index of its rollout, which all begin at the same one.

    All go to the first stop together, all but the first to the second, and so on.
    """
    order = sorted(range(len(batches)), key=lambda number: rollouts[number].stop)
    x, start, found = torch.cat([rollouts[number].x for number in order]), rollouts[0].start, {}
    for place, number in enumerate(order):
        left = join([batches[other] for other in order[place:]])
        stop = rollouts[number].stop
        x = tools.rollout(left, x, start, stop)
        size, start = len(batches[number].prompts), stop
        found[number], x = x[:size], x[size:]
    return [found[number] for number in range(len(batches))]
