"""A training step that is not finite leaves the policy as it was: the run stops there, or goes on without the step."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from torch import Tensor

from stages.errors import InputError, Stopped
from stages.finetune.batch import Batch, Judged
from stages.finetune.course import Course
from stages.finetune.learner import Learner
from stages.finetune.methods import draft_k
from stages.finetune.settings import FinetuneSettings
from stages.finetune.tools import Tools
from stages.models.policy import make_policy
from stages.resume import State
from tests import tiny

STEPS, BROKEN = 5, 2


def judged(tools: Tools, batch: Batch) -> Judged:
    """One step of DRaFT; a loss that is not finite where the batch says so."""
    found = draft_k.judge(tools, batch, 1)
    worth = float("nan") if "broken" in batch.prompts[0] else 0.0
    return Judged(found.x0, found.prompts, {"made_up": (1.0, found.x0.sum() * 0 + worth)})


def learner() -> Learner:
    policy = make_policy(tiny.unet(), "norm_affine")
    return tiny.trainer(policy.network, judged, FinetuneSettings(ema=0.5), steps=4)


def batches(step: int, broken: int | None) -> list[Batch]:
    made = [tiny.batch(steps=4, seed=10 * step + micro, images=False) for micro in range(2)]
    if step == broken:
        made[1].prompts[0] = "a broken prompt"  # type: ignore[index]
    return made


def train(course: Course, broken: int | None = None, left_out: int | None = None) -> None:
    list(course.resume())
    while course.step < STEPS:
        if course.step == left_out:
            course.step += 1
            continue
        course.end_step(course.take(batches(course.step, broken)))


def weights(of: Learner) -> Tensor:
    assert of.average is not None
    return torch.cat([value.detach().flatten() for value in [*of.parameters.values(), *of.average.values()]])


def test_a_skipped_step_is_as_one_that_was_never_there() -> None:
    with_it, without = learner(), learner()
    course = Course(with_it, State(), skip=True)
    train(course, broken=BROKEN)
    train(Course(without, State(), skip=True), left_out=BROKEN)
    assert torch.equal(weights(with_it), weights(without))
    terms = {term: value for step, term, value in course.rows if step == BROKEN}
    assert terms["skipped"] == 1.0
    assert all(value == value for _, _, value in course.rows)


def test_a_run_that_stopped_names_the_batch_and_goes_on_by_skipping(tmp_path: Path) -> None:
    whole = learner()
    train(Course(whole, State(), skip=True), broken=BROKEN)
    first = Course(learner(), State(tmp_path / "state"), skip=False, name="run")
    with pytest.raises(InputError, match=r"run: step 2: .*loss_made_up is nan.*prompts 'a broken prompt', 'prompt 1';"):
        train(first, broken=BROKEN)
    assert bool(torch.isfinite(weights(first.learner)).all())
    then = Course(learner(), State(tmp_path / "state"), skip=True, name="run")
    train(then, broken=BROKEN)
    assert torch.equal(weights(then.learner), weights(whole))


def test_a_run_that_was_told_to_stop_saves_first(tmp_path: Path) -> None:
    state = State(tmp_path / "state")
    course = Course(learner(), state, skip=False)
    course.end_step(course.take(batches(0, None)))
    state.told = 15
    with pytest.raises(Stopped):
        course.end_step(course.take(batches(1, None)))
    then, whole = Course(learner(), State(tmp_path / "state"), skip=False), learner()
    train(then)
    train(Course(whole, State(), skip=False))
    assert torch.equal(weights(then.learner), weights(whole))


def test_nothing_is_skipped_for_ever() -> None:
    course = Course(learner(), State(), skip=True)
    with pytest.raises(InputError, match="lower the lr"):
        for _ in range(100):
            course.end_step(course.take(batches(BROKEN, BROKEN)))


def test_weights_that_are_not_finite_are_not_saved() -> None:
    course = Course(learner(), State(), skip=False, name="run")
    with torch.no_grad():
        next(iter(course.learner.parameters.values())).fill_(torch.inf)
    with pytest.raises(InputError, match="is not finite"):
        course.require_finite()
