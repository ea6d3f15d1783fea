"""LeapAlign (Liang et al. 2026): the reward's gradient through two leaps that stand for a whole rollout."""

from __future__ import annotations

from typing import TYPE_CHECKING

from pydantic import Field

from stages.about import MethodAbout
from stages.finetune.family import reward_gradient
from stages.finetune.settings import FinetuneSettings, MethodSettings, check_window

if TYPE_CHECKING:
    from torch import Tensor

    from stages.finetune.batch import Batch
    from stages.finetune.families.reward_gradient import Step
    from stages.finetune.networks import Networks

ABOUT = MethodAbout("LeapAlign", "Liang et al. 2026, arXiv 2604.15311", family="reward gradient")


class Settings(MethodSettings):
    """LeapAlign's own keys; the defaults are the paper's for HPSv2.1."""

    window: tuple[int, int] | None = Field(
        default=None, description="both leaps start at indices drawn from window[0] <= i < window[1]; null: all"
    )
    nested: float = Field(
        default=0.3, ge=0, le=1, description="share that is kept of the gradient through both leaps (the paper's alpha)"
    )
    floor: float | None = Field(
        default=0.1,
        gt=0,
        description="images weigh 1 / (sum of both leaps' errors, each at least this; the paper's tau); null: all 1",
    )

    def check(self, train: FinetuneSettings) -> None:
        """The window lies on the grid and has two indices."""
        low, high = self.starts(train.sampling_steps)
        check_window("window", (low, high), train.sampling_steps)
        if high - low < 2:
            raise ValueError(f"window [{low}, {high}] has one index, expected two of sampling_steps at least")

    def starts(self, steps: int) -> tuple[int, int]:
        """The window on a grid of `steps`."""
        return self.window or (0, steps)


def step(networks: Networks, batch: Batch, settings: Settings) -> Step:
    """One micro-batch: two different indices are drawn evenly from the window."""
    k, j = sorted(batch.rng.sample(range(*settings.starts(len(networks.grid))), 2))
    return step_with(networks, batch, k, j, settings.nested, settings.floor)


def step_with(networks: Networks, batch: Batch, k: int, j: int, nested: float, floor: float | None) -> Step:
    """Roll out to the end and judge the image that comes out; the gradient flows through the leaps from index k to
    index j > k, and from j to clean latents.

    A leap is one deterministic step over several of the sampler's. A connector, leap + (latents of the rollout - leap)
    with the bracket held constant, has the value of the rollout and the gradient of the leap (equations 4 to 7; 9 is
    `nested`, 12 the weights). With `sampler: ddpm` the noise of the rollout is part of the bracket.
    """
    import torch

    from stages.finetune import stop
    from stages.finetune.families.reward_gradient import StepOutput
    from stages.finetune.rollouts import Rollout

    grid, last = networks.grid, len(networks.grid) - 1
    x_k = yield Rollout(batch.noise.initial(), 0, k)
    prediction = networks.prediction(batch, x_k, k)
    leap = grid.ode(x_k, prediction, k, to=j)
    x_j = networks.rollout(batch, x_k, k, j, first=prediction.detach())
    connected = leap + stop.gradient(x_j - leap)
    prediction = networks.prediction(batch, nested * connected + (1 - nested) * stop.gradient(connected), j)
    clean = grid.x0(connected, prediction, j)
    end = clean
    if j < last:
        x = networks.rollout(batch, x_j, j, last, first=prediction.detach())
        with torch.no_grad():
            end = networks.x0(batch, x, last)
    weights = None if floor is None else stop.gradient(weight(leap - x_j, clean - end, floor))
    return StepOutput(clean + stop.gradient(end - clean), batch.prompts, weights=weights)


def weight(first: Tensor, second: Tensor, floor: float) -> Tensor:
    """1 / (max(d_j, floor) + max(d_0, floor)) [B], d the mean absolute errors of two leaps [B, C, h, w]."""
    d_j, d_0 = (error.abs().flatten(1).mean(1).clamp(min=floor) for error in (first, second))
    return 1 / (d_j + d_0)


METHOD = reward_gradient(Settings, step)
