"""Strategies that hold several candidates of an image and ask a reward about them."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any, Literal

from pydantic import Field

from stages.sample.mixing import Predicting
from stages.sample.settings import Point, SampleSettings, StrategySettings, Target

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

    def take(self, rows: Tensor | Sequence[int]) -> Predicted:
        """The chosen rows, each as often as it is named."""
        return Predicted(self.i, self.x[rows], self.prediction[rows])  # type: ignore[index]


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
        x = x if self.enter is None else self.enter(x, i)
        return Predicted(i, x, self.predict(x, i))

    def x0(self, seen: Predicted) -> Tensor:
        """The predicted clean latents."""
        return self.ctx.grid.x0(seen.x, seen.prediction, seen.i)

    def after(self, seen: Predicted) -> Tensor:
        """Latents entering the next index, by the draws of the context's rows."""
        if seen.i < len(self.ctx.grid) - 1:
            return self.ctx.step(seen.x, seen.prediction, seen.i)
        law = self.law(seen)
        return self.x0(seen) if law is None else law.sample(self.ctx.noise.step(seen.i))

    def law(self, seen: Predicted) -> Gaussian | None:
        """What latents entering the next index are drawn from; None after the last one, where it leads to clean
        latents.
        """
        if seen.i < len(self.ctx.grid) - 1:
            return self.ctx.grid.ancestral(seen.x, seen.prediction, seen.i)
        return self.ctx.grid.transition(seen.x, seen.prediction, seen.i) if self.noisy_end else None

    def __call__(self, x: Tensor, i: int) -> tuple[Tensor, Tensor]:
        """Latents entering index i + 1 and the predicted clean latents that the step was made from, both
        [B, C, h, w], from latents entering index i.
        """
        seen = self.at(x, i)
        return self.after(seen), self.x0(seen)

    def finish(self, noise: Tensor | None = None) -> Tensor:
        """Clean latents from pure noise, all steps; `noise` [B, C, h, w] in place of the context's own x_T."""
        return self.ctx.finish(self.predict, self.enter, None if noise is None else (0, noise))


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


def numbered(letter: str, counts: Sequence[int]) -> list[Point]:
    """A point per count, `n=4` say."""
    return [Point(f"{letter}={count}", float(count)) for count in counts]


def require_counts(letter: str, counts: Sequence[int]) -> None:
    """Raise ValueError for a count below 1."""
    if min(counts) < 1:
        raise ValueError(f"{letter} {min(counts)} is below 1")


def require_random(sample: SampleSettings, what: str) -> None:
    """Raise ValueError where the sampler's steps are not random, so that `what` would not part."""
    if sample.sampler != "ddpm":
        raise ValueError(f"{what} stay alike with sample.sampler {sample.sampler}, expected ddpm")


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

    def at_time(self, ctx: Context, time: Tensor, i: int) -> Callable[[Tensor], Tensor]:
        """The prediction for latents of the rows of `ctx` at a timestep that lies at or behind index i and before the
        next one.
        """
        predict = self.steps(replace(ctx, networks=ctx.networks.at(time))).predict
        return lambda x: predict(x, i)

    def _mixing(self) -> Predicting | None:
        """The mixing strategy of `prediction`; raises InputError for one that is wrong in itself."""
        from stages.sample.resolve import parsed

        if self.prediction is None:
            return None
        found = parsed(self.prediction, "prediction")
        if not isinstance(found, Predicting):
            raise ValueError(f"prediction of kind {found.kind}: expected a strategy that mixes predictions")
        return found


class Search(Stepping):
    """A strategy that chooses among candidates by a reward."""

    reward: str = Field(description="the model of the study that candidates are judged by")

    def rewards(self) -> tuple[str, ...]:
        """The one reward."""
        return (self.reward,)

    def seen(self, images: Tensor) -> Tensor:
        """What the reward is shown of images [B, 3, H, W] in [0, 1]: the images themselves."""
        return images

    def judge(self, ctx: Context, x0: Tensor) -> Tensor:
        """Rewards [B] float32 of clean latents [B, C, h, w]; no more images at a time than go through a model."""
        return ctx.judge(x0, self.reward, self.seen)


class Particles(Search):
    """A search that holds N particles per image, which part again by the noise of their steps."""

    n: tuple[int, ...] = Field(min_length=1, description="numbers N of particles per image")
    end: Literal["clean", "noisy"] = Field(
        default="clean",
        description="what the last step leads to: clean latents, or latents at timestep 0 with noise, as with the "
        "DDIM scheduler of Stable Diffusion's releases (set_alpha_to_one: false)",
    )
    one_run: bool = Field(
        default=False,
        description="show what diversity is not: the images of a prompt are particles of one search, relatives of "
        "each other",
    )

    def points(self) -> list[Point]:
        """One point per N."""
        return numbered("n", self.n)

    def check(self, sample: SampleSettings) -> None:
        """Copies of a particle part only where steps are random; one search has a particle for every image."""
        super().check(sample)
        require_counts("n", self.n)
        require_random(sample, "copies of a particle")
        if self.one_run and min(self.n) < sample.samples_per_prompt:
            raise ValueError(
                f"one_run: n {min(self.n)} is below sample.samples_per_prompt {sample.samples_per_prompt}; one search "
                "has to have a particle for every image of a prompt"
            )

    def steps(self, ctx: Context) -> Steps:
        """The steps of the rows of `ctx`, to the chosen end."""
        return replace(super().steps(ctx), noisy_end=self.end == "noisy")
