"""The rule that chooses a learning rate, and what the sweep is allowed to be."""

from __future__ import annotations

import math
from dataclasses import fields
from pathlib import Path

import pytest
import yaml
from pydantic import ValidationError

from stages import tables
from stages.errors import InputError
from stages.tune.__main__ import table_rows
from stages.tune.choice import Trial, choose
from stages.tune.settings import TuneSettings, require_methods

ROOT = Path(__file__).resolve().parents[2]


def trial(lr: float, heldout: float, diversity: float = 0.9, reward: float = 0.5) -> Trial:
    return Trial("refl", lr, 3, reward, (heldout, heldout), diversity)


def test_a_rate_whose_heldout_reward_is_clearly_lower_is_not_chosen_whatever_its_training_reward() -> None:
    trials = [trial(1e-4, 0.6, reward=0.9), trial(2e-4, 0.7, reward=0.5), trial(4e-4, 0.65, reward=0.99)]
    assert choose(trials, 1.0, 0.5).lr == 2e-4


def test_among_rates_that_cannot_be_told_apart_the_training_reward_decides() -> None:
    best = Trial("refl", 1e-4, 3, 0.5, (0.6, 0.8, 0.7), 0.9)
    apart = (0.02, -0.01, 0.01)  # prompt by prompt: 0.0067 below on average, standard error 0.0088
    near = Trial("refl", 2e-4, 3, 0.6, tuple(a - b for a, b in zip(best.heldout, apart, strict=True)), 0.9)
    below = Trial("refl", 4e-4, 3, 0.7, tuple(a - b - 0.003 for a, b in zip(best.heldout, apart, strict=True)), 0.9)
    assert choose([best, near, below], 1.0, 0.5) == near
    assert choose([best, near, below], 1.0, 0.95).lr == 1e-4  # none keeps so much, and all keep the same


def test_a_rate_that_leaves_too_little_diversity_is_not_chosen() -> None:
    trials = [trial(1e-4, 0.6, 0.8), trial(2e-4, 0.7, 0.5), trial(4e-4, 0.9, 0.49)]
    assert choose(trials, 1.0, 0.5).lr == 2e-4
    assert choose(trials, 1.0, 0.9).lr == 1e-4  # none leaves 0.9: the one that leaves most


def test_of_equal_rates_the_smallest_is_chosen() -> None:
    assert choose([trial(1e-4, 0.7), trial(2e-4, 0.7)], 1.0, 0.5).lr == 1e-4


def test_a_rate_at_which_training_broke_down_is_not_chosen() -> None:
    broken = trial(4e-4, math.nan, math.nan)
    assert choose([trial(1e-4, 0.1), broken], 1.0, 0.5).lr == 1e-4
    with pytest.raises(ValueError, match="broke down at every rate"):
        choose([broken], 1.0, 0.5)


def test_the_table_marks_one_rate_a_method_and_starts_with_the_base() -> None:
    base = Trial("base", 0.0, 0, 0.4, (0.4,), 1.0)
    other = [Trial("draft1", lr, 4, 0.5, (heldout,), 0.8) for lr, heldout in ((1e-4, 0.5), (2e-4, 0.6))]
    rows = table_rows([base, trial(1e-4, 0.6), trial(2e-4, 0.5), *other], 0.5)
    assert [(row["method"], row["lr"], row["steps"]) for row in rows if row["chosen"]] == [
        ("refl", 1e-4, 3), ("draft1", 2e-4, 4),
    ]  # fmt: skip
    assert rows[0]["method"] == "base"
    assert tables.table(tables.TUNE, rows).num_rows == 5


@pytest.mark.parametrize("rates", [[2e-4, 1e-4], [1e-4, 1e-4], [0.0], []])
def test_rates_are_positive_and_ascend(rates: list[float]) -> None:
    with pytest.raises(ValidationError):
        TuneSettings.model_validate({"rates": rates})
    with pytest.raises(ValidationError):
        TuneSettings.model_validate({"own": {"lora": rates}})


def test_a_method_is_tried_at_its_own_rates_where_it_has_some() -> None:
    tune = TuneSettings.model_validate({"rates": [1e-4, 2e-4], "own": {"lora": [1e-3]}})
    assert tune.rates_of("lora") == (1e-3,)
    assert tune.rates_of("refl") == (1e-4, 2e-4)


@pytest.mark.parametrize(("name", "hint"), [("lorra", "did you mean 'lora'"), ("xyz", "known: lora, refl")])
def test_rates_of_a_method_that_is_not_there_are_refused(name: str, hint: str) -> None:
    tune = TuneSettings.model_validate({"own": {name: [1e-3]}})
    with pytest.raises(InputError, match=f"study.tune.own.{name}: no such method; {hint}"):
        require_methods(tune, ["refl", "lora"], "study.tune.own")


_OF_ONE_TASTE = {
    *("refl_compute", "refl_diffusion"),  # as refl
    *(f"imagerefl_{name}" for name in ("start6", "start10", "start18", "weight0", "weight1")),  # as imagerefl
}

VARIANTS = {
    "shapes-claims": {
        "imagerefl_compute",
        "imagerefl_long",
        "refl_long",
        "no_diffusion",
        "more_diffusion",
        "start_6",
        "start_14",
    },
    "emoji-fine": {"imagerefl_rate", *_OF_ONE_TASTE},
    "emoji-coarse": _OF_ONE_TASTE,
    "shapes-rl": set(),
    "shapes-preference": {
        *("refl", "imagerefl", "sqdf"),  # at the rates of shapes-rl
        *("ipo", "sdpo", "adaptive", "balanced", "dpo_soft", "tdpo", "dcpo"),  # as dpo
        *("smpo", "rwsft"),  # as inpo, as sft
    },
}
"""Methods of a study that were not swept: variants of methods that were, at their rates."""


@pytest.mark.parametrize("study", VARIANTS)
def test_a_study_has_the_rates_that_its_sweep_chose(study: str) -> None:
    rows = tables.read(ROOT / f"docs/results/{study}/tune.parquet", tables.TUNE).to_pylist()
    settings = yaml.safe_load((ROOT / f"studies/{study}.yaml").read_text())
    tune = TuneSettings.model_validate(settings["study"]["tune"])
    base = next(row for row in rows if row["method"] == "base")
    tried: dict[str, list[Trial]] = {}
    for row in rows:
        tried.setdefault(row["method"], []).append(Trial(**{field.name: row[field.name] for field in fields(Trial)}))
    for method, trials in tried.items():
        if method != "base":
            chosen = choose(trials, base["diversity"], tune.min_diversity)
            own = settings["methods"][method].get("train", {}).get("optimizer", settings["finetune"]["optimizer"])
            assert own["lr"] == chosen.lr
            assert tuple(trial.lr for trial in trials) == tune.rates_of(method)
    assert set(settings["methods"]) <= set(tried) | VARIANTS[study]


def test_a_sweep_is_as_long_as_its_steps_or_its_compute() -> None:
    with pytest.raises(ValidationError, match="either steps or compute"):
        TuneSettings.model_validate({"steps": 5, "compute": 1000})
