"""Advantage weighted matching: the denoising error on own images in place of a log density.

    l = -mean (target - prediction(x_t, t))^2,  L = -min(A rho, A clip(rho)),  rho = exp(l - l_old)

on x_t noised anew from the rollout's end, so that no trajectory is needed (Xue et al. 2025).
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from stages.finetune.batch import Batch
from stages.finetune.learner import Learner
from stages.finetune.losses.ddpo import clipped_loss
from stages.finetune.methods import awm
from stages.finetune.trajectory.chain import Chain, Trajectory
from stages.finetune.trajectory.policy_gradient import PolicyGradient
from stages.finetune.trajectory.trainer import Piece
from stages.models.conditioning import Conditioning


@dataclass(frozen=True)
class Question:
    """Timesteps t [B] and noise [B, C, h, w] for the images of a micro-batch, those of all processes, and `old` [B], l
    of the policy that made them.
    """

    t: Tensor
    noise: Tensor
    old: Tensor


class Awm(PolicyGradient[awm.Settings]):
    """AWM; a question for every optimizer step of a collection is drawn with it."""

    def __init__(self, settings: awm.Settings, accumulate: int) -> None:
        super().__init__(settings, accumulate)
        self.questions: list[list[Question]] = []

    def collect(self, learner: Learner, chain: Chain, batches: Sequence[Batch]) -> dict[str, float]:
        """Rollouts, of which the ends are learnt from, and the questions."""
        terms = super().collect(learner, chain, batches)
        self.questions = [
            [self.ask(learner, chain, held.trajectory, batch, n) for n in range(self.settings.lasting)]
            for held, batch in zip(self.held, batches, strict=True)
        ]
        return terms

    @torch.no_grad()
    def ask(self, learner: Learner, chain: Chain, made: Trajectory, batch: Batch, n: int) -> Question:
        """Question n of a micro-batch; only where the policy changes before it is asked, `old` has to be evaluated."""
        clean, processes = made.last, learner.processes
        own, t = processes.part(len(clean)), chain.tools.grid.process.random_timesteps(batch.rng, len(clean))
        noise = batch.noise.extra(f"matching {n}")
        old = torch.full_like(noise[:, 0, 0, 0], torch.nan)
        if n:
            old = self.likeness(chain, clean[own], made.text[own], t[own], noise)[0]
        return Question(t, *processes.whole([noise, old]))

    def likeness(
        self, chain: Chain, clean: Tensor, text: Conditioning, t: Tensor, noise: Tensor
    ) -> tuple[Tensor, Tensor, Tensor]:
        """l [B] of clean latents, with the states and the predictions that it came from."""
        process = chain.tools.grid.process
        x = process.noised(clean, noise, t)
        prediction = chain.tools.policy.prediction(x, t, text)
        return -(prediction - process.target(clean, noise)).square().mean((1, 2, 3)), x, prediction

    def losses(self, learner: Learner, chain: Chain, batch: Batch) -> Iterator[Piece]:
        """The mean loss over this process's part of this update's share of the micro-batch's images."""
        settings, place = self.settings, batch.micro % self.accumulate
        turn = (batch.micro // self.accumulate) % settings.lasting
        held, question = self.held[place], self.questions[place][turn]
        size = len(held.rewards) // settings.updates
        first = turn % settings.updates * size
        own = torch.arange(first, first + size, device=held.rewards.device)[learner.processes.part(size)]
        for rows in own.split(settings.state_batch):
            text, t = held.trajectory.text[rows], question.t[rows]
            found, x, prediction = self.likeness(chain, held.trajectory.last[rows], text, t, question.noise[rows])
            old = question.old[rows] if turn else found.detach()
            made = clipped_loss(found, old, held.worth[rows], settings.clip, settings.largest_advantage)
            loss, terms = made.loss, {"ratio": made.ratio.detach().mean(), "reward": held.rewards.mean()}
            if settings.kl_weight:
                with torch.no_grad():
                    base = chain.tools.base.prediction(x, t, text)
                apart = (prediction - base).square().mean()
                loss, terms = loss + settings.kl_weight * apart, terms | {"apart": apart}
            share = len(rows) / len(own)
            yield Piece(share * loss, {name: share * value for name, value in (terms | {"loss": loss}).items()})

    def state(self) -> dict[str, Any]:
        """Also the questions."""
        return super().state() | {"questions": [[vars(q) for q in own] for own in self.questions]}

    def load_state(self, state: dict[str, Any], device: torch.device) -> None:
        """Go on from what was saved, on `device`."""
        super().load_state(state, device)
        moved = [[{name: value.to(device) for name, value in q.items()} for q in own] for own in state["questions"]]
        self.questions = [[Question(**q) for q in own] for own in moved]
