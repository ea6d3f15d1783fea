"""From rewards to advantages: how good an image is among others of its batch, its prompt's history or its group."""

from __future__ import annotations

import math
from collections import deque
from collections.abc import Mapping, Sequence
from typing import Any

import torch
from torch import Tensor

EPSILON = 1e-6  # keeps the division finite where all rewards are equal


def normalised(rewards: Tensor) -> Tensor:
    """(R - mean) / (std + 1e-6) of rewards [..., n], over the last axis; the standard deviation is numpy's, over n."""
    spread = rewards.std(-1, correction=0, keepdim=True)
    return (rewards - rewards.mean(-1, keepdim=True)) / (spread + EPSILON)


def grouped(rewards: Tensor, size: int) -> Tensor:
    """Rewards [B] normalised in each run of `size`, the images of one prompt."""
    return normalised(rewards.reshape(-1, size)).flatten()


class History:
    """The last `size` rewards of every prompt; as PerPromptStatTracker of ddpo-pytorch (stat_tracking.py).

    With fewer than `least` rewards of a prompt its images are measured against the batch.
    """

    def __init__(self, size: int, least: int) -> None:
        self.size, self.least = size, least
        self.rewards: dict[str, deque[float]] = {}

    def add(self, rewards: Tensor, prompts: Sequence[str]) -> None:
        """Remember rewards [B], but for those that are not finite."""
        for prompt, reward in zip(prompts, rewards.tolist(), strict=True):
            if not math.isfinite(reward):
                continue
            self.rewards.setdefault(prompt, deque(maxlen=self.size)).append(reward)

    def moments(self, rewards: Tensor, prompts: Sequence[str]) -> tuple[Tensor, Tensor]:
        """Mean and standard deviation [B] that each of the rewards [B], added before, is measured by."""
        whole = [float(rewards.mean()), float(rewards.std(correction=0))]
        found = []
        for prompt in prompts:
            kept = torch.tensor(self.rewards.get(prompt, ()), dtype=torch.float64)
            enough = len(kept) >= self.least
            found.append([float(kept.mean()), float(kept.std(correction=0))] if enough else whole)
        mean, spread = rewards.new_tensor(found).unbind(1)
        return mean, spread

    def expected(self, rewards: Tensor, prompts: Sequence[str]) -> Tensor:
        """Mean reward [B] of each prompt so far; of the current batch where a prompt has fewer than `least`."""
        whole = float(rewards.mean())
        kept = [self.rewards.get(prompt, ()) for prompt in prompts]
        return rewards.new_tensor([sum(r) / len(r) if len(r) >= self.least else whole for r in kept])

    def advantages(self, rewards: Tensor, prompts: Sequence[str]) -> Tensor:
        """Add rewards [B] and return them normalised by their prompt's history."""
        self.add(rewards, prompts)
        mean, spread = self.moments(rewards, prompts)
        return (rewards - mean) / (spread + EPSILON)

    def state_dict(self) -> dict[str, Any]:
        """What to save."""
        return {prompt: list(kept) for prompt, kept in self.rewards.items()}

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Go on from what was saved."""
        self.rewards = {prompt: deque(kept, maxlen=self.size) for prompt, kept in state.items()}
