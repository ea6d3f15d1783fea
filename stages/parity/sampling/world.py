"""A set of reference numbers of sampling-time methods: its inputs and expected values, with networks of another set."""

from __future__ import annotations

import copy
import re
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any

import torch
from torch import Tensor, nn

from stages.errors import InputError
from stages.models.diffusion import Denoiser
from stages.models.noise import Noise
from stages.models.process import Grid
from stages.models.process_noise import NoiseGrid
from stages.parity.checks import EXACT, Check, compare, same
from stages.parity.reference import Expected, Named, ParitySet
from stages.sample.context import Context
from stages.sample.meter import Meter
from stages.sample.networks import Networks, Rows
from stages.sample.resolve import strategy
from stages.sample.settings import SampleSettings, StrategySettings
from stages.sample.texts import Texts

# Relative to the largest expected magnitude of an array; the recommendations of the public set's README, section 6.
STATES = 1e-4  # latents, predictions, images, rewards
WEIGHTS = 3e-4  # exponentials of rewards
ROUNDED = 5e-3  # what follows from images rounded to 8 bits
SHIFTED = 2e-4  # what gradients of the reward have moved
GUIDED = 5e-5  # rollouts of density guidance
DOUBLE = 1e-9  # of what is computed in double precision
DIFFERENCES = 5e-4  # logarithms of weights: differences of sums over all numbers of the latents
COSTS = ("network_calls", "network_evaluations", "by_network", "reward_calls", "reward_images", "with_gradient")
ENDS = ("x_final", "final_reward")  # arrays without an axis of events
BEYOND = 0.8  # theta_npo = theta_base - BEYOND (theta_tuned - theta_base)


@dataclass(frozen=True)
class SamplingSet:
    """Networks, texts and reward of `base`, with the arrays of both sets as `inputs`."""

    base: ParitySet
    inputs: Mapping[str, Tensor]
    expected: Expected

    def tags(self, method: str) -> list[str]:
        """The items of a method; none where the set has none."""
        return list(self.expected.table("items", method)) if method in self.items else []

    @property
    def items(self) -> Mapping[str, Mapping[str, Mapping[str, Any]]]:
        """Parameters by method and tag."""
        return self.expected.scalars["items"]

    def params(self, method: str, tag: str, *results: str) -> dict[str, Any]:
        """The parameters of an item, without what it cost and without `results`."""
        own = self.expected.table("items", method, tag)
        given = [name for name in own if name not in COSTS and name not in results]
        values = {name: self.expected.value("items", method, tag, name) for name in given}
        return Named(values, f"expected.json: item {method}.{tag} has no {{!r}}")

    def network(self, name: str) -> nn.Module:
        """A network by the set's name for it."""
        if name == "npo":
            return extrapolated(self.base.base, self.base.tuned, -BEYOND)
        if name not in ("base", "tuned"):
            raise InputError(f"parity set: unknown network {name!r}, expected base, tuned or npo")
        return getattr(self.base, name)

    def grid(self, steps: int, spacing: str = "leading") -> NoiseGrid:
        """The sampler's grid."""
        return replace(self.base.schedule, spacing=spacing).grid(steps)  # type: ignore[arg-type]

    def context(
        self, own: str, prompts: Sequence[int], noise: Noise, grid: Grid, images: Sequence[int] | None = None,
        tuned: str | None = None,
    ) -> Context:  # fmt: skip
        """A row for each prompt, charged to the image of the same place or to those of `images`; `own` is sampled as
        the base, beside `tuned` where that is given.
        """
        text, empty = self.base.embeddings()
        charged = list(range(len(prompts))) if images is None else list(images)
        networks = Networks(
            grid, Texts.of(text[list(prompts)]), empty, Denoiser(self.network(own), grid.process),
            None if tuned is None else Denoiser(self.network(tuned), grid.process),
            Rows(charged, Meter(max(charged) + 1)),
        )  # fmt: skip
        names = [self.base.prompts[n] for n in prompts]
        rewards = {"reward": self.base.reward}
        return Context(networks, noise, names, [0] * len(names), "ddpm", self.base.vae.decode, rewards)

    def compared(
        self, name: str, found: Mapping[str, Any], tolerances: Mapping[str, float], events: int | None = None
    ) -> Iterator[Check]:
        """The arrays `name`.* of the set that were found, the first `events` of their first axis where that is given;
        those without a tolerance have to be equal. What was found but is not in the set is listed as not compared, but
        for series by step, of which a set has some steps.
        """
        for part, value in found.items():
            if f"{name}.{part}" not in self.expected.arrays:
                if re.search(r"_step\d+$", part):
                    continue
                self.expected.left[f"{name}.{part}"] = "the set has no such array"
            else:
                expected = self.expected.array(f"{name}.{part}")
                cut = expected if events is None or part in ENDS else expected[:events]
                yield compare(f"{name}.{part}", value, cut, tolerances.get(part, EXACT))

    def stated(self, method: str, tag: str, name: str, found: object) -> Iterator[Check]:
        """The scalar or list of that name in the JSON, where the item has one."""
        if name in self.items[method][tag]:
            yield same(f"items.{method}.{tag}.{name}", found, self.expected.value("items", method, tag, name))

    def costs(
        self, method: str, tag: str, ctx: Context, *counts: str, by: Mapping[str, Denoiser] | None = None
    ) -> Iterator[Check]:
        """What the released code pays too: network evaluations, with those `by` network, and images judged."""
        spent = ctx.rows.meter.counts
        ours = {"network_evaluations": spent["nfe"], "reward_images": spent["queries"]}
        ours |= {"with_gradient": spent["nfe_backward"], "nfe_cached": spent["nfe"]}
        for count in counts:
            name = f"items.{method}.{tag}.{count}"
            yield same(name, int(ours[count].sum()), self.expected.value("items", method, tag, count))
        for name, network in (by or {}).items():
            expected = self.expected.value("items", method, tag, "by_network", name)
            yield same(f"items.{method}.{tag}.by_network.{name}", network.evaluations, expected)


