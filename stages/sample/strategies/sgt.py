"""SGT (Kang et al. 2023, arXiv 2312.15964): guidance that turns to the concepts of a prompt which it has left.

Read in the released code (korguy/Concept-Diffusion) too, whose formula and defaults these are. Concepts are the phrases
of a prompt, each embedded as a prompt of its own.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from typing import TYPE_CHECKING, Annotated

from pydantic import Field

from stages.about import End, StrategyAbout
from stages.sample.phrases import ENDS, phrases_of
from stages.sample.settings import SampleSettings, SweepPoint
from stages.sample.stepping import Stepping

if TYPE_CHECKING:
    from torch import Tensor

    from stages.models.conditioning import Conditioning
    from stages.models.diffusion import Predict
    from stages.sample.concepts import Watched
    from stages.sample.context import Context

ABOUT = StrategyAbout(
    "SGT",
    "Kang et al. 2023, arXiv 2312.15964",
    letter="c",
    plain=End(0, "c = 0"),
    lines=((0, (2, 2, 1, 3)),),
    markers=("h",),
    caption="SGT turns guidance to those concepts of the prompt that it has left, with weight c.",
)


class Settings(Stepping):
    """Weights, when and where concepts act, and which they are. `guidance` is that of the prompt."""

    c: tuple[Annotated[float, Field(ge=0)], ...] = Field(
        min_length=1, description="weights of concept guidance (5.5 in the release); 0 is guidance by the prompt alone"
    )
    window: tuple[Annotated[float, Field(ge=0, le=1)], Annotated[float, Field(ge=0, le=1)]] = Field(
        default=(0.2, 0.4), description="shares of the steps between which concepts act: steps i with a T < i < b T"
    )
    threshold: float = Field(
        default=0.5, ge=0, description="a concept acts if the cosine of its score and the prompt's was below this"
    )
    quantile: float = Field(
        default=0.5, ge=0, lt=1, description="share of the smallest numbers of a concept's score that is left out"
    )
    momentum: float = Field(default=0.7, ge=0, description="weight of the running mean of what a concept steers by")
    decay: float = Field(default=0.2, ge=0, lt=1, description="share of the running mean that a step keeps")
    concepts: dict[str, list[str]] = Field(
        default_factory=dict,
        description="prompts parsed elsewhere: the texts of the concepts of each, none for guidance by the prompt "
        "alone; other prompts are parsed by a small rule",
    )

    def points(self) -> list[SweepPoint]:
        """One point per weight."""
        return [SweepPoint(f"c={weight:g}", float(weight)) for weight in self.c]

    def check(self, sample: SampleSettings) -> None:
        """The window is in order."""
        super().check(sample)
        if self.window[0] > self.window[1]:
            raise ValueError(f"window {list(self.window)}: expected two shares of the steps, in order")

    def encodes(self) -> bool:
        """The concepts."""
        return True

    def concepts_of(self, prompt: str, words: Sequence[str]) -> list[str]:
        """The texts of a prompt's concepts: as they are given, or its phrases by rule."""
        given = self.concepts.get(prompt)
        if given is not None:
            return given
        return [" ".join(words[number] for number in phrase).strip(ENDS) for phrase in phrases_of(words)]

    def sample(self, ctx: Context, value: float) -> Tensor:
        """All steps by the steered prediction."""
        steps = self.steps(ctx)
        if value == 0:
            return ctx.decode(steps.finish())
        return ctx.decode(ctx.finish(self.steered(ctx, value), steps.enter))

    def steered(self, ctx: Context, weight: float) -> Predict:
        """p(no prompt) + g (p(prompt) - p(no prompt)) + c times what concepts steer by, of predictions p."""
        import torch

        from stages.sample.attention import attention_of
        from stages.sample.concepts import Rule, steered
        from stages.sample.context import embedded

        rule = Rule(self.quantile, self.threshold, self.momentum, self.decay)
        concepts = [self.concepts_of(prompt, attention_of(ctx).words(prompt)) for prompt in ctx.prompts]
        told, untold = self.told(ctx, ctx.networks.text), self.told(ctx, ctx.networks.empty.expand(len(ctx)))
        slots: list[tuple[list[int], Predict]] = []
        for slot in range(max(map(len, concepts), default=0)):
            rows = [row for row, texts in enumerate(concepts) if slot < len(texts)]
            part = ctx.take(rows)
            slots.append((rows, self.told(part, embedded(part, [concepts[row][slot] for row in rows]))))
        watched: list[Watched | None] = [None] * len(ctx)
        first, last = (share * len(ctx.grid) for share in self.window)

        def at(x: Tensor, i: int) -> Tensor:
            empty = untold(x, i)
            prompt = told(x, i) - empty
            scores: list[list[Tensor]] = [[] for _ in range(len(ctx))]
            for rows, predict in slots:
                for row, score in zip(rows, predict(x[rows], i) - empty[rows], strict=True):
                    scores[row].append(score)
            added = torch.zeros_like(prompt)
            for row, own in enumerate(scores):
                if own:
                    added[row], watched[row] = steered(
                        prompt[row], torch.stack(own), watched[row], rule, first < i < last
                    )
            return empty + self.guidance * prompt + weight * added

        return at

    def told(self, ctx: Context, text: Conditioning) -> Predict:
        """The prediction of the network that is sampled, or of the mixing strategy, for other texts; not guided."""
        plain = self.model_copy(update={"guidance": 1.0})
        return plain.steps(replace(ctx, networks=ctx.networks.conditioned(text))).predict
