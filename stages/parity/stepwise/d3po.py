"""D3PO: two rollouts of the base, and the loss of pairs of their steps.

Steps of ties contribute log 2 to the released loss and nothing here; neither has a gradient. The comparison adds it.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from typing import cast

import torch
from torch import Tensor

from stages.finetune.families.step_preference import PairedRollouts, StepPairs
from stages.finetune.methods import d3po
from stages.finetune.objective import Loss
from stages.finetune.trajectories.chain import Trajectory
from stages.finetune.trajectories.collection import Experience, States
from stages.models.diffusion import Denoiser
from stages.models.noise import GivenNoise
from stages.models.process import Gaussian
from stages.parity.checks import EXACT, Check, compare, same
from stages.parity.stepwise.given import VALUE, Given, Item, guidance, interleaved, objective, sides


def checks(given: Given) -> Iterator[Check]:
    """Pairs ranked by rewards, and pairs of several images ranked by a person."""
    for item in given.items("d3po"):
        yield from _ranked(given, item)
    for item in given.items("d3po", has="pairs"):
        yield from _human(given, item)


@dataclass(frozen=True)
class Column:
    """The loss of one step of every pair, with the log densities [2 N], pairs side by side, and the log ratios."""

    loss: Tensor
    log_prob: Tensor
    pairs: StepPairs


def paired(given: Given, item: Item, policy: Denoiser) -> PairedRollouts:
    """The product's objective with the item's settings."""
    made = objective(
        d3po, given.run(policy, item.setting("steps"), guidance(item)), beta=item.setting("beta"),
        clip=item.setting("eps"), eta=item.setting("eta") if item.has("eta") else 1.0,
    )  # fmt: skip
    return cast(PairedRollouts, made)


def column(learner: PairedRollouts, states: States) -> Column:
    """The loss of some states of a collection, with log 2 for every tie."""
    kept: list[tuple[Gaussian, StepPairs]] = []
    own = learner.pair_loss

    def loss(pairs: StepPairs, settings: object) -> Loss:
        kept.append((found, pairs))
        return own(pairs, settings)  # type: ignore[arg-type]

    found = learner.chain.transition(learner.run.networks.policy, states.x, states.i, states.text)
    learner.pair_loss = loss
    try:
        value = learner.loss(found, states).root
    finally:
        learner.pair_loss = own
    pairs = kept[0][1]
    ties = (pairs.sign == 0).float().mean() * math.log(2)
    return Column(value + ties, found.log_prob(states.next), pairs)


def _ranked(given: Given, item: Item) -> Iterator[Check]:
    noise, rewards = item.input("noise"), item.input("rewards")
    count, text = noise.shape[2], given.reference.inputs["x_T"]
    start = text[:count].repeat_interleave(2, 0)
    batch = given.batch([row for row in range(count) for _ in range(2)],
                        GivenNoise(start, interleaved(noise, dim=1), {}))  # fmt: skip
    sampler = paired(given, item, given.base)
    made = sampler.roll(batch)
    yield item.states("timesteps", sampler.run.networks.grid.timesteps.tolist())
    yield item.check("log_probs_sampling", made.log_density.T.reshape(count, 2, -1), VALUE)
    yield item.check("x0", made.last.reshape(count, 2, *made.last.shape[1:]), VALUE)
    if rewards.ndim == 2:
        signs = sampler.advantages(made.last, rewards.flatten(), batch.prompts)[0]
        yield item.check("preference", signs.reshape(count, 2), EXACT)
    else:
        signs = item.expected.array(f"{item.name}.preference").flatten()
        item.leave("a preference by several rewards is not here, it is taken as given", "preference")
    yield from _losses(given, item, Experience(made, rewards, signs))


def _losses(given: Given, item: Item, held: Experience) -> Iterator[Check]:
    trained = given.trained()
    learner, places = paired(given, item, trained.denoiser), torch.tensor(item.setting("step_indices"))
    found = []
    for steps in places.T:
        rows = torch.arange(2 * len(steps))
        found.append(column(learner, States.of(held, rows, steps.repeat_interleave(2))))
        (found[-1].loss / places.shape[1]).backward()
    for side, of in enumerate((lambda c: c.pairs.first, lambda c: c.pairs.second)):
        log_probs, ratios = [c.log_prob[side::2] for c in found], [of(c) for c in found]
        yield from sides(item, str(side), torch.stack(log_probs, -1), torch.stack(ratios, -1))
    losses = torch.stack([c.loss for c in found])
    yield item.check("losses", losses, VALUE)
    yield item.check("loss", losses.mean(), VALUE)
    yield from given.gradients(item, trained)


def _human(given: Given, item: Item) -> Iterator[Check]:
    """Pairs of some images, each with `B` prompts; `human_prefer` [B, images]."""
    noise, start, liked = item.input("noise"), item.input("x_T"), item.input("human_prefer")
    images, _, count = noise.shape[:3]
    steps = noise.transpose(0, 1).flatten(1, 2)
    sampler = paired(given, item, given.base)
    batch = given.batch(list(range(count)) * images, GivenNoise(start.flatten(0, 1), steps, {}))
    made = sampler.chain.roll(batch)
    trained = given.trained()
    learner, places = paired(given, item, trained.denoiser), torch.tensor(item.setting("step_indices"))
    losses, preferences = [], []
    for pair in item.setting("pairs"):
        signs = _signs(sampler, made, liked, pair)
        rows = torch.tensor([image * count + prompt for prompt in range(count) for image in pair])
        held = Experience(made, signs, torch.zeros(len(made.last)))
        columns = []
        for chosen in places.T:
            states = replace(States.of(held, rows, chosen.repeat_interleave(2)), advantage=signs)
            columns.append(column(learner, states).loss)
            (columns[-1] / places.shape[1]).backward()
        losses.append(torch.stack(columns))
        preferences.append(signs.reshape(count, 2))
    yield item.check("preference", torch.stack(preferences), EXACT)
    skipped = [pair for pair in item.setting("skipped") if not _signs(sampler, made, liked, pair).any()]
    yield same(f"{item.name}.skipped", skipped, item.setting("skipped"))
    found = torch.stack(losses)
    yield item.check("losses", found, VALUE)
    total = found.mean(1).sum()
    yield compare(f"{item.name}.loss_sum", total, item.setting("loss_sum"), VALUE)
    yield from given.gradients(item, trained)


def _signs(sampler: PairedRollouts, made: Trajectory, liked: Tensor, pair: Sequence[int]) -> Tensor:
    """The sign [2 B] of a pair of images for each prompt, both sides."""
    return sampler.advantages(made.last, liked[:, list(pair)].flatten().float(), ())[0]
