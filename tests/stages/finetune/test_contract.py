"""What every fine-tuning method keeps to, by being in its folder: with its default settings, on a tiny network."""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Callable
from dataclasses import dataclass, field
from functools import partial
from itertools import islice
from pathlib import Path
from typing import Any

import pytest
import torch
import yaml
from torch import Tensor

from stages import about, plugins
from stages.errors import InputError
from stages.finetune import method, stop
from stages.finetune.budget import costs
from stages.finetune.cost import Cost
from stages.finetune.networks import Networks
from stages.finetune.resolve import require_even, training_plan
from stages.finetune.settings import FinetuneSettings
from stages.finetune.training import Trainer
from stages.models.diffusion import Denoiser
from stages.models.process_noise import NoiseGrid
from stages.processes import ALONE, Processes
from tests import tiny_methods
from tests.together import together

KINDS = plugins.names(method.PACKAGE, "")
VALUES: dict[str, dict[str, Any]] = {
    "awm": {"epochs": 2},  # in the first step of a collection the old error is that of the policy itself
    "chats": {"prompt_drop": 0.0},  # without a prompt no weight of the text has a gradient
    "diffusion_dro": {"margin": 10.0},  # with the default the hinge is idle on made-up images
    # after an optimizer step every ratio to the base has left the default range
    "dense_reward": {"tuples": 2, "clip": 0.5},
    # on a made-up reward no pair is above the default thresholds; after a step every ratio has left the default range
    "lpo": {"threshold": 0.0, "threshold_high": 0.0, "beta": 5.0},
    # the states of its divergence are detached: with K = 1 none of them depends on the weights
    "online": {"queries": [8], "round_steps": 2, "inner": {"kind": "gradient", "truncate": [1, 2]}},
}
"""Settings in place of defaults, where these are too large for a test or hide what is checked."""
TRAIN = FinetuneSettings.model_validate(
    {"sampling_steps": 20, "batch_size": 8, "accumulate": 2, "ema": 0.5, "guidance": 1.5, "optimizer": {"lr": 1e-3}}
)


def trainer(kind: str, processes: Processes = ALONE) -> Trainer:
    return tiny_methods.trainer(kind, VALUES.get(kind, {}), TRAIN, processes)


def step(made: Trainer, kind: str, number: int, processes: Processes = ALONE) -> dict[str, float]:
    own = tiny_methods.settings(kind, VALUES.get(kind, {}))
    return made.step(tiny_methods.batches(own, number, TRAIN, processes))


def weights(made: Trainer) -> Tensor:
    assert made.average is not None
    return torch.cat([value.detach().flatten() for value in [*made.parameters.values(), *made.average.values()]])


@dataclass
class Memory:
    """What is made without gradient: kept on the first pass, given back on every later one."""

    kept: list[Tensor] = field(default_factory=list)
    replay: bool = False
    place: int = 0
    within: bool = False

    def again(self, make: Callable[..., Tensor], *args: Any, **more: Any) -> Tensor:
        if self.within:  # a part of what is kept as a whole
            return make(*args, **more)
        if not self.replay:
            self.within = True
            self.kept.append(make(*args, **more).detach())
            self.within = False
        self.place += 1
        return self.kept[self.place - 1]


