"""EBAMA (Zhang et al. 2024, arXiv 2404.07389): latents move so that modifiers attend where their nouns do.

The energies are those of the released code (YasminZhang/EBAMA). The steps of the latents are ours, after
Attend-and-Excite (Chefer et al. 2023, arXiv 2301.13826), from which the release grew: sizes fall with the root of a
line from 1 to 1/2, over the first half of the steps.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import TYPE_CHECKING, Annotated, Literal

from pydantic import Field

from stages.about import End, StrategyAbout
from stages.sample.phrases import phrases_of
from stages.sample.settings import SampleSettings, SweepPoint
from stages.sample.stepping import Stepping

if TYPE_CHECKING:
    from torch import Tensor

    from stages.sample.context import Context

ABOUT = StrategyAbout(
    "EBAMA",
    "Zhang et al. 2024, arXiv 2404.07389",
    letter="a",
    plain=End(0, "a = 0"),
    lines=((0, (1, 1, 1, 3)),),
    markers=("d",),
    caption="EBAMA moves latents on the way so that the attention of each modifier lies where that of its noun does.",
)


class Settings(Stepping):
    """Sizes of steps, the energy, and the words that belong together."""

    a: tuple[Annotated[float, Field(ge=0)], ...] = Field(
        min_length=1, description="sizes of the first step of the latents, times the gradient; 0 is plain sampling"
    )
    until: float = Field(default=0.5, ge=0, le=1, description="share of the sampling steps before which latents move")
    distance: Literal["cosine", "kl", "variation"] = Field(
        default="cosine", description="between maps: 1 - cosine, the mean of both KL divergences, or half of L1"
    )
    intensity: float = Field(default=0.5, ge=0, description="lambda, the weight of the intensity of the nouns")
    phrases: dict[str, list[Annotated[list[Annotated[int, Field(ge=0)]], Field(min_length=1)]]] = Field(
        default_factory=dict,
        description="prompts parsed elsewhere: the numbers of the words of each phrase, from 0, the noun last; other "
        "prompts are parsed by a small rule",
    )

    def points(self) -> list[SweepPoint]:
        """One point per size."""
        return [SweepPoint(f"a={size:g}", float(size)) for size in self.a]

    def check(self, sample: SampleSettings) -> None:
        """Given phrases name words that their prompts have."""
        super().check(sample)
        for prompt, phrases in self.phrases.items():
            words = len(prompt.split())
            if beyond := [number for phrase in phrases for number in phrase if number >= words]:
                raise ValueError(f"phrases: no word {beyond[0]} in {prompt[:60]!r}, which has {words}, counted from 0")

    def sample(self, ctx: Context, value: float) -> Tensor:
        """The images of moved latents; prompts without a phrase are sampled as they are."""
        from stages.sample.attention import attention_of, descending
        from stages.sample.attention_energy import energy

        steps, last = self.steps(ctx), len(ctx.grid)
        if value == 0:
            return ctx.decode(steps.finish())
        fall = [math.sqrt(1 - i / max(last - 1, 1) / 2) for i in range(math.ceil(self.until * last))]

        found = {prompt: self.parsed(prompt, attention_of(ctx).words(prompt)) for prompt in ctx.prompts}
        rows = [row for row, prompt in enumerate(ctx.prompts) if found[prompt]]

        def of_prompt(prompt: str, maps: Tensor) -> Tensor:
            seen = [phrase for phrase in found[prompt] if max(phrase) < maps.shape[-1]]
            return energy(maps, seen, self.distance, self.intensity) + 0 * maps.sum()

        enter = descending(ctx, of_prompt, [value * share for share in fall], rows, steps.enter)
        return ctx.decode(ctx.finish(steps.predict, enter))

    def parsed(self, prompt: str, words: Sequence[str]) -> list[list[int]]:
        """The phrases of a prompt: as they are given (none, where that is empty), or by rule."""
        given = self.phrases.get(prompt)
        return phrases_of(words) if given is None else given
