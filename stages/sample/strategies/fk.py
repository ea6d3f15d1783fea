"""FK steering (Singhal et al. 2025, arXiv 2501.06848): N particles per image, resampled on the way in proportion to
potentials of the reward of their predicted clean latents.

Read in the released code (zacharyhorvitz/Fk-Diffusion-Steering) too; `as_released` is where it departs from the paper.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import TYPE_CHECKING, Literal

from pydantic import Field

from stages.about import End, StrategyAbout
from stages.params import Settings as Section
from stages.sample.search import Particles, Steering
from stages.sample.settings import SampleSettings

if TYPE_CHECKING:
    from torch import Tensor

    from stages.sample.context import Context
    from stages.sample.search import Found

ABOUT = StrategyAbout(
    "FK steering",
    "Singhal et al. 2025, arXiv 2501.06848",
    letter="n",
    plain=End(1, "N = 1"),
    lines=((0, (5, 1, 1, 1, 1, 1)),),
    markers=("X",),
    caption="FK steering resamples N particles of each image by the reward of their predicted clean images.",
)


class AsReleased(Section):
    """What the released code does and the paper does not say; off."""

    drop_weights: bool = Field(
        default=False, description="weights after which nothing was resampled are dropped, not carried on"
    )
    last_potential: bool = Field(
        default=False, description="the last potential of max and add takes the remembered value, not the reward alone"
    )
    clamp: bool = Field(default=False, description="weights are cut at 1e10")
    eight_bit: bool = Field(default=False, description="rewards are of images rounded to 8 bits")


class Settings(Particles):
    """Particles, their potential and the steps after which they are resampled."""

    potential: Literal["max", "add", "diff", "rt"] = Field(
        default="max",
        description="of a particle with reward r and memory m: max and add exp(lambda c), c being max(r, m) or r + m "
        "and its new memory; diff exp(lambda (r - m)), and r becomes its memory; rt exp(lambda r)",
    )
    strength: float = Field(default=10.0, ge=0, description="lambda, which multiplies rewards")
    window: tuple[int, int] | None = Field(
        default=None, description="first and last step after which particles are weighed; null: 0 and T - 1"
    )
    every: int = Field(
        default=5, ge=1, description="steps between two weighings in the window; the last step has one too"
    )
    adaptive: bool = Field(default=True, description="resample only where the effective sample size is below N / 2")
    memory: float | None = Field(
        default=None, description="m before the first weighing; null: 0, and none at all for max"
    )
    result: Literal["best", "draw"] = Field(
        default="best", description="of the last particles: the one with the highest reward, or one drawn by weight"
    )
    as_released: AsReleased = Field(default_factory=AsReleased)

    def check(self, sample: SampleSettings) -> None:
        """The window lies on the grid."""
        super().check(sample)
        if self.window is not None and not 0 <= self.window[0] <= self.window[1] < sample.steps:
            raise ValueError(f"window {list(self.window)}: expected two steps from 0 to {sample.steps - 1}, in order")

    def events(self, indices: range) -> list[int]:
        """Those of the steps after which particles are weighed."""
        first, last = self.window or (indices[0], indices[-1])
        return sorted({i for i in range(first, last + 1, self.every) if i in indices} | {indices[-1]})

    def as_judged(self, images: Tensor) -> Tensor:
        """Images as they are, or rounded to 8 bits."""
        return (images * 255).round() / 255 if self.as_released.eight_bit else images

    def find(self, ctx: Context, value: float) -> Found:
        """One particle of each; with N = 1 plain sampling."""
        from stages.sample.particles import steer

        events = self.events(ctx.indices)
        return steer(ctx, self, int(value), events, FK(self, last=events[-1]), self.one_run)


@dataclass(frozen=True)
class Weighed:
    """One weighing of particles [B, N], in float64 but for `due` [B].

    `kept` are the values that a particle would remember, `potential` and `weights` logarithms, `size` [B] the effective
    sample size, and `due` says whose particles are resampled.
    """

    kept: Tensor
    potential: Tensor
    weights: Tensor
    size: Tensor
    due: Tensor


@dataclass
class FK(Steering):
    """FK steering of a group of images; `last` is the last step.

    In float64, [B, N]: `memory` and the logarithms of each particle's past potentials (`product`) and of its weight
    since it was last resampled (`carried`).
    """

    settings: Settings
    last: int
    memory: Tensor | None = None
    product: Tensor | None = None
    carried: Tensor | None = None

    def weigh(self, i: int, scores: Tensor) -> Weighed:
        """The weighing after step i, by rewards [B, N]."""
        import torch

        from stages.sample import particles

        s, rewards, (memory, product, carried) = self.settings, scores.double(), self._state(scores)
        kept = {"max": torch.maximum(rewards, memory), "add": rewards + memory}.get(s.potential, rewards)
        potential = s.strength * (rewards - memory if s.potential == "diff" else kept)
        if i == self.last and s.potential != "diff":  # so that the product of all potentials is exp(lambda r)
            potential = s.strength * (kept if s.as_released.last_potential else rewards) - product
        if s.as_released.clamp:
            potential = potential.clamp(max=math.log(1e10))
        weights = carried + potential
        size = particles.effective_size(weights)
        sparse = size < scores.shape[1] / 2
        due = sparse if s.adaptive or i == self.last else torch.ones_like(sparse)
        return Weighed(kept, potential, weights, size, due)

    def select(self, i: int, scores: Tensor, uniforms: Tensor) -> Tensor:
        """Ancestors, drawn in proportion to the weights where resampling is due."""
        import torch

        from stages.sample import particles

        found, product, drops = self.weigh(i, scores), self._state(scores)[1], self.settings.as_released.drop_weights
        due = found.due[:, None]
        ancestors = torch.where(due, particles.multinomial(found.weights, uniforms), particles.themselves(scores))
        self.memory = found.kept.gather(1, ancestors)
        self.product = torch.where(due | (not drops), product + found.potential, product).gather(1, ancestors)
        dropped = drops and i != self.last
        self.carried = torch.zeros_like(found.weights) if dropped else torch.where(due, 0.0, found.weights)
        return ancestors

    def _state(self, scores: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """Memory, product and carried weights before the weighing."""
        import torch

        s, nothing = self.settings, torch.zeros_like(scores, dtype=torch.float64)
        first = s.memory if s.memory is not None else -math.inf if s.potential == "max" else 0.0
        memory = torch.full_like(nothing, first) if self.memory is None else self.memory
        product = nothing if self.product is None else self.product
        return memory, product, nothing if self.carried is None else self.carried

    def result(self, scores: Tensor, uniforms: Tensor) -> Tensor:
        """The best particle, or one drawn by its weight."""
        from stages.sample import particles

        if self.settings.result == "best" or self.carried is None:
            return particles.best(scores)
        return particles.multinomial(self.carried, uniforms)[:, 0]
