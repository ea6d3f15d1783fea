"""The errors of winners and losers against the reference's: the figure shows the log's numbers, and no others."""

from __future__ import annotations

from pathlib import Path
from typing import Any, cast

import numpy as np
import pandas as pd
import pytest
from matplotlib import pyplot as plt

from stages.audit.documents import ends_of_training
from stages.errors import InputError
from stages.report import redraw, settings
from stages.report.figures import winner_error
from stages.report.look import Look
from stages.report.measurements import Series
from stages.report.redraw import Kept
from stages.report.settings import ReportStudy

ROOT = Path(__file__).resolve().parents[3]
WON, LOST = np.array([0.0, 1.0, 2.0]), np.array([0.0, -1.0, 4.0])


def made(log: dict[str, dict[str, Series]]) -> Kept:
    """A study of methods a and b with two seeds of a, and this log."""
    study = ReportStudy.model_validate(
        {
            "study": {"name": "x", "reward": "truth", "reference": "a"},
            "report": {"rewards": ["truth"], "diversities": ["d"]},
            "runs": {run: {"method": run[0], "seed": int(run[-1])} for run in ("a-s0", "a-s1", "b-s0")},
            "sample": {"steps": 1},
        }
    )
    return Kept(study, Look.of(study), log)


def both(offset: float = 0.0) -> dict[str, Series]:
    steps = np.arange(3)
    return {"winner_drift": Series(steps, WON + offset), "loser_drift": Series(steps, LOST + offset)}


def test_a_panel_per_method_with_both_sides_of_every_seed():
    data = made({"a-s0": both(), "a-s1": both(1.0), "b-s0": {"reward": Series(np.arange(2), np.zeros(2))}})
    figure = winner_error.draw(data)
    try:
        (panel,) = figure.axes
        assert panel.get_title(loc="left") == "a"
        shown = {
            dash: [np.asarray(line.get_ydata()).tolist() for line in panel.lines if line.get_linestyle() == dash
                   and line.get_alpha() is None]
            for dash in ("-", "--")
        }  # fmt: skip
        assert shown["-"] == [[0.5, 1.0, 1.5], [1.5, 2.0, 2.5]]  # means over one neighbour on each side
        assert shown["--"] == [[-0.5, 1.0, 1.5], [0.5, 2.0, 2.5]]
    finally:
        plt.close(figure)
    assert winner_error.rows(data)[-1] == {
        "run": "a-s1", "method": "a", "seed": 1, "step": 2, "winner_drift": 3.0, "loser_drift": 5.0
    }  # fmt: skip


def test_without_errors_against_a_reference_there_is_nothing_to_show():
    data = made({"a-s0": {"winner_error": Series(np.arange(2), np.ones(2))}})
    assert not winner_error.shown(data) and winner_error.rows(data) == []
    figure = winner_error.draw(data)
    assert [text.get_text() for text in figure.axes[0].texts] == ["no training log has errors against a reference"]
    plt.close(figure)


@pytest.mark.parametrize("count", [1, 7, 40, 101])
def test_the_mean_reaches_a_twentieth_to_either_side(count: int):
    values = np.random.default_rng(count).normal(size=count)
    reach = max(1, count // 20)
    wanted = [values[max(0, n - reach) : n + reach + 1].mean() for n in range(count)]
    np.testing.assert_allclose(winner_error.running_mean(values), wanted, atol=1e-12)


def test_of_the_kept_results_the_numbers_are_those_of_the_audit():
    """Means over the last fifth of training of every run that has both errors, by the audit, which shares no code."""
    study = settings.read(ROOT / "studies" / "shapes-preference.yaml")
    kept = Kept.read(study, ROOT / "docs" / "results" / "shapes-preference")
    rows = winner_error.rows(kept)
    methods = {str(row["method"]) for row in rows}
    assert {"dpo", "sdpo", "inpo", "spin"} <= methods and not {"mapo", "sft", "refl"} & methods
    ends = ends_of_training(ROOT / "docs" / "results" / "shapes-preference")
    runs = {run for run, term in ends if term == winner_error.WINNER}
    assert {str(row["run"]) for row in rows} == runs and len(runs) > 20
    log: Any = pd.read_parquet(ROOT / "docs/results/shapes-preference/training.parquet")
    steps = log.groupby("run")["step"].max().to_dict()
    for run in runs:
        last = [row for row in rows if row["run"] == run and cast(int, row["step"]) >= 0.8 * steps[run]]
        for side in (winner_error.WINNER, winner_error.LOSER):
            assert np.mean([cast(float, row[side]) for row in last]) == pytest.approx(ends[run, side], abs=1e-9)


def redrawn(monkeypatch: pytest.MonkeyPatch, kind: str, out: Path) -> None:
    """The command, on the results that a study keeps."""
    study, results = ROOT / "studies/shapes-preference.yaml", ROOT / "docs/results/shapes-preference"
    words = ["--params", study, "--results", results, "--figure", kind, "--out", out]
    monkeypatch.setattr("sys.argv", ["redraw", *map(str, words)])
    redraw.main()


@pytest.mark.parametrize("kind", ["winner_error", "training"])
def test_figures_of_training_logs_are_drawn_from_kept_results(
    kind: str, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    redrawn(monkeypatch, kind, tmp_path / "figure.png")
    assert (tmp_path / "figure.png").stat().st_size > 10_000


@pytest.mark.parametrize("kind", ["frontier", "grid"])
def test_other_figures_are_refused(kind: str, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    known = "cost or equal_cost or training or winner_error"
    with pytest.raises(InputError, match=f"--figure {kind}: needs more than .*; expected {known}"):
        redrawn(monkeypatch, kind, tmp_path / "figure.png")
    assert not any(tmp_path.iterdir())
