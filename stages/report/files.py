"""The findings as files: `metrics.json`, and CSV tables with numbers of six significant digits."""

from __future__ import annotations

import json
import math
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import pandas as pd

from stages.report import curves, style
from stages.report.data import ReportData
from stages.report.findings import Findings
from stages.report.measurements import Point
from stages.runtime import whole_file

POINT = ["method", "strategy", "setting", "value", "seeds", "n_prompts", "metric"]
INTERVAL = ["mean", "low", "high"]


def summary(findings: Findings) -> pd.DataFrame:
    """The columns of `summary.csv`: every metric of every setting."""
    return _of(findings, "estimate", [*POINT, *INTERVAL, "nfe", "seconds"])


def differences(findings: Findings) -> pd.DataFrame:
    """The columns of `differences.csv`: paired differences; `clear` is 1 or -1 where the whole interval lies above or
    below zero, else 0.
    """
    found = _of(findings, "difference", [*POINT, "against", *INTERVAL])
    return found.assign(clear=(found["low"] > 0).astype(int) - (found["high"] < 0).astype(int))


def _of(findings: Findings, about: str, columns: list[str]) -> pd.DataFrame:
    return findings.frame.loc[findings.frame["about"] == about, columns]


def write_csv(path: Path, rows: pd.DataFrame | Sequence[Mapping[str, object]]) -> None:
    """Write a table as CSV, numbers with six significant digits, nothing for NaN, whole or not at all."""
    with whole_file(path) as partial:
        pd.DataFrame(rows).to_csv(partial, index=False, float_format="%.6g", lineterminator="\n", encoding="utf-8")


def named(data: ReportData, rows: pd.DataFrame | Sequence[Mapping[str, object]]) -> pd.DataFrame:
    """`rows` behind two columns that say which numbers these are, wherever the table goes: `study`, which has the id of
    the protocol in it where there is one, and `evaluation`, the evaluation id.
    """
    found = pd.DataFrame(rows)
    found.insert(0, "study", data.study.study.name)
    found.insert(1, "evaluation", data.evaluation.identity)
    return found


def headline(data: ReportData) -> dict[str, Any]:
    """The few numbers that `dvc metrics diff` compares between two revisions of a study, nested by what they are about.

    `claims`: parts shown, and parts, of each claim. `gap`: mean reward gap of the candidate's leading curve to the
    reference's at equal diversity, `area` the area between the two frontiers, `best` the gap of the best reward at no
    less diversity. `base`, and `runs`: rewards and diversities of the base and of every run, tuned only and in the
    middle of its leading curve.
    """
    claims = {claim.key: claim for claim in data.findings.claims}
    found: dict[str, Any] = {
        "claims": {key: {"shown": claim.shown, "of": len(claim.parts)} for key, claim in claims.items()}
    }
    if "above" in claims:
        found["gap"] = {reward: {} for reward in data.study.report.rewards}
        found["area"] = {reward: {} for reward in data.study.report.rewards}
        for part in claims["above"].parts:
            found["gap"][part.metric][part.at_equal] = _number(part.mean)
            found["area"][part.metric][part.at_equal] = _number(part.area)
    if "best" in claims:
        found["best"] = {reward: {} for reward in data.study.report.rewards}
        for part in claims["best"].parts:
            found["best"][part.metric][part.at_equal] = _number(part.mean)
    found["base"] = _scores(data, data.evaluation.base, 0)
    found["runs"] = {run: _run(data, run) for run in data.study.runs}
    return found


def write_json(path: Path, content: Mapping[str, Any]) -> None:
    """Write the numbers, whole or not at all."""
    with whole_file(path) as partial:
        partial.write_text(json.dumps(content, indent=1) + "\n")


def _run(data: ReportData, run: str) -> dict[str, Any]:
    view = data.study.runs[run]
    seed = data.evaluation.seeds[view.method].index(view.seed)
    tuned = curves.tuned_point(data.look, data.evaluation, view.method)
    leading = curves.leading(data.look, data.evaluation, view.method)
    found = {}
    if tuned:
        found["tuned"] = _scores(data, tuned, seed)
    if leading:
        name = style.plain(f"{leading.middle.strategy}_{data.evaluation.labels[leading.middle]}")
        found[name] = _scores(data, leading.middle, seed)
    return found


def _scores(data: ReportData, point: Point, seed: int) -> dict[str, float | None]:
    axes = [*data.study.report.rewards, *data.study.report.diversities]
    found = ((axis, data.findings.estimate(point, axis)) for axis in axes)
    return {axis: _number(one.per_seed[seed]) if one else None for axis, one in found}


def _number(value: float) -> float | None:
    """Six significant digits; null where there is none."""
    return float(f"{value:.6g}") if math.isfinite(value) else None
