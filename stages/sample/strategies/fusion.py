"""Fusion sampling (ProFusion, Zhou et al. 2023, arXiv 2305.13579) as ImageReFL's code has it (profusion_inference.py):
the base for the first k of T steps, then every step of the tuned network begins with part of the noise redrawn.

No configuration of the released code names it, and whether the paper reports it is not known. The one that did,
deleted before the release, samples with DDIM. There the last step is an ordinary one of the sampler; here it predicts
the clean latents, as everywhere.
"""

from __future__ import annotations

import math
from typing import TYPE_CHECKING

from pydantic import Field

from stages.about import End, StrategyAbout
from stages.sample.settings import Prefix, SampleSettings
from stages.sample.switching import Switching

if TYPE_CHECKING:
    from torch import Tensor

    from stages.models.diffusion import Predict
    from stages.models.noise import Noise
    from stages.models.process_noise import NoiseGrid
    from stages.models.sampler import Enter
    from stages.sample.networks import Networks

ABOUT = StrategyAbout(
    "fusion",
    "Zhou et al. 2023 (ProFusion), arXiv 2305.13579",
    letter="k",
    base=End(math.inf, "k = T"),
    lines=((0, (7, 2, 1, 2)),),
    markers=("v", ">"),
    caption="Fusion is combined generation with part of the noise redrawn before every step of the tuned network.",
)


class Settings(Switching):
    """The switch steps, and how much of the base's guidance direction is added after them."""

    base_direction: float = Field(
        default=0.0,
        ge=0,
        description="weight of eps(prompt) - eps(no prompt) of the base, added to the tuned network's prediction",
    )

    def shared_prefix(self, value: float) -> Prefix | None:
        """The base's own k steps, where there are any."""
        return Prefix(self.base_guidance, int(value)) if value else None

    def check(self, sample: SampleSettings) -> None:
        """Every k leaves the tuned network a step."""
        self.require(0, sample.steps - 1, f"(k={sample.steps} is the base)")

    def predict(self, networks: Networks, value: float) -> Predict:
        """The base's prediction before index k; from k on the tuned network's, and the base's direction where it has a
        weight: eps + g_0 (eps_0(prompt) - eps_0(no prompt)).
        """
        base, tuned = networks.base(self.base_guidance), networks.tuned(self.guidance)

        def at(x: Tensor, i: int) -> Tensor:
            if i < value:
                return base(x, i)
            found = tuned(x, i)
            return found + self.base_direction * networks.base_direction(x, i) if self.base_direction else found

        return at

    def renoise(self, networks: Networks, value: float, noise: Noise) -> Enter:
        """What latents become that enter an index from k on, before the step is made from them.

        Raises InputError for a flow-matching model, which has no cumulative products.
        """
        from stages.models.process_noise import require_noise_schedule

        tuned, grid = networks.tuned(self.guidance), require_noise_schedule(networks.grid, "strategy fusion")

        def entering(x: Tensor, i: int) -> Tensor:
            return x if i < value else fused(grid, x, tuned(x, i), i, noise.extra(f"fusion {i}"))

        return entering


def fused(grid: NoiseGrid, x: Tensor, eps: Tensor, i: int, noise: Tensor) -> Tensor:
    """Latents at index i with a part of their noise redrawn, at the same noise level; all [B, C, h, w].

    With a and a' the cumulative products at the timestep and the next one (timestep 0 after the last), and
    s^2 = (1 - a') / (1 - a) (1 - a / a') the variance of a step between them:

        x - eps s^2 sqrt(1 - a) / (1 - a') + s noise sqrt((1 - a) (2 - 2 a' - s^2)) / (1 - a')
    """
    alpha, following = grid.alpha[i], grid.alpha_end[i]
    variance = (1 - following) / (1 - alpha) * (1 - alpha / following)
    removed = variance * (1 - alpha).sqrt() / (1 - following)
    added = (variance * (1 - alpha) * (2 - 2 * following - variance)).clamp(min=0).sqrt() / (1 - following)
    return x - removed * eps + added * noise
