"""Truncated diffusion fine-tuning (Self-NPO): a noised real image is denoised for some steps by a network that is told
to do worse, and the policy learns to predict from any noisier state what that network predicts at the end.

The worse prediction is extrapolated away from the prompt, p(c) + w (p(c) - p(no prompt)): with w = -1, as released, it
is the prediction without a prompt. No preferences and no reward are needed.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from random import Random
from typing import Any, Generic, TypeVar

import torch
from torch import Tensor

from stages.errors import InputError
from stages.finetune.batch import Batch, optimizer_step
from stages.finetune.families.pair_variants import TruncatedSettings
from stages.finetune.families.reference import Reference
from stages.finetune.objective import Loss, Objective, Run
from stages.models.conditioning import Conditioning
from stages.models.process import at
from stages.models.process_noise import NoiseSchedule

T = TypeVar("T", bound=TruncatedSettings)
Predict = Callable[[Tensor, Tensor], Tensor]
"""The noise [B, C, h, w] that is predicted for latents [B, C, h, w] at timesteps [B]."""


@dataclass(frozen=True)
class Ends:
    """Where truncated denoising ends: states `x` [B, C, h, w] at timesteps `t` [B], and the clean latents `target`
    [B, C, h, w] that are predicted there.
    """

    x: Tensor
    t: Tensor
    target: Tensor


class Truncated(Objective, Generic[T]):
    """The objective; `loss` is the mean loss of differences [B, C, h, w] of clean latents. Raises InputError for a
    flow-matching base.
    """

    def __init__(self, settings: T, run: Run, loss: Callable[[Tensor, T], Loss]) -> None:
        self.settings, self.run, self.loss = settings, run, loss
        self.reference = Reference(settings.reference, run.networks)
        process = run.networks.policy.process
        if not isinstance(process, NoiseSchedule):
            raise InputError("truncated denoising is that of a noise schedule, but the base is a flow-matching model")
        self.process = process

    def collect(self, batches: Sequence[Batch]) -> dict[str, float]:
        """The denoising network as it is in this step."""
        self.reference.advance(optimizer_step(batches))
        return {}

    def losses(self, batches: Sequence[Batch]) -> Iterator[Loss]:
        """The mean loss of the images of each micro-batch."""
        for place, batch in enumerate(batches):
            found = self.loss(self.difference(batch), self.settings)
            yield found.share(1.0, place)

    def difference(self, batch: Batch) -> Tensor:
        """Clean latents that the policy predicts at a noisier state, less those that the end of the denoising predicts.

        Starts and second timesteps are drawn for the rows of all processes alike.
        """
        text, settings, process = Conditioning.of(batch.text), self.settings, self.process
        count = len(text) * self.run.processes.count
        part = self.run.processes.part(count)
        every = torch.tensor([batch.rng.randrange(settings.levels) for _ in range(count)])
        index, t = every[part].to(text.device), start_times(process, settings.levels, every)
        last = len(process.alphas_cumprod) - 1
        ends = reached_times(process, settings, t)
        later = second_times(batch.rng, ends, last)[part].to(text.device)
        start = process.noised(batch.real(), batch.noise.extra("forward"), t[part].to(text.device))
        end = denoised(process, settings, self.worse(text), start, index)
        x = renoised(process, end, later, batch.noise.extra("again"))
        return process.x0(x, self.run.networks.policy.prediction(x, later, text), later) - end.target

    def worse(self, text: Conditioning) -> Predict:
        """The extrapolated prediction of the denoising network, without gradient."""
        weight, empty = self.settings.extrapolation, self.run.networks.empty.expand(len(text))

        def of(x: Tensor, t: Tensor) -> Tensor:
            plain = self.reference.prediction(x, t, empty)
            assert plain is not None
            if weight == -1:
                return plain
            wanted = self.reference.prediction(x, t, text)
            assert wanted is not None
            return extrapolated(wanted, plain, weight)

        return of

    def state_dict(self) -> dict[str, Any]:
        """The weights of the denoising network, where they change."""
        return self.reference.state_dict()

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Go on from what was saved."""
        self.reference.load_state_dict(state)


def extrapolated(wanted: Tensor, plain: Tensor, weight: float) -> Tensor:
    """p(c) + w (p(c) - p(no prompt))."""
    return wanted + weight * (wanted - plain)


def start_times(process: NoiseSchedule, levels: int, index: Tensor) -> Tensor:
    """Timesteps [B] of places on the grid of `levels`: r - 1, 2 r - 1, ..., the last one of the schedule at the end."""
    return (index + 1) * (len(process.alphas_cumprod) // levels) - 1


def reached_times(process: NoiseSchedule, settings: TruncatedSettings, t: Tensor) -> Tensor:
    """Timesteps [B] where the denoising from t [B] ends, at least 0."""
    return (t - settings.steps * (len(process.alphas_cumprod) // settings.levels)).clamp(min=0)


def second_times(rng: Random, ends: Tensor, last: int) -> Tensor:
    """Timesteps [B] drawn uniformly from those after `ends` [B] up to the `last`."""
    return torch.tensor([end + 1 + rng.randrange(last - end) for end in ends.tolist()])


@torch.no_grad()
def denoised(process: NoiseSchedule, settings: TruncatedSettings, predict: Predict, x: Tensor, index: Tensor) -> Ends:
    """`settings.steps` deterministic steps from x [B, C, h, w] at places `index` [B] of the grid; rows that have come
    to timestep 0 stay there. The prediction at the end is a further evaluation.
    """
    ratio, t = len(process.alphas_cumprod) // settings.levels, start_times(process, settings.levels, index)
    for _ in range(settings.steps):
        moving, to = t > 0, (t - ratio).clamp(min=0)
        after = process.ode(x, predict(x, t), t, to)
        x, t = torch.where(moving[:, None, None, None], after, x), to
    return Ends(x, t, process.x0(x, predict(x, t), t))


def renoised(process: NoiseSchedule, end: Ends, later: Tensor, noise: Tensor) -> Tensor:
    """The states at timesteps `later` [B], noisier than the ends, with the signal that these have."""
    alpha, to = (at(process.alphas_cumprod, t, end.x) for t in (end.t, later))
    more = (1 - to) / to - (1 - alpha) / alpha
    return to.sqrt() * (end.x / alpha.sqrt() + more.sqrt() * noise)
