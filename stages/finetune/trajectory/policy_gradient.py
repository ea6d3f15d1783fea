"""What policy-gradient methods share: collections of judged rollouts, the states learnt from, the KL divergence.

The divergence from the base is a term of the loss at every state learnt from, with its gradient. Inside the reward it
would have to be differentiated too: detached, its expected gradient is zero.

Several processes each roll out their rows of a micro-batch; all of them then hold the rollouts of all, judge what they
are worth alike, draw the same states, and each learns from an equal part of those.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any, Generic, TypeVar

import torch
from torch import Tensor

from stages.finetune.batch import Batch
from stages.finetune.learner import Learner
from stages.finetune.trajectory.advantages import History, grouped, normalised
from stages.finetune.trajectory.chain import Chain, Trajectory
from stages.finetune.trajectory.settings import AdvantageSettings, CollectionSettings
from stages.finetune.trajectory.trainer import Piece
from stages.models.conditioning import Conditioning
from stages.models.process import Gaussian

MEGABYTE = 2**20


@dataclass(frozen=True)
class Experience:
    """Rollouts of one micro-batch with the rewards and what they are worth, each [B]."""

    trajectory: Trajectory
    rewards: Tensor
    worth: Tensor

    def state(self) -> dict[str, Any]:
        """What to save."""
        return {"trajectory": self.trajectory.state(), "rewards": self.rewards, "worth": self.worth}

    @classmethod
    def of_state(cls, state: dict[str, Any], device: torch.device) -> Experience:
        """What was saved, on `device`."""
        made = Trajectory.of_state(state["trajectory"], device)
        return cls(made, state["rewards"].to(device), state["worth"].to(device))


@dataclass(frozen=True)
class States:
    """N states of an experience that are learnt from together, with all that a loss may ask for.

    `x` [N, C, h, w] enter the steps `i` [N], `next` is where they went, `old` [N] the log density of that under the
    policy of the rollout, `worth` [N] that of the whole image.
    """

    x: Tensor
    i: Tensor
    next: Tensor
    old: Tensor
    worth: Tensor
    text: Conditioning

    @classmethod
    def of(cls, experience: Experience, rows: Tensor, steps: Tensor) -> States:
        """The states entering `steps` [N] of the trajectories `rows` [N]."""
        found = experience.trajectory
        return cls(found.states[steps, rows], steps, found.states[steps + 1, rows], found.log_density[steps, rows],
                   experience.worth[rows], found.text[rows])  # fmt: skip


S = TypeVar("S", bound=CollectionSettings)


class Collector(Generic[S]):
    """A method that learns from collections: rolls out, judges, and goes through the states of its rollouts.

    Memory: one collection, `Trajectory.bytes` a micro-batch, logged as `memory_mb`.
    """

    def __init__(self, settings: S, accumulate: int) -> None:
        self.settings, self.accumulate = settings, accumulate
        self.held: list[Experience] = []

    def due(self, step: int) -> bool:
        """Whether the last collection has served."""
        return step % self.settings.lasting == 0

    def collect(self, learner: Learner, chain: Chain, batches: Sequence[Batch]) -> dict[str, float]:
        """One rollout for every prompt of the micro-batches, judged."""
        own = [self.roll(chain, batch) for batch in batches]
        rewards = [learner.judged_whole(t.last, t.prompts) for t in own]
        made = [t.whole(learner.processes) for t in own]
        prompts = [prompt for t in made for prompt in t.prompts]
        worth = self.worth(learner, torch.cat([t.last for t in made]), torch.cat(rewards), prompts)
        parts = worth.split([len(r) for r in rewards])
        self.held = [Experience(*part) for part in zip(made, rewards, parts, strict=True)]
        return {"memory_mb": sum(t.bytes for t in made) / MEGABYTE}

    def roll(self, chain: Chain, batch: Batch) -> Trajectory:
        """The rollout of one micro-batch."""
        return chain.roll(batch)

    def worth(self, learner: Learner, last: Tensor, rewards: Tensor, prompts: Sequence[str]) -> Tensor:
        """What each image [N] of a collection is worth, from its reward [N]; `last` [N, C, h, w] are its latents."""
        return rewards

    def losses(self, learner: Learner, chain: Chain, batch: Batch) -> Iterator[Piece]:
        """The mean loss over this process's part of this update's states of the micro-batch's trajectories."""
        experience = self.held[batch.micro % self.accumulate]
        rows, steps = self.states(experience, batch)
        own = learner.processes.part(len(rows))
        rows, steps = rows[own], steps[own]
        for part in torch.arange(len(rows), device=rows.device).split(self.settings.state_batch):
            chosen = States.of(experience, rows[part], steps[part])
            share = len(part) / len(rows)
            yield self.piece(chain, chosen, share, experience.rewards.mean())

    def piece(self, chain: Chain, states: States, share: float, reward: Tensor) -> Piece:
        """The loss of some states, of weight `share` among all of this update's."""
        found = chain.transition(chain.tools.policy, states.x, states.i, states.text)
        loss, terms = self.loss(chain, found, states)
        terms = {"reward": reward} | terms
        if self.settings.kl_weight:
            kl = divergence(chain, found, states.x, states.i, states.text)
            loss = loss + self.settings.kl_weight * kl
            terms |= kl_terms(kl, states.x)
        return Piece(share * loss, {name: share * value for name, value in (terms | {"loss": loss}).items()})

    def loss(self, chain: Chain, found: Gaussian, states: States) -> tuple[Tensor, dict[str, Tensor]]:
        """Mean loss of the policy's steps `found` at `states`, and terms of the log."""
        raise NotImplementedError

    def states(self, experience: Experience, batch: Batch) -> tuple[Tensor, Tensor]:
        """Trajectories [N] and steps [N] that this update learns from: its share of rows, and steps of each."""
        update = (batch.micro // self.accumulate) % self.settings.updates
        count = len(experience.rewards)
        size = count // self.settings.updates
        rows = range(update * size, (update + 1) * size)
        pairs = [(row, step) for row in rows for step in self.steps(len(experience.trajectory), batch)]
        device = experience.rewards.device
        return tuple(torch.tensor(column, device=device) for column in zip(*pairs, strict=True))  # type: ignore[return-value]

    def steps(self, count: int, batch: Batch) -> Sequence[int]:
        """Steps of one trajectory of `count` that are learnt from."""
        wanted = self.settings.steps_per_trajectory
        allowed = self.window(count, batch.micro // self.accumulate)
        return allowed if wanted is None or wanted >= len(allowed) else batch.rng.sample(allowed, wanted)

    def window(self, count: int, step: int) -> range:
        """Steps of a trajectory of `count` that may be learnt from at optimizer step `step`: all of them."""
        return range(count)

    def state(self) -> dict[str, Any]:
        """The collection at hand."""
        return {"held": [experience.state() for experience in self.held]}

    def load_state(self, state: dict[str, Any], device: torch.device) -> None:
        """Go on from what was saved, on `device`."""
        self.held = [Experience.of_state(kept, device) for kept in state["held"]]


A = TypeVar("A", bound=AdvantageSettings)


class PolicyGradient(Collector[A]):
    """A collector whose images are worth their advantage."""

    def __init__(self, settings: A, accumulate: int) -> None:
        super().__init__(settings, accumulate)
        self.history = History(settings.history, settings.least_history)

    def worth(self, learner: Learner, last: Tensor, rewards: Tensor, prompts: Sequence[str]) -> Tensor:
        """Advantages [N]."""
        if self.settings.advantage == "group":
            return grouped(rewards, self.settings.group)
        if self.settings.advantage == "batch":
            return normalised(rewards)
        return self.history.advantages(rewards, prompts)

    def state(self) -> dict[str, Any]:
        """The collection at hand and the history of every prompt."""
        return super().state() | {"history": self.history.state()}

    def load_state(self, state: dict[str, Any], device: torch.device) -> None:
        """Go on from what was saved, on `device`."""
        super().load_state(state, device)
        self.history.load_state(state["history"])


def divergence(chain: Chain, found: Gaussian, x: Tensor, i: Tensor, text: Conditioning) -> Tensor:
    """Mean KL divergence, in nats a number, of the policy's steps `found` at states x from the base's."""
    return divergences(chain, found, x, i, text).mean()


def divergences(chain: Chain, found: Gaussian, x: Tensor, i: Tensor, text: Conditioning) -> Tensor:
    """KL divergence [N], in nats a number, of the policy's steps `found` at states x entering i from the base's."""
    with torch.no_grad():
        base = chain.transition(chain.tools.base, x, i, text)
    return found.kl(base)


def kl_terms(kl: Tensor, x: Tensor) -> dict[str, Tensor]:
    """The divergence of a step for the log: a number (`kl_per_dim`) and of the whole image (`kl`, nats)."""
    return {"kl_per_dim": kl, "kl": kl * x[0].numel()}
