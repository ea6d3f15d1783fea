"""The plain reference of learning from pairs: steps of Diffusion-DPO as released trainers do their work.

Texts and both images of every pair are encoded in every step, one micro-batch after another; two complete networks are
in memory, the one that is trained and the frozen one. Released trainers read and decode image files in other processes:
that is left out, images are ready as tensors.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor
from torch.nn import functional

from benchmarks.plain import Draws, Pipeline


@dataclass(frozen=True)
class PairBatch:
    """A micro-batch of N pairs: prompts, pixels [N, 3, H, W] in [-1, 1] of winners and losers, timesteps [N], draws."""

    prompts: Sequence[str]
    winner: Tensor
    loser: Tensor
    t: Tensor
    draws: Draws


@dataclass
class PairTrainer:
    """Diffusion-DPO on a pipeline, against the frozen network of another one; the loss has `beta` / 2, as released."""

    pipeline: Pipeline
    reference: Pipeline
    beta: float

    def __post_init__(self) -> None:
        self.pipeline.unet.requires_grad_(True)

    def step(self, batches: Sequence[PairBatch]) -> list[float]:
        """The gradient of the mean loss of the micro-batches is added to the parameters; their losses."""
        losses = []
        for batch in batches:
            loss = self._loss(batch)
            (loss / len(batches)).backward()
            losses.append(loss.item())
        return losses

    def _loss(self, batch: PairBatch) -> Tensor:
        with torch.no_grad():
            text = self.pipeline.text(batch.prompts).repeat(2, 1, 1)
            moments = self.pipeline.vae.encode(torch.cat([batch.winner, batch.loser])).latent_dist
            halves = zip(moments.mean.chunk(2), moments.std.chunk(2), ("posterior", "posterior loser"), strict=True)
            drawn = [mean + std * batch.draws.normal(name, mean.shape[1:]) for mean, std, name in halves]
            latents = torch.cat(drawn) * self.pipeline.scale
            noise = batch.draws.normal("forward", latents.shape[1:]).repeat(2, 1, 1, 1)
            t = batch.t.repeat(2)
            noisy = self.pipeline.scheduler.add_noise(latents, noise, t)
            frozen = self.reference.predict(noisy, t, text)
        ours = self._errors(self.pipeline.predict(noisy, t, text), noise)
        theirs = self._errors(frozen, noise)
        return -functional.logsigmoid(-self.beta / 2 * (ours - theirs)).mean()

    @staticmethod
    def _errors(prediction: Tensor, noise: Tensor) -> Tensor:
        """Error of the winner less that of the loser [N]."""
        winner, loser = (prediction - noise).square().mean((1, 2, 3)).chunk(2)
        return winner - loser
