"""`metrics.json`: the few numbers that `dvc metrics diff` compares between two revisions of a study."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np

from stages.report import curves, style
from stages.report.load import Evaluation, Point
from stages.report.settings import ReportStudy
from stages.report.verdict import Verdict
from stages.runtime import whole_file


def headline(study: ReportStudy, evaluation: Evaluation, verdict: Verdict) -> dict[str, Any]:
    """Nested by what a number is about.

    `claims`: parts shown, and parts, of each claim. `gap`: mean reward gap of the candidate's combined generation to
    the reference's at equal diversity, `area` the area between the two frontiers. `base`, and `runs`: rewards and
    diversities of the base and of every run, tuned only and at the middle setting of combined generation.
    """
    found: dict[str, Any] = {
        "claims": {claim.key: {"shown": claim.shown, "of": len(claim.findings)} for claim in verdict.claims}
    }
    if verdict.above:
        found["gap"] = {reward: {} for reward in study.report.rewards}
        found["area"] = {reward: {} for reward in study.report.rewards}
        for finding in verdict.above.findings:
            reward, diversity = finding.axes
            found["gap"][reward][diversity] = _number(finding.interval.mean)
            found["area"][reward][diversity] = _number(finding.area.mean) if finding.area else None
    found["base"] = _scores(study, evaluation, evaluation.base, 0)
    found["runs"] = {run: _run(study, evaluation, run) for run in study.runs}
    return found


def write(path: Path, content: dict[str, Any]) -> None:
    """Write the numbers, whole or not at all."""
    with whole_file(path) as partial:
        partial.write_text(json.dumps(content, indent=1) + "\n")


def _run(study: ReportStudy, evaluation: Evaluation, run: str) -> dict[str, Any]:
    view = study.runs[run]
    seed = evaluation.seeds[view.method].index(view.seed)
    tuned = curves.tuned_point(study, evaluation, view.method)
    combined = curves.combined(study, evaluation, view.method)
    found = {}
    if tuned:
        found["tuned"] = _scores(study, evaluation, tuned, seed)
    if combined:
        middle = curves.middle(combined)
        name = style.plain(f"{middle.strategy}_{evaluation.labels[middle]}")
        found[name] = _scores(study, evaluation, middle, seed)
    return found


def _scores(study: ReportStudy, evaluation: Evaluation, point: Point, seed: int) -> dict[str, float | None]:
    axes = [*study.report.rewards, *study.report.diversities]
    return {axis: _number(np.nanmean(evaluation.scores(point, axis)[seed])) for axis in axes}


def _number(value: float | np.floating) -> float | None:
    """Six significant digits; null where there is none."""
    return float(f"{value:.6g}") if np.isfinite(value) else None
