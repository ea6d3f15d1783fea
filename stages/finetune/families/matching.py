"""Matching: the denoising error on images that the policy sampled, in place of a log density.

    e = mean (target - prediction(x_t, t))^2  on  x_t, the end of a rollout noised again,

so that no trajectory is needed, and e_old of the policy that made the images in place of the old density (advantage
weighted matching, Xue et al. 2025). A method is the loss of a batch of images, from both errors and
the advantages.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, TypeVar

import torch
from torch import Tensor

from stages.finetune.batch import Batch, optimizer_step
from stages.finetune.families.policy_gradient import Collected, normalised_advantages
from stages.finetune.families.settings import AdvantageSettings
from stages.finetune.objective import Loss, Run
from stages.finetune.trajectories.advantages import History
from stages.finetune.trajectories.chain import Trajectory
from stages.finetune.trajectories.collection import CollectionObjective, Experience
from stages.models.conditioning import Conditioning
from stages.models.diffusion import Denoiser

A = TypeVar("A", bound=AdvantageSettings)


@dataclass(frozen=True)
class Matched:
    """N images: `error` [N], means over C, h, w, of the policy's predictions with gradient, `old_error` [N] of those of
    the policy that made the images, the `advantage` [N], and the `time` [N] of the noise in [0, 1].
    """

    error: Tensor
    old_error: Tensor
    advantage: Tensor
    time: Tensor


@dataclass(frozen=True)
class Noising:
    """Timesteps `t` [B] and `noise` [B, C, h, w] for the images of a micro-batch, those of all processes, and the
    `old_error` [B] of the policy that made them.
    """

    t: Tensor
    noise: Tensor
    old_error: Tensor


class Matching(CollectionObjective[A]):
    """The objective; a noising for every optimizer step of a collection is drawn with it."""

    def __init__(
        self, settings: A, run: Run, loss: Callable[[Matched, A], Loss],
        advantages: Callable[[Collected, A], Tensor] | None = None,
    ) -> None:  # fmt: skip
        super().__init__(settings, run)
        self.loss, self.advantage = loss, advantages or normalised_advantages
        self.history = History(settings.history, settings.least_history)
        self.noisings: list[list[Noising]] = []

    def advantages(self, last: Tensor, rewards: Tensor, prompts: Sequence[str]) -> tuple[Tensor, dict[str, float]]:
        """Advantages [N] as the study says."""
        return self.advantage(Collected(last, rewards, prompts, self.history), self.settings), {}

    def collect(self, batches: Sequence[Batch]) -> dict[str, float]:
        """Rollouts, of which the ends are learnt from, and the noisings."""
        terms = super().collect(batches)
        if terms:
            self.noisings = [
                [self.noise(held.trajectory, batch, n) for n in range(self.settings.lasting)]
                for held, batch in zip(self.held, batches, strict=True)
            ]
        return terms

    @torch.no_grad()
    def noise(self, made: Trajectory, batch: Batch, n: int) -> Noising:
        """Noising n of a micro-batch; only where the policy changes before its turn, the old error is evaluated."""
        clean, processes = made.last, self.run.processes
        own, t = processes.part(len(clean)), self.run.networks.grid.process.random_timesteps(batch.rng, len(clean))
        noise = batch.noise.extra(f"matching {n}")
        old = torch.full_like(noise[:, 0, 0, 0], torch.nan)
        if n:
            old = self.errors(clean[own], made.text[own], t[own], noise)[0]
        return Noising(t, *processes.whole([noise, old]))

    def errors(self, clean: Tensor, text: Conditioning, t: Tensor, noise: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """Errors [B] on clean latents noised to t, with the noised states and the policy's predictions there."""
        policy = self.run.networks.policy
        x = policy.process.noised(clean, noise, t)
        prediction = policy.prediction(x, t, text)
        return denoising_error(policy, prediction, clean, noise), x, prediction

    def losses(self, batches: Sequence[Batch]) -> Iterator[Loss]:
        """The mean loss over this process's part of this update's share of each micro-batch's images."""
        turn = optimizer_step(batches) % self.settings.lasting
        for place in range(len(batches)):
            held = self.held[place]
            size = len(held.rewards) // self.settings.updates
            first = turn % self.settings.updates * size
            own = torch.arange(first, first + size, device=held.rewards.device)[self.run.processes.part(size)]
            for rows in own.split(self.settings.state_batch):
                yield self.part(held, self.noisings[place][turn], rows, turn).share(len(rows) / len(own), place)

    def part(self, held: Experience, noising: Noising, rows: Tensor, turn: int) -> Loss:
        """The loss of some images, with the squared difference between the predictions of policy and base."""
        text, t = held.trajectory.text[rows], noising.t[rows]
        error, x, prediction = self.errors(held.trajectory.last[rows], text, t, noising.noise[rows])
        old = noising.old_error[rows] if turn else error.detach()
        time = self.run.networks.grid.process.time(t)
        loss = self.loss(Matched(error, old, held.advantages[rows], time), self.settings)
        if self.settings.kl_weight:
            with torch.no_grad():
                base = self.run.networks.base.prediction(x, t, text)
            mse = (prediction - base).square().mean()
            loss = loss.plus(self.settings.kl_weight, mse, mse_to_base=mse)
        return Loss(loss.root, {"reward": held.rewards.mean(), **loss.terms})

    def state_dict(self) -> dict[str, Any]:
        """The current collection with its noisings, and the history of every prompt."""
        own = {"noisings": [[vars(n) for n in each] for each in self.noisings], "history": self.history.state_dict()}
        return super().state_dict() | own

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Go on from what was saved."""
        super().load_state_dict(state)
        self.history.load_state_dict(state["history"])
        self.noisings = [
            [Noising(**{name: value.to(self.run.device) for name, value in n.items()}) for n in each]
            for each in state["noisings"]
        ]


def denoising_error(denoiser: Denoiser, prediction: Tensor, clean: Tensor, noise: Tensor) -> Tensor:
    """Squared errors [B], means over C, h, w, of predictions on clean latents noised by `noise`, each [B, C, h, w]."""
    return (prediction - denoiser.process.target(clean, noise)).square().mean((1, 2, 3))
