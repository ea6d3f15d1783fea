"""IMG (Guo et al. 2025, ICCV): a critic names what is wrong with an image, and it is made again with another condition.

The release (SHI-Labs/IMG-Multimodal-Diffusion-Alignment) has a language model as critic, whose hidden states a trained
aligner turns into better image features, from the same noise. Here both are hooks (`stages/sample/criticism.py`), and
without an aligner the words that the critic names are emphasised, which is ours.
"""

from __future__ import annotations

from dataclasses import replace
from typing import TYPE_CHECKING

from pydantic import Field

from stages.about import End, StrategyAbout
from stages.sample.search import numbered
from stages.sample.settings import SampleSettings, SweepPoint
from stages.sample.stepping import Stepping

if TYPE_CHECKING:
    from torch import Tensor

    from stages.models.conditioning import Conditioning
    from stages.sample.context import Context

ABOUT = StrategyAbout(
    "IMG",
    "Guo et al. 2025",
    letter="n",
    plain=End(0, "n = 0"),
    lines=((0, (5, 1, 1, 2)),),
    markers=("P",),
    caption="IMG makes an image again, up to n times, with a condition changed by what a critic finds wrong with it.",
)


class Settings(Stepping):
    """How often, by which critic, and how the condition is changed."""

    n: tuple[int, ...] = Field(
        min_length=1, description="how often an image may be made again (1 in the release); 0 is plain sampling"
    )
    critic: str = Field(description="the model of the study that says which words of its prompt an image does not show")
    aligner: str | None = Field(
        default=None, description="the model of the study that changes the condition; null: these words are emphasised"
    )
    strength: float = Field(
        default=1.0,
        ge=0,
        description="by how much a word is emphasised each time that it is named: its tokens move away from those of "
        "the empty prompt by this share; without effect where there is an aligner",
    )

    def points(self) -> list[SweepPoint]:
        """One point per number of rounds."""
        return numbered("n", self.n)

    def check(self, sample: SampleSettings) -> None:
        """No number below 0."""
        super().check(sample)
        if min(self.n) < 0:
            raise ValueError(f"n {min(self.n)} is below 0")

    def rewards(self) -> tuple[str, ...]:
        """The critic and the aligner."""
        return (*self.critics(), *self.aligners())

    def critics(self) -> tuple[str, ...]:
        """The one critic."""
        return (self.critic,)

    def aligners(self) -> tuple[str, ...]:
        """The aligner, where there is one."""
        return (self.aligner,) if self.aligner else ()

    def sample(self, ctx: Context, value: float) -> Tensor:
        """The last images of all rows, from the same noise each time; those without a fault stay as they are."""
        from stages.models.conditioning import Conditioning
        from stages.sample.criticism import aligned, criticised, emphasised

        images, rows = ctx.decode(self.steps(ctx).finish()), list(range(len(ctx)))
        texts = [ctx.networks.text[[row]] for row in rows]
        named: list[list[int]] = [[] for _ in rows]
        for _ in range(int(value)):
            found = criticised(ctx.take(rows), images[rows], self.critic)
            faults = {row: words for row, words in zip(rows, found, strict=True) if words}
            if not faults:
                break
            rows = list(faults)
            for row, words in faults.items():
                named[row] += words
            part = told(ctx.take(rows), Conditioning.cat([texts[row] for row in rows]))
            if self.aligner:
                text = aligned(part, images[rows], list(faults.values()), self.aligner)
            else:
                text = emphasised(ctx.take(rows), [named[row] for row in rows], self.strength)
            for place, row in enumerate(rows):
                texts[row] = text[[place]]
            part = told(part, text)
            images[rows] = part.decode(self.steps(part).finish())
        return images


def told(ctx: Context, text: Conditioning) -> Context:
    """The same rows with another condition."""
    return replace(ctx, networks=ctx.networks.conditioned(text))
