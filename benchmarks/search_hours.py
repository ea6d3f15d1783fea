"""What the searches of a study would take on Stable Diffusion 1.5, for docs/scale.md: from counts and operations.

Evaluations, decodes and queries are counted by the strategies themselves on networks that cost nothing.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from benchmarks.sections.markdown import table
from benchmarks.units import Unit, schedule
from stages.estimate.counting import cost_of
from stages.params import read_study
from stages.sample.meter import Cost
from stages.sample.resolve import Strategy, sampling_plan
from stages.sample.settings import Target

SEARCHES = Path("studies/sd15-search.yaml")


@dataclass(frozen=True)
class Searched:
    """One setting of one strategy: whose images, which setting, and what an image costs."""

    target: Target
    strategy: str
    setting: str
    cost: Cost
    gradient: bool

    def work(self, unit: Unit) -> float:
        """TFLOP of an image.

        Where a search takes the gradient with respect to latents, every query goes back through reward and decoder,
        and an evaluation's way back to the latents, without gradients of weights, is taken to cost as much as the way
        there.
        """
        network = (self.cost.nfe + self.cost.nfe_backward) * unit.forward
        if not self.gradient:
            return network + self.cost.decodes * unit.decode + self.cost.queries * unit.query
        return (
            network + self.cost.queries * unit.reward_gradient + (self.cost.decodes - self.cost.queries) * unit.decode
        )


def searched(study: Path) -> list[Searched]:
    """Every setting of every strategy of a study, of the base and of a run."""
    plan, process = sampling_plan(study), schedule()

    def of(strategy: Strategy, target: Target) -> Iterator[Searched]:
        gradient = strategy.settings.needs_gradient()
        for point in strategy.settings.points():
            yield Searched(
                target, strategy.name, point.label, cost_of(strategy, point.value, plan, process, target), gradient
            )

    targets: tuple[Target, ...] = ("base", "tuned")
    return [one for target in targets for strategy in plan.of(target) for one in of(strategy, target)]


def images_of(study: Path) -> int:
    """Images that a setting draws of each network: evaluation prompts times samples per prompt."""
    raw = read_study(study)
    return raw["curate"]["prompts"]["eval"]["limit"] * raw["sample"]["samples_per_prompt"]


def lines(study: Path, unit: Unit, speed: float) -> Iterator[str]:
    """The section of the page; `speed` in TFLOP/s."""
    found, images, runs = searched(study), images_of(study), len(read_study(study)["runs"])
    hours = {one: images * one.work(unit) / speed / 3600 for one in found}
    yield (
        f"`{study}` on {unit.name}, {images} images per setting. Evaluations, queries and\n"
        "decodes of an image are the most that there can be (no search stops early); best of N is the yardstick.\n"
    )
    yield from table(
        ("setting", "of", "evaluations", "with gradient", "queries", "decodes", "TFLOP", "hours, estimate"),
        [_row(one, one.work(unit), value) for one, value in hours.items()],
    )
    base, tuned = (sum(value for one, value in hours.items() if one.target == target) for target in ("base", "tuned"))
    dear = max(hours, key=lambda one: hours[one])
    yield (
        f"Sampling of the study: **{base + runs * tuned:,.0f} GPU-hours** by the estimate, {tuned:,.1f} of them for\n"
        f"each of the {runs} runs and the rest for the base. `{dear.strategy}` alone takes {hours[dear]:,.0f}: a\n"
        "search that decodes and judges candidates at every step pays more for the decoder than for the network.\n"
    )


def _row(one: Searched, work: float, hours: float) -> tuple[object, ...]:
    name = one.strategy if one.strategy == one.setting else f"{one.strategy} {one.setting}"
    nfe, backward, queries, decodes = (f"{number:,}" for number in one.cost)
    return name, one.target, nfe, backward, queries, decodes, f"{work:,.0f}", f"{hours:.2f}"
