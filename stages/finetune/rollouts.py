"""Passes that micro-batches of an optimizer step make together: the same numbers in fewer and larger calls.

Micro-batches bound the memory of gradients; rollouts have none. A small network spends much of an evaluation on what
does not grow with the batch. Where memory allows it, predictions with gradient are made together too.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from itertools import pairwise

import torch
from torch import Tensor

from stages.finetune.batch import Batch
from stages.finetune.networks import Networks
from stages.models.conditioning import Conditioning
from stages.models.noise import Noise


@dataclass(frozen=True)
class Rollout:
    """A rollout of the policy without gradient: `x` [B, C, h, w], which enter index `start`, go on to index `stop`,
    `guided` as the study says or not at all. `first` is the prediction at `start`, where it is already computed.

    `penalties` are terms of the loss that are known before it: name to (weight, scalar). Their gradient is taken before
    the rollout is made, so that their graph is gone before the next one begins.
    """

    x: Tensor
    start: int
    stop: int
    guided: bool = True
    first: Tensor | None = None
    penalties: Mapping[str, tuple[float, Tensor]] = field(default_factory=dict)


@dataclass(frozen=True)
class Prediction:
    """The policy's prediction with gradient for `x` [B, C, h, w], which enter `index`: [B, C, h, w], `guided` as the
    study says or not at all. Predictions of several micro-batches may be made together and then share a graph.
    """

    x: Tensor
    index: int
    guided: bool = True


@dataclass(frozen=True)
class JoinedNoise:
    """The noise of several batches of these `sizes`, one after the other."""

    parts: Sequence[Noise]
    sizes: Sequence[int]

    def initial(self) -> Tensor:
        """x_T of all."""
        return torch.cat([part.initial() for part in self.parts])

    def step(self, i: int) -> Tensor:
        """The draws of the ancestral step at index i."""
        return torch.cat([part.step(i) for part in self.parts])

    def extra(self, name: str) -> Tensor:
        """A further named draw."""
        return torch.cat([part.extra(name) for part in self.parts])

    def uniform(self, name: str, count: int) -> Tensor:
        """`count` named uniform draws per row."""
        return torch.cat([part.uniform(name, count) for part in self.parts])

    def rows(self, rows: Sequence[int], candidates: Sequence[int]) -> JoinedNoise:
        """The chosen rows, each as the candidate of its image with that number."""
        every = [(part, row) for part, size in zip(self.parts, self.sizes, strict=True) for row in range(size)]
        chosen = [every[row] for row in rows]
        parts = [part.rows([row], [number]) for (part, row), number in zip(chosen, candidates, strict=True)]
        return JoinedNoise(parts, [1] * len(parts))


def join(batches: Sequence[Batch]) -> Batch:
    """One batch of the rows of all, as far as a rollout needs them."""
    first = batches[0]
    if len(batches) == 1:
        return first
    prompts = [prompt for batch in batches for prompt in batch.prompts]
    text = Conditioning.cat([Conditioning.of(batch.text) for batch in batches])
    noise = JoinedNoise([batch.noise for batch in batches], [len(batch.prompts) for batch in batches])
    return Batch(prompts, text, noise, first.rng, first.micro)


def roll_out(
    networks: Networks, batches: Mapping[int, Batch], rollouts: Mapping[int, Rollout], size: int
) -> dict[int, Tensor]:
    """Latents [B, C, h, w] that enter the last index of each rollout, by the place of its micro-batch.

    Rollouts with guidance are made together, and those without, about `size` images at a time.
    """
    made: dict[int, Tensor] = {}
    for guided in (True, False):
        places = [place for place, rollout in rollouts.items() if rollout.guided == guided]
        own = networks if guided else networks.without_guidance()
        each = max(size // len(batches[places[0]].prompts), 1) if places and not networks.extra_step else 1
        for n in range(0, len(places), each):
            some = places[n : n + each]
            made |= zip(some, together(own, [batches[p] for p in some], [rollouts[p] for p in some]), strict=True)
    return made


def together(networks: Networks, batches: Sequence[Batch], rollouts: Sequence[Rollout]) -> list[Tensor]:
    """Latents of each batch that enter the last index of its rollout: each takes part from its start to its stop."""
    if len(batches) == 1:
        [batch], [one] = batches, rollouts
        return [networks.rollout(batch, one.x, one.start, one.stop, one.first)]
    x, starts = [], []
    for batch, one in zip(batches, rollouts, strict=True):
        begun = one.first is not None and one.start < one.stop
        x.append(networks.rollout(batch, one.x, one.start, one.start + 1, one.first) if begun else one.x)
        starts.append(one.start + begun)
    order = sorted(range(len(batches)), key=lambda n: rollouts[n].stop)
    for start, stop in pairwise(sorted({*starts, *(one.stop for one in rollouts)})):
        rows = [n for n in order if starts[n] <= start and stop <= rollouts[n].stop]
        if rows:
            moved = networks.rollout(join([batches[n] for n in rows]), torch.cat([x[n] for n in rows]), start, stop)
            for n, own in zip(rows, moved.split([len(x[n]) for n in rows]), strict=True):
                x[n] = own
    return x


def predict(
    networks: Networks, batches: Mapping[int, Batch], wanted: Mapping[int, Prediction], size: int
) -> Iterator[dict[int, Tensor]]:
    """Predictions [B, C, h, w] by the place of their micro-batch, about `size` images at a time; each part is made when
    it is asked for, so that the graphs of earlier ones may be gone by then. Those with guidance come first.
    """
    for guided in (True, False):
        places = [place for place, prediction in wanted.items() if prediction.guided == guided]
        own = networks if guided else networks.without_guidance()
        each = max(size // len(batches[places[0]].prompts), 1) if places else 1
        for n in range(0, len(places), each):
            some = places[n : n + each]
            sizes = [len(wanted[place].x) for place in some]
            joined, x = join([batches[place] for place in some]), torch.cat([wanted[place].x for place in some])
            rows = torch.cat([torch.full((count,), wanted[p].index) for count, p in zip(sizes, some, strict=True)])
            index = wanted[some[0]].index if len(some) == 1 else rows.to(x.device)
            found = own.prediction(joined, x, index)
            yield dict(zip(some, found.split(sizes), strict=True))
