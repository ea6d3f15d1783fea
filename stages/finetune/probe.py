"""A small fixed set of training prompts, sampled with fixed noise and judged while training goes on."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from stages import pictures
from stages.finetune.reward import Decode, RewardFunction
from stages.models.conditioning import Conditioning
from stages.models.diffusion import Denoiser
from stages.models.noise import Noise
from stages.models.policy import unchanged
from stages.models.process import Grid
from stages.models.sampler import Sampler, finish
from stages.models.similarity import pairwise_diversity
from stages.rewards.base import Oracle
from stages.sight import take

SIDE = 64
"""Longer side in pixels, at most, of the pictures that a run keeps of its probe; our number, as the page's default."""


@dataclass(frozen=True)
class Probed:
    """What a probe saw: terms of the log, and its images made small, PNG bytes as uint8 [bytes] each."""

    terms: dict[str, float]
    pictures: list[Tensor]


@dataclass(frozen=True)
class Probe:
    """Prompts [N] (each repeated `samples` times, adjacent), the conditioning on them, `text` [N], the rewards that
    judge, and the oracle that says how much the images of a prompt differ in what it leaves open.
    """

    prompts: list[str]
    text: Conditioning
    noise: Noise
    samples: int
    rewards: Mapping[str, RewardFunction]
    embed: Callable[[Tensor], Tensor]
    oracle: Oracle | None = None

    def measure(self, policy: Denoiser, grid: Grid, decode: Decode, sampler: Sampler) -> Probed:
        """Pictures in the order of the prompts, and terms.

        `probe_<reward>`: mean reward; `probe_diversity`: mean over prompts of 1 - cosine between images of one prompt;
        with an oracle `probe_attribute_diversity`, the mean over prompts of what it sees.
        """
        images = self.images(policy, grid, decode, sampler)
        scores, diversity = self.score(images)
        terms = {f"probe_{name}": float(values.mean()) for name, values in scores.items()}
        terms["probe_diversity"] = float(diversity.mean())
        if self.oracle is not None:
            terms["probe_attribute_diversity"] = float(self.attributes(self.oracle, images).mean())
        small = pictures.thumbnails(images, SIDE)
        return Probed(terms, [torch.frombuffer(bytearray(one), dtype=torch.uint8) for one in small])

    def rows(self, seen: Iterable[tuple[int, Sequence[Tensor]]]) -> list[dict[str, object]]:
        """Rows of `tables.PROBES` for the pictures of every (step, pictures)."""
        return [
            {"step": step, "prompt": self.prompts[place], "sample": place % self.samples,
             "image": picture.numpy().tobytes()}
            for step, shown in seen
            for place, picture in enumerate(shown)
        ]  # fmt: skip

    @torch.no_grad()
    def images(self, policy: Denoiser, grid: Grid, decode: Decode, sampler: Sampler) -> Tensor:
        """Images [N, 3, H, W] in [0, 1], without guidance."""
        predict = policy.predict(grid, self.text)
        with unchanged(*policy.eager):
            clean = finish(grid, predict, self.noise.initial(), 0, self.noise, sampler)
        return decode(clean)

    @torch.no_grad()
    def score(self, images: Tensor) -> tuple[dict[str, Tensor], Tensor]:
        """Scores [N] of images by every reward, and the diversity of every prompt [N / samples]."""
        scores = {name: reward(images, self.prompts) for name, reward in self.rewards.items()}
        features = self.embed(images)
        groups = features.reshape(-1, self.samples, features.shape[-1])
        return scores, torch.stack([pairwise_diversity(group) for group in groups])

    def attributes(self, oracle: Oracle, images: Tensor) -> Tensor:
        """The attribute diversity [N / samples] of the images of every prompt, as the oracle sees them."""
        seen = oracle.see(images, self.prompts)
        groups = np.arange(len(self.prompts)).reshape(-1, self.samples)
        return torch.tensor([take(seen, rows).diversity()["attribute_diversity"] for rows in groups])
