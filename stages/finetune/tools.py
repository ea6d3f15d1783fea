"""The moves that reward-gradient methods are made of: roll out, predict x0, noise real images, diffusion error."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import TYPE_CHECKING

import torch
from torch import Tensor

from stages.models.conditioning import Conditioning
from stages.models.diffusion import Denoiser, Predict
from stages.models.policy import unchanged
from stages.models.process import Grid
from stages.models.sampler import Sampler, Seen, step, walk

if TYPE_CHECKING:
    from stages.finetune.batch import Batch, Rollout


@dataclass(frozen=True)
class Tools:
    """The policy on its grid. Index i runs from noise (0) to image (len(grid) - 1).

    `extra_step` is the released code's: a rollout without any step to make makes one (`sampler.walk`). `reference` is
    the frozen base, for methods that keep the policy near it, `student` a consistency model distilled from it.
    """

    policy: Denoiser
    grid: Grid
    empty: Conditioning
    guidance: float = 1.0
    sampler: Sampler = "ddpm"
    extra_step: bool = False
    reference: Denoiser | None = None
    student: Denoiser | None = None

    @property
    def denoisers(self) -> list[Denoiser]:
        """Every network that is evaluated, the policy first."""
        return [self.policy, *(found for found in (self.reference, self.student) if found is not None)]

    @property
    def base(self) -> Denoiser:
        """The frozen base, from which the policy's divergence is taken."""
        if self.reference is None:
            raise ValueError("these tools have no reference")
        return self.reference

    @property
    def distilled(self) -> Denoiser:
        """The distilled consistency model."""
        if self.student is None:
            raise ValueError("these tools have no distilled model")
        return self.student

    def without_guidance(self) -> Tools:
        """The same tools with guidance switched off."""
        return replace(self, guidance=1.0)

    def predict(self, batch: Batch) -> Predict:
        """The policy's prediction for the batch, guided as the study says."""
        return self.policy.predict(self.grid, batch.text, self.empty, self.guidance)

    @torch.no_grad()
    def rollout(
        self, batch: Batch, x: Tensor, start: int, stop: int, first: Tensor | None = None, seen: Seen | None = None
    ) -> Tensor:
        """Latents entering index `stop` from those entering `start`, by the policy, without gradient.

        `first` is the prediction at `start`, where it is already at hand. `seen` is called as by `sampler.walk`.
        """
        if first is not None and start < stop:
            x = step(self.grid, x, first, start, batch.noise, self.sampler)
            start += 1
            if start == stop:
                return x
        predict = self.predict(batch)
        with unchanged():
            return walk(self.grid, predict, x, start, stop, batch.noise, self.sampler, seen, self.extra_step)

    def from_noise(self, batch: Batch, stop: int) -> Tensor:
        """Latents entering index `stop` from the batch's own noise, by the policy, without gradient; those that were
        made together with other micro-batches, where they were.
        """
        if batch.rolled is not None and batch.rolled.index == stop:
            return batch.rolled.x
        return self.rollout(batch, batch.noise.initial(), 0, stop)

    def to_index(self, batch: Batch, stop: int) -> Rollout:
        """The rollout of a step that begins with `from_noise(batch, stop)`."""
        from stages.finetune.batch import Rollout

        return Rollout(batch.noise.initial(), 0, stop)

    def x0(self, batch: Batch, x: Tensor, i: int) -> Tensor:
        """Clean latents that the policy predicts at index i, with gradient."""
        return self.grid.x0(x, self.predict(batch)(x, i), i)

    def chain(self, batch: Batch, x: Tensor, start: int, seen: Seen | None = None) -> Tensor:
        """Clean latents by every step from `start` to the end, with gradient through all of them."""
        last = len(self.grid) - 1
        x = walk(self.grid, self.predict(batch), x, start, last, batch.noise, self.sampler, seen)
        if seen is not None:
            seen(last, x)
        return self.x0(batch, x, last)

    def noised(self, batch: Batch, i: int) -> tuple[Tensor, Tensor]:
        """Real latents noised to index i, and what the prediction should be there."""
        if batch.clean is None:
            raise ValueError("this micro-batch has no real images")
        noise = batch.noise.extra("forward")
        return self.grid.noised(batch.clean, noise, i), self.grid.process.target(batch.clean, noise)

    def unguided(self, batch: Batch, x: Tensor, i: int) -> Tensor:
        """The policy's conditional prediction, whatever the guidance of the rollouts."""
        return self.policy.prediction(x, self.grid.timesteps[i], batch.text)

    def diffusion_error(self, batch: Batch, i: int) -> Tensor:
        """Mean squared error of the prediction on real images at index i; a scalar."""
        x, target = self.noised(batch, i)
        return (self.unguided(batch, x, i) - target).square().mean()
