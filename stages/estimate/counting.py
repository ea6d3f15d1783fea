"""What the sampling of a study costs, counted by its strategies on models that cost nothing."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

from stages.models.conditioning import Conditioning
from stages.models.diffusion import Denoiser
from stages.models.noise import KeyedNoise
from stages.models.process import DiffusionProcess
from stages.models.stand_in import StandIn
from stages.sample.context import Context
from stages.sample.meter import Cost
from stages.sample.networks import Networks, Rows
from stages.sample.resolve import SamplingPlan, Strategy
from stages.sample.settings import Target, student
from stages.sample.texts import Texts


class LowReward:
    """A stub whose rewards are too low for any search to stop at: counts are the largest that there can be."""

    name, differentiable = "low", True

    def __call__(self, images: Tensor, prompts: Sequence[str]) -> Tensor:
        """-1e30."""
        return 0 * images.sum((1, 2, 3)) - 1e30

    def criticise(self, images: Tensor, prompts: Sequence[str]) -> list[list[int]]:
        """The first word."""
        return [[0]] * len(images)

    def align(
        self, text: Conditioning, images: Tensor, prompts: Sequence[str], faults: Sequence[Sequence[int]]
    ) -> Conditioning:
        """The condition as it is."""
        return text


class SomeWords:
    """A stub of attention: every prompt has words, which all look alike; it costs what the real one costs."""

    def words(self, prompt: str) -> list[str]:
        """Two modifiers with a noun each."""
        return ["red", "circle", "and", "blue", "square"]

    def places(self, prompt: str) -> list[list[int]]:
        """One token each."""
        return [[0]] * len(self.words(prompt))

    def maps(self, ctx: Context, x: Tensor, i: int) -> list[Tensor]:
        """Equal maps of 4 x 4, after an evaluation of the network that is sampled."""
        found = ctx.networks.own(1.0)(x, i)
        return [row.mean().sigmoid().expand(4, 4, 5) for row in found]


def of_base(plan: SamplingPlan, process: DiffusionProcess) -> Cost:
    """The cost of an image of the base's job: of all settings, and of passes that only keep latents."""
    shown = [each for strategy in plan.of("base") for each in _costs(strategy, plan, process, "base")]
    passes = {
        strategy.settings.base_pass(value) for strategy in plan.of("base") for _, value in strategy.settings.points()
    }
    hidden = [
        Cost(nfe=max(ks) * (1 if scale == 1.0 else 2)) for scale, ks in plan.switches().items() if scale not in passes
    ]
    return total([*shown, *hidden])


def of_run(plan: SamplingPlan, process: DiffusionProcess) -> dict[str, Cost]:
    """The cost of an image of the job of a run by strategy, over all its settings; steps that the base's job has made
    are not among them.
    """
    return {strategy.name: total(_costs(strategy, plan, process, "tuned")) for strategy in plan.of("tuned")}


def with_gradient(plan: SamplingPlan, process: DiffusionProcess, target: Target) -> Cost:
    """The part of an image's cost in a job that is spent by strategies which follow the gradient of a reward: their
    backward passes go through decodes and queries too.
    """
    following = [strategy for strategy in plan.of(target) if strategy.settings.needs_gradient()]
    return total([each for strategy in following for each in _costs(strategy, plan, process, target)])


def total(costs: Sequence[Cost]) -> Cost:
    """The sum of costs."""
    return Cost(*(sum(column) for column in zip(Cost(), *costs, strict=True)))


def _costs(strategy: Strategy, plan: SamplingPlan, process: DiffusionProcess, target: Target) -> list[Cost]:
    return [cost_of(strategy, value, plan, process, target) for _, value in strategy.settings.points()]


@torch.no_grad()
def cost_of(strategy: Strategy, value: float, plan: SamplingPlan, process: DiffusionProcess, target: Target) -> Cost:
    """The cost of one image at one point."""
    settings, grid, device = strategy.settings, process.grid(plan.sample.steps), process.device
    nothing = Conditioning(torch.zeros(1, 1, 1, device=device))

    def stub() -> Denoiser:
        return Denoiser(StandIn(), process)

    students = map(student, settings.students(target).values())
    names = (*settings.networks(), *students, *(merge.name for merge in settings.merges()))
    others = {name: stub() for name in names}
    tuned = None if target == "base" else stub()
    networks = Networks(grid, Texts.of(nothing), nothing, stub(), tuned, Rows.of(1), others)
    noise = KeyedNoise(0, [("counted",)], (1, 1, 1), device)
    prefix = settings.shared_prefix(value)
    start = None if prefix is None or target == "base" else (prefix.steps, noise.initial())
    rewards = {name: LowReward() for name in settings.rewards()}
    ctx = Context(
        networks, noise, [""], [0], plan.sample.sampler, lambda x0: x0, rewards, start, attention=SomeWords(),
        embed=lambda texts: nothing.expand(len(texts)),
    )  # fmt: skip
    settings.sample(ctx, value)
    return ctx.rows.meter.costs()[0]
