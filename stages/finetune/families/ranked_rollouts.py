"""Lists of rollouts of a prompt, ranked by the reward: sampling steps of a better image become more likely than those
of a worse one.

A method is the loss of some lists, from the log densities of the steps that were drawn.
"""

from __future__ import annotations

import random
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from itertools import combinations
from typing import TypeVar

import torch
from torch import Tensor

from stages.finetune.batch import Batch, optimizer_step
from stages.finetune.families.settings import RankedSettings
from stages.finetune.objective import Loss, Run
from stages.finetune.trajectories.collection import CollectionObjective, Experience, States
from stages.finetune.trajectories.kl import kl_terms

R = TypeVar("R", bound=RankedSettings)


@dataclass(frozen=True)
class RankedLists:
    """N lists of L rollouts each, of which S sampling steps were drawn, the same steps of all.

    `log_prob` [N, L, S] are log densities under the policy, with gradient, `old` [N, L, S] those under the policy that
    made the rollouts, `base` [N, L, S] those under the base where the method needs it; all are means over C, h, w.
    `rewards` [N, L] are those of the images.
    """

    log_prob: Tensor
    old: Tensor
    base: Tensor | None
    rewards: Tensor


class RankedRollouts(CollectionObjective[R]):
    """`images_per_prompt` rollouts of each prompt; every optimizer step draws lists of them, and sampling steps."""

    def __init__(self, settings: R, run: Run, loss: Callable[[RankedLists, R], Loss]) -> None:
        super().__init__(settings, run)
        self.list_loss = loss

    def advantages(self, last: Tensor, rewards: Tensor, prompts: Sequence[str]) -> tuple[Tensor, dict[str, float]]:
        """The rewards as they are: only their order counts."""
        return rewards, {}

    def losses(self, batches: Sequence[Batch]) -> Iterator[Loss]:
        """The mean loss over this process's part of the lists of this update's share of each micro-batch's rollouts."""
        step = optimizer_step(batches)
        for place, batch in enumerate(batches):
            held = self.held[place]
            lists, steps = self.lists(len(held.rewards), batch.rng, step), self.steps(batch.rng)
            lists, steps = lists.to(held.rewards.device), steps.to(held.rewards.device)
            own = lists[self.run.processes.part(len(lists))]
            for part in own.split(max(1, self.settings.state_batch // (lists.shape[1] * len(steps)))):
                yield self.part(held, part, steps).share(len(part) / len(own), place)

    def lists(self, count: int, draw: random.Random, step: int) -> Tensor:
        """The rollouts [N, L] of the lists that optimizer step `step` learns from, of `count` rollouts: of every prompt
        in its share `tuples` lists, no two of the same images, the same for all prompts.
        """
        settings, group = self.settings, self.settings.images_per_prompt
        every = list(combinations(range(group), settings.list_length))
        chosen = torch.tensor(draw.sample(every, settings.tuples))
        size = count // settings.updates
        starts = torch.arange(0, size, group) + step % settings.updates * size
        return (starts[:, None, None] + chosen).flatten(0, 1)

    def steps(self, draw: random.Random) -> Tensor:
        """Sampling steps [S], drawn with replacement."""
        count = len(self.chain)
        return torch.tensor(
            draw.choices(
                range(count), self.settings.probabilities(count), k=self.settings.steps_per_trajectory or count
            )
        )

    def part(self, held: Experience, lists: Tensor, steps: Tensor) -> Loss:
        """The mean loss of some lists [N, L] at these steps [S]."""
        shape = (*lists.shape, len(steps))
        rows, places = lists.flatten().repeat_interleave(len(steps)), steps.repeat(lists.numel())
        states = States.of(held, rows, places)
        networks, base, kl = self.run.networks, None, None
        found = self.chain.transition(networks.policy, states.x, states.i, states.text)
        if networks.reference is not None:
            with torch.no_grad():
                other = self.chain.transition(networks.base, states.x, states.i, states.text)
            base, kl = other.log_prob(states.next).reshape(shape), found.kl(other).mean()
        log_prob, old = found.log_prob(states.next).reshape(shape), states.old_log_prob.reshape(shape)
        loss = self.list_loss(RankedLists(log_prob, old, base, held.rewards[lists]), self.settings)
        if kl is not None:
            loss = loss.plus(self.settings.kl_weight, kl, **kl_terms(kl, states.x))
        return Loss(loss.root, {"reward": held.rewards.mean(), **loss.terms})