@pytest.mark.parametrize("kind", KINDS)
def test_the_gradient_is_that_of_the_logged_loss(kind: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """By central differences, with what is made without gradient as it was."""
    made, memory = trainer(kind), Memory()
    own = tiny_methods.settings(kind, VALUES.get(kind, {}))
    step(made, kind, 0)
    made.objective.collect(tiny_methods.batches(own, 1, TRAIN))
    rollout, noised, prediction = Networks.rollout, NoiseGrid.noised, Denoiser.prediction

    def predicted(*args: Any, **more: Any) -> Tensor:
        return prediction(*args, **more) if torch.is_grad_enabled() else memory.again(prediction, *args, **more)

    monkeypatch.setattr(Denoiser, "prediction", predicted)
    monkeypatch.setattr(Networks, "rollout", lambda *args, **more: memory.again(rollout, *args, **more))
    monkeypatch.setattr(stop, "gradient", lambda values: memory.again(Tensor.detach, values))
    monkeypatch.setattr(NoiseGrid, "noised", lambda *args, **more: memory.again(noised, *args, **more))

    def loss() -> float:
        memory.place = 0
        made.optimizer.zero_grad(set_to_none=True)
        each = made.backward(tiny_methods.batches(own, 1, TRAIN))
        return sum(float(terms["loss"]) for terms in each) / len(each)

    loss()
    memory.replay = True
    gradients = {name: p.grad.clone() for name, p in made.parameters.items() if p.grad is not None}
    assert len(gradients) == len(made.parameters)
    draw = torch.Generator().manual_seed(4)
    for name, gradient in gradients.items():
        along = torch.randn(gradient.shape, generator=draw, dtype=gradient.dtype)
        values = []
        for sign in (1, -2):
            with torch.no_grad():
                made.parameters[name].add_(sign * 1e-5 * along)
            values.append(loss())
        with torch.no_grad():
            made.parameters[name].add_(1e-5 * along)
        expected = (values[0] - values[1]) / 2e-5
        assert abs(expected) > 1e-9
        assert float((gradient * along).sum()) == pytest.approx(expected, rel=1e-3)


@pytest.mark.parametrize("kind", KINDS)
def test_a_run_that_goes_on_is_one_that_was_not_interrupted(kind: str, tmp_path: Path) -> None:
    """To the bit: weights, averages, log and counted evaluations."""
    straight, first, second = (trainer(kind) for _ in range(3))
    logs = [step(straight, kind, number) for number in range(3)]
    step(first, kind, 0)
    torch.save(first.state_dict(), tmp_path / "state.pt")
    second.load_state_dict(torch.load(tmp_path / "state.pt", weights_only=True))
    assert [step(second, kind, number) for number in (1, 2)] == logs[1:]
    assert torch.equal(weights(second), weights(straight))
    assert second.counters() == straight.counters()


@pytest.mark.parametrize("kind", KINDS)
def test_evaluations_are_those_that_the_budget_counts(kind: str) -> None:
    made = trainer(kind)
    counted = islice(costs(tiny_methods.plan(kind, VALUES.get(kind, {}), TRAIN), made.run.networks.grid.process), 3)
    own = tiny_methods.settings(kind, VALUES.get(kind, {}))
    for number, expected in enumerate(counted):
        before = Cost.of(made.run.networks)
        given = tiny_methods.batches(own, number, TRAIN)
        for batch in given:  # the random indices of a run with seed 0
            batch.rng.seed(seed(number, batch.micro % TRAIN.accumulate))
        made.step(given)
        assert Cost.of(made.run.networks) - before == expected


def seed(number: int, micro: int) -> int:
    """The seed of a micro-batch's own draws, as training has it."""
    from stages.runtime import seed_from

    return seed_from("window", 0, number, micro)


def train_in(kind: str, processes: Processes) -> tuple[Tensor, list[dict[str, float]], dict[str, list[int]]]:
    made = trainer(kind, processes)
    log = [step(made, kind, number, processes) for number in range(2)]
    return weights(made), log, made.counters()


def train_all(processes: Processes) -> dict[str, tuple[Tensor, list[dict[str, float]], dict[str, list[int]]]]:
    return {kind: train_in(kind, processes) for kind in SHARED}


def plan_of(kind: str) -> Any:
    return tiny_methods.plan(kind, VALUES.get(kind, {}), TRAIN)


SHARED = [kind for kind in KINDS if tiny_methods.settings(kind, VALUES.get(kind, {})).needs.several_processes]


@pytest.fixture(scope="module")
def two() -> list[dict[str, tuple[Tensor, list[dict[str, float]], dict[str, list[int]]]]]:
    return together(2, train_all)


@pytest.mark.parametrize("kind", KINDS)
def test_two_processes_are_one_or_are_refused(kind: str, request: pytest.FixtureRequest) -> None:
    """Weights and log up to the rounding of double precision, counted evaluations to the number."""
    if kind not in SHARED:
        with pytest.raises(InputError, match="trains in one process, not in 2"):
            require_even(plan_of(kind), 2)
        return
    require_even(plan_of(kind), 2)
    expected, log, counters = train_in(kind, ALONE)
    ranks = [found[kind] for found in request.getfixturevalue("two")]
    assert torch.equal(ranks[0][0], ranks[1][0])
    for found, own, counted in ranks:
        assert float((found - expected).abs().max()) < 1e-8
        assert counted == counters
        for terms, wanted in zip(own, log, strict=True):
            memory = {"memory_mb", "buffer"}
            assert terms.keys() == wanted.keys()
            for name in terms.keys() - memory:
                assert terms[name] == pytest.approx(wanted[name], rel=1e-6, abs=1e-9), name


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("wrong", [{"no_such_key": 1}, {"train": {"steps": "many"}}, {"train": {"no_such_key": 1}}])
def test_bad_settings_are_refused_in_one_line(kind: str, wrong: dict[str, object], tmp_path: Path) -> None:
    study = {
        "study": {"reward": "r", "heldout": "h"}, "finetune": {"sampling_steps": 20},
        "methods": {"bad": {"kind": kind, **VALUES.get(kind, {}), **wrong}},
        "runs": {"bad-s0": {"method": "bad", "seed": 0}},
    }  # fmt: skip
    (tmp_path / "params.yaml").write_text(yaml.safe_dump(study))
    with pytest.raises(InputError, match=r"methods\.bad") as found:
        training_plan(tmp_path / "params.yaml", "bad-s0")
    assert "\n" not in str(found.value)


@pytest.mark.parametrize("kind", KINDS)
def test_it_says_what_it_is_called_and_where_it_comes_from(kind: str) -> None:
    said = about.of(method.load(kind, kind)[1], kind, about.MethodAbout)
    assert said.title and said.source and said.family


def test_methods_are_planned_without_torch() -> None:
    lines = ["import sys", "from stages.finetune import method"]
    lines += [f"method.load({kind!r}, 'x')" for kind in KINDS]
    lines += ["assert 'torch' not in sys.modules"]
    subprocess.run([sys.executable, "-c", "\n".join(lines)], check=True)


def test_a_module_without_a_method_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(plugins, "load", partial(lambda module, *_: module, plugins))
    with pytest.raises(InputError, match="has no METHOD, expected a Method there"):
        method.load("plugins", "methods.x")
