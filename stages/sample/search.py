"""Strategies that hold several candidates of an image and ask a reward about them."""

from __future__ import annotations

from abc import ABC, abstractmethod
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from pydantic import Field

from stages.sample.mixing import Predicting
from stages.sample.settings import SampleSettings, StrategySettings, Target

if TYPE_CHECKING:
    from torch import Tensor

    from stages.models.diffusion import Predict
    from stages.models.sampler import Enter
    from stages.sample.context import Context


@dataclass(frozen=True)
class Steps:
    """The plain sampling of every row of a context, step by step."""

    ctx: Context
    predict: Predict
    enter: Enter | None

    def __call__(self, x: Tensor, i: int) -> tuple[Tensor, Tensor]:
        """Latents entering index i + 1 (clean latents after the last step) and the predicted clean latents that the
        step was made from, both [B, C, h, w], from latents entering index i.
        """
        x = x if self.enter is None else self.enter(x, i)
        prediction = self.predict(x, i)
        x0 = self.ctx.grid.x0(x, prediction, i)
        last = i == len(self.ctx.grid) - 1
        return (x0 if last else self.ctx.step(x, prediction, i)), x0

    def finish(self) -> Tensor:
        """Clean latents from pure noise, all steps."""
        return self.ctx.finish(self.predict, self.enter)


class Steering(ABC):
    """What a particle method decides (`stages/sample/particles.py` has the loop, and parts to decide with).

    One object per group of B images with N particles each, which may remember what it has seen. Latents of all
    particles are [B * N, C, h, w], the particles of an image next to one another.
    """

    def propose(self, steps: Steps, x: Tensor, i: int) -> tuple[Tensor, Tensor]:
        """Latents entering index i + 1 and the predicted clean latents that are judged; by default a plain step."""
        return steps(x, i)

    @abstractmethod
    def select(self, i: int, scores: Tensor, uniforms: Tensor) -> Tensor:
        """Ancestors [B, N] int64: the particle that each one goes on from after step i.

        `scores` [B, N] float32 are the rewards of the predicted clean latents, `uniforms` [B, N] float64 are in [0, 1).
        """

    @abstractmethod
    def result(self, scores: Tensor, uniforms: Tensor) -> Tensor:
        """The particle [B] int64 whose image is the result, from the rewards [B, N] of the last ones that went on;
        `uniforms` is [B, 1].
        """


class Search(StrategySettings):
    """A strategy that chooses among candidates by a reward.

    Each image of a prompt is an independent run of the search, so the diversity of a prompt's images is that of the
    method and not that of the candidates of one run.
    """

    apply_to: tuple[Target, ...] = Field(default=("base",), min_length=1, description="base, tuned, or both")
    reward: str = Field(description="the model of the study that candidates are judged by")
    guidance: float = Field(default=1.0, ge=0, description="guidance of the network that is sampled")
    prediction: dict[str, Any] | None = Field(
        default=None,
        description="a mixing strategy with one setting, say {kind: combined, k: [10]}, that the steps of candidates "
        "are made by; null: by the run's own network",
    )

    def rewards(self) -> tuple[str, ...]:
        """The one reward."""
        return (self.reward,)

    def networks(self) -> tuple[str, ...]:
        """Those of the mixing strategy."""
        mixing = self._mixing()
        return mixing.networks() if mixing else ()

    def check(self, sample: SampleSettings) -> None:
        """The mixing strategy has one setting and fits what is sampled."""
        mixing = self._mixing()
        if mixing is None:
            return
        mixing.check(sample)
        if mixing.auto:
            raise ValueError("prediction: expected a setting of its own, found auto")
        if len(mixing.points()) != 1:
            raise ValueError(f"prediction has {len(mixing.points())} settings, expected one")
        prefix = mixing.shared_prefix(mixing.points()[0].value)
        if prefix is not None and prefix.steps in (0, sample.steps):
            raise ValueError(f"prediction with {prefix.steps} steps of the base needs their shared latents")
        if alone := [target for target in self.apply_to if target not in mixing.suits]:
            raise ValueError(f"prediction of kind {mixing.kind} cannot be applied to {alone[0]}; set apply_to")
        if self.guidance != 1.0:
            raise ValueError("guidance and prediction: the prediction has guidance of its own, name it there")

    def steps(self, ctx: Context) -> Steps:
        """The steps of the rows of `ctx`."""
        mixing = self._mixing()
        if mixing is None:
            return Steps(ctx, ctx.networks.own(self.guidance), None)
        value = mixing.points()[0].value
        return Steps(ctx, mixing.predict(ctx.networks, value), mixing.renoise(ctx.networks, value, ctx.noise))

    def _mixing(self) -> Predicting | None:
        """The mixing strategy of `prediction`; raises InputError for one that is wrong in itself."""
        from stages.sample.resolve import parsed

        if self.prediction is None:
            return None
        found = parsed(self.prediction, "prediction")
        if not isinstance(found, Predicting):
            raise ValueError(f"prediction of kind {found.kind}: expected a strategy that mixes predictions")
        return found
