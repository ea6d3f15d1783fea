"""A training step that is not finite leaves the policy as it was: the run stops there, or goes on without the step."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor

from stages.errors import InputError, Stopped
from stages.finetune.batch import Batch
from stages.finetune.families.reward_gradient import Step
from stages.finetune.methods import ddpo, draft_k, sqdf
from stages.finetune.networks import Networks
from stages.finetune.objective import Loss, Objective, Run
from stages.finetune.reward import CountedReward, LatentReward
from stages.finetune.settings import FinetuneSettings
from stages.finetune.training import Checkpoint, Trainer
from stages.models.conditioning import Conditioning
from stages.models.diffusion import Autoencoder, Denoiser
from stages.models.noise import KeyedNoise
from stages.models.policy import make_policy
from stages.processes import ALONE, Processes
from stages.resume import State
from tests import tiny
from tests.together import together

STEPS, BROKEN = 5, 2


def step(networks: Networks, batch: Batch) -> Step:
    """One step of DRaFT; a loss that is not finite where the batch says so."""
    found = yield from draft_k.step_with(networks, batch, 1)
    value = float("nan") if "broken" in batch.prompts[0] else 0.0
    return replace(found, penalties={"made_up": (1.0, found.x0.sum() * 0 + value)})


def trainer(skip: bool = False, processes: Processes = ALONE) -> Trainer:
    policy = make_policy(tiny.unet(), "norm_affine")
    settings = FinetuneSettings(ema=0.5, nonfinite="skip" if skip else "stop")
    made = tiny.trainer(policy.network, step, settings, steps=4)
    made.run = replace(made.run, processes=processes)
    return made


def batches(step: int, broken: int | None) -> list[Batch]:
    made = [tiny.batch(steps=4, seed=10 * step + micro, images=False) for micro in range(2)]
    if step == broken:
        made[1].prompts[0] = "a broken prompt"  # type: ignore[index]
    return made


def train(checkpoint: Checkpoint, broken: int | None = None, left_out: int | None = None) -> None:
    list(checkpoint.resume())
    while checkpoint.step < STEPS:
        if checkpoint.step == left_out:
            checkpoint.step += 1
            continue
        checkpoint.end_step(checkpoint.take(batches(checkpoint.step, broken)))


def weights(of: Trainer) -> Tensor:
    assert of.average is not None
    return torch.cat([value.detach().flatten() for value in [*of.parameters.values(), *of.average.values()]])


def test_a_skipped_step_is_as_one_that_was_never_there() -> None:
    with_it, without = trainer(skip=True), trainer(skip=True)
    checkpoint = Checkpoint(with_it, State())
    train(checkpoint, broken=BROKEN)
    train(Checkpoint(without, State()), left_out=BROKEN)
    assert torch.equal(weights(with_it), weights(without))
    terms = {term: value for step, term, value in checkpoint.rows if step == BROKEN}
    assert terms["skipped"] == 1.0
    assert all(value == value for _, _, value in checkpoint.rows)


def test_a_run_that_stopped_names_the_batch_and_goes_on_by_skipping(tmp_path: Path) -> None:
    whole = trainer(skip=True)
    train(Checkpoint(whole, State()), broken=BROKEN)
    first = Checkpoint(trainer(), State(tmp_path / "state"), name="run")
    with pytest.raises(InputError, match=r"run: step 2: .*loss_made_up is nan.*prompts 'a broken prompt', 'prompt 1';"):
        train(first, broken=BROKEN)
    assert bool(torch.isfinite(weights(first.trainer)).all())
    then = Checkpoint(trainer(skip=True), State(tmp_path / "state"), name="run")
    train(then, broken=BROKEN)
    assert torch.equal(weights(then.trainer), weights(whole))


def test_pictures_of_a_probe_are_kept_once_over_stops(tmp_path: Path) -> None:
    """A step that is not taken is probed again when the run goes on; a step that is saved is not."""

    def go(checkpoint: Checkpoint, broken: int | None) -> None:
        list(checkpoint.resume())
        while checkpoint.step < STEPS:
            picture = torch.full((3 + checkpoint.step,), checkpoint.step, dtype=torch.uint8)
            probed = [picture, picture + 1] if checkpoint.step % 2 == 0 else []
            terms = checkpoint.take(batches(checkpoint.step, broken))
            checkpoint.end_step(terms, probed)

    first = Checkpoint(trainer(), State(tmp_path / "state"))
    with pytest.raises(InputError, match="step 2"):
        go(first, broken=BROKEN)
    then = Checkpoint(trainer(skip=True), State(tmp_path / "state"))
    go(then, broken=BROKEN)
    seen = [(step, [picture.tolist() for picture in shown]) for step, shown in then.pictures]
    assert seen == [(step, [[step] * (3 + step), [step + 1] * (3 + step)]) for step in range(0, STEPS, 2)]


def test_a_run_that_was_told_to_stop_saves_first(tmp_path: Path) -> None:
    state = State(tmp_path / "state")
    checkpoint = Checkpoint(trainer(), state)
    checkpoint.end_step(checkpoint.take(batches(0, None)))
    state.told = 15
    with pytest.raises(Stopped):
        checkpoint.end_step(checkpoint.take(batches(1, None)))
    then, whole = Checkpoint(trainer(), State(tmp_path / "state")), trainer()
    train(then)
    train(Checkpoint(whole, State()))
    assert torch.equal(weights(then.trainer), weights(whole))


def test_nothing_is_skipped_for_ever() -> None:
    checkpoint = Checkpoint(trainer(skip=True), State())
    with pytest.raises(InputError, match="lower the lr"):
        for _ in range(100):
            checkpoint.end_step(checkpoint.take(batches(BROKEN, BROKEN)))


def test_weights_that_are_not_finite_are_not_saved() -> None:
    checkpoint = Checkpoint(trainer(), State(), name="run")
    with torch.no_grad():
        next(iter(checkpoint.trainer.parameters.values())).fill_(torch.inf)
    with pytest.raises(InputError, match="is not finite"):
        checkpoint.require_finite()


class Breaking(Objective):
    """An objective whose loss is not finite at one step, after it has collected."""

    def __init__(self, own: Objective) -> None:
        self.own = own

    def collect(self, batches: Sequence[Batch]) -> dict[str, float]:
        return self.own.collect(batches)

    def losses(self, batches: Sequence[Batch]) -> Iterator[Loss]:
        broken = float("nan") if batches[0].micro == BROKEN else 1.0
        for loss in self.own.losses(batches):
            yield Loss(loss.root * broken, {name: value * broken for name, value in loss.terms.items()}, loss.place)

    def state_dict(self) -> dict[str, Any]:
        return self.own.state_dict()

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        self.own.load_state_dict(state)


TRAJECTORIES = {
    "ddpo": (ddpo, {"advantage": "prompt", "least_history": 1, "updates": 2, "clip": 0.1}),
    "sqdf": (sqdf, {"buffer": {"size": 8}}),
}


def collector(name: str, skip: bool) -> Trainer:
    module, values = TRAJECTORIES[name]
    base = tiny.unet()
    policy = make_policy(base, "norm_affine")
    networks = tiny.networks(policy.network, 3)
    networks = replace(networks, reference=Denoiser(base, networks.policy.process))
    settings = FinetuneSettings.model_validate(
        {"sampling_steps": 3, "batch_size": 2, "nonfinite": "skip" if skip else "stop"}
    )
    run = Run(networks, LatentReward(Autoencoder(tiny.vae()).decode, CountedReward(tiny.reward), settings), settings)
    objective = module.METHOD.objective(module.Settings.model_validate({"kind": name, **values}), run)
    return Trainer.start(run, Breaking(objective), dict(policy.parameters()))


def collect(checkpoint: Checkpoint) -> Trainer:
    """All steps that are left of a run that collects."""
    list(checkpoint.resume())
    while checkpoint.step < STEPS:
        given = tiny.batch(2, 3, checkpoint.step, checkpoint.step, images=False)
        keys = [("made up", checkpoint.step, row) for row in range(2)]
        noise = KeyedNoise(0, keys, tiny.LATENT, tiny.CPU)
        own = Batch(given.prompts, Conditioning.of(given.text), noise, given.rng, checkpoint.step)
        checkpoint.end_step(checkpoint.take([own]))
    return checkpoint.trainer


@pytest.mark.parametrize("name", TRAJECTORIES)
def test_a_collection_enters_once_where_its_step_is_not_taken(name: str, tmp_path: Path) -> None:
    """A run that stopped in a step that collects, and goes on by skipping, holds what one that always skips holds."""
    whole = collect(Checkpoint(collector(name, skip=True), State()))
    with pytest.raises(InputError, match=r"step 2: .*loss is nan"):
        collect(Checkpoint(collector(name, skip=False), State(tmp_path / "state"), name="run"))
    then = collect(Checkpoint(collector(name, skip=True), State(tmp_path / "state")))
    held, expected = then.objective.state_dict(), whole.objective.state_dict()
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

    def own(checkpoint: Checkpoint, left_out: int | None = None) -> Tensor:
        while checkpoint.step < 2:
            if checkpoint.step == left_out:
                checkpoint.step += 1
                continue
            given = [tiny.batch(steps=4, seed=10 * checkpoint.step + processes.rank, images=False)]
            if checkpoint.step == 1 and processes.rank == 1:
                given[0].prompts[0] = "a broken prompt"  # type: ignore[index]
            checkpoint.end_step(checkpoint.take(given))
        return weights(checkpoint.trainer)

    skipped = own(Checkpoint(trainer(True, processes), State()))
    without = own(Checkpoint(trainer(True, processes), State()), left_out=1)
    state = State(folder, processes=processes)
    with pytest.raises(InputError) as found:
        own(Checkpoint(trainer(False, processes), state, name="run"))
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
