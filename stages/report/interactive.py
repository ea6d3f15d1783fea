"""What the interactive part of the page knows: one JSON block, made of the findings and the scores of every prompt."""

from __future__ import annotations

import json
import math
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, fields
from pathlib import Path

import numpy as np

from stages import tables
from stages.errors import InputError
from stages.measure.settings import PASSED
from stages.report import charts, curves, display, sprites, tape, worst
from stages.report.curves import Curve
from stages.report.data import ReportData
from stages.report.earlier import Earlier
from stages.report.findings import Finding
from stages.report.look import BASE
from stages.report.measurements import Point
from stages.report.probe_sheets import Sheet
from stages.report.provenance import Provenance
from stages.report.sources import Source

Grid = list[list[float | None]]
"""A number for every training seed and prompt; None where a prompt has none."""


@dataclass(frozen=True)
class Metric:
    """A reward or a diversity: its name, its label in tables and on axes, what it is to the study, and whether tables
    show it where it is not an axis.
    """

    name: str
    label: str
    axis: str
    role: str
    shown: bool


@dataclass(frozen=True)
class Prompt:
    """An evaluation prompt; `row` is its row in the sheets of pictures, None where it is not in them."""

    id: str
    text: str
    row: int | None


@dataclass(frozen=True)
class Place:
    """One way of making images, a `Point`, with what is shown of it.

    `runs` are its training seeds' runs in the order of the rows of `scores` and the worst cases; `sheets` are places in
    `Block.sheets`, one per run.
    """

    method: str
    strategy: str
    setting: str
    label: str
    colour: str
    shape: str
    filled: bool
    runs: list[str]
    sheets: list[int]
    scores: dict[str, Grid]
    lost: dict[str, Grid]
    disagreement: Grid
    turned: Grid


@dataclass(frozen=True)
class Line:
    """A curve: places in `Block.places` in the order of the strategy's free setting, with a label per stop."""

    label: str
    method: str
    colour: str
    dash: list[float]
    places: list[int]
    stops: list[str]
    drawn: bool


@dataclass(frozen=True)
class Block:
    """Everything. `findings` has one row per finding, with the columns `columns`; `base` is a place in `places`;
    `earlier` are the numbers of the report that this one is compared with, if any; `sources` says where a number comes
    from that is no finding, by the key that its cell names.
    """

    study: str
    level: float
    rewards: list[Metric]
    diversities: list[Metric]
    main: list[str]
    prompts: list[Prompt]
    methods: dict[str, str]
    places: list[Place]
    lines: list[Line]
    base: int
    columns: list[str]
    findings: list[list[object]]
    layout: sprites.Layout
    sheets: list[str]
    specs: dict[str, object]
    tapes: dict[str, tape.Tape]
    provenance: Provenance
    earlier: Earlier | None
    sources: Mapping[str, Source]

    def text(self) -> str:
        """The block as JSON for a script element of the page."""
        return json.dumps(asdict(self), allow_nan=False, separators=(",", ":")).replace("<", "\\u003c")


COLUMNS = ("key", "about", "method", "strategy", "setting", "metric", "against", "at_equal", "mean", "low", "high",
           "per_seed", "seeds", "n_prompts", "nfe", "detectable")  # fmt: skip
"""The columns of `Block.findings`: fields of `Finding`, and its key."""


def block(
    data: ReportData, origin: Provenance, earlier: Earlier | None = None, probed: Mapping[str, Sheet] | None = None,
    sources: Mapping[str, Source] | None = None,
) -> Block:  # fmt: skip
    """The block of a study, with `probed`, the pictures of the probes by run, and the `sources` of numbers that are no
    findings; raises InputError for an image that cannot be decoded, and where a setting has none.
    """
    points = data.evaluation.points
    rewards, diversities = data.study.report.rewards, _diversities(data)
    names = {method: data.study.runs_of(method) for method in (BASE, *data.look.order)}
    count = sum(len(names[point.method]) for point in points)
    wanted = data.study.report.thumbnails
    shape = sprites.layout(data.samples / f"{BASE}.parquet", data.evaluation.prompts, count, wanted)
    stored = {
        (run, *key): uri
        for run in dict.fromkeys(name for found in names.values() for name in found)
        for key, uri in sprites.sheets(data.samples / f"{run}.parquet", shape, wanted.quality).items()
    }
    order = {key: index for index, key in enumerate(stored)}
    places = [_place(data, point, names[point.method], order, rewards, diversities) for point in points]
    main = data.study.report.main_pair or (rewards[0], diversities[0])
    strips = {run: sheet.strip for run, sheet in (probed or {}).items()}
    return Block(
        study=data.study.study.name, level=data.study.report.interval,
        rewards=[_metric(data, name, data.look.role(name)) for name in rewards],
        diversities=[_metric(data, name, "diversity") for name in diversities],
        main=list(main), prompts=_prompts(data, shape), methods=_methods(data), places=places,
        lines=_lines(data, points), base=points.index(data.evaluation.base), columns=list(COLUMNS),
        findings=[row(finding) for finding in data.findings.rows], layout=shape, sheets=list(stored.values()),
        specs={"frontier": charts.frontier(), "tape": charts.tape()}, tapes=tape.tapes(data, strips), provenance=origin,
        earlier=earlier, sources=sources or {},
    )  # fmt: skip


