"""Strategies that hold several candidates of an image and ask a reward about them."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Literal

from pydantic import Field

from stages.sample.settings import Prefix, SampleSettings, SweepPoint
from stages.sample.stepping import Stepping, require_random

if TYPE_CHECKING:
    from torch import Tensor

    from stages.sample.context import Context
    from stages.sample.stepping import Steps


@dataclass(frozen=True)
class Found:
    """What a search found, a row per image: the latents x [B, C, h, w] that its last step led to, which are clean where
    that is the last of all, and images [B, 3, H, W] of the clean latents predicted there, where they were made.
    """

    x: Tensor
    images: Tensor | None = None


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


def numbered(letter: str, counts: Sequence[int]) -> list[SweepPoint]:
    """A point per count, `n=4` say."""
    return [SweepPoint(f"{letter}={count}", float(count)) for count in counts]


MOST = 2**16
"""Candidates that a search may have; the latents of all are held at once by most kinds."""


def require_counts(letter: str, counts: Sequence[int]) -> None:
    """Raise ValueError for a count below 1 or above `MOST`."""
    if min(counts) < 1:
        raise ValueError(f"{letter} {min(counts)} is below 1")
    if max(counts) > MOST:
        raise ValueError(f"{letter} {max(counts)} is above {MOST}")


class Search(Stepping):
    """A strategy that chooses among candidates by a reward."""

    reward: str = Field(description="the model of the study that candidates are judged by")
    part: Literal["all", "base", "tuned"] = Field(
        default="all",
        description="the steps that have candidates, with a prediction in which the base makes the first k steps: all, "
        "the base's, or the tuned network's; the other steps are plain",
    )

    @abstractmethod
    def find(self, ctx: Context, value: float) -> Found:
        """The best of the candidates of every row of `ctx`, all of whose steps are `ctx.indices`, from latents
        `ctx.initial()`; one row each. Called without gradient.
        """

    def sample(self, ctx: Context, value: float) -> Tensor:
        """The images of what is found, with the steps outside of the part."""
        from stages.sample.parts import found_in, shown

        prefix = self.base_steps() if self.part != "all" else None
        return shown(ctx, self.find(ctx, value)) if prefix is None else found_in(ctx, self, value, prefix.steps)

    def check(self, sample: SampleSettings) -> None:
        """The part is there."""
        from stages.sample.parts import require_part

        super().check(sample)
        require_part(self, self.base_steps(), sample)

    def shared_prefix(self, value: float) -> Prefix | None:
        """The base's own steps, where candidates begin after them."""
        return self.base_steps() if self.part == "tuned" else None

    def rewards(self) -> tuple[str, ...]:
        """The one reward."""
        return (self.reward,)

    def as_judged(self, images: Tensor) -> Tensor:
        """What the reward is shown of images [B, 3, H, W] in [0, 1]: the images themselves."""
        return images

    def score(self, ctx: Context, x0: Tensor) -> Tensor:
        """Rewards [B] float32 of clean latents [B, C, h, w]; no more images at a time than go through a model."""
        return ctx.score_latents(x0, self.reward, self.as_judged)

    def best_of(self, ctx: Context, x0: Tensor, count: int) -> tuple[Tensor, Tensor]:
        """Rewards [B, count] of the clean latents [B * count, C, h, w] of `count` candidates of each image, side by
        side, and the images [B, 3, H, W] of the best ones, the first of equals.

        Of the candidates only the best one's image so far is kept, besides those that go through a model.
        """
        return ctx.best_of_latents(x0, count, self.reward, self.as_judged)


class Particles(Search):
    """A search that holds N particles per image, which diverge again by the noise of their steps."""

    n: tuple[int, ...] = Field(min_length=1, description="numbers N of particles per image")
    end: Literal["clean", "noisy"] = Field(
        default="clean",
        description="what the last step leads to: clean latents, or latents at timestep 0 with noise, as with the "
        "DDIM scheduler of Stable Diffusion's releases (set_alpha_to_one: false)",
    )
    one_run: bool = Field(
        default=False,
        description="the images of a prompt are the particles of one search: related images, whose diversity is not "
        "that of independent ones",
    )

    def points(self) -> list[SweepPoint]:
        """One point per N."""
        return numbered("n", self.n)

    def check(self, sample: SampleSettings) -> None:
        """Copies of a particle diverge only where steps are random; one search has a particle for every image."""
        super().check(sample)
        require_counts("n", self.n)
        require_random(sample, "copies of a particle")
        if self.part == "base" and self.end == "noisy":
            raise ValueError("part base: its last step is not the last of all; expected end clean")
        if self.one_run and min(self.n) < sample.samples_per_prompt:
            raise ValueError(
                f"one_run: n {min(self.n)} is below sample.samples_per_prompt {sample.samples_per_prompt}; one search "
                "has to have a particle for every image of a prompt"
            )

    def steps(self, ctx: Context) -> Steps:
        """The steps of the rows of `ctx`, to the chosen end."""
        return replace(super().steps(ctx), noisy_end=self.end == "noisy")
