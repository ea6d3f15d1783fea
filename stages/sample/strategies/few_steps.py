"""A distilled model in a few steps, without guidance: how consistency models, and runs of PSO, are sampled."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from typing import TYPE_CHECKING, Annotated, Literal

from pydantic import Field

from stages.about import StrategyAbout
from stages.sample.settings import StrategySettings, SweepPoint, Target, student

if TYPE_CHECKING:
    from torch import Tensor

    from stages.sample.context import Context

ABOUT = StrategyAbout(
    "few steps",
    letter="n",
    lines=((0, (1, 1, 4, 1)),),
    markers=("<",),
    caption="A network makes n steps without guidance; the base's points are those of a model distilled from it.",
)


class Settings(StrategySettings):
    """How many steps, and what stands between them.

    A run is sampled by its own network, which should have started as a distilled one; in place of the base, `model` is
    sampled.
    """

    apply_to: tuple[Target, ...] = Field(
        default=("base", "tuned"), min_length=1, description="base: `model`; tuned: every trained run's own network"
    )
    steps: tuple[Annotated[int, Field(ge=1)], ...] = Field(min_length=1, description="n, numbers of steps")
    rule: Literal["renoise", "ancestral"] = Field(
        default="renoise",
        description="the next state: the predicted clean latents noised anew, or the posterior of the noise schedule",
    )
    model: str = Field(default="student", description="entry of prepare.train.consistency, sampled for the base")

    def points(self) -> list[SweepPoint]:
        """One point per number of steps."""
        return [SweepPoint(f"n={count}", float(count)) for count in self.steps]

    def students(self, target: Target) -> Mapping[str, str]:
        """The distilled model, in place of the base; a run is sampled by its own network."""
        return {"model": self.model} if target == "base" else {}

    def grids(self) -> tuple[int, ...]:
        """One for each n."""
        return self.steps

    def sample(self, ctx: Context, value: float) -> Tensor:
        """n steps from pure noise; raises InputError for a flow-matching base."""
        import torch

        from stages.models.few_steps import grid, transition

        on = replace(ctx.networks, grid=(steps := grid(ctx.networks.base_network.process, int(value))))
        predict = on.own(1.0) if on.tuned_network is not None else on.other(student(self.model), 1.0)
        x = ctx.noise.initial()
        for i in range(len(steps)):
            places = torch.full((len(x),), i, device=x.device)
            found = transition(steps, self.rule, x, steps.x0(x, predict(x, i), i), places)
            x = found.mean if i + 1 == len(steps) else found.sample(ctx.noise.step(i))
        return ctx.decode(x)
