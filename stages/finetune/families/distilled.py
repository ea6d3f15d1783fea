"""Pairs of rollouts of a distilled model in few steps (PSO): the better one becomes more likely, step by step.

The steps are those of `stages.models.few_steps`. The last one has no noise, no density, and is not learnt from.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import TypeVar

import torch
from torch import Tensor

from stages.finetune.batch import Batch
from stages.finetune.families.distilled_settings import DistilledSettings
from stages.finetune.families.step_preference import PairedRollouts, StepPairs
from stages.finetune.networks import Networks
from stages.finetune.objective import Loss, Run
from stages.finetune.trajectories.chain import Chain, Trajectory
from stages.models.conditioning import Conditioning
from stages.models.few_steps import Rule, grid, transition
from stages.models.policy import unchanged
from stages.models.process import Gaussian
from stages.models.process_noise import NoiseGrid

D = TypeVar("D", bound=DistilledSettings)


def few_steps(networks: Networks, steps: int) -> Networks:
    """The networks without guidance on a grid of `steps` timesteps that begins at the last one of the schedule, as
    distilled models are sampled. Raises InputError for a flow-matching base.
    """
    return replace(networks, grid=grid(networks.policy.process, steps), guidance=1.0)


@dataclass(frozen=True)
class FewSteps(Chain):
    """The steps of a distilled model."""

    rule: Rule = "renoise"

    def step(self, x: Tensor, prediction: Tensor, i: Tensor) -> Gaussian:
        """The Gaussian over states i + 1; of the last step its standard deviation is 0."""
        steps = self.networks.grid
        assert isinstance(steps, NoiseGrid)
        return transition(steps, self.rule, x, steps.x0(x, prediction, i), i)

    @torch.no_grad()
    def roll(self, batch: Batch, first: Tensor | None = None) -> Trajectory:
        """One rollout; the density of its last step, which has none, is given as 0."""
        x = batch.noise.initial() if first is None else first
        states, means, densities, stds = [x], [], [], []
        with unchanged(*self.networks.policy.eager):
            for i in range(len(self)):
                found = self.transition(self.networks.policy, x, self.index(i, len(x)), Conditioning.of(batch.text))
                last = i + 1 == len(self)
                x = found.mean if last else found.sample(batch.noise.step(i))
                states.append(x)
                means.append(found.mean)
                densities.append(x.new_zeros(len(x)) if last else found.log_prob(x))
                stds.append(found.std[0].flatten())
        return Trajectory(torch.stack(states), torch.stack(means), torch.cat(stds), torch.stack(densities),
                          Conditioning.of(batch.text), batch.prompts)  # fmt: skip


class DistilledPairs(PairedRollouts[D]):
    """Rows 2n and 2n + 1 are two rollouts for one prompt, each from noise of its own, as released."""

    def __init__(self, settings: D, run: Run, loss: Callable[[StepPairs, D], Loss]) -> None:
        networks = few_steps(run.networks, settings.few_steps)
        super().__init__(settings, replace(run, networks=networks), loss)
        self.chain = FewSteps(networks, settings.eta, settings.rule)

    def roll(self, batch: Batch) -> Trajectory:
        """A rollout from every starting noise."""
        return self.chain.roll(batch)

    def window(self, count: int, step: int) -> range:
        """All steps but the last."""
        return range(count - 1)
