"""FMTT: particles steered by the flow map of a Gaussian, which has a closed form, with a paraboloid as the reward."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from stages.models.conditioning import Conditioning
from stages.models.diffusion import Denoiser
from stages.models.process import Gaussian
from stages.models.process_flow import FlowGrid, FlowMatching
from stages.parity.checks import Check, compare
from stages.parity.sampling.world import DOUBLE, SamplingSet, Stored
from stages.sample.context import Context
from stages.sample.flow_maps import Mapped, mapped
from stages.sample.meter import Meter
from stages.sample.networks import Networks, Rows
from stages.sample.particles import Populations
from stages.sample.stepping import Predicted
from stages.sample.strategies import fmtt
from stages.sample.texts import Texts


@torch.no_grad()
def checks(reference: SamplingSet) -> Iterator[Check]:
    """States, drifts, ends of the flow and weights of every step, and the mean of the tilted law."""
    for tag in reference.tags("fmtt"):
        given = reference.params("fmtt", tag)
        inputs = {name: reference.inputs[f"fmtt.{name}"] for name in ("mean", "direction", "start", "noise")}
        flow = Flow(inputs["mean"], given["deviation"], inputs["direction"], given["kappa"])
        yield from _steps(reference, flow, inputs["start"], inputs["noise"])
        yield from reference.compared("fmtt", {"tilted_mean": flow.tilted_mean}, {"tilted_mean": DOUBLE})
        expected = reference.expected.value("items", "fmtt", tag, "tilted_variance")
        yield compare(f"items.fmtt.{tag}.tilted_variance", flow.tilted_variance, expected, DOUBLE)


def _steps(reference: SamplingSet, flow: Flow, start: Tensor, noise: Tensor) -> Iterator[Check]:
    steps, count = noise.shape[:2]
    stored = Stored(start[..., None, None], noise[..., None, None])
    told: list[Mapped] = []
    search = _Exact(kind="fmtt", reward="reward", n=(count,), strength=1.0, threshold=0.0, end="noisy", flow=flow)
    ctx = flow.context(stored, steps)
    mapped(Populations.of(ctx, count), search, told.append)
    entering = torch.stack([start, *(each.after[..., 0, 0] for each in told[:-1])])
    states = torch.stack([each.after[..., 0, 0] for each in told])
    times = (1 - ctx.grid.timesteps).view(-1, 1, 1)
    moved = states - entering - (2 * (1 - times) / steps).sqrt() * noise
    found = {
        "states": states,
        "drift": moved * steps,
        "lookahead": torch.stack([each.ends[..., 0, 0] for each in told]),
        "log_weights": torch.stack([each.weights[0] for each in told]),
    }
    yield from reference.compared("fmtt", found, dict.fromkeys(found, DOUBLE))


@dataclass(frozen=True)
class Flow:
    """x_t = (1 - t) z + t y of standard normal z and y with a mean [D] and one deviation; r(x) = d x - kappa |x|^2 / 2.

    Everything that a network would have to learn is known.
    """

    mean: Tensor
    deviation: float
    direction: Tensor
    kappa: float

    @property
    def tilted_variance(self) -> float:
        """The variance of the law times exp(r)."""
        return 1 / (1 / self.deviation**2 + self.kappa)

    @property
    def tilted_mean(self) -> Tensor:
        """The mean [D] of the law times exp(r)."""
        return self.tilted_variance * (self.mean / self.deviation**2 + self.direction)

    def spread(self, time: float) -> float:
        """The deviation of x_t."""
        return ((1 - time) ** 2 + (time * self.deviation) ** 2) ** 0.5

    def velocity(self, x: Tensor, time: float) -> Tensor:
        """E[z - y | x_t], what a network predicts, for x [B, D]."""
        rise = time * self.deviation**2 - (1 - time)
        return -(self.mean + rise / self.spread(time) ** 2 * (x - time * self.mean))

    def end(self, x: Tensor, time: float) -> Tensor:
        """Where the flow leads from x [B, D]."""
        return self.mean + self.deviation / self.spread(time) * (x - time * self.mean)

    def context(self, noise: Stored, steps: int) -> Context:
        """One image, sampled in `steps` equal steps."""
        levels = 1 - torch.arange(steps, dtype=torch.float64) / steps
        process = FlowMatching(1.0, 1, levels.device)
        following = torch.cat([levels[1:], levels.new_zeros(1)])
        grid = _Euler(process, levels, levels, following, torch.ones_like(levels))
        nothing = Conditioning(torch.zeros(1, 1, 1))
        networks = Networks(grid, Texts.of(nothing), nothing, _Known(self, process), None, Rows([0], Meter(1)))
        return Context(networks, noise, [""], [0], "ddpm", lambda x: x, {"reward": _Paraboloid(self)})


class _Exact(fmtt.Settings):
    """The strategy with the flow map itself in place of a few predictions."""

    flow: Any

    def end_of(self, ctx: Context, predicted: Predicted) -> Tensor:
        end = self.flow.end(predicted.x.flatten(1), 1 - float(ctx.grid.timesteps[predicted.i]))
        return end.view_as(predicted.x)


@dataclass(frozen=True)
class _Euler(FlowGrid):
    """Steps of the oracle: Euler's, with diffusion 1 - t, to the end."""

    def transition(self, x: Tensor, prediction: Tensor, i: int | Tensor, eta: float = 1.0) -> Gaussian:
        time, step = 1 - self.timesteps[i], 1 / len(self)
        noise = x + time * prediction
        score = -noise / (1 - time)
        drift = -prediction + (1 - time) * score
        return Gaussian(x + drift * step, (2 * (1 - time) * step).sqrt())

    def ancestral(self, x: Tensor, prediction: Tensor, i: int) -> Gaussian:
        return self.transition(x, prediction, i)


class _Known(Denoiser):
    """The exact velocity in place of a network."""

    def __init__(self, flow: Flow, process: FlowMatching) -> None:
        super().__init__(torch.nn.Identity(), process)
        self.flow = flow

    def prediction(
        self, x: Tensor, t: Tensor, text: Conditioning | Tensor, empty: Conditioning | Tensor | None = None,
        scale: float = 1.0,
    ) -> Tensor:  # fmt: skip
        """E[n - x_0 | x] for latents [B, D, 1, 1]."""
        self.evaluations += len(x)
        return self.flow.velocity(x.flatten(1), 1 - float(t)).view_as(x)


@dataclass
class _Paraboloid:
    """The reward of the oracle."""

    flow: Flow
    name: str = "reward"
    differentiable: bool = True

    def __call__(self, images: Tensor, prompts: Sequence[str]) -> Tensor:
        x = images.flatten(1)
        return x @ self.flow.direction - self.flow.kappa / 2 * x.square().sum(1)
