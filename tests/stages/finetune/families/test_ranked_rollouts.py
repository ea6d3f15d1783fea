"""Lists of rollouts of a prompt: which are drawn, at which steps, and the likelihood of their order."""

from __future__ import annotations

import random
from collections import Counter
from dataclasses import replace
from itertools import permutations
from math import factorial
from typing import Any

import numpy as np
import pytest
import torch

from stages.finetune.families.ranked_rollouts import RankedLists, RankedRollouts
from stages.finetune.methods import dense_reward
from stages.finetune.settings import FinetuneSettings
from stages.finetune.trajectories.collection import States
from tests.trajectories import batch, chain, settings_of, trainer

MADE: dict[str, Any] = {"images_per_prompt": 4, "list_length": 3, "tuples": 2, "clip": 1.0}


def objective(**more: Any) -> RankedRollouts[dense_reward.Settings]:
    found = trainer(dense_reward, MADE | more, batch_size=8).objective
    assert isinstance(found, RankedRollouts)
    return found


def test_lists_are_different_ones_of_single_prompts_and_every_update_has_its_share() -> None:
    made = objective(updates=2)
    first, second = (made.lists(16, random.Random(n), n) for n in (0, 1))
    assert first.shape == (4, 3)
    assert set((first // 4).flatten().tolist()) == {0, 1} and set((second // 4).flatten().tolist()) == {2, 3}
    for lists in (first, second):
        assert bool((lists // 4 == lists[:, :1] // 4).all())
        assert len({tuple(rows) for rows in lists.tolist()}) == 4
        assert all(len(set(rows)) == 3 for rows in lists.tolist())


def test_early_steps_are_drawn_more_often() -> None:
    made, draw = objective(gamma=0.5, steps_per_trajectory=4), random.Random(0)
    counts = Counter(i for _ in range(500) for i in made.steps(draw).tolist())
    shares = np.array([counts[i] for i in range(5)]) / 2000
    expected = np.array([16, 8, 4, 2, 1]) / 31
    assert np.abs(shares - expected).max() < 0.04


@pytest.mark.parametrize("against", ["base", "old", "both"])
def test_the_loss_begins_with_the_number_of_orders_and_a_step_makes_better_images_more_likely(against: str) -> None:
    made = trainer(dense_reward, MADE | {"against": against, "strength": 1.0}, optimizer={"lr": 1e-4}, batch_size=8)
    terms = made.step([batch(count=8)])
    assert terms["loss"] == pytest.approx(np.log(factorial(3)), rel=1e-5)
    held, learner = made.objective.held[0], made.objective  # type: ignore[attr-defined]
    drawn = batch(count=8).rng
    lists, steps = learner.lists(8, drawn, 0), learner.steps(drawn)  # type: ignore[attr-defined]
    places = steps.repeat(lists.numel())
    states = States.of(held, lists.flatten().repeat_interleave(len(steps)), places)
    found = chain(made).transition(made.run.networks.policy, states.x, states.i, states.text)
    gain = (found.log_prob(states.next) - states.old_log_prob).detach().reshape(*lists.shape, -1).mean(-1)
    settings = settings_of(dense_reward, MADE)
    after = dense_reward.list_mle(settings.strength * gain, held.rewards[lists]).mean()
    assert float(after) < np.log(factorial(3))


def test_list_mle_is_the_likelihood_of_the_order() -> None:
    logits = torch.tensor([[0.3, -1.0, 0.7]], dtype=torch.float64)
    every = [torch.tensor([order], dtype=torch.float64) for order in permutations(range(3))]
    shares = [float(torch.exp(-dense_reward.list_mle(logits, rewards))) for rewards in every]
    assert sum(shares) == pytest.approx(1, rel=1e-8)
    best_last_first = torch.tensor([[2.0, 1.0, 3.0]])  # the third, the first, the second
    e = torch.exp(logits[0])
    expected = e[2] / e.sum() * e[0] / (e[0] + e[1])
    assert float(torch.exp(-dense_reward.list_mle(logits, best_last_first))) == pytest.approx(float(expected), rel=1e-8)
    pair = dense_reward.list_mle(logits[:, :2], torch.tensor([[1.0, 0.0]]))
    assert float(pair) == pytest.approx(np.log1p(np.exp(-1.3)), rel=1e-8)


def test_ratios_are_clipped_one_by_one_and_each_reference_has_its_own() -> None:
    log_prob = torch.tensor([[[0.3, 0.0], [-0.01, 0.02]]])
    old, base = torch.zeros(1, 2, 2), torch.full((1, 2, 2), 0.01)
    lists = RankedLists(log_prob, old, base, torch.tensor([[1.0, 0.0]]))
    settings = settings_of(dense_reward, {"strength": 10.0, "clip": 0.1})
    expected = {"base": [0.45, -0.05], "old": [0.5, 0.05], "both": [0.95, 0.0], "none": [1.5, 0.05]}
    for against, wanted in expected.items():
        found, clipped = dense_reward.logits(lists, settings.model_copy(update={"against": against}))
        torch.testing.assert_close(found, torch.tensor([wanted]))
        assert float(clipped) == pytest.approx(0.0 if against == "none" else 0.25)
    loss = dense_reward.loss(replace(lists, rewards=torch.tensor([[0.0, 1.0]])), settings)
    assert float(loss.terms["accuracy"]) == 0


def test_the_base_is_evaluated_only_where_something_needs_it() -> None:
    assert not settings_of(dense_reward, {"against": "old"}).needs.reference
    assert settings_of(dense_reward, {"against": "old", "kl_weight": 0.1}).needs.reference
    assert "kl" not in trainer(dense_reward, MADE | {"against": "none"}, batch_size=8).step([batch(count=8)])


@pytest.mark.parametrize(
    ("values", "message"),
    [
        ({"images_per_prompt": 3}, "whole groups of 3"),
        ({"tuples": 7}, "tuples 7 is more than the 6 lists of 2 among images_per_prompt 4"),
        ({"list_length": 5}, "more than the 0 lists of 5"),
        ({"updates": 8}, "does not divide into 8 updates"),
    ],
)
def test_refuses_settings(values: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        settings_of(dense_reward, values).check(FinetuneSettings.model_validate({"batch_size": 16}))
