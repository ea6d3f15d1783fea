"""The reward's gradient through the last part of a sampling chain: the family of ReFL, DRaFT and ImageReFL.

A method is a generator per micro-batch. It asks for rollouts, which are made without gradient and for several
micro-batches together, and returns the clean latents to judge:

    def step(networks, batch, settings):
        m = batch.draw(settings.middle)
        x = yield Rollout(batch.noise.initial(), 0, m)
        return Judged(networks.x0(batch, x, m), batch.prompts)
"""

from __future__ import annotations

from collections.abc import Callable, Generator, Iterator, Mapping, Sequence
from dataclasses import dataclass, field

import torch
from torch import Tensor

from stages.finetune.batch import Batch
from stages.finetune.objective import Loss, Objective, Run
from stages.finetune.reward import Similarity
from stages.finetune.rollouts import Rollout, roll_out


@dataclass(frozen=True)
class Judged:
    """The clean latents that a method wants judged, [N, C, h, w] with a graph to the policy, and the prompt of each.

    `penalties` are further terms of the loss: name to (weight, scalar). `similarity` is one on the images.
    """

    x0: Tensor
    prompts: Sequence[str]
    penalties: Mapping[str, tuple[float, Tensor]] = field(default_factory=dict)
    similarity: Similarity | None = None


Step = Generator[Rollout, Tensor, Judged]
"""A micro-batch of a method: it is sent the latents that each of its rollouts ends with."""


class RewardGradient(Objective):
    """L = -reward_scale mean(R + reward_offset) + sum of weight * penalty, the similarity among them.

    The gradient of decoder and reward is collected at x0 and enters the network once, together with that of the
    penalties that come with x0. Penalties that come with a rollout are taken before it is made.
    """

    def __init__(self, run: Run, start: Callable[[Batch], Step]) -> None:
        self.run, self.start = run, start

    def losses(self, batches: Sequence[Batch]) -> Iterator[Loss]:
        """Go through the micro-batches up to their next rollout, one after the other; make the rollouts together; and
        so on until all are judged.
        """
        steps = {place: self.start(batch) for place, batch in enumerate(batches)}
        by_place = dict(enumerate(batches))
        reached: dict[int, Tensor] = {}
        while steps:
            wanted: dict[int, Rollout] = {}
            for place, step in list(steps.items()):
                try:
                    rollout = step.send(reached[place]) if place in reached else next(step)
                except StopIteration as end:
                    del steps[place]
                    yield self.judged(end.value, place)
                    continue
                wanted[place] = rollout
                if rollout.penalties:
                    yield penalised(rollout.penalties, place)
            reached = roll_out(self.run.networks, by_place, wanted, self.run.settings.rollout_batch)

    def judged(self, judged: Judged, place: int) -> Loss:
        """The loss of what micro-batch `place` wants judged."""
        found = self.run.reward.gradient(judged.x0, judged.prompts, similarity=judged.similarity)
        loss = self.run.reward.loss(found.rewards)
        terms = {"reward": found.rewards.mean()}
        root = (found.gradient * judged.x0).sum()
        if judged.penalties:
            others = penalised(judged.penalties, place)
            root, loss = root + others.root, loss + others.terms["loss"]
            terms |= {name: value for name, value in others.terms.items() if name != "loss"}
        if judged.similarity is not None and found.distances is not None:
            terms["loss_likeness"] = found.distances.mean()
            loss = loss + judged.similarity.weight * terms["loss_likeness"]
        return Loss(root, {**terms, "loss": loss}, place)


def penalised(penalties: Mapping[str, tuple[float, Tensor]], place: int) -> Loss:
    """The weighted sum of penalties, each of them a term `loss_<name>`."""
    total = sum((weight * value for weight, value in penalties.values()), torch.zeros(()))
    terms = {f"loss_{name}": value.detach() for name, (_, value) in penalties.items()}
    return Loss(total, {**terms, "loss": total.detach()}, place)
