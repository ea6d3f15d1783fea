"""The judges of a study on the page: what each was used for, and how far they rank the same images alike."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from functools import partial

import numpy as np
import pandas as pd

from stages.report import style
from stages.report.agreement import IMAGES, PROMPTS
from stages.report.data import ReportData
from stages.report.findings import Finding
from stages.report.look import BASE
from stages.report.made_of import leaves
from stages.report.measurements import Measurements, Point
from stages.report.settings import ReportStudy
from stages.report.table import NOTHING, Cell, Table
from stages.select import settings as select

TRAINED, SELECTED, SEARCHED, HELDOUT = "trained on", "chose pairs", "searched with", "held out"
OVER = {PROMPTS: "prompts", IMAGES: "images"}


@dataclass(frozen=True)
class Judge:
    """A metric that scores single images. `roles` are of `TRAINED`, `SELECTED`, `SEARCHED`, `HELDOUT`;
    `strategies` searched with it.
    """

    metric: str
    roles: tuple[str, ...]
    strategies: tuple[str, ...] = ()


def judges(study: ReportStudy, evaluation: Measurements) -> list[Judge]:
    """Every judge of the study with its roles: held out is what nothing was trained on or searched with, and
    what neither labelled nor chose the pairs that methods learn from. A model is the same under any name, and models
    that share a part, such as a sum and its terms, have each other's roles.
    """
    made_of = leaves(study.prepare)

    def shared(one: str, other: str) -> bool:
        return evaluation.same_model(one, other) or bool(made_of.get(one, set()) & made_of.get(other, set()))

    searched: dict[str, list[str]] = {}
    for point, cost in evaluation.costs.items():
        for reward in cost.searched:
            searched.setdefault(reward, []).append(point.strategy)
    selecting = select.rewards(study.select, "select") if study.trained_runs else ()
    found = []
    for metric, model in study.judges.items():
        same = partial(shared, model)
        strategies = tuple(dict.fromkeys(name for reward, names in searched.items() if same(reward) for name in names))
        roles = [TRAINED] if same(study.study.reward) and study.trained_runs else []
        roles += [SELECTED] if any(map(same, selecting)) else []
        roles += [SEARCHED] if strategies else []
        found.append(Judge(metric, tuple(roles) or (HELDOUT,), strategies))
    return found


def warnings(data: ReportData) -> list[str]:
    """A sentence for every judge that is not independent of the images that it scores."""
    lines = []
    for judge in judges(data.study, data.evaluation):
        label = data.look.metric(judge.metric)
        if TRAINED in judge.roles:
            lines.append(
                f"{label}: the reward that methods were trained on. That it rises does not show that images get better."
            )
        if SELECTED in judge.roles:
            lines.append(f"{label}: labelled or chose the pairs that methods learn from. It is not held out for them.")
        if SEARCHED in judge.roles:
            names = ", ".join(data.look.strategy(name).label for name in judge.strategies)
            lines.append(f"{label}: chose among candidates in {names}. It does not judge those images independently.")
    return lines


def roles(data: ReportData) -> Table:
    """What every judge was used for."""
    rows = []
    for judge in judges(data.study, data.evaluation):
        names = ", ".join(data.look.strategy(name).label for name in judge.strategies)
        kind = "" if HELDOUT in judge.roles else "down"
        rows.append([Cell(data.look.metric(judge.metric)), Cell(", ".join(judge.roles), names, kind=kind)])
    return Table(["judge", "used for"], rows)


def matrix(data: ReportData, kind: str) -> tuple[list[Point], list[tuple[tuple[str, str], list[Finding | None]]]]:
    """The points, and for every pair of judges its findings of a kind at these points."""
    found = {(one.metric, one.against, one.point): one for one in data.findings.select(kind)}
    points = list(dict.fromkeys(point for _, _, point in found))
    pairs = dict.fromkeys((one, other) for one, other, _ in found)
    return points, [(pair, [found.get((*pair, point)) for point in points]) for pair in pairs]


def name(data: ReportData, point: Point) -> str:
    """A point as a column is headed."""
    return f"base, {data.evaluation.labels[point]}" if point.method == BASE else data.look.method(point.method)


def pair_label(data: ReportData, pair: Sequence[str]) -> str:
    """`proxy reward, oracle reward`."""
    return ", ".join(map(data.look.metric, pair))


def agreement(data: ReportData, kind: str) -> Table:
    """Rank correlations of a kind, a row per pair of judges, a column per point."""
    points, rows = matrix(data, kind)
    cells = [[Cell(pair_label(data, pair)), *map(_cell, found)] for pair, found in rows]
    return Table(["judges", *(name(data, point) for point in points)], cells)


def _cell(finding: Finding | None) -> Cell:
    if finding is None or np.isnan(finding.mean):
        return NOTHING
    mean, low, high = (style.number(value, 2) for value in (finding.mean, finding.low, finding.high))
    return Cell(mean, f"{low} to {high}", number=finding.key)


def rows(data: ReportData) -> pd.DataFrame:
    """The columns of `judges.csv`: the correlation of two judges, `over` prompts or images, and the roles of both."""
    said = {judge.metric: ", ".join(judge.roles) for judge in judges(data.study, data.evaluation)}
    found = [
        {
            "method": one.method, "strategy": one.strategy, "setting": one.setting, "over": OVER[one.about],
            "judge": one.metric, "role": said[one.metric], "against": one.against, "against_role": said[one.against],
            "mean": one.mean, "low": one.low, "high": one.high,
        }
        for kind in OVER for one in data.findings.select(kind)
    ]  # fmt: skip
    columns = (
        "method",
        "strategy",
        "setting",
        "over",
        "judge",
        "role",
        "against",
        "against_role",
        "mean",
        "low",
        "high",
    )
    return pd.DataFrame(found, columns=list(columns))
