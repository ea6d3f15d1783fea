"""PSO: few-step rollouts of the base in place of a distilled model, and the loss of pairs of their steps.

The release for SDXL-Turbo works with latents in units of sigma, x / sqrt(abar): its log densities differ by log
sqrt(abar) of the next state, and it starts at sqrt(1 - abar) times the noise. It gives ties to the second image.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import cast

import torch
from torch import Tensor

from stages.finetune.families.distilled import DistilledPairs
from stages.finetune.methods import pso
from stages.finetune.trajectories.collection import Experience, States
from stages.models.diffusion import Denoiser
from stages.models.noise import GivenNoise
from stages.models.process_noise import NoiseGrid
from stages.parity.checks import EXACT, Check
from stages.parity.stepwise.d3po import column
from stages.parity.stepwise.given import VALUE, Given, Item, interleaved, objective, sides

RULES = {"turbo": "ancestral", "dmd2": "renoise"}


def checks(given: Given) -> Iterator[Check]:
    """The items."""
    for item in given.items("pso"):
        yield from _ranked(given, item)


def paired(given: Given, item: Item, policy: Denoiser) -> DistilledPairs:
    """The product's objective with the item's settings."""
    steps = len(item.setting("timesteps"))
    made = objective(
        pso, given.run(policy, steps, 1.0), beta=item.setting("beta"), clip=item.setting("eps"), few_steps=steps,
        rule=RULES[item.setting("kind")],
    )  # fmt: skip
    return cast(DistilledPairs, made)


def _ranked(given: Given, item: Item) -> Iterator[Check]:
    start, rewards = item.input("x_T"), item.input("rewards").squeeze(-1)
    count = start.shape[1]
    noise = interleaved(item.input("noise").expand(-1, -1, count, -1, -1, -1), dim=1)
    sampler = paired(given, item, given.base)
    grid = sampler.run.networks.grid
    assert isinstance(grid, NoiseGrid)
    turbo = item.setting("kind") == "turbo"
    first = interleaved(start) * ((1 - grid.alpha[0]).sqrt() if turbo else 1.0)
    batch = given.batch([row for row in range(count) for _ in range(2)], GivenNoise(first, noise, {}))
    made = sampler.roll(batch)
    units = grid.alpha_prev.log() / 2 if turbo else torch.zeros(len(grid))
    yield item.check("timesteps", grid.timesteps, EXACT)
    if turbo:
        sigmas = ((1 - grid.alpha) / grid.alpha).sqrt()
        yield item.check("sigmas", torch.cat([sigmas, sigmas.new_zeros(1)]), VALUE)
    density = (made.log_density + units[:, None])[:-1]
    yield item.check("log_probs_sampling", density.T.reshape(count, 2, -1), VALUE)
    yield item.check("x0", made.last.reshape(count, 2, *made.last.shape[1:]), VALUE)
    signs = sampler.advantages(made.last, rewards.flatten(), batch.prompts)[0].reshape(count, 2)
    if turbo:
        signs = torch.where(signs == 0, torch.tensor([-1.0, 1.0]), signs)
    yield item.check("preference", signs, EXACT)
    yield from _losses(given, item, Experience(made, rewards.flatten(), signs.flatten()), units)


def _losses(given: Given, item: Item, held: Experience, units: Tensor) -> Iterator[Check]:
    trained, steps = given.trained(), item.setting("trained")
    learner, rows = paired(given, item, trained.denoiser), torch.arange(len(held.rewards))
    found = []
    for i in steps:
        found.append(column(learner, States.of(held, rows, torch.full_like(rows, i))))
        (found[-1].loss / len(steps)).backward()
    for side, of in enumerate((lambda c: c.pairs.first, lambda c: c.pairs.second)):
        log_probs = [c.log_prob[side::2] + units[i] for c, i in zip(found, steps, strict=True)]
        yield from sides(item, str(side), torch.stack(log_probs, -1), torch.stack([of(c) for c in found], -1))
    losses = torch.stack([c.loss for c in found])
    yield item.check("losses", losses, VALUE)
    yield item.check("loss", losses.mean(), VALUE)
    yield from given.gradients(item, trained)
