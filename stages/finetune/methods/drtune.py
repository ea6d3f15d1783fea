"""DRTune (Wu et al. 2024): the reward's gradient reaches steps all over a rollout, never through a network's input."""

from __future__ import annotations

from typing import TYPE_CHECKING

from pydantic import Field

from stages.about import MethodAbout
from stages.finetune.family import reward_gradient
from stages.finetune.settings import FinetuneSettings, check_window
from stages.finetune.window import Windowed

if TYPE_CHECKING:
    from collections.abc import Collection
    from random import Random

    from torch import Tensor

    from stages.finetune.batch import Batch
    from stages.finetune.families.reward_gradient import Step
    from stages.finetune.networks import Networks

ABOUT = MethodAbout("DRTune", "Wu et al. 2024, arXiv 2405.00760", family="reward gradient")


class Settings(Windowed):
    """DRTune's own keys, and the window of the index at which a rollout stops early."""

    k: int = Field(default=2, ge=1, description="number K of sampling steps that are trained, evenly spaced")

    def check(self, train: FinetuneSettings) -> None:
        """The window lies on the grid, and even the shortest rollout has K steps."""
        if self.auto:
            return
        check_window("middle", self.window, train.sampling_steps)
        if self.k > self.window[0] + 1:
            raise ValueError(f"k {self.k} is more than the {self.window[0] + 1} steps up to middle[0]")


def step(networks: Networks, batch: Batch, settings: Settings) -> Step:
    """One micro-batch: the index m at which the rollout stops, and K of the indices 0 .. m, are drawn for it."""
    m = batch.draw(settings.window)
    return step_with(networks, batch, trained(m + 1, settings.k, batch.rng), m)


def trained(count: int, k: int, rng: Random) -> range:
    """`k` (at most `count`) of the indices 0 .. count - 1, count // k apart, from a first one that is drawn evenly from
    those with which the last stays below `count`.
    """
    k = min(k, count)
    stride = count // k
    first = rng.randrange(count - (k - 1) * stride)
    return range(first, first + (k - 1) * stride + 1, stride)


def step_with(networks: Networks, batch: Batch, indices: Collection[int], m: int) -> Step:
    """Roll out to index m and judge the clean latents predicted there; the predictions at `indices` are trained.

    No prediction passes a gradient to the latents that it is made for. What carries it from step to step is the factor
    of the latents in the sampler's own step, so there is no product of the network's derivatives, which explodes over
    a long chain. Every index of `indices` is at most m.
    """
    import torch

    from stages.finetune import stop
    from stages.finetune.families.reward_gradient import StepOutput
    from stages.finetune.rollouts import Rollout
    from stages.models.sampler import step as sampled

    def predicted(x: Tensor, i: int) -> Tensor:
        with torch.set_grad_enabled(i in indices):
            return networks.prediction(batch, stop.gradient(x), i)

    first = min(indices)
    x = yield Rollout(batch.noise.initial(), 0, first)
    for i in range(first, m):
        x = sampled(networks.grid, x, predicted(x, i), i, batch.noise, networks.sampler)
    return StepOutput(networks.grid.x0(x, predicted(x, m), m), batch.prompts)


METHOD = reward_gradient(Settings, step)