def row(finding: Finding) -> list[object]:
    """A finding as a row of `Block.findings`, numbers in full."""
    known = {field.name: getattr(finding, field.name) for field in fields(Finding)} | {"key": finding.key}
    return [_plain(known[name]) for name in COLUMNS]


def _plain(value: object) -> object:
    if isinstance(value, tuple):
        return [_plain(one) for one in value]
    if isinstance(value, float | np.floating):
        return float(value) if math.isfinite(value) else None
    return value


def _diversities(data: ReportData) -> list[str]:
    """The diversities of the report, then those among passing images where they were measured."""
    shown = data.study.report.diversities
    measured = {metric for _, metric in data.evaluation.arrays}
    return [*shown, *(f"{name}{PASSED}" for name in shown if f"{name}{PASSED}" in measured)]


def _metric(data: ReportData, name: str, role: str) -> Metric:
    report = data.study.report
    return Metric(
        name, data.look.metric(name), data.look.axis(name), role, name in (*report.rewards, *report.diversities)
    )


def _methods(data: ReportData) -> dict[str, str]:
    return {BASE: BASE} | {name: data.look.method(name) for name in data.look.order}


def _prompts(data: ReportData, shape: sprites.Layout) -> list[Prompt]:
    found = tables.read(data.samples / f"{BASE}.parquet", tables.SAMPLES, ["prompt_id", "prompt"]).to_pylist()
    texts = {one["prompt_id"]: one["prompt"] for one in found}
    rows = {prompt: index for index, prompt in enumerate(shape.prompts)}
    return [Prompt(prompt, texts[prompt], rows.get(prompt)) for prompt in data.evaluation.prompts]


def _place(
    data: ReportData, point: Point, runs: list[str], order: dict[tuple[str, str, str], int], rewards: Sequence[str],
    diversities: Sequence[str],
) -> Place:  # fmt: skip
    evaluation, look = data.evaluation, data.look
    setting, strategy = evaluation.labels[point], look.strategy(point.strategy)
    scores = {name: evaluation.scores(point, name) for name in (*rewards, *diversities)}
    base = {name: evaluation.scores(evaluation.base, name)[0] for name in scores}
    changed = {name: worst.changes(scores[name], base[name]) for name in rewards}
    method, rest = display.words(data, point)
    is_base = point == evaluation.base
    return Place(
        point.method, point.strategy, setting, f"{method}, {rest}",
        look.colour(point.method), charts.shape("*" if is_base else strategy.marker or look.marker(point.method)),
        strategy.about.leading or strategy.about.role != "curve", runs,
        [_sheet(order, data.samples, run, point.strategy, setting) for run in runs],
        {name: _grid(values) for name, values in scores.items()},
        {name: _grid(base[name] - scores[name]) for name in diversities}, _grid(worst.disagreement(changed)),
        _grid(worst.turned(changed, look.reward)),
    )  # fmt: skip


def _sheet(order: dict[tuple[str, str, str], int], samples: Path, run: str, strategy: str, setting: str) -> int:
    if (run, strategy, setting) not in order:
        raise InputError(
            f"{samples / f'{run}.parquet'}: no images of {strategy} {setting}, which was measured; sample the run again"
        )
    return order[run, strategy, setting]


def _grid(values: np.ndarray) -> Grid:
    """Six digits are more than an image's score has, and half as long as all of them."""
    return [[float(f"{value:.6g}") if math.isfinite(value) else None for value in row] for row in values]


def _lines(data: ReportData, points: Sequence[Point]) -> list[Line]:
    """Every curve, those of the leading strategy first, then the points that are on none, by method and strategy."""
    look, evaluation = data.look, data.evaluation
    drawn = [*curves.strategies(look, evaluation, look.order), *curves.base_curves(look, evaluation)]
    drawn.sort(key=lambda curve: not curve.strategy.about.leading)
    known = {point for curve in drawn for point in curve.points}
    lines = [_line(data, curve, points) for curve in drawn]
    rest: dict[tuple[str, str], list[Point]] = {}
    for point in sorted(set(points) - known):
        rest.setdefault((point.method, point.strategy), []).append(point)
    for (method, name), alone in rest.items():
        label = f"{look.method(method)}, {look.strategy(name).label}"
        stops = [evaluation.labels[point] for point in alone]
        lines.append(
            Line(label, method, look.colour(method), [1.0, 0.0], [points.index(p) for p in alone], stops, False)
        )
    return lines


def _line(data: ReportData, curve: Curve, points: Sequence[Point]) -> Line:
    look = data.look
    return Line(
        f"{look.method(curve.method)}, {curve.strategy.label}", curve.method, look.colour(curve.method),
        charts.dash(curve.strategy.line), [points.index(stop.point) for stop in curve.stops],
        [f"{stop.setting} only" if stop.end else stop.setting for stop in curve.stops], True,
    )  # fmt: skip
