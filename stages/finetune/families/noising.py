"""How clean latents become noisy ones at a timestep: by random noise, or by DDIM inversion with the policy.

Inversion as in DDIM-InPO (arXiv 2503.18454) and SmPO (arXiv 2506.02698): deterministic steps from clean latents
upwards (Song et al. 2021, equation 12 with the levels exchanged), with a little noise or none, and as the target the
noise that leads from the clean latents to where they end.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from itertools import pairwise

import torch
from torch import Tensor

from stages.errors import InputError
from stages.finetune.families.pair_errors import Noisy
from stages.finetune.families.pair_settings import NoisingSettings
from stages.models.conditioning import Conditioning
from stages.models.diffusion import Denoiser
from stages.models.process import DiffusionProcess, at
from stages.models.process_noise import NoiseSchedule

Draw = Callable[[int], Tensor]
"""The noise [B, C, h, w] of inversion step s (from 0)."""


def noising_of(settings: NoisingSettings, policy: Denoiser) -> Forward | Inversion:
    """The noising that the settings name; raises InputError for an inversion of a base without a noise schedule."""
    if settings.kind == "forward":
        return Forward(policy.process)
    if not isinstance(policy.process, NoiseSchedule):
        raise InputError("noising: an inversion is defined on a noise schedule, but the base is a flow-matching model")
    return Inversion(settings, policy, policy.process)


@dataclass(frozen=True)
class Forward:
    """The forward process: random noise."""

    process: DiffusionProcess

    def __call__(self, clean: Tensor, noise: Tensor, t: Tensor, text: Conditioning, draw: Draw) -> Noisy:
        """Clean latents [B, C, h, w] with their `noise` at their timesteps t [B]; nothing else is drawn."""
        return Noisy(self.process.noised(clean, noise, t), t, text, self.process.target(clean, noise))


@dataclass(frozen=True)
class Inversion:
    """DDIM inversion on the grid of `settings.steps` levels, without guidance and without gradient."""

    settings: NoisingSettings
    policy: Denoiser
    process: NoiseSchedule

    def __call__(self, clean: Tensor, noise: Tensor, t: Tensor, text: Conditioning, draw: Draw) -> Noisy:
        """Clean latents [B, C, h, w] inverted towards their timesteps t [B]; `noise` is not used.

        The target has abar at t, though the latents have the level of the grid where their inversion ends, as released.
        """
        x = self.inverted(clean, t, text, draw)
        return Noisy(x, t, text, self.target(clean, x, t))

    def target(self, clean: Tensor, x: Tensor, t: Tensor) -> Tensor:
        """The noise (x - sqrt(abar_t) clean) / sqrt(1 - abar_t)."""
        alpha = at(self.process.alphas_cumprod, t, x)
        return (x - alpha.sqrt() * clean) / (1 - alpha).sqrt()

    @torch.no_grad()
    def inverted(self, clean: Tensor, stop: Tensor, text: Conditioning, draw: Draw) -> Tensor:
        """Latents [B, C, h, w] at the last level of each row's inversion, which goes towards its timestep `stop` [B].

        A step evaluates only the rows that take part in it.
        """
        levels, x = self.levels(), clean
        for s, (source, goal) in enumerate(pairwise(levels)):
            rows = torch.nonzero(self.time(source, goal) < stop).flatten()
            if not len(rows):
                break
            moved = self.step(x[rows], source, goal, text[rows])
            if self.settings.noise:
                moved = moved + self.settings.noise * self.std(source, goal) * draw(s)[rows]
            x = x.index_copy(0, rows, moved)
        return x

    def time(self, source: int, goal: int) -> int:
        """The timestep at which the network is called in a step between two levels; a step whose time is not below the
        timestep that is inverted towards is not made.
        """
        return source if self.settings.convention == "pinned" else goal

    def times(self, stop: int) -> list[int]:
        """The timesteps at which the network is called in an inversion towards timestep `stop`."""
        every = [self.time(source, goal) for source, goal in pairwise(self.levels())]
        return [time for time in every if time < stop]

    def levels(self) -> list[int]:
        """Timesteps of the levels, from the one below the first of the grid, which is negative and has abar at 0."""
        grid = self.process.grid(self.settings.steps).timesteps.flip(0).tolist()
        return [grid[0] - self.ratio, *grid]

    @property
    def ratio(self) -> int:
        """Timesteps between two levels."""
        return len(self.process.alphas_cumprod) // self.settings.steps

    def step(self, x: Tensor, source: int, goal: int, text: Conditioning) -> Tensor:
        """Latents at level `goal` from those at `source`, a lower one."""
        time = torch.full((len(x),), self.time(source, goal), device=x.device)

        def moved(prediction: Tensor) -> Tensor:
            low, high = self._alpha(source), self._alpha(goal)
            clean = (x - (1 - low).sqrt() * prediction) / low.sqrt()
            return high.sqrt() * clean + (1 - high).sqrt() * prediction

        prediction = self.policy.prediction(x, time, text)
        if self.settings.average:
            prediction = (prediction + self.policy.prediction(moved(prediction), time, text)) / 2
        return moved(prediction)

    def std(self, source: int, goal: int) -> Tensor:
        """Standard deviation of the ancestral step down to the level where the network is called: from `goal` to
        `source` in the pinned convention; in the new one from the level above `goal`, at most the last timestep, where
        the released code fails.
        """
        high, low = (goal, source) if self.settings.convention == "pinned" else (goal + self.ratio, goal)
        above, below = self._alpha(high), self._alpha(low)
        return ((1 - below) / (1 - above) * (1 - above / below)).sqrt()

    def _alpha(self, level: int) -> Tensor:
        """abar at a level; at timestep 0 below it, and at the last timestep above that."""
        return self.process.alphas_cumprod[min(max(level, 0), len(self.process.alphas_cumprod) - 1)]
