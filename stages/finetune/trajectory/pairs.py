"""Preferences between sampling steps: the better of two draws from one state becomes more likely than the other.

    L = -log sigmoid(beta (log rho_w - log rho_l)),  rho = clip(p(x' | x) / base(x' | x))

on densities that are means over C, h, w, as in every released code of this family; with sums everything is clipped.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor
from torch.nn.functional import logsigmoid

from stages.finetune.batch import Batch
from stages.finetune.learner import Learner
from stages.finetune.methods import d3po, tailorpo
from stages.finetune.trajectory.chain import Chain, Trajectory, whole_text
from stages.finetune.trajectory.policy_gradient import Collector, Experience, States, kl_terms
from stages.finetune.trajectory.trainer import Piece
from stages.models.conditioning import Conditioning
from stages.models.process import Gaussian
from stages.processes import Processes


def preference(
    found: Sequence[Gaussian],
    base: Sequence[Gaussian],
    pair: Sequence[Tensor],
    sign: Tensor,
    beta: float,
    clip: float,
) -> tuple[Tensor, dict[str, Tensor]]:
    """Mean loss and terms of N pairs of next states under the policy's steps `found` and the base's, each by side.

    `sign` [N] is 1 where the first is better, -1 where the second is, 0 where neither: such pairs count with loss 0.
    """
    ratios = [
        (mine.log_prob(x) - theirs.log_prob(x)).exp().clamp(1 - clip, 1 + clip).log()
        for mine, theirs, x in zip(found, base, pair, strict=True)
    ]
    inside = beta * sign * (ratios[0] - ratios[1])
    loss = -(sign.abs() * logsigmoid(inside)).mean()
    return loss, {"accuracy": (inside.detach() > 0).float().mean(), "pairs": sign.abs().mean()}


class D3po(Collector[d3po.Settings]):
    """D3PO: rows 2n and 2n + 1 are two rollouts for one prompt from the same x_T; `worth` is 1 for the better one."""

    def roll(self, chain: Chain, batch: Batch) -> Trajectory:
        """Two rollouts from every second starting noise."""
        return chain.roll(batch, batch.noise.initial()[::2].repeat_interleave(2, 0))

    def worth(self, learner: Learner, last: Tensor, rewards: Tensor, prompts: Sequence[str]) -> Tensor:
        """1 for the better image of a pair, -1 for the other, 0 for equals."""
        first, second = rewards.reshape(-1, 2).unbind(1)
        sign = (first - second).sign()
        return torch.stack([sign, -sign], 1).flatten()

    def states(self, experience: Experience, batch: Batch) -> tuple[Tensor, Tensor]:
        """Both rows of a pair side by side, at the same steps."""
        update = (batch.micro // self.accumulate) % self.settings.updates
        size = len(experience.rewards) // self.settings.updates
        places = [
            (row + side, step)
            for row in range(update * size, (update + 1) * size, 2)
            for step in self.steps(len(experience.trajectory), batch)
            for side in (0, 1)
        ]
        rows, steps = torch.tensor(places, device=experience.rewards.device).unbind(1)
        return rows, steps

    def loss(self, chain: Chain, found: Gaussian, states: States) -> tuple[Tensor, dict[str, Tensor]]:
        """Mean loss of the pairs."""
        with torch.no_grad():
            base = chain.transition(chain.tools.base, states.x, states.i, states.text)
        ours, theirs = ([Gaussian(of.mean[n::2], of.std[n::2]) for n in (0, 1)] for of in (found, base))
        pair = [states.next[0::2], states.next[1::2]]
        return preference(ours, theirs, pair, states.worth[::2], self.settings.beta, self.settings.clip)


@dataclass(frozen=True)
class Forks:
    """N pairs of next states `first`, `second` [N, C, h, w] from states `x` [N, C, h, w] entering steps `i` [N].

    `sign` [N] is 1 where the first is better, -1 where the second is, 0 where neither.
    """

    x: Tensor
    i: Tensor
    first: Tensor
    second: Tensor
    sign: Tensor
    text: Conditioning

    def at(self, rows: Tensor) -> Forks:
        """Some of them."""
        return Forks(self.x[rows], self.i[rows], self.first[rows], self.second[rows], self.sign[rows], self.text[rows])

    def whole(self, processes: Processes) -> Forks:
        """Those of all processes, by rank; each has as many."""
        return Forks(*processes.whole([getattr(self, name) for name in TENSORS]), text=whole_text(self.text, processes))

    @classmethod
    def cat(cls, parts: Sequence[Forks]) -> Forks:
        """All of several."""
        x, i, first, second, sign = (torch.cat([getattr(part, name) for part in parts]) for name in TENSORS)
        return cls(x, i, first, second, sign, Conditioning.cat([part.text for part in parts]))


TENSORS = ("x", "i", "first", "second", "sign")


class TailorPo:
    """TailorPO: the rewards of both next states' predicted clean images rank them."""

    def __init__(self, settings: tailorpo.Settings, accumulate: int) -> None:
        self.settings, self.accumulate = settings, accumulate
        self.held: list[Forks] = []
        self.reward = 0.0

    def due(self, step: int) -> bool:
        """Whether the last collection has served."""
        return step % self.settings.lasting == 0

    def collect(self, learner: Learner, chain: Chain, batches: Sequence[Batch]) -> dict[str, float]:
        """Rollouts that fork at some steps."""
        self.held, ends = [], []
        for batch in batches:
            forks, end = self.fork(learner, chain, batch)
            self.held.append(forks)
            ends.append(end)
        self.reward = float(torch.cat(ends).mean())
        size = sum(value.numel() * value.element_size() for f in self.held for value in (f.x, f.first, f.second))
        return {"memory_mb": size / 2**20}

    @torch.no_grad()
    def fork(self, learner: Learner, chain: Chain, batch: Batch) -> tuple[Forks, Tensor]:
        """The forks of one micro-batch and the rewards [B] of where its rollouts end, of all processes."""
        x, text = batch.noise.initial(), Conditioning.of(batch.text)
        count, steps = len(x), len(chain)
        chosen = batch.rng.sample(range(steps), self.settings.steps_per_trajectory or steps)
        forks = []
        prediction = chain.prediction(chain.tools.policy, x, chain.index(0, count), text)
        for i in range(steps):
            step = chain.step(x, prediction, chain.index(i, count))
            after = step.sample(batch.noise.step(i))
            clean, prediction = self.look(chain, after, i + 1, text)
            if i in chosen:
                other = step.sample(batch.noise.extra(f"fork {i}"))
                other_clean, other_prediction = self.look(chain, other, i + 1, text)
                rewards = [learner.judged(seen, batch.prompts) for seen in (clean, other_clean)]
                sign = (rewards[0] - rewards[1]).sign()
                first = (sign >= 0).reshape(-1, 1, 1, 1)
                pair = self.widened(learner, chain, (after, other), first, i + 1, batch)
                forks.append(Forks(x, chain.index(i, count), *pair, sign, text).whole(learner.processes))
                if self.settings.follow == "better":
                    after = torch.where(first, after, other)
                    prediction = torch.where(first, prediction, other_prediction)
            x = after
        return Forks.cat(forks), learner.judged_whole(x, batch.prompts)

    def widened(
        self, learner: Learner, chain: Chain, pair: tuple[Tensor, Tensor], first: Tensor, i: int, batch: Batch
    ) -> tuple[Tensor, Tensor]:
        """The pair of states entering step i with the better one moved up the reward of what is predicted from it.

        `first` [B, 1, 1, 1] says which one that is. The rollout itself goes on from states that were not moved.
        """
        if not self.settings.guidance:
            return pair
        with torch.enable_grad():
            x = torch.where(first, *pair).requires_grad_(True)
            clean, _ = self.look(chain, x, i, Conditioning.of(batch.text))
            pulled = learner.pull(clean, batch.prompts, -float(len(x)))  # of the sum, not of minus the mean
            [up] = torch.autograd.grad(clean, x, pulled.gradient)
        moved = x.detach() + self.settings.guidance * up
        return torch.where(first, moved, pair[0]), torch.where(first, pair[1], moved)

    def look(self, chain: Chain, x: Tensor, i: int, text: Conditioning) -> tuple[Tensor, Tensor]:
        """The clean latents that the policy predicts for states entering step i, and its prediction there.

        A state at the end is its own prediction, and nothing is evaluated.
        """
        if i == len(chain):
            return x, x
        prediction = chain.prediction(chain.tools.policy, x, chain.index(i, len(x)), text)
        return chain.tools.grid.x0(x, prediction, i), prediction

    def losses(self, learner: Learner, chain: Chain, batch: Batch) -> Iterator[Piece]:
        """The mean loss over this process's part of this update's share of forks."""
        forks = self.held[batch.micro % self.accumulate]
        update = (batch.micro // self.accumulate) % self.settings.updates
        rows = torch.arange(update, len(forks.x), self.settings.updates, device=forks.x.device)
        rows = rows[learner.processes.part(len(rows))]
        for part in rows.split(self.settings.state_batch):
            yield self.piece(chain, forks.at(part), len(part) / len(rows))

    def piece(self, chain: Chain, forks: Forks, share: float) -> Piece:
        """The loss of some forks, of weight `share` among all of this update's; one evaluation serves both draws."""
        settings = self.settings
        found = chain.transition(chain.tools.policy, forks.x, forks.i, forks.text)
        with torch.no_grad():
            base = chain.transition(chain.tools.base, forks.x, forks.i, forks.text)
        pair = [forks.first, forks.second]
        loss, terms = preference([found] * 2, [base] * 2, pair, forks.sign, settings.beta, settings.clip)
        kl = found.kl(base).mean()
        loss = loss + settings.kl_weight * kl
        terms |= kl_terms(kl, forks.x) | {"loss": loss, "reward": loss.new_tensor(self.reward)}
        return Piece(share * loss, {name: share * value for name, value in terms.items()})

    def state(self) -> dict[str, Any]:
        """The forks at hand."""
        held = [{name: getattr(f, name) for name in TENSORS} | {"text": f.text.tensors()} for f in self.held]
        return {"held": held, "reward": self.reward}

    def load_state(self, state: dict[str, Any], device: torch.device) -> None:
        """Go on from what was saved, on `device`."""
        self.reward = state["reward"]
        self.held = []
        for kept in state["held"]:
            x, i, first, second, sign = (kept[name].to(device) for name in TENSORS)
            self.held.append(Forks(x, i, first, second, sign, Conditioning(**kept["text"]).to(device)))
