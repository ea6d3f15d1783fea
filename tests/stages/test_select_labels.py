"""Labels and weights of pairs by rewards: what each step does."""

from __future__ import annotations

import tempfile
from pathlib import Path

import pytest
import torch
from hypothesis import given
from hypothesis import settings as examples
from hypothesis import strategies as st

from stages import tables
from stages.finetune.families.labels import soft_label
from tests.stages.selecting import Row, Scores, pair, run, scored, studies


def test_a_majority_outvotes_the_label_and_even_votes_are_ties(tmp_path: Path) -> None:
    rows = [pair(0, "a cat", "x", "y", 0.0), pair(1, "a cat", "y", "z", 1.0)]
    votes = {"r": (3, 2, 1), "s": (3, 1, 1), "t": (0, 5, 9)}
    scores = {r: dict(zip([(i, "a cat") for i in "xyz"], map(float, v), strict=True)) for r, v in votes.items()}
    by = {"kind": "majority", "by": ["r", "s", "t"]}
    assert run(tmp_path, rows, scores, by).preferences == {"p000": 1.0, "p001": 0.5}
    shared = run(tmp_path, rows, scores, by | {"label": "share", "even": "as_judged"}).preferences
    assert shared == {"p000": pytest.approx(2 / 3), "p001": 1.0}


@examples(max_examples=8, deadline=None)
@given(made=studies())
def test_one_voter_is_a_relabelled_table(made: tuple[list[Row], Scores]) -> None:
    rows, scores = made
    with tempfile.TemporaryDirectory() as folder:
        found = run(Path(folder), rows, scores, {"kind": "majority", "by": ["r"]})
    for row in (row for row in rows if row["split"] == "train"):
        a, b = (scores["r"][row[f"image_{side}"], row["prompt"]] for side in "ab")
        assert found.preferences[row["pair_id"]] == (1.0 if a > b else 0.0 if a < b else 0.5)


@examples(max_examples=12, deadline=None)
@given(a=st.floats(-1, 1), b=st.floats(-1, 1), scale=st.floats(0.01, 10))
def test_a_soft_label_is_that_of_training(a: float, b: float, scale: float) -> None:
    """The same formula as `labels: {kind: reward, range: ...}` of a method, and its complement for exchanged images."""
    with tempfile.TemporaryDirectory() as folder:
        rows = [pair(0, "a cat", "x", "y"), pair(1, "a cat", "y", "x")]
        found = run(Path(folder), rows, scored(("x", a), ("y", b)), {"kind": "soft", "reward": "r", "range": scale})
    high, low = (torch.tensor([value], dtype=torch.float64) for value in (max(a, b), min(a, b)))
    label = float(soft_label(high, low, scale))
    assert max(found.preferences.values()) == pytest.approx(label)
    assert sum(found.preferences.values()) == pytest.approx(1)


def test_a_margin_is_a_weight_beside_the_one_that_a_pair_has(tmp_path: Path) -> None:
    more = {"weight": 2.0, "annotator": "me"}
    rows = [pair(0, "a cat", "x", "y", 0.5, **more), pair(1, "a cat", "z", "x", 1.0, **more)]
    found = run(tmp_path, rows, scored(("x", 4.0), ("y", 3.0), ("z", 1.0)), {"kind": "margin", "reward": "r"})
    assert found.preferences == {"p000": 1.0, "p001": 0.0}
    assert {name: row["weight"] for name, row in found.rows.items()} == {"p000": 1.0, "p001": 3.0}
    assert {row["annotator"] for row in found.rows.values()} == {"me"}


def test_weights_make_a_table_with_weights(tmp_path: Path) -> None:
    rows = [pair(0, "a cat", "x", "y"), pair(1, "a cat", "y", "z", split="val"), pair(2, "a cat", "x", "z")]
    scores = scored(("x", 4.0), ("y", 3.0), ("z", 1.0))
    assert run(tmp_path, rows, scores, {"kind": "swap"}).schema is tables.PAIRS
    found = run(tmp_path, rows, scores, {"kind": "margin", "reward": "r", "most": 1.2})
    assert found.schema is tables.JUDGED_PAIRS
    assert {n: (row["weight"], row["annotator"]) for n, row in found.rows.items()} == {
        "p000": (0.5, ""), "p001": (1.0, ""), "p002": (1.2, "")
    }  # fmt: skip
