"""The networks of a run on the grid of its rollouts, and what objectives do with them: roll out, predict x0, noise real
images, take the diffusion error.
"""

from __future__ import annotations

from dataclasses import dataclass, replace

import torch
from torch import Tensor

from stages.finetune.batch import Batch
from stages.models.conditioning import Conditioning
from stages.models.diffusion import Denoiser, Predict
from stages.models.policy import unchanged
from stages.models.process import Grid
from stages.models.sampler import Sampler, denoise, step


@dataclass(frozen=True)
class Networks:
    """The policy on the grid of its rollouts, where index i runs from noise (0) to image (len(grid) - 1).

    `empty` is the conditioning on no prompt, `guidance` that of the rollouts, whose steps are those of `sampler`.
    `extra_step` is the released code's: a rollout without any step to make makes one (`sampler.denoise`). `reference`
    is the frozen base, for methods that keep the policy near it, `student` a consistency model distilled from it, and
    `companion` a second network that is trained beside the policy; each is None where the method does not declare that
    it needs it.
    """

    policy: Denoiser
    grid: Grid
    empty: Conditioning
    guidance: float = 1.0
    sampler: Sampler = "ddpm"
    extra_step: bool = False
    reference: Denoiser | None = None
    student: Denoiser | None = None
    companion: Denoiser | None = None

    @property
    def denoisers(self) -> dict[str, Denoiser]:
        """Every network that is evaluated, by its role."""
        every = {"policy": self.policy, "reference": self.reference, "student": self.student}
        every["companion"] = self.companion
        return {role: denoiser for role, denoiser in every.items() if denoiser is not None}

    @property
    def base(self) -> Denoiser:
        """The frozen base; raises ValueError where the method has declared no need of it."""
        if self.reference is None:
            raise ValueError("there is no reference network: the method does not declare that it needs one")
        return self.reference

    @property
    def distilled(self) -> Denoiser:
        """The distilled consistency model; raises ValueError where the method has declared no need of it."""
        if self.student is None:
            raise ValueError("there is no distilled model: the method does not declare that it needs one")
        return self.student

    @property
    def paired(self) -> Denoiser:
        """The network that is trained beside the policy; raises ValueError where the method declares no need of it."""
        if self.companion is None:
            raise ValueError("there is no second network: the method does not declare that it needs one")
        return self.companion

    def without_guidance(self) -> Networks:
        """The same networks with guidance switched off."""
        return replace(self, guidance=1.0)

    def predict(self, batch: Batch) -> Predict:
        """The policy's prediction for the batch, guided as the study says."""
        return self.policy.predict(self.grid, batch.text, self.empty, self.guidance)

    @torch.no_grad()
    def rollout(self, batch: Batch, x: Tensor, start: int, stop: int, first: Tensor | None = None) -> Tensor:
        """Latents entering index `stop` from those entering `start`, by the policy, without gradient.

        `first` [B, C, h, w] is the prediction at `start`, where it is already computed.
        """
        if first is not None and start < stop:
            x = step(self.grid, x, first, start, batch.noise, self.sampler)
            start += 1
            if start == stop:
                return x
        with unchanged(*self.policy.eager):
            return denoise(self.grid, self.predict(batch), x, start, stop, batch.noise, self.sampler,
                        extra_step=self.extra_step)  # fmt: skip

    def steps(self, batch: Batch, x: Tensor, start: int, stop: int) -> Tensor:
        """Latents entering index `stop` from those entering `start`, with gradient through every step."""
        return denoise(self.grid, self.predict(batch), x, start, stop, batch.noise, self.sampler)

    def prediction(self, batch: Batch, x: Tensor, i: int | Tensor) -> Tensor:
        """The policy's prediction with gradient for x [B, C, h, w] entering the index i, of all or [B]."""
        return self.policy.prediction(x, self.grid.timesteps[i], batch.text, self.empty, self.guidance)

    def x0(self, batch: Batch, x: Tensor, i: int) -> Tensor:
        """Clean latents that the policy predicts at index i, with gradient."""
        return self.grid.x0(x, self.predict(batch)(x, i), i)

    def finish(self, batch: Batch, x: Tensor, start: int) -> Tensor:
        """Clean latents by every step from `start` to the end, with gradient through all of them."""
        last = len(self.grid) - 1
        return self.x0(batch, self.steps(batch, x, start, last), last)

    def noised(self, batch: Batch, i: int) -> tuple[Tensor, Tensor]:
        """Real latents noised to index i, and what the prediction should be there: the noise, or the velocity."""
        clean, noise = batch.real(), batch.noise.extra("forward")
        return self.grid.noised(clean, noise, i), self.grid.process.target(clean, noise)

    def unguided(self, batch: Batch, x: Tensor, i: int) -> Tensor:
        """The policy's conditional prediction, whatever the guidance of the rollouts."""
        return self.policy.prediction(x, self.grid.timesteps[i], batch.text)

    def diffusion_error(self, batch: Batch, i: int) -> Tensor:
        """Mean squared error of the prediction on real images at index i; a scalar."""
        x, target = self.noised(batch, i)
        return (self.unguided(batch, x, i) - target).square().mean()
