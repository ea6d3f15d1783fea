"""Candidates for the next state of a sampling step, drawn from one state and scored: the best against the worst."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import TypeVar

import torch
from torch import Tensor

from stages.finetune.batch import Batch
from stages.finetune.families.settings import CandidateSettings
from stages.finetune.families.step_preference import Branches, Branching
from stages.models.conditioning import Conditioning
from stages.models.process import Gaussian

S = TypeVar("S", bound=CandidateSettings)


@dataclass(frozen=True)
class Candidates:
    """K next states `after` [K, B, C, h, w] of B states and their scores [K, B] as logits; what the policy predicts at
    them, of the same shape, where they were scored by that.
    """

    after: Tensor
    prediction: Tensor | None
    scores: Tensor

    @property
    def best(self) -> Tensor:
        """The number [B] of the candidate with the highest score; the first among equals."""
        return self.scores.argmax(0)

    @property
    def worst(self) -> Tensor:
        """The number [B] of the candidate with the lowest score; the first among equals."""
        return self.scores.argmin(0)

    @property
    def margin(self) -> Tensor:
        """How much the softmax over the scores of best and worst differs between them, [B] in [0, 1)."""
        return ((self.scores.amax(0) - self.scores.amin(0)) / 2).tanh()

    def state(self, number: Tensor) -> Tensor:
        """The state [B, C, h, w] of one candidate each, by its number [B]."""
        return self.after[number, torch.arange(len(number), device=number.device)]

    def predicted(self, number: Tensor) -> Tensor | None:
        """What the policy predicts at it, where that is known."""
        if self.prediction is None:
            return None
        return self.prediction[number, torch.arange(len(number), device=number.device)]


class CandidateRollouts(Branching[S]):
    """From step `start` on, `candidates` next states are drawn at a step, and one of them, at random, is followed.

    Each is scored by the reward of the clean image that the policy predicts from it; a step-aware reward sees the
    timestep of that prediction. Best and worst are a pair where their margin is above the threshold. Other pairs stay
    among the branches with weight 0, so that processes have equal rows and the compute of a step does not depend on
    rewards; the loss is the mean over the pairs with weight.
    """

    @torch.no_grad()
    def branch(self, batch: Batch) -> tuple[Branches, Tensor]:
        """The branches of one micro-batch and the rewards [B] of where its rollouts end, of all processes."""
        chain, processes, policy = self.chain, self.run.processes, self.run.networks.policy
        x, text = batch.noise.initial(), Conditioning.of(batch.text)
        count, steps, among = len(x), len(chain), self.settings.among(len(chain))
        chosen = batch.rng.sample(among, self.settings.steps_per_trajectory or len(among))
        branches = []
        prediction = chain.prediction(policy, x, chain.index(0, count), text)
        for i in range(steps):
            step = chain.step(x, prediction, chain.index(i, count))
            if i in chosen:
                found = self.candidates(step, i, batch, text)
                branches.append(self.pairs(found, x, i, text).whole(processes))
                number = self.followed(batch, i)
                x, known = found.state(number), found.predicted(number)
            else:
                x, known = step.sample(batch.noise.step(i)), None
            prediction = self.predicted(x, i + 1, text)[1] if known is None else known
        every = Branches.cat(branches)
        weight = every.sign * (len(every.sign) / every.sign.sum().clamp(min=1))
        return replace(every, sign=weight), self.run.reward.of_all(x, batch.prompts, processes)

    def candidates(self, step: Gaussian, i: int, batch: Batch, text: Conditioning) -> Candidates:
        """The candidates of step i, each with the noise of that number among those of its image."""
        rows = range(len(batch.prompts))
        states, predictions, scores = [], [], []
        for number in range(self.settings.candidates):
            after = step.sample(batch.noise.rows(rows, [number] * len(rows)).step(i))
            clean, prediction = self.predicted(after, i + 1, text)
            scores.append(self.settings.scale * self.run.reward.values(clean, batch.prompts, self.time(i + 1)))
            states.append(after)
            predictions.append(prediction)
        return Candidates(torch.stack(states), torch.stack(predictions), torch.stack(scores))

    def time(self, i: int) -> float:
        """The timestep of states that enter step i; 0 at the end."""
        return 0.0 if i == len(self.chain) else float(self.run.networks.grid.timesteps[i])

    def pairs(self, found: Candidates, x: Tensor, i: int, text: Conditioning) -> Branches:
        """Best and worst candidate of the states x [B, C, h, w] entering step i; sign 1 where the pair counts."""
        margin = found.margin
        counts = (margin > self.threshold(i)).to(margin.dtype)
        valid = torch.where(margin.isnan(), margin, counts)  # a NaN score makes the loss NaN, which training reports
        best, worst = found.state(found.best), found.state(found.worst)
        return Branches(x, self.chain.index(i, len(x)), best, worst, valid, text)

    def threshold(self, i: int) -> float:
        """What the margin of a pair of step i must be above."""
        return self.settings.threshold

    def followed(self, batch: Batch, i: int) -> Tensor:
        """The number [B] of the candidate of step i that the rollout goes on from."""
        return (batch.noise.uniform(f"follow {i}", 1)[:, 0] * self.settings.candidates).long()
