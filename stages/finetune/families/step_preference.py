"""Preferences between sampling steps: the better of two draws from one state becomes more likely than the other.

A method is the loss of some pairs of steps, from the log ratios of their densities under the policy to those under the
base.
"""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Generic, TypeVar

import torch
from torch import Tensor

from stages.finetune.batch import Batch, optimizer_step
from stages.finetune.families.settings import BranchSettings, CollectionSettings, PreferenceSettings
from stages.finetune.objective import Loss, Objective, Run
from stages.finetune.trajectories.chain import Chain, Trajectory, whole_text
from stages.finetune.trajectories.collection import MEGABYTE, Experience, States, StatesObjective
from stages.finetune.trajectories.kl import kl_terms
from stages.models.conditioning import Conditioning
from stages.models.process import Gaussian
from stages.processes import Processes

C = TypeVar("C", bound=CollectionSettings)
P = TypeVar("P", bound=PreferenceSettings)
B = TypeVar("B", bound=BranchSettings)


@dataclass(frozen=True)
class StepPairs:
    """N pairs of next states: `first` and `second` [N] are the log ratios, policy to base, of the density of each, with
    gradient; densities are means over C, h, w, as in every released code of this family.

    `sign` [N] is positive where the first state is better, negative where the second is, 0 where neither; its
    magnitude is the weight of the pair in the mean, 1 where the method has no other.
    """

    first: Tensor
    second: Tensor
    sign: Tensor


class PairedRollouts(StatesObjective[C]):
    """Rows 2n and 2n + 1 are two rollouts for one prompt from the same x_T; the advantage is 1 for the better one."""

    def __init__(self, settings: C, run: Run, loss: Callable[[StepPairs, C], Loss]) -> None:
        super().__init__(settings, run)
        self.pair_loss = loss

    def roll(self, batch: Batch) -> Trajectory:
        """Two rollouts from every second starting noise."""
        return self.chain.roll(batch, batch.noise.initial()[::2].repeat_interleave(2, 0))

    def advantages(self, last: Tensor, rewards: Tensor, prompts: Sequence[str]) -> tuple[Tensor, dict[str, float]]:
        """1 for the better image of a pair, -1 for the other, 0 for equals."""
        first, second = rewards.reshape(-1, 2).unbind(1)
        sign = (first - second).sign()
        return torch.stack([sign, -sign], 1).flatten(), {}

    def states(self, experience: Experience, batch: Batch, step: int) -> tuple[Tensor, Tensor]:
        """Both rows of a pair side by side, at the same steps."""
        size = len(experience.rewards) // self.settings.updates
        first = step % self.settings.updates * size
        places = [
            (row + side, i)
            for row in range(first, first + size, 2)
            for i in self.steps(len(experience.trajectory), batch, step)
            for side in (0, 1)
        ]
        rows, steps = torch.tensor(places, device=experience.rewards.device).unbind(1)
        return rows, steps

    def loss(self, found: Gaussian, states: States) -> Loss:
        """Mean loss of the pairs."""
        with torch.no_grad():
            base = self.chain.transition(self.run.networks.base, states.x, states.i, states.text)
        ratios = found.log_prob(states.next) - base.log_prob(states.next)
        return self.pair_loss(StepPairs(ratios[0::2], ratios[1::2], states.advantage[::2]), self.settings)


@dataclass(frozen=True)
class Branches:
    """N pairs of next states `first`, `second` [N, C, h, w] from states `x` [N, C, h, w] entering steps `i` [N].

    `sign` [N] as in `StepPairs`.
    """

    x: Tensor
    i: Tensor
    first: Tensor
    second: Tensor
    sign: Tensor
    text: Conditioning

    @property
    def tensors(self) -> tuple[Tensor, Tensor, Tensor, Tensor, Tensor]:
        """All but the text."""
        return self.x, self.i, self.first, self.second, self.sign

    def at(self, rows: Tensor) -> Branches:
        """Some of them."""
        return Branches(*(value[rows] for value in self.tensors), text=self.text[rows])

    def whole(self, processes: Processes) -> Branches:
        """Those of all processes, by rank; each has as many."""
        return Branches(*processes.whole(self.tensors), text=whole_text(self.text, processes))

    @classmethod
    def cat(cls, parts: Sequence[Branches]) -> Branches:
        """All of several."""
        columns = zip(*(part.tensors for part in parts), strict=True)
        return cls(*map(torch.cat, columns), text=Conditioning.cat([part.text for part in parts]))

    def state_dict(self) -> dict[str, Any]:
        """What to save."""
        return {"tensors": list(self.tensors), "text": self.text.tensors()}

    @classmethod
    def from_state_dict(cls, state: Mapping[str, Any], device: torch.device) -> Branches:
        """What was saved, on `device`."""
        tensors = [value.to(device) for value in state["tensors"]]
        return cls(*tensors, text=Conditioning(**state["text"]).to(device))


