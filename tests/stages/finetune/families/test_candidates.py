"""Several next states of one state: which are a pair, what counts, and where the rollout goes on."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor

from stages.finetune.families.candidates import CandidateRollouts, Candidates
from stages.finetune.families.step_preference import Branches
from stages.finetune.losses.step_preference import StepPairs, clipped_preference
from stages.finetune.methods import spo
from stages.finetune.settings import FinetuneSettings
from stages.finetune.training import Trainer
from stages.models.conditioning import Conditioning
from stages.models.process import Gaussian
from tests import tiny
from tests.trajectories import STEPS, batch, chain, settings_of, trainer


class Recorded:
    """What an objective draws, beside its branches."""

    def __init__(self, made: Trainer, monkeypatch: pytest.MonkeyPatch) -> None:
        assert isinstance(made.objective, CandidateRollouts)
        self.kept: list[Candidates] = []
        own = made.objective.candidates

        def candidates(step: Gaussian, i: int, of: Any, text: Conditioning) -> Candidates:
            self.kept.append(own(step, i, of, text))
            return self.kept[-1]

        monkeypatch.setattr(made.objective, "candidates", candidates)


def branches(made: Trainer) -> Branches:
    assert isinstance(made.objective, CandidateRollouts)
    return made.objective.branch(batch())[0]


def test_the_margin_is_that_of_the_softmax_of_best_and_worst() -> None:
    scores = torch.tensor([[1.0, 0.2, 3.0], [2.5, 0.2, -4.0], [0.3, 0.2, 5.0], [1.1, 0.2, 5.0]])
    states = torch.arange(12.0).reshape(4, 3, 1, 1, 1)
    found = Candidates(states, -states, scores)
    assert found.best.tolist() == [1, 0, 2] and found.worst.tolist() == [2, 0, 1]
    share = torch.softmax(torch.stack([scores.amax(0), scores.amin(0)]), 0)
    torch.testing.assert_close(found.margin, share[0] - share[1])
    state, prediction = found.state(found.best), found.predicted(found.best)
    assert prediction is not None
    assert state.flatten().tolist() == [3.0, 1.0, 8.0] and torch.equal(prediction, -state)


def test_pairs_are_best_and_worst_of_each_step_and_the_loss_is_the_mean_of_those_above_the_threshold(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    made = trainer(spo, {"start": 1, "candidates": 3, "threshold": 0.1}, optimizer={"lr": 1e-4, "clip_norm": None})
    seen = Recorded(made, monkeypatch)
    found = branches(made)
    assert sorted(set(found.i.tolist())) == [1, 2, 3, 4] and len(seen.kept) == 4
    margins = torch.cat([kept.margin for kept in seen.kept])
    counted = margins > 0.1
    assert 0 < int(counted.sum()) < len(margins)
    torch.testing.assert_close(found.sign, counted.float() * len(counted) / counted.sum())
    for place, kept in enumerate(seen.kept):
        rows = slice(4 * place, 4 * place + 4)
        assert torch.equal(found.first[rows], kept.state(kept.best))
        assert torch.equal(found.second[rows], kept.state(kept.worst))
    terms = made.step([batch()])
    assert terms["loss"] == pytest.approx(np.log(2), rel=1e-5)  # whatever the share of pairs that count
    assert terms["pairs"] == pytest.approx(float(counted.float().mean()))
    ours, base = (
        chain(made).transition(of, found.x, found.i, found.text)
        for of in (made.run.networks.policy, made.run.networks.base)
    )
    gaps = [of.log_prob(found.first) - of.log_prob(found.second) for of in (ours, base)]
    assert float((found.sign * (gaps[0] - gaps[1])).detach().mean()) > 0


def test_the_first_candidate_has_the_noise_of_a_rollout_without_candidates(monkeypatch: pytest.MonkeyPatch) -> None:
    made = trainer(spo, {"start": 3, "candidates": 2, "threshold": 0.1})
    seen, plain = Recorded(made, monkeypatch), chain(made).roll(batch())
    found = branches(made)
    torch.testing.assert_close(found.x[:4], plain.states[3])
    torch.testing.assert_close(seen.kept[0].after[0], plain.states[4])
    assert not torch.equal(seen.kept[0].after[1], plain.states[4])


def test_one_candidate_is_followed_whatever_it_scores(monkeypatch: pytest.MonkeyPatch) -> None:
    made = trainer(spo, {"start": 0, "candidates": 3, "threshold": 0.1})
    seen = Recorded(made, monkeypatch)
    found, rows = branches(made), torch.arange(4)
    for i in range(1, STEPS):
        number = made.objective.followed(batch(), i - 1)  # type: ignore[attr-defined]
        assert torch.equal(found.x[4 * i : 4 * i + 4], seen.kept[i - 1].after[number, rows])
    numbers = torch.cat([made.objective.followed(batch(n, 64), 0) for n in range(4)])  # type: ignore[attr-defined]
    shares = torch.bincount(numbers, minlength=3) / len(numbers)
    assert float((shares - 1 / 3).abs().max()) < 0.1


class StepJudge:
    """A reward that knows the timestep of what it sees."""

    name, differentiable = "steps", True

    def __init__(self) -> None:
        self.times: list[float] = []

    def __call__(self, images: Tensor, prompts: Sequence[str]) -> Tensor:
        return tiny.reward(images, prompts)

    def score_at(self, images: Tensor, prompts: Sequence[str], t: float) -> Tensor:
        self.times.append(t)
        return tiny.reward(images, prompts)


def test_a_step_aware_reward_is_told_the_timestep_of_the_prediction_and_0_at_the_end() -> None:
    judge = StepJudge()
    made = trainer(spo, {"start": 2, "candidates": 2}, judge=judge)
    branches(made)
    grid = made.run.networks.grid.timesteps.tolist()
    assert judge.times == [t for t in (*grid[3:], 0) for _ in range(2)]


def test_no_pair_above_the_threshold_is_no_loss_and_a_score_that_is_no_number_is_seen() -> None:
    silent = trainer(spo, {"start": 2, "scale": 1e-6})
    assert silent.step([batch()])["loss"] == 0
    broken = trainer(spo, {"start": 2}, judge=lambda images, prompts: tiny.reward(images, prompts) * float("nan"))
    assert bool(branches(broken).sign.isnan().all())


def test_the_weight_of_a_pair_stays_outside_of_the_logistic() -> None:
    ratios = torch.tensor([0.05, -0.02]), torch.tensor([0.01, 0.03])
    found = clipped_preference(StepPairs(*ratios, torch.tensor([2.0, -0.5])), 10.0, 0.1)
    each = [2.0 * np.log1p(np.exp(-10 * 0.04)), 0.5 * np.log1p(np.exp(-10 * 0.05))]
    assert float(found.root) == pytest.approx(np.mean(each), rel=1e-5)
    assert float(found.terms["accuracy"]) == pytest.approx(1.25)


@pytest.mark.parametrize(
    ("values", "message"),
    [
        ({"start": 20}, "start 20 is no step of sampling_steps 20"),
        ({"start": 15, "steps_per_trajectory": 6}, "steps_per_trajectory 6 is more than the 5 steps from 15 on"),
    ],
)
def test_refuses_settings(values: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        settings_of(spo, values).check(FinetuneSettings.model_validate({"sampling_steps": 20}))
