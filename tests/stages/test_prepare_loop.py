"""The loop that trains the shapes world's models."""

from __future__ import annotations

import math

import pytest
import torch
from torch import nn

from stages.errors import InputError
from stages.prepare import loop
from stages.prepare.settings import Training
from stages.resume import State


def test_schedule_rises_holds_and_falls():
    settings = Training(steps=100, warmup=10, hold=0.5, final=0.1)
    assert loop.rate(settings, 0) == pytest.approx(0.1)
    assert loop.rate(settings, 30) == loop.rate(settings, 50) == 1
    assert loop.rate(settings, 75) == pytest.approx(0.55)
    assert loop.rate(settings, 100) == pytest.approx(0.1)


class Stop(Exception):
    """The job was killed here."""


def line(
    settings: Training, state: State | None, stop: int | None = None, broken: int | None = None
) -> tuple[torch.Tensor, loop.Log]:
    """Fit a line by steps on random batches; killed before step `stop`."""
    torch.manual_seed(0)
    module = nn.Linear(2, 1)

    def terms(step: int) -> loop.Terms:
        if step == stop:
            raise Stop
        x = torch.randn(8, 2, generator=loop.generator(settings.seed, "x", step))
        x = x * math.nan if step == broken else x
        return {"loss": (module(x)[:, 0] - x.sum(1)).square().mean()}

    trainer = loop.Trainer("line", {"line": module}, settings, state)
    trainer.run(terms)
    log = trainer.finish()
    return module.weight.detach().clone(), log


def test_a_killed_training_ends_as_one_that_was_not(tmp_path):
    settings = Training(steps=30, save_every=7, log_every=1, ema=0.9, lr=0.05, warmup=0)
    whole, log = line(settings, None)
    with pytest.raises(Stop):
        line(settings, State(tmp_path / "state"), stop=17)
    resumed, resumed_log = line(settings, State(tmp_path / "state"))
    assert torch.equal(whole, resumed)
    assert log.rows == resumed_log.rows
    assert len({step for step, *_ in log.rows}) == 30


def test_training_that_is_not_finite_stops_before_the_step():
    with pytest.raises(InputError, match=r"line: step 3: loss nan, gradient norm nan, expected finite"):
        line(Training(steps=5, lr=0.05, warmup=0), None, broken=3)


def test_averaged_weights_are_the_mean_that_the_decay_says():
    settings = Training(steps=3, ema=0.5, lr=0.1, warmup=0)
    torch.manual_seed(0)
    module = nn.Linear(2, 1)
    trainer = loop.Trainer("mean", {"line": module}, settings)
    seen = [module.weight.detach().clone()]
    expected = seen[0].clone()
    for step in range(3):
        trainer._update({"loss": module(torch.ones(1, 2)).square().sum()})
        trainer.step += 1
        decay = min(0.5, (step + 1) / (step + 10))
        expected = decay * expected + (1 - decay) * module.weight.detach()
    trainer.finish()
    assert torch.allclose(module.weight, expected)
