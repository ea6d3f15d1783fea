"""Budgets in steps and in compute: what is foreseen is what training then does."""

from __future__ import annotations

from dataclasses import replace
from itertools import islice
from pathlib import Path
from typing import Any, cast

import pytest
import yaml

from stages import tables
from stages.errors import InputError
from stages.finetune.budget import costs, steps_within
from stages.finetune.cost import Cost
from stages.finetune.paths import Paths
from stages.finetune.resolve import training_plan
from stages.finetune.run import finetune
from stages.lineage import Job
from stages.models import record
from stages.tune.settings import TuneSettings
from stages.tune.sweep import sweep
from tests import tiny

METHODS: dict[str, dict[str, Any]] = {
    "refl": {"kind": "refl", "middle": [2, 4]},
    "guided": {"kind": "refl", "middle": [3, 4], "train": {"guidance": 2.0}},
    "draft2": {"kind": "draft_k", "k": 2},
    "imagerefl": {"kind": "imagerefl", "start": 1, "middle": [1, 4], "diffusion_weight": 0.1, "refl_every": 3},
}


class Quiet:
    """A job that nobody listens to."""

    def metrics(self, values: dict[str, float], step: int | None = None) -> None:
        pass


def write(folder: Path, **train: object) -> Path:
    study = {
        "study": {"seed": 1, "reward": "proxy", "heldout": "heldout"},
        "finetune": {
            "steps": 3, "batch_size": 4, "accumulate": 2, "sampling_steps": 4,
            "probe": {"every": 100, "prompts": 1, "samples": 2}, **train,
        },
        "methods": METHODS,
        "runs": {f"{name}-s0": {"method": name, "seed": 0} for name in METHODS},
    }  # fmt: skip
    (folder / "params.yaml").write_text(yaml.safe_dump(study))
    return folder / "params.yaml"


@pytest.mark.parametrize(("method", "forward", "backward"), [("guided", 4 * (3 * 2 + 2), 4 * 2), ("draft2", 4 * 4, 8)])
def test_a_step_costs_what_its_definition_says(tmp_path: Path, method: str, forward: int, backward: int) -> None:
    plan = training_plan(write(tmp_path), f"{method}-s0")  # batches of 4; a guided prediction evaluates twice
    assert list(islice(costs(plan, tiny.schedule()), 2)) == [Cost(forward, backward)] * 2
    assert Cost(forward, backward).compute == forward + 2 * backward


@pytest.mark.parametrize("compute", [200.0, 333.0])
def test_a_compute_budget_is_spent_but_not_overspent(tmp_path: Path, compute: float) -> None:
    for method in METHODS:
        plan = training_plan(write(tmp_path), f"{method}-s0")
        steps = steps_within(plan, tiny.schedule(), compute)
        spent = [cost.compute for cost in islice(costs(plan, tiny.schedule()), steps + 1)]
        assert sum(spent[:-1]) <= compute < sum(spent)


def world(folder: Path) -> None:
    """Records of a tiny base and two rewards, and encodings."""
    record.save(tiny.diffusion_folder(folder / "base"), folder / "base.json")
    record.save(tiny.clip_folder(folder / "proxy", 1, "proxy"), folder / "proxy.json")
    record.save(tiny.clip_folder(folder / "heldout", 2, "heldout"), folder / "heldout.json")
    tiny.encodings(folder)


def paths(folder: Path) -> Paths:
    names = ("base.json", "proxy.json", "heldout.json", "encodings.safetensors", "index.parquet")
    return Paths(*(folder / name for name in names))


def test_training_makes_the_steps_and_the_evaluations_that_were_foreseen(tmp_path: Path) -> None:
    path = write(tmp_path, budget={"compute": 150})
    world(tmp_path)
    plan = training_plan(path, "imagerefl-s0")
    files = tmp_path / "policy.safetensors", tmp_path / "log.parquet"
    finetune(plan, paths(tmp_path), *files, cast(Job, Quiet()))
    rows = tables.read(tmp_path / "log.parquet", tables.TRAIN_LOG).to_pylist()
    log = {(row["step"], row["term"]): row["value"] for row in rows}
    steps = steps_within(plan, tiny.schedule(), 150)
    foreseen = list(islice(costs(plan, tiny.schedule()), steps))
    assert [log[step, "nfe"] for step in range(steps)] == [cost.forward for cost in foreseen]
    assert log[steps - 1, "forward"] == sum(cost.forward for cost in foreseen)
    assert log[steps - 1, "backward"] == sum(cost.backward for cost in foreseen)
    assert (steps, "nfe") not in log


def test_a_sweep_is_as_long_as_its_compute_and_moves_farther_at_a_higher_rate(tmp_path: Path) -> None:
    world(tmp_path)
    path = write(tmp_path, budget={"compute": 400})
    tune = TuneSettings(rates=(1e-6, 1e-2), compute=200, prompts=1, samples=2)
    plan = training_plan(path, "refl-s0")
    base, low, high = sweep([plan], tune, paths(tmp_path))
    assert low.steps == high.steps == steps_within(replace(plan, seed=tune.seed), tiny.schedule(), 200) > 0
    assert base.steps == 0
    assert abs(low.reward - base.reward) < abs(high.reward - base.reward)


def test_a_budget_of_steps_is_that_many_steps(tmp_path: Path) -> None:
    from stages.finetune.budget import within_budget

    plan = training_plan(write(tmp_path, budget={"steps": 7}), "refl-s0")
    assert within_budget(plan, tiny.schedule()).train.steps == 7
    poor = training_plan(write(tmp_path, budget={"compute": 3}), "refl-s0")
    with pytest.raises(InputError, match="compute 3 does not pay for one step"):
        within_budget(poor, tiny.schedule())


@pytest.mark.parametrize("budget", [{}, {"steps": 3, "compute": 4}])
def test_a_budget_says_one_thing(tmp_path: Path, budget: dict[str, float]) -> None:
    with pytest.raises(InputError, match=r"finetune\.budget: expected either steps or compute"):
        training_plan(write(tmp_path, budget=budget), "refl-s0")
