"""Strategies that make the steps of the network that is sampled, or of a mixing strategy, one by one."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any

from pydantic import Field

from stages.sample.mixing import Predicting
from stages.sample.settings import Prefix, SampleSettings, StrategySettings, Target

if TYPE_CHECKING:
    from torch import Tensor

    from stages.models.diffusion import Predict
    from stages.models.process import Gaussian
    from stages.models.sampler import Enter
    from stages.sample.context import Context


@dataclass(frozen=True)
class Predicted:
    """Latents that enter index i and the prediction made of them, both [B, C, h, w].

    A search keeps it where it needs the prediction again: to judge a candidate and, if it stays, to go on from it.
    """

    i: int
    x: Tensor
    prediction: Tensor

    def take(self, rows: Tensor | list[int]) -> Predicted:
        """The chosen rows, each as often as it is named."""
        return Predicted(self.i, self.x[rows], self.prediction[rows])


@dataclass(frozen=True)
class Steps:
    """The plain sampling of every row of a context, step by step.

    The last step leads to clean latents, or with `noisy_end` to latents at timestep 0 with noise.
    """

    ctx: Context
    predict: Predict
    enter: Enter | None
    noisy_end: bool = False

    def at(self, x: Tensor, i: int) -> Predicted:
        """The prediction for latents entering index i."""
        part = self.ctx.part
        if part is not None and part.prediction is not None and i == part.indices[0]:
            return Predicted(i, x, part.prediction)
        x = x if self.enter is None else self.enter(x, i)
        return Predicted(i, x, self.predict(x, i))

    def last(self) -> Predicted:
        """The prediction at the last of the search's steps, after plain steps up to there."""
        predicted = self.at(self.ctx.initial(), self.ctx.indices[0])
        for i in self.ctx.indices[1:]:
            predicted = self.at(self.after(predicted), i)
        return predicted

    def x0(self, predicted: Predicted) -> Tensor:
        """The predicted clean latents."""
        return self.ctx.grid.x0(predicted.x, predicted.prediction, predicted.i)

    def after(self, predicted: Predicted) -> Tensor:
        """Latents entering the next index, by the draws of the context's rows."""
        if predicted.i < len(self.ctx.grid) - 1:
            return self.ctx.step(predicted.x, predicted.prediction, predicted.i)
        law = self.law(predicted)
        return self.x0(predicted) if law is None else law.sample(self.ctx.noise_at(predicted.i).step(predicted.i))

    def law(self, predicted: Predicted) -> Gaussian | None:
        """What latents entering the next index are drawn from; None after the last one, where it leads to clean
        latents.
        """
        if predicted.i < len(self.ctx.grid) - 1:
            return self.ctx.grid.ancestral(predicted.x, predicted.prediction, predicted.i)
        return self.ctx.grid.transition(predicted.x, predicted.prediction, predicted.i) if self.noisy_end else None

    def __call__(self, x: Tensor, i: int) -> tuple[Tensor, Tensor]:
        """Latents entering index i + 1 and the predicted clean latents that the step was made from, both
        [B, C, h, w], from latents entering index i.
        """
        predicted = self.at(x, i)
        return self.after(predicted), self.x0(predicted)

    def finish(self, noise: Tensor | None = None) -> Tensor:
        """Clean latents from pure noise, all steps; `noise` [B, C, h, w] in place of the context's own x_T."""
        return self.ctx.finish(self.predict, self.enter, None if noise is None else (0, noise))

    def finish_from(self, i: int, x: Tensor) -> Tensor:
        """Clean latents from latents x [B, C, h, w] entering index i."""
        return self.ctx.finish(self.predict, self.enter, (i, x))

    def begin(self, stop: int) -> Tensor:
        """Latents [B, C, h, w] entering index `stop`, from pure noise."""
        from stages.models.sampler import denoise

        ctx = self.ctx
        return denoise(ctx.grid, self.predict, ctx.noise.initial(), 0, stop, ctx.noise, ctx.sampler, enter=self.enter)


class Stepping(StrategySettings):
    """A strategy that makes the steps of the network that is sampled, or of a mixing strategy, and does more with them.

    Each image of a prompt is an independent run of it, so the diversity of a prompt's images is that of the method and
    not that of the candidates of one run.
    """

    apply_to: tuple[Target, ...] = Field(default=("base",), min_length=1, description="base, tuned, or both")
    guidance: float = Field(default=1.0, ge=0, description="guidance of the network that is sampled")
    prediction: dict[str, Any] | None = Field(
        default=None,
        description="a mixing strategy with one setting, say {kind: combined, k: [10]}, that the steps of candidates "
        "are made by; null: by the run's own network",
    )

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

    def base_steps(self) -> Prefix | None:
        """The first steps, where they are the base's own in `prediction`."""
        mixing = self._mixing()
        return mixing.shared_prefix(mixing.points()[0].value) if mixing else None

    def at_time(self, ctx: Context, time: Tensor, i: int) -> Callable[[Tensor], Tensor]:
        """The prediction for latents of the rows of `ctx` at a timestep that lies at or behind index i and before the
        next one.
        """
        predict = self.steps(replace(ctx, networks=ctx.networks.at(time))).predict
        return lambda x: predict(x, i)

    def _mixing(self) -> Predicting | None:
        """The mixing strategy of `prediction`; raises InputError for one that is wrong in itself, ValueError for
        another kind of strategy.
        """
        from stages.sample.resolve import parsed

        if self.prediction is None:
            return None
        found = parsed(self.prediction, "prediction")
        if not isinstance(found, Predicting):
            raise ValueError(f"prediction of kind {found.kind}: expected a strategy that mixes predictions")
        return found


def require_random(sample: SampleSettings, what: str) -> None:
    """Raise ValueError where the sampler's steps are not random, so that `what` would not diverge."""
    if sample.sampler != "ddpm":
        raise ValueError(f"{what} stay alike with sample.sampler {sample.sampler}, expected ddpm")
