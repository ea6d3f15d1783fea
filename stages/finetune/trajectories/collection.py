"""Collections of judged rollouts that serve several optimizer steps, and the states of them that are learnt from.

Several processes each roll out their rows of a micro-batch; all of them then hold the rollouts of all, find the same
advantages, draw the same states, and each learns from an equal part of those.
"""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Generic, TypeVar

import torch
from torch import Tensor

from stages.finetune.batch import Batch, optimizer_step
from stages.finetune.families.settings import CollectionSettings
from stages.finetune.objective import Loss, Objective, Run
from stages.finetune.trajectories.chain import Chain, Trajectory
from stages.finetune.trajectories.kl import kl_terms, kl_to_base
from stages.models.conditioning import Conditioning
from stages.models.process import Gaussian

MEGABYTE = 2**20


@dataclass(frozen=True)
class Experience:
    """Rollouts of one micro-batch with the rewards and the advantages of their images, each [B]."""

    trajectory: Trajectory
    rewards: Tensor
    advantages: Tensor

    def state_dict(self) -> dict[str, Any]:
        """What to save."""
        return {
            "trajectory": self.trajectory.state_dict(), "rewards": self.rewards, "advantages": self.advantages
        }  # fmt: skip

    @classmethod
    def from_state_dict(cls, state: Mapping[str, Any], device: torch.device) -> Experience:
        """What was saved, on `device`."""
        trajectory = Trajectory.from_state_dict(state["trajectory"], device)
        return cls(trajectory, state["rewards"].to(device), state["advantages"].to(device))


@dataclass(frozen=True)
class States:
    """N states of an experience, which are one batch of the loss.

    `x` [N, C, h, w] enter the steps `i` [N], `next` [N, C, h, w] enter i + 1, `old_log_prob` [N] is their log density
    under the policy of the rollout, `advantage` [N] that of the whole image.
    """

    x: Tensor
    i: Tensor
    next: Tensor
    old_log_prob: Tensor
    advantage: Tensor
    text: Conditioning

    @classmethod
    def of(cls, experience: Experience, rows: Tensor, steps: Tensor) -> States:
        """The states entering `steps` [N] of the trajectories `rows` [N]."""
        found = experience.trajectory
        return cls(found.states[steps, rows], steps, found.states[steps + 1, rows], found.log_density[steps, rows],
                   experience.advantages[rows], found.text[rows])  # fmt: skip


S = TypeVar("S", bound=CollectionSettings)


class CollectionObjective(Objective, Generic[S]):
    """Rolls out, scores, and learns from the states of its rollouts; `held` is the current collection.

    Memory: one collection, `Trajectory.bytes` per micro-batch, logged as `memory_mb`.
    """

    def __init__(self, settings: S, run: Run) -> None:
        self.settings, self.run = settings, run
        self.chain = Chain.of(run.networks, settings.eta)
        self.held: list[Experience] = []

    @abstractmethod
    def advantages(self, last: Tensor, rewards: Tensor, prompts: Sequence[str]) -> tuple[Tensor, dict[str, float]]:
        """The advantage of each image [N] of a collection from its reward [N], and terms of the log; `last`
        [N, C, h, w] are the latents of the images.
        """

    def roll(self, batch: Batch) -> Trajectory:
        """The rollouts of one micro-batch."""
        return self.chain.roll(batch)

    def collect(self, batches: Sequence[Batch]) -> dict[str, float]:
        """Where the last collection has served: roll out every prompt of the micro-batches and judge the images."""
        if optimizer_step(batches) % self.settings.lasting:
            return {}
        own = [self.roll(batch) for batch in batches]
        rewards = [self.run.reward.of_all(t.last, t.prompts, self.run.processes) for t in own]
        made = [t.whole(self.run.processes) for t in own]
        prompts = [prompt for t in made for prompt in t.prompts]
        advantages, terms = self.advantages(torch.cat([t.last for t in made]), torch.cat(rewards), prompts)
        parts = advantages.split([len(r) for r in rewards])
        self.held = [Experience(*part) for part in zip(made, rewards, parts, strict=True)]
        return {"memory_mb": sum(t.bytes for t in made) / MEGABYTE} | terms

    def state_dict(self) -> dict[str, Any]:
        """The current collection."""
        return {"held": [experience.state_dict() for experience in self.held]}

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Go on from what was saved."""
        self.held = [Experience.from_state_dict(kept, self.run.device) for kept in state["held"]]


class StatesObjective(CollectionObjective[S]):
    """The loss of single states of the rollouts, and the divergence from the base at every one of them.

    Inside the reward the divergence would have to be differentiated too: detached, its expected gradient is zero.
    """

    @abstractmethod
    def loss(self, found: Gaussian, states: States) -> Loss:
        """The mean loss of the policy's steps `found` at `states`."""

    def losses(self, batches: Sequence[Batch]) -> Iterator[Loss]:
        """The mean loss over this process's part of this update's states of each micro-batch's trajectories."""
        for place, batch in enumerate(batches):
            experience = self.held[place]
            rows, steps = self.states(experience, batch, optimizer_step(batches))
            own = self.run.processes.part(len(rows))
            rows, steps = rows[own], steps[own]
            for part in torch.arange(len(rows), device=rows.device).split(self.settings.state_batch):
                loss = self.regularised(States.of(experience, rows[part], steps[part]), experience.rewards.mean())
                yield loss.share(len(part) / len(rows), place)
            yield from self.auxiliary(batch, place)

    def regularised(self, states: States, reward: Tensor) -> Loss:
        """The loss of some states with the divergence; `reward` is logged."""
        prediction = self.chain.prediction(self.run.networks.policy, states.x, states.i, states.text)
        found = self.chain.step(states.x, prediction, states.i)
        loss = self.loss(found, states)
        if self.settings.kl_weight:
            value, terms = self.divergence(prediction, found, states)
            loss = loss.plus(self.settings.kl_weight, value, **terms)
        return Loss(loss.root, {"reward": reward, **loss.terms}, loss.place)

    def divergence(self, prediction: Tensor, found: Gaussian, states: States) -> tuple[Tensor, dict[str, Tensor]]:
        """What `kl_weight` weighs, a scalar, and terms of the log: the KL divergence from the base of the policy's
        steps `found`, which its predictions [N, C, h, w] imply.
        """
        kl = kl_to_base(self.chain, found, states.x, states.i, states.text).mean()
        return kl, kl_terms(kl, states.x)

    def auxiliary(self, batch: Batch, place: int) -> Iterator[Loss]:
        """Further losses of a micro-batch; here none."""
        return iter(())

    def states(self, experience: Experience, batch: Batch, step: int) -> tuple[Tensor, Tensor]:
        """Trajectories [N] and steps [N] that optimizer step `step` learns from: its share of rows, steps of each."""
        size = len(experience.rewards) // self.settings.updates
        first = step % self.settings.updates * size
        rows = range(first, first + size)
        pairs = [(row, i) for row in rows for i in self.steps(len(experience.trajectory), batch, step)]
        found = torch.tensor(pairs, device=experience.rewards.device)
        return found[:, 0], found[:, 1]

    def steps(self, count: int, batch: Batch, step: int) -> Sequence[int]:
        """Steps of one trajectory of `count` that are learnt from."""
        wanted, allowed = self.settings.steps_per_trajectory, self.window(count, step)
        return allowed if wanted is None or wanted >= len(allowed) else batch.rng.sample(allowed, wanted)

    def window(self, count: int, step: int) -> range:
        """Steps of a trajectory of `count` that may be learnt from at optimizer step `step`: all of them."""
        return range(count)
