"""Which training timesteps a loss on real latents draws, and their weight in its squared errors."""

from __future__ import annotations

from dataclasses import dataclass
from itertools import accumulate
from random import Random

import torch
from torch import Tensor

from stages.errors import InputError
from stages.finetune.families.pair_settings import TimestepSettings
from stages.models.process import DiffusionProcess
from stages.models.process_noise import NoiseSchedule


@dataclass(frozen=True)
class Timesteps:
    """The law and the weight that the settings name, for one process.

    Weights are those of Hang et al. 2023 (arXiv 2303.09556, min-SNR, for predictions of the noise) and Yu et al. 2023
    (arXiv 2310.08442, debiased), the law `sigmoid` has the weight of Kingma and Gao 2023 (arXiv 2303.00848). Raises
    InputError where they ask for the signal-to-noise ratio of a process that has no noise schedule.
    """

    settings: TimestepSettings
    process: DiffusionProcess

    def __post_init__(self) -> None:
        if self.settings.law == "sigmoid" or self.settings.weight != "none":
            self._snr()

    def draw(self, rng: Random, count: int) -> Tensor:
        """`count` timesteps [count], drawn independently, as the network takes them."""
        if self.settings.law == "uniform":
            return self.process.random_timesteps(rng, count)
        every = self.process.training_timesteps()
        if self.settings.law == "window":
            low, high = (round(share * len(every)) for share in self.settings.window)
            chosen = [rng.randrange(low, max(high, low + 1)) for _ in range(count)]
        else:
            odds = torch.sigmoid(self.settings.bias - self._snr().double().log()).tolist()
            chosen = rng.choices(range(len(every)), cum_weights=list(accumulate(odds)), k=count)
        return every[torch.tensor(chosen, device=every.device)]

    def weight(self, t: Tensor) -> Tensor | None:
        """The weights [B] of squared errors at timesteps t [B]; None where all are 1."""
        if self.settings.weight == "none":
            return None
        snr = self._snr()[t]
        if self.settings.weight == "debiased":
            return snr.rsqrt()
        return snr.clamp(max=self.settings.gamma) / snr

    def _snr(self) -> Tensor:
        """abar / (1 - abar) of every timestep."""
        if not isinstance(self.process, NoiseSchedule):
            raise InputError(
                "timesteps: a law or weight by signal-to-noise ratio needs a noise schedule, but the base is a "
                "flow-matching model; expected law uniform or window, and weight none"
            )
        return self.process.alphas_cumprod / (1 - self.process.alphas_cumprod)
