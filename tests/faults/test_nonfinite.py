"""A training step that is not finite leaves the policy as it was: the run stops there, or goes on without the step."""

from __future__ import annotations

from collections.abc import Iterator
from functools import partial
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor

from stages.errors import InputError, Stopped
from stages.finetune.batch import Batch, Judged
from stages.finetune.course import Course
from stages.finetune.learner import Learner
from stages.finetune.methods import ddpo, draft_k, sqdf
from stages.finetune.settings import FinetuneSettings
from stages.finetune.tools import Tools
from stages.finetune.trajectory.chain import Chain
from stages.finetune.trajectory.trainer import Piece, TrajectoryTrainer
from stages.models.conditioning import Conditioning
from stages.models.diffusion import Autoencoder, Denoiser
from stages.models.noise import KeyedNoise
from stages.models.policy import make_policy
from stages.processes import Processes
from stages.resume import State
from tests import tiny
from tests.together import together

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


class Breaking:
    """A trajectory method whose loss is not finite at one step, after it has collected."""

    def __init__(self, method: Any) -> None:
        self.method = method

    def __getattr__(self, name: str) -> Any:
        return getattr(self.method, name)

    def losses(self, learner: Learner, chain: Chain, batch: Batch) -> Iterator[Piece]:
        broken = float("nan") if batch.micro == BROKEN else 1.0
        for piece in self.method.losses(learner, chain, batch):
            yield Piece(piece.root * broken, {name: value * broken for name, value in piece.terms.items()})


TRAJECTORIES = {
    "ddpo": (ddpo, {"advantage": "prompt", "least_history": 1, "updates": 2, "clip": 0.1}),
    "sqdf": (sqdf, {"buffer": {"size": 8}}),
}


def collector(name: str) -> TrajectoryTrainer:
    module, values = TRAJECTORIES[name]
    base = tiny.unet()
    policy = make_policy(base, "norm_affine")
    tools = tiny.tools(policy.network, 3)
    tools = Tools(tools.policy, tools.grid, tools.empty, reference=Denoiser(base, tools.policy.process))
    settings = FinetuneSettings.model_validate({"sampling_steps": 3, "batch_size": 2})
    method = Breaking(module.start(module.Settings.model_validate({"kind": name, **values}), settings))
    decode = Autoencoder(tiny.vae()).decode
    return TrajectoryTrainer.start(tools, decode, tiny.reward, method, dict(policy.parameters()), settings)  # type: ignore[arg-type]


def collect(course: Course) -> TrajectoryTrainer:
    """All steps that are left of a run that collects."""
    list(course.resume())
    while course.step < STEPS:
        given = tiny.batch(2, 3, course.step, course.step, images=False)
        keys = [("made up", course.step, row) for row in range(2)]
        noise = KeyedNoise(0, keys, tiny.LATENT, tiny.CPU)
        own = Batch(given.prompts, Conditioning.of(given.text), noise, given.rng, course.step)
        course.end_step(course.take([own]))
    assert isinstance(course.learner, TrajectoryTrainer)
    return course.learner


@pytest.mark.parametrize("name", TRAJECTORIES)
def test_a_collection_enters_once_where_its_step_is_not_taken(name: str, tmp_path: Path) -> None:
    """A run that stopped in a step that collects, and goes on by skipping, holds what one that always skips holds."""
    whole = collect(Course(collector(name), State(), skip=True))
    with pytest.raises(InputError, match=r"step 2: .*loss is nan"):
        collect(Course(collector(name), State(tmp_path / "state"), skip=False, name="run"))
    then = collect(Course(collector(name), State(tmp_path / "state"), skip=True))
    held, expected = then.method.state(), whole.method.state()
    if name == "ddpo":
        assert held["history"] == expected["history"]
        assert sum(len(rewards) for rewards in held["history"].values()) == 6  # three collections of two
    else:
        kept = [[one["reward"] for one in state["buffer"]["kept"]] for state in (held, expected)]
        assert kept[0] == kept[1]
        assert len(set(kept[0])) == 8
    ours = [torch.cat([p.detach().flatten() for p in of.parameters.values()]) for of in (then, whole)]
    assert torch.equal(*ours)
    assert then.counters() == whole.counters()


def in_two(folder: Path, processes: Processes) -> tuple[Tensor, Tensor, str, bool]:
    """A batch that is broken in the second process only: skipped, left out, and stopped at."""

    def own(course: Course, left_out: int | None = None) -> Tensor:
        course.learner.processes = processes
        while course.step < 2:
            if course.step == left_out:
                course.step += 1
                continue
            given = [tiny.batch(steps=4, seed=10 * course.step + processes.rank, images=False)]
            if course.step == 1 and processes.rank == 1:
                given[0].prompts[0] = "a broken prompt"  # type: ignore[index]
            course.end_step(course.take(given))
        return weights(course.learner)

    skipped = own(Course(learner(), State(), skip=True))
    without = own(Course(learner(), State(), skip=True), left_out=1)
    state = State(folder, processes=processes)
    with pytest.raises(InputError) as found:
        own(Course(learner(), state, skip=False, name="run"))
    return skipped, without, str(found.value), state.load("run") is not None


def test_what_is_not_finite_in_one_process_is_so_in_all(tmp_path: Path) -> None:
    """All skip or all stop, with the same words, and the state is there before any of them ends."""
    found = together(2, partial(in_two, tmp_path / "state"))
    for skipped, without, message, saved in found:
        assert torch.equal(skipped, without)
        assert torch.equal(skipped, found[0][0])
        assert message.startswith("run: step 1: ")
        assert "prompts 'a broken prompt', 'prompt 1';" in message
        assert saved
