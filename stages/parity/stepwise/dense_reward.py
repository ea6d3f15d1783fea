"""The dense reward view: trajectories of the base, and the loss of lists of them at the steps of the set."""

from __future__ import annotations

import random
from collections.abc import Generator, Iterator, Sequence
from typing import Any, cast

import torch
from torch import Tensor

from stages.finetune.families.ranked_rollouts import RankedLists, RankedRollouts
from stages.finetune.methods import dense_reward
from stages.finetune.objective import Loss
from stages.finetune.trajectories.chain import Trajectory
from stages.finetune.trajectories.collection import Experience
from stages.models.diffusion import Denoiser
from stages.models.noise import GivenNoise
from stages.parity.checks import EXACT, Check
from stages.parity.stepwise.given import GRADIENT, VALUE, Given, Item, guidance, objective

AGAINST = {(1, 0): "base", (0, 1): "old", (1, 1): "both"}  # by reg_to_init and reg_to_old


class GivenDraws(random.Random):
    """The draws of the set: the order of all combinations, and steps."""

    def __init__(self, order: Sequence[int], steps: Sequence[int]) -> None:
        super().__init__(0)
        self.order, self.given = order, steps

    def sample(self, population: Any, k: int, *, counts: Any = None) -> list[Any]:
        """The first `k` in the given order."""
        return [population[n] for n in self.order[:k]]

    def choices(self, population: Any, weights: Any = None, *, cum_weights: Any = None, k: int = 1) -> list[Any]:
        """The given steps."""
        return list(self.given)


def checks(given: Given) -> Iterator[Check]:
    """Trajectories with and without guidance, losses of lists of them, and ListMLE alone."""
    made = {}
    for item in given.items("dense", has="x0"):
        made[item.name] = yield from _trajectories(given, item)
    for item in given.items("dense"):
        yield from _loss(given, item, made[f"dense.{item.setting('data')}"])
    for item in given.items("dense", has="loss0"):
        yield from _list_mle(item)


def learner(
    given: Given, policy: Denoiser, steps: int, scale: float, **keys: object
) -> RankedRollouts[dense_reward.Settings]:
    """The product's objective on the trajectories of the set."""
    rewards = given.reference.inputs["dense.rewards"]
    run = given.run(policy, steps, scale)
    made = objective(dense_reward, run, images_per_prompt=rewards.shape[1], **keys)
    return cast(RankedRollouts[dense_reward.Settings], made)


def _trajectories(given: Given, item: Item) -> Generator[Check, None, Trajectory]:
    start, noise = given.reference.inputs["dense.x_T"], given.reference.inputs["dense.noise"]
    prompts, each = start.shape[:2]
    made = learner(given, given.base, len(noise), guidance(item))
    rows = [prompt for prompt in range(prompts) for _ in range(each)]
    found = made.roll(given.batch(rows, GivenNoise(start.flatten(0, 1), noise.flatten(1, 2), {})))
    yield item.check("log_pi_old", found.log_density.T.reshape(prompts, each, -1), VALUE)
    x_at = found.states[10].reshape(start.shape)
    yield item.check("x_at_10", x_at, VALUE)
    yield item.check("x0", found.last.reshape(start.shape), VALUE)
    yield item.check("x0_std", found.last.std(), VALUE)
    return found


def _loss(given: Given, item: Item, found: Trajectory) -> Iterator[Check]:
    steps, trained, rewards = item.setting("steps"), given.trained(), given.reference.inputs["dense.rewards"]
    against = AGAINST[item.setting("reg_to_init"), item.setting("reg_to_old")]
    made = learner(
        given, trained.denoiser, len(found), guidance(item), list_length=item.setting("list_length"),
        tuples=item.setting("tuples"), steps_per_trajectory=len(steps), gamma=item.setting("gamma"),
        strength=item.setting("C"), clip=item.setting("clip"),
        against="none" if item.setting("no_regularisation") else against,
    )  # fmt: skip
    draws, own, kept = GivenDraws(item.input("comb_perm").tolist(), steps), made.list_loss, list[RankedLists]()

    def loss(lists: RankedLists, settings: dense_reward.Settings) -> Loss:
        kept.append(lists)
        return own(lists, settings)

    made.list_loss = loss
    prompts = len(rewards)
    lists = made.lists(rewards.numel(), draws, 0)
    held = Experience(found, rewards.flatten(), rewards.flatten())
    value = made.part(held, lists, made.steps(draws)).root
    value.backward()
    one = kept[0]
    first = lists.reshape(prompts, -1, lists.shape[1])
    yield item.check("combinations", first[0], EXACT)
    yield item.check("step_probabilities", torch.tensor(made.settings.probabilities(len(found))), VALUE)

    # by prompt, list, trajectory and step here; by list, trajectory, step and prompt in the set
    def ordered(values: Tensor) -> Tensor:
        return values.detach().unflatten(0, (prompts, -1)).movedim(0, -1)

    assert one.base is not None
    yield item.check("log_pi", ordered(one.log_prob), VALUE)
    yield item.check("log_pi_init", ordered(one.base), VALUE)
    clipped = (one.log_prob - one.base).abs() > item.setting("clip")
    yield item.check("clipped_init", ordered(clipped), EXACT)
    logits, _ = dense_reward.logits(one, made.settings)
    size = item.setting("C") * float(one.log_prob.detach().abs().max())
    yield item.check("logits", logits.detach().unflatten(0, (prompts, -1)).transpose(0, 1), VALUE, size)
    yield item.check("loss", value, VALUE)
    yield from given.gradients(item, trained)


def _list_mle(item: Item) -> Iterator[Check]:
    for n in range(2):
        order = item.input(f"perm{n}")
        found = item.input("predictions").clone().requires_grad_(True)
        value = dense_reward.list_mle(found[:, order], item.input("truth")[:, order]).mean()
        value.backward()
        yield item.check(f"loss{n}", value, VALUE)
        assert found.grad is not None
        yield item.check(f"grad{n}", found.grad, GRADIENT)