class Branching(Objective, Generic[P]):
    """At some steps of a rollout next states are drawn from one, and pairs of them are ranked."""

    def __init__(self, settings: P, run: Run, loss: Callable[[StepPairs, P], Loss]) -> None:
        self.settings, self.run, self.pair_loss = settings, run, loss
        self.chain = Chain.of(run.networks, settings.eta)
        self.held: list[Branches] = []
        self.reward = 0.0  # mean of the ends of the last rollouts

    @abstractmethod
    def branch(self, batch: Batch) -> tuple[Branches, Tensor]:
        """The branches of one micro-batch and the rewards [B] of where its rollouts end, of all processes."""

    def collect(self, batches: Sequence[Batch]) -> dict[str, float]:
        """Where the last collection has served: rollouts that branch at some steps."""
        if optimizer_step(batches) % self.settings.lasting:
            return {}
        found = [self.branch(batch) for batch in batches]
        self.held = [branches for branches, _ in found]
        self.reward = float(torch.cat([rewards for _, rewards in found]).mean())
        size = sum(value.nbytes for b in self.held for value in (b.x, b.first, b.second))
        return {"memory_mb": size / MEGABYTE}

    def predicted(self, x: Tensor, i: int, text: Conditioning) -> tuple[Tensor, Tensor]:
        """The clean latents that the policy predicts for states entering step i, and its prediction there.

        A state at the end is its own prediction, and nothing is evaluated.
        """
        if i == len(self.chain):
            return x, x
        prediction = self.chain.prediction(self.run.networks.policy, x, self.chain.index(i, len(x)), text)
        return self.run.networks.grid.x0(x, prediction, i), prediction

    def losses(self, batches: Sequence[Batch]) -> Iterator[Loss]:
        """The mean loss over this process's part of this update's share of each micro-batch's branches."""
        update = optimizer_step(batches) % self.settings.updates
        for place in range(len(batches)):
            branches = self.held[place]
            rows = torch.arange(update, len(branches.x), self.settings.updates, device=branches.x.device)
            rows = rows[self.run.processes.part(len(rows))]
            for part in rows.split(self.settings.state_batch):
                yield self.part(branches.at(part)).share(len(part) / len(rows), place)

    def part(self, branches: Branches) -> Loss:
        """The loss of some branches; one evaluation serves both draws."""
        networks = self.run.networks
        found = self.chain.transition(networks.policy, branches.x, branches.i, branches.text)
        with torch.no_grad():
            base = self.chain.transition(networks.base, branches.x, branches.i, branches.text)
        first, second = (found.log_prob(x) - base.log_prob(x) for x in (branches.first, branches.second))
        loss = self.pair_loss(StepPairs(first, second, branches.sign), self.settings)
        kl = found.kl(base).mean()
        loss = loss.plus(self.settings.kl_weight, kl, **kl_terms(kl, branches.x))
        return Loss(loss.root, {"reward": kl.new_tensor(self.reward), **loss.terms})

    def state_dict(self) -> dict[str, Any]:
        """The branches of the current collection."""
        return {"held": [branches.state_dict() for branches in self.held], "reward": self.reward}

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Go on from what was saved."""
        self.reward = state["reward"]
        self.held = [Branches.from_state_dict(kept, self.run.device) for kept in state["held"]]


class BranchedRollouts(Branching[B]):
    """At some steps of a rollout two next states are drawn from one: the rewards of both states' predicted clean images
    rank them.
    """

    @torch.no_grad()
    def branch(self, batch: Batch) -> tuple[Branches, Tensor]:
        """The branches of one micro-batch and the rewards [B] of where its rollouts end, of all processes."""
        chain, reward, policy = self.chain, self.run.reward, self.run.networks.policy
        x, text = batch.noise.initial(), Conditioning.of(batch.text)
        count, steps = len(x), len(chain)
        chosen = batch.rng.sample(range(steps), self.settings.steps_per_trajectory or steps)
        branches = []
        prediction = chain.prediction(policy, x, chain.index(0, count), text)
        for i in range(steps):
            step = chain.step(x, prediction, chain.index(i, count))
            after = step.sample(batch.noise.step(i))
            clean, prediction = self.predicted(after, i + 1, text)
            if i in chosen:
                other = step.sample(batch.noise.extra(f"fork {i}"))
                other_clean, other_prediction = self.predicted(other, i + 1, text)
                rewards = [reward.values(seen, batch.prompts) for seen in (clean, other_clean)]
                sign = (rewards[0] - rewards[1]).sign()
                first = (sign >= 0).reshape(-1, 1, 1, 1)
                pair = self.widened((after, other), first, i + 1, batch)
                branches.append(Branches(x, chain.index(i, count), *pair, sign, text).whole(self.run.processes))
                if self.settings.follow == "better":
                    after = torch.where(first, after, other)
                    prediction = torch.where(first, prediction, other_prediction)
            x = after
        return Branches.cat(branches), reward.of_all(x, batch.prompts, self.run.processes)

    def widened(self, pair: tuple[Tensor, Tensor], first: Tensor, i: int, batch: Batch) -> tuple[Tensor, Tensor]:
        """The pair of states entering step i with the better one moved up the gradient of the reward predicted from it.

        `first` [B, 1, 1, 1] says which one that is. The rollout itself continues from states that were not moved.
        """
        if not self.settings.guidance:
            return pair
        with torch.enable_grad():
            x = torch.where(first, *pair).requires_grad_(True)
            clean, _ = self.predicted(x, i, Conditioning.of(batch.text))
            # the gradient of the sum of rewards, not of minus the mean
            scored = self.run.reward.gradient(clean, batch.prompts, factor=-float(len(x)))
            [up] = torch.autograd.grad(clean, x, scored.gradient)
        moved = x.detach() + self.settings.guidance * up
        return torch.where(first, moved, pair[0]), torch.where(first, pair[1], moved)
