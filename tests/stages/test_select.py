"""Steps over curated pairs: whatever the order of the table, one after another, and what is refused in one line."""

from __future__ import annotations

import random
import tempfile
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import settings as examples
from hypothesis import strategies as st

from stages.errors import InputError
from tests.stages.selecting import Row, Scores, chosen, pair, put, run, scored, studies

SHOWN = {f"i{n}": np.random.default_rng(n).integers(0, 256, (16, 16, 3), dtype=np.uint8) for n in range(5)}
SHOWN["i1"] = SHOWN["i0"].copy()
EVERY: tuple[dict[str, Any], ...] = (
    {"kind": "majority", "by": ["r", "s"]},
    {"kind": "majority", "by": ["r", "s", "t"], "label": "share", "even": "as_judged"},
    {"kind": "soft", "reward": "r", "range": 0.7},
    {"kind": "margin", "reward": "r"},
    {"kind": "margin_band", "reward": "s", "low": 1.0},
    {"kind": "margin_band", "reward": "s", "shares": (0.25, 0.75)},
    {"kind": "fifa", "reward": "r", "share": 0.5, "neighbour": 2},
    {"kind": "fifa", "reward": "r", "top": 1, "alpha": 0.0, "gamma": 0.0},
    {"kind": "absolute_winners"},
    {"kind": "hps_v1", "reward": "r", "fewest": 2, "scale": 1.0, "times": 1.2},
    {"kind": "hps_v1", "reward": "r", "fewest": 2, "scale": 1.0, "times": 1.2, "side": "worst"},
    {"kind": "too_similar"},
    {"kind": "swap"},
)


@pytest.mark.parametrize("wanted", EVERY, ids=lambda one: "-".join(str(v) for v in one.values()))
@examples(max_examples=8, deadline=None)
@given(made=studies(), seed=st.integers(0, 99))
def test_the_order_of_the_table_decides_nothing_and_counts_add_up(
    wanted: dict[str, Any], made: tuple[list[Row], Scores], seed: int
) -> None:
    rows, scores = made
    other = random.Random(seed).sample(rows, len(rows))
    with tempfile.TemporaryDirectory() as folder:
        try:
            first = run(Path(folder), rows, scores, wanted, shown=SHOWN)
        except InputError as error:
            with pytest.raises(InputError) as again:
                run(Path(folder), other, scores, wanted, shown=SHOWN)
            assert str(again.value) == str(error) and "\n" not in str(error)
            return
        second = run(Path(folder), other, scores, wanted, shown=SHOWN)
    assert first.rows == second.rows
    assert list(second.rows) == [row["pair_id"] for row in other if row["pair_id"] in second.rows]
    (step,) = first.manifest["steps"]
    training = [row for row in rows if row["split"] == "train"]
    left = [row for row in first.rows.values() if row["split"] == "train"]
    assert first.manifest["in"] == len(training) == step["removed"] + step["left"]
    assert step["left"] == first.manifest["out"] == first.manifest["splits"].get("train", 0) == len(left)
    assert step["ties"] == sum(row["preference"] == 0.5 for row in left)
    before = {row["pair_id"]: row["preference"] for row in rows}
    assert step["relabelled"] == sum(row["preference"] != before[row["pair_id"]] for row in left)
    turned = sum((row["preference"] - 0.5) * (before[row["pair_id"]] - 0.5) < 0 for row in left)
    assert step["exchanged"] == turned
    assert step["reweighted"] == sum(row.get("weight", 1.0) != 1 for row in left)
    assert first.manifest["splits"].get("val", 0) == len(rows) - len(training)
    assert all(first.preferences[row["pair_id"]] == row["preference"] for row in rows if row["split"] == "val")


@examples(max_examples=8, deadline=None)
@given(made=studies())
def test_steps_follow_one_another(made: tuple[list[Row], Scores]) -> None:
    """Two steps in one section are the second on what the first left."""
    rows, scores = made
    label, band = EVERY[0], {"kind": "margin_band", "reward": "r", "agrees": True}
    with tempfile.TemporaryDirectory() as folder:
        one = run(Path(folder), rows, scores, label)
        try:
            both = run(Path(folder), rows, scores, label, band)
        except InputError as error:
            assert "steps.1 (margin_band): nothing left of" in str(error)
            return
        after = run(Path(folder), list(one.rows.values()), scores, band)
    assert both.rows == after.rows
    assert [step["left"] for step in both.manifest["steps"]] == [one.manifest["out"], after.manifest["out"]]


@pytest.mark.parametrize(
    ("step", "words"),
    [
        ({"kind": "fifa", "reward": "r", "top": 9}, "steps.0 (fifa): top: is 9, but 2 training pairs are left, expec"),
        ({"kind": "margin_band", "reward": "r", "low": 99}, "steps.0 (margin_band): nothing left of 2 training pairs"),
        ({"kind": "fifa", "reward": "r"}, "study.yaml: select.steps.0: top and share: expected one of them"),
        ({"kind": "fifa", "reward": "r", "top": 1, "share": 0.5}, "top and share: expected one of them"),
        ({"kind": "fifs"}, "steps.0.kind: unknown kind 'fifs'; did you mean 'fifa'?"),
        ({"reward": "r"}, "steps.0: expected a mapping with a 'kind', a text, found ['reward']"),
        ({"kind": "soft", "reward": "r", "range": 0}, "select.steps.0.range: input should be greater than 0"),
        ({"kind": "majority", "by": ["r", "r"]}, "steps.0.by: expected every reward once, found ['r', 'r']"),
        ({"kind": "majority", "by": []}, "steps.0.by: expected at least 1 item"),
        ({"kind": "margin_band", "reward": "r", "low": 2.0, "high": 1.0}, "low 2.0 is above high 1.0, expected a band"),
        ({"kind": "margin_band", "reward": "r", "shares": (0.5, 0.5)}, "expected two from 0 to 1, the first below"),
        ({"kind": "margin", "reward": "s"}, "(margin): reward: 's' scores both images of every pair alike, expected"),
    ],
)
def test_refusals_are_one_line(tmp_path: Path, step: dict[str, Any], words: str) -> None:
    rows = [pair(0, "a cat", "x", "y"), pair(1, "a cat", "y", "z")]
    scores = dict(scored(("x", 4.0), ("y", 3.0), ("z", 1.0)))
    scores["s"] = dict.fromkeys(scores["r"], 1.0)
    with pytest.raises(InputError) as refused:
        run(tmp_path, rows, scores, step)
    assert words in str(refused.value) and "\n" not in str(refused.value)


def test_scores_of_other_pairs_are_refused(tmp_path: Path) -> None:
    """Another order, fewer, more."""
    rows = [pair(0, "a cat", "x", "y"), pair(1, "a cat", "y", "z")]
    scores = scored(("x", 4.0), ("y", 3.0), ("z", 1.0))
    step = {"kind": "margin", "reward": "r"}
    for others in (rows[::-1], rows[:1], [*rows, pair(2, "a cat", "x", "z")]):
        _, scored_by = put(tmp_path, others, scores)
        (tmp_path / "kept").mkdir(exist_ok=True)
        pairs, _ = put(tmp_path / "kept", rows, {})
        with pytest.raises(InputError, match="has not the scores of the pairs of"):
            chosen(pairs, scored_by, step)


def test_a_table_without_training_pairs_is_refused(tmp_path: Path) -> None:
    pairs, _ = put(tmp_path, [pair(0, "a cat", "x", "y", split="val")], {})
    with pytest.raises(InputError, match="no training pair, expected at least one to select"):
        chosen(pairs, {}, {"kind": "swap"})
