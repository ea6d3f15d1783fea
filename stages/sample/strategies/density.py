"""Density and prior guidance (Karczewski et al. 2025, arXiv 2502.05807): images that are more or less likely.

Read in the released code (rafalkarczewski/diffusion-density) too. The prediction of every deterministic step is scaled
so that the log density of the image has the quantile q among those of the model; prior guidance alone scales x_T.
"""

from __future__ import annotations

import math
from dataclasses import replace
from statistics import NormalDist
from typing import TYPE_CHECKING, Annotated

from pydantic import Field

from stages.about import StrategyAbout
from stages.sample.mixing import Predicting
from stages.sample.settings import SweepPoint, Target

if TYPE_CHECKING:
    from torch import Tensor

    from stages.models.diffusion import Predict
    from stages.sample.context import Context
    from stages.sample.networks import Networks

ABOUT = StrategyAbout(
    "density guidance",
    "Karczewski et al. 2025, arXiv 2502.05807",
    letter="q",
    lines=((0, (1, 2, 1, 4)),),
    markers=("x",),
    caption="Density guidance makes images whose log density has quantile q; little detail where q is high.",
)


class Settings(Predicting):
    """Quantiles, and the norm of x_T."""

    apply_to: tuple[Target, ...] = Field(default=("base",), min_length=1, description="base, tuned, or both")
    q: tuple[Annotated[float, Field(gt=0, lt=1)], ...] = Field(
        min_length=1, description="quantiles of the log density; 0.5 is the deterministic sampler itself"
    )
    guidance: float = Field(default=1.0, ge=0, description="guidance of the network that is sampled")
    norm: float | None = Field(
        default=1.0,
        gt=0,
        description="norm of x_T in units of its median; with q = 0.5 this is prior guidance; null: as it is drawn",
    )

    def points(self) -> list[SweepPoint]:
        """One point per quantile."""
        return [SweepPoint(f"q={q:g}", float(q)) for q in self.q]

    def predict(self, networks: Networks, value: float) -> Predict:
        """The guided prediction times one factor per image; raises InputError for a flow-matching model."""
        from stages.models.process_noise import require_noise_schedule

        require_noise_schedule(networks.grid, "strategy density")
        own = networks.own(self.guidance)

        def at(x: Tensor, i: int) -> Tensor:
            eps = own(x, i)
            return factor(eps, value) * eps

        return at

    def sample(self, ctx: Context, value: float) -> Tensor:
        """All steps, deterministic whatever `sample.sampler` is, from x_T of the chosen norm."""
        ctx, x = replace(ctx, sampler="ddim"), ctx.noise.initial()
        start = x if self.norm is None else scaled(x, self.norm * median_norm(x[0].numel()))
        return ctx.decode(ctx.finish(self.predict(ctx.networks, value), begin=(0, start)))


def factor(eps: Tensor, q: float) -> Tensor:
    """1 + sqrt(2 D) Phi^-1(q) / |eps|^2 of predicted noise [B, ...] with D numbers each, [B, 1, ...].

    It grows without bound where eps is small, and may be below 0 for small q and few numbers.
    """
    squares = eps.flatten(1).square().sum(1).view(-1, *[1] * (eps.ndim - 1))
    return 1 + math.sqrt(2 * eps[0].numel()) * NormalDist().inv_cdf(q) / squares


def scaled(x: Tensor, norm: float) -> Tensor:
    """x [B, ...] with a norm per row."""
    return x * (norm / x.flatten(1).norm(dim=1)).view(-1, *[1] * (x.ndim - 1))


def median_norm(count: int) -> float:
    """The median norm of `count` standard normal numbers."""
    from scipy.stats import chi

    return float(chi(count).median())
