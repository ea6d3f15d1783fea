"""The training reward of clean latents: its values, its gradient, and the count of its queries."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace

import torch
from torch import Tensor
from torch.nn.functional import normalize

from stages.errors import InputError
from stages.finetune.precision import autocast, exactly
from stages.finetune.settings import FinetuneSettings
from stages.processes import Processes
from stages.rewards.base import Embedder, LatentJudge, StepAware, TextEmbedder
from stages.rewards.networks.contrastive import exact

Decode = Callable[[Tensor], Tensor]
RewardFunction = Callable[[Tensor, Sequence[str]], Tensor]
"""From images [B, 3, H, W] in [0, 1] and their prompts to rewards [B]."""


@dataclass
class CountedReward:
    """A reward that counts the images that it scored in `queries`."""

    reward: RewardFunction
    queries: int = 0

    def __call__(self, images: Tensor, prompts: Sequence[str], t: float | None = None) -> Tensor:
        """Reward [B] of images [B, 3, H, W] in [0, 1]; a step-aware one sees the timestep t of the states that they are
        predicted from, where it is given.
        """
        self.queries += len(images)
        if t is not None and isinstance(self.reward, StepAware):
            return self.reward.score_at(images, prompts, t)
        return self.reward(images, prompts)

    def score_latents(self, x: Tensor, prompts: Sequence[str], t: float) -> Tensor:
        """Reward [B] of noisy latents x [B, C, h, w] at timestep t; raises InputError for one that takes images."""
        if not isinstance(self.reward, LatentJudge):
            raise InputError("the training reward judges images and no latents; expected one of kind latent")
        self.queries += len(x)
        return self.reward.score_latents(x, prompts, t)

    def embed(self, images: Tensor) -> Tensor:
        """The reward's own features [B, D] of images; raises InputError where it has none."""
        if not isinstance(self.reward, Embedder):
            raise InputError("the training reward has no features of images, which this method needs")
        return self.reward.embed(images)

    def encode_text(self, prompts: Sequence[str]) -> Tensor:
        """The reward's own features [B, D] of texts, in the space of `embed`; raises InputError where it has none."""
        if not isinstance(self.reward, TextEmbedder):
            raise InputError("the training reward has no features of texts; expected some as open_clip models have")
        return self.reward.encode_text(prompts)


@dataclass(frozen=True)
class Similarity:
    """A further term of the loss: `weight` times the mean of 1 - cosine between the reward's features of the judged
    images and of the real ones, whose latents are `real` [N, C, h, w].

    ImageReFL's code, image_refl_trainer_v2.py. There features are CLIP ViT-B/32's and real images come from their
    files; here they are decoded from their latents.
    """

    weight: float
    real: Tensor


@dataclass(frozen=True)
class LatentGradient:
    """`rewards` [N], the `gradient` [N, C, h, w] of the loss by the latents, and `distances` [N] from the real images,
    where a similarity to them is wanted.
    """

    rewards: Tensor
    gradient: Tensor
    distances: Tensor | None = None


@dataclass(frozen=True)
class LatentReward:
    """The reward of clean latents: decoded by `decode` to images in [0, 1] and judged in slices of `judge_batch`, so
    that memory is bounded.
    """

    decode: Decode
    reward: CountedReward
    settings: FinetuneSettings

    @property
    def queries(self) -> int:
        """Images that the reward has scored so far."""
        return self.reward.queries

    def denormalised_twice(self) -> LatentReward:
        """The reward of images moved from [0, 1] to [0.5, 1], as some released code has it."""
        return replace(self, decode=lambda x0: self.decode(x0) / 2 + 0.5)

    def values(self, x0: Tensor, prompts: Sequence[str], t: float | None = None) -> Tensor:
        """Rewards [N] of clean latents [N, C, h, w], without gradient; `t` as in `CountedReward`."""
        size = self.settings.judge_batch
        with torch.no_grad():
            parts = range(0, len(x0), size)
            return torch.cat([self._scored(x0[n : n + size], prompts[n : n + size], t=t)[0] for n in parts])

    def of_latents(self, x: Tensor, prompts: Sequence[str], t: float) -> Tensor:
        """Rewards [N] of noisy latents [N, C, h, w] at timestep t, not decoded and without gradient."""
        size = self.settings.judge_batch
        with torch.no_grad(), exactly(x.device), autocast(self.settings, x.device):
            parts = [slice(n, n + size) for n in range(0, len(x), size)]
            return torch.cat([exact(self.reward.score_latents(x[part], prompts[part], t)) for part in parts])

    def of_all(self, x0: Tensor, prompts: Sequence[str], processes: Processes) -> Tensor:
        """Rewards of the clean latents of all processes, by rank, each of which judges its own [N, C, h, w]."""
        return processes.whole([self.values(x0, prompts)])[0]

    def loss(self, rewards: Tensor, weights: Tensor | None = None) -> Tensor:
        """`reward_loss` of rewards [N] with the study's scale and offset."""
        return reward_loss(rewards, self.settings.reward_scale, self.settings.reward_offset, weights)

    def gradient(
        self,
        x0: Tensor,
        prompts: Sequence[str],
        factor: float = 1.0,
        weights: Tensor | None = None,
        similarity: Similarity | None = None,
    ) -> LatentGradient:
        """Judge clean latents [N, C, h, w]: the gradient by them of `factor` times the loss, with the similarity in it.

        `weights` [N] are those of the images in the loss. Raises InputError where a similarity is wanted and the reward
        has no features of images.
        """
        x0 = x0.detach().requires_grad_(True)
        size, rewards, distances = self.settings.judge_batch, [], []
        for start in range(0, len(x0), size):
            part = slice(start, start + size)
            real = None if similarity is None else similarity.real[part]
            found, distance = self._scored(x0[part], prompts[part], real)
            loss = self.loss(found, None if weights is None else weights[part])
            if similarity is not None and distance is not None:
                loss = loss + similarity.weight * distance.mean()
                distances.append(distance.detach())
            with exactly(x0.device):
                (factor * len(found) / len(x0) * loss).backward()
            rewards.append(found.detach())
        assert x0.grad is not None
        return LatentGradient(torch.cat(rewards), x0.grad, torch.cat(distances) if distances else None)

    def _scored(
        self, x0: Tensor, prompts: Sequence[str], real: Tensor | None = None, t: float | None = None
    ) -> tuple[Tensor, Tensor | None]:
        """Rewards [N] of latents, and 1 - cosine [N] between their images' features and those of `real` latents."""
        with exactly(x0.device), autocast(self.settings, x0.device):
            images = self.decode(x0)
            rewards = exact(self.reward(images, prompts, t))
            if real is None:
                return rewards, None
            with torch.no_grad():
                wanted = normalize(exact(self.reward.embed(self.decode(real))), dim=-1)
            found = normalize(exact(self.reward.embed(images)), dim=-1)
        return rewards, 1 - (found * wanted).sum(-1)


def reward_loss(rewards: Tensor, scale: float = 1.0, offset: float = 0.0, weights: Tensor | None = None) -> Tensor:
    """-mean over b of w_b scale (R_b + offset), of rewards [B]; without `weights` [B] they are 1.

    ImageReFL's code, reward_models/base_model.py.
    """
    terms = scale * (rewards + offset)
    return -(terms if weights is None else weights * terms).mean()
