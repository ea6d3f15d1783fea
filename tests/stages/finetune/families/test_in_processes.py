"""Trajectory methods in several processes: the weights, the log and what is held are those of one process."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor

from stages.errors import InputError, Stopped
from stages.finetune.batch import Batch
from stages.finetune.methods import awm, d3po, ddpo, hrf, large_scale_rl, online, sqdf
from stages.finetune.resolve import TrainingPlan, require_even
from stages.finetune.settings import FinetuneSettings, StudySettings
from stages.finetune.training import Checkpoint, Trainer
from stages.processes import ALONE, Processes
from stages.resume import State
from tests.together import together
from tests.trajectories import EVERY, STEPS, Made, batch, trainer, weights

SIZE = 8
IN_TWO = {"train": {"accumulate": 2}}
TABLE = {name: (module, values) for name, (module, values) in EVERY.items() if module is not online} | {
    "hrf": (hrf, {"advantage": "group", "images_per_prompt": 4, "window": 2, "state_batch": 3}),
    "awm": (awm, {"least_history": 2, "updates": 2, "kl_weight": 0.1, **IN_TWO}),
    "d3po": (d3po, {"steps_per_trajectory": 2, **IN_TWO}),
    "large scale": (large_scale_rl, {"images_per_prompt": 4, "credit": "own", **IN_TWO}),
    "sqdf": (sqdf, {"buffer": {"size": 12}, **IN_TWO}),
}
TRAINED = 3


@dataclass
class Ran:
    """What a process ends with."""

    weights: Tensor
    moved: float
    log: list[dict[str, float]]
    counters: dict[str, list[int]]
    queries: int


class Asked(Made):
    """The made-up reward, counting images."""

    queries = 0

    def __call__(self, images: Tensor, prompts: Sequence[str]) -> Tensor:
        self.queries += len(images)
        return super().__call__(images, prompts)


def learner(name: str, processes: Processes) -> tuple[Trainer, Asked]:
    module, values = TABLE[name]
    values = dict(values)
    train = {"batch_size": SIZE, "optimizer": {"lr": 1e-3}, **values.pop("train", {})}
    reward = Asked()
    return trainer(module, values, judge=reward, processes=processes, **train), reward


def batches(step: int, accumulate: int, processes: Processes) -> list[Batch]:
    """A process's rows of the micro-batches of a step."""
    found = []
    for micro in range(accumulate):
        whole = batch(count=SIZE // accumulate, micro=step * accumulate + micro)
        own, clean = processes.part(len(whole.prompts)), whole.clean
        assert clean is not None
        noise = replace(whole.noise, keys=whole.noise.keys[own])  # type: ignore[attr-defined, type-var]
        found.append(replace(whole, prompts=whole.prompts[own], text=whole.text[own], noise=noise, clean=clean[own]))
    return found


def train(name: str, processes: Processes) -> Ran:
    made, reward = learner(name, processes)
    before = weights(made)
    log = [made.step(batches(step, made.run.settings.accumulate, processes)) for step in range(TRAINED)]
    after = weights(made)
    return Ran(after, float((after - before).abs().max()), log, made.counters(), reward.queries)


def train_all(processes: Processes) -> dict[str, Ran]:
    """In double precision, which leaves no doubt of what is rounding."""
    torch.set_default_dtype(torch.float64)
    try:
        return {name: train(name, processes) for name in TABLE}
    finally:
        torch.set_default_dtype(torch.float32)


@pytest.fixture(scope="module")
def one() -> dict[str, Ran]:
    return train_all(ALONE)


@pytest.fixture(scope="module")
def two() -> list[dict[str, Ran]]:
    return together(2, train_all)


@pytest.mark.slow
@pytest.mark.parametrize("name", TABLE)
def test_two_processes_are_one(name: str, one: dict[str, Ran], two: list[dict[str, Ran]]) -> None:
    """Weights and log up to rounding, evaluations and queries to the number."""
    expected = one[name]
    assert expected.moved > 1e-3
    for found in (ranks[name] for ranks in two):
        assert float((found.weights - expected.weights).abs().max()) < 1e-8
        assert found.counters == expected.counters
        assert found.queries * len(two) == expected.queries
        for terms, own in zip(expected.log, found.log, strict=True):
            assert own == pytest.approx(terms, rel=1e-7, abs=1e-9)
    assert torch.equal(two[0][name].weights, two[1][name].weights)


def go_on(checkpoint: Checkpoint, processes: Processes, last: int, stop: int | None = None) -> None:
    """Steps up to `last`; the second process is told to stop in step `stop`."""
    list(checkpoint.resume())
    while checkpoint.step < last:
        terms = checkpoint.take(batches(checkpoint.step, 1, processes))
        if checkpoint.step == stop and processes.rank == 1:
            checkpoint.state.told = 15
        checkpoint.end_step(terms)


def interrupted(folder: Path, name: str, processes: Processes) -> tuple[Tensor, Tensor, int]:
    """Weights of a run that was interrupted and of one that was not, and the step of the interruption."""
    straight = learner(name, processes)[0]
    go_on(Checkpoint(straight, State(processes=processes)), processes, 5)
    first = Checkpoint(learner(name, processes)[0], State(folder, processes=processes))
    with pytest.raises(Stopped):
        go_on(first, processes, 5, stop=2)
    second = learner(name, processes)[0]
    go_on(Checkpoint(second, State(folder, processes=processes)), processes, 5)
    return weights(second), weights(straight), first.step


@pytest.mark.slow
@pytest.mark.parametrize("name", ["sqdf"])
def test_two_processes_go_on_from_a_state(name: str, tmp_path: Path) -> None:
    """To the bit in both of them; and one process goes on from what two have left."""
    found = together(2, partial(interrupted, tmp_path / "state", name))
    for resumed, straight, step in found:
        assert torch.equal(resumed, straight)
        assert step == 3
    alone = learner(name, ALONE)[0]
    checkpoint = Checkpoint(alone, State(tmp_path / "state"))
    go_on(checkpoint, ALONE, 5)
    assert [row[0] for row in checkpoint.rows if row[1] == "reward"] == [0, 1, 2, 3, 4]
    assert float((weights(alone) - found[0][1]).abs().max()) < 2e-5


@pytest.mark.parametrize(
    ("module", "values", "message"),
    [
        (ddpo, {"updates": 8, "steps_per_trajectory": 1}, "1 states of an update do not divide evenly among 2"),
        (ddpo, {"train": {"batch_size": 5}}, "5 images do not divide evenly among 2 processes"),
        (awm, {"updates": 8}, "1 images of an update do not"),
        (d3po, {"updates": 4}, "5 pairs of states of an update do not"),
        (d3po, {"train": {"batch_size": 2}}, "1 pairs of images do not"),
        (hrf, {"updates": 8, "window": 3}, "3 states of an update do not"),
        (online, {}, "method 'x' trains in one process, not in 2"),
    ],
)
def test_what_does_not_divide_is_refused(module: Any, values: dict[str, Any], message: str) -> None:
    settings = module.Settings.model_validate({"kind": module.__name__.rsplit(".", 1)[-1], **values})
    shared = {"sampling_steps": STEPS, "batch_size": SIZE} | settings.train
    study = StudySettings(reward="r", heldout="h")
    plan = TrainingPlan("x-s0", "x", 0, module.METHOD, module, settings, FinetuneSettings.model_validate(shared), study)
    require_even(plan, 1)
    with pytest.raises(InputError, match=f"^run 'x-s0': (a micro-batch: )?{message}"):
        require_even(plan, 2)
