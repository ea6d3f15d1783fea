"""A small fixed set of training prompts, sampled with fixed noise and judged while training goes on."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass

import torch
from torch import Tensor

from stages.finetune.reward import Decode, RewardFunction
from stages.models.conditioning import Conditioning
from stages.models.diffusion import Denoiser
from stages.models.noise import Noise
from stages.models.policy import unchanged
from stages.models.process import Grid
from stages.models.sampler import Sampler, finish
from stages.models.similarity import pairwise_diversity


@dataclass(frozen=True)
class Probe:
    """Prompts [N] (each repeated `samples` times, adjacent), the conditioning on them, `text` [N], and the rewards that
    judge.
    """

    prompts: list[str]
    text: Conditioning
    noise: Noise
    samples: int
    rewards: Mapping[str, RewardFunction]
    embed: Callable[[Tensor], Tensor]

    def measure(self, policy: Denoiser, grid: Grid, decode: Decode, sampler: Sampler) -> dict[str, float]:
        """`probe_<reward>`: mean reward; `probe_diversity`: mean over prompts of 1 - cosine between images of one
        prompt.
        """
        scores, diversity = self.judge(policy, grid, decode, sampler)
        terms = {f"probe_{name}": float(values.mean()) for name, values in scores.items()}
        return terms | {"probe_diversity": float(diversity.mean())}

    @torch.no_grad()
    def judge(self, policy: Denoiser, grid: Grid, decode: Decode, sampler: Sampler) -> tuple[dict[str, Tensor], Tensor]:
        """Scores [N] by every reward, and the diversity of every prompt [N / samples]."""
        predict = policy.predict(grid, self.text)
        with unchanged(*policy.eager):
            clean = finish(grid, predict, self.noise.initial(), 0, self.noise, sampler)
        images = decode(clean)
        scores = {name: reward(images, self.prompts) for name, reward in self.rewards.items()}
        features = self.embed(images)
        groups = features.reshape(-1, self.samples, features.shape[-1])
        return scores, torch.stack([pairwise_diversity(group) for group in groups])