def settings(kind: str, steps: int, **values: object) -> StrategySettings:
    """A strategy of the product with its settings, on a grid of `steps`."""
    return strategy(kind, {"kind": kind, **values}, SampleSettings(steps=steps), "settings").settings


def extrapolated(base: nn.Module, tuned: nn.Module, weight: float) -> nn.Module:
    """A network with the parameters base + weight (tuned - base)."""
    made = copy.deepcopy(base)
    with torch.no_grad():
        for own, from_, to in zip(made.parameters(), base.parameters(), tuned.parameters(), strict=True):
            own.copy_(from_ + weight * (to - from_))
    return made


@dataclass(frozen=True)
class Stored:
    """Noise read from arrays, by the place of a candidate of an image: `start` [S, ...], `steps` [T, S, ...].

    `start_at` and `step_at` give the place for (image, candidate). `uniforms` are rows of numbers by name.
    """

    start: Tensor
    steps: Tensor
    uniforms: Mapping[str, Tensor] = field(default_factory=dict)
    start_at: Callable[[int, int], int] = lambda image, candidate: candidate
    step_at: Callable[[int, int], int] = lambda image, candidate: candidate
    images: Sequence[int] = (0,)
    candidates: Sequence[int] = (0,)

    def initial(self) -> Tensor:
        """x_T of the rows."""
        return self.start[self._places(self.start_at)]

    def step(self, i: int) -> Tensor:
        """The draws of index i."""
        return self.steps[i][self._places(self.step_at)]

    def extra(self, name: str) -> Tensor:
        """None is stored."""
        raise ValueError(f"no draw {name!r} is stored")

    def uniform(self, name: str, count: int) -> Tensor:
        """The first `count` numbers of that name, for every row; those of the strategy's result are not stored."""
        given = self.uniforms.get(name, torch.zeros(count, dtype=torch.float64))
        return given[:count].expand(len(self.images), count)

    def rows(self, rows: Sequence[int], candidates: Sequence[int]) -> Stored:
        """The chosen rows."""
        return replace(self, images=[self.images[row] for row in rows], candidates=list(candidates))

    def _places(self, at: Callable[[int, int], int]) -> list[int]:
        return [at(image, number) for image, number in zip(self.images, self.candidates, strict=True)]
