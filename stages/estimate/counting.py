"""Network evaluations that the sampling of a study takes, counted by its strategies on networks that cost nothing."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from stages.models.conditioning import Conditioning
from stages.models.diffusion import Denoiser
from stages.models.noise import KeyedNoise
from stages.models.process import DiffusionProcess, Grid
from stages.models.sampler import finish
from stages.sample.networks import Networks
from stages.sample.resolve import Plan, Strategy


class Free(nn.Module):
    """A network that costs nothing and predicts nought."""

    def forward(self, x: Tensor, t: Tensor, encoder_hidden_states: Tensor, return_dict: bool) -> tuple[Tensor]:
        """Zeros."""
        return (torch.zeros_like(x),)


def of_base(plan: Plan) -> int:
    """Evaluations an image of the base's job: at every guidance scale, and on to the last switch step of the others."""
    sample, switches = plan.sample, plan.switches()
    shown = sum(sample.steps * _twice(scale) for scale in sample.guidance)
    return shown + sum(max(ks) * _twice(scale) for scale, ks in switches.items() if scale not in sample.guidance)


def of_run(plan: Plan, process: DiffusionProcess) -> dict[str, int]:
    """Evaluations an image of the job of a run by strategy, over all its settings; steps that the base's job has made
    are not among them.
    """
    grid = process.grid(plan.sample.steps)
    return {
        strategy.name: sum(_evaluations(strategy, value, grid) for _, value in strategy.settings.points())
        for strategy in plan.strategies
    }


def _evaluations(strategy: Strategy, value: float, grid: Grid) -> int:
    module, settings, device = strategy.module, strategy.settings, grid.process.device
    base, tuned = Denoiser(Free(), grid.process), Denoiser(Free(), grid.process)
    nothing = Conditioning(torch.zeros(1, 1, 1, device=device))
    networks = Networks(grid, nothing, nothing, base, tuned)
    noise = KeyedNoise(0, [("counted",)], (1, 1, 1), device)
    enter = module.renoise(networks, settings, value, noise) if hasattr(module, "renoise") else None
    start = settings.shared_steps(value) or 0
    finish(grid, module.predict(networks, settings, value), noise.initial(), start, noise, enter=enter)
    return base.evaluations + tuned.evaluations


def _twice(guidance: float) -> int:
    """Evaluations of a guided step."""
    return 1 if guidance == 1.0 else 2
