"""Nothing on a figure is cut off, and its legend and labels lie on nothing, for any number of methods and metrics."""

from __future__ import annotations

from collections.abc import Iterator
from itertools import combinations, product
from types import ModuleType
from typing import Any

import numpy as np
import pytest
from matplotlib import pyplot as plt
from matplotlib.figure import Figure
from matplotlib.text import Annotation

from stages.report.data import ReportData
from stages.report.figures import frontier, queries, strategies, training
from stages.report.findings import Finding, Findings
from stages.report.look import Look
from stages.report.measurements import Measurements, Point, Series
from stages.report.settings import ReportStudy

KINDS = (
    "refl",
    "imagerefl",
    "ddpo",
    "dpok",
    "draft_lv",
    "alignprop",
    "hrf",
    "awm",
    "d3po",
    "sqdf",
    "tailorpo",
    "online",
)
LONG = "a-method-whose-name-is-as-long-as-the-names-in-a-study-file-may-be"
STRATEGIES = {
    "tuned": {"kind": "tuned"},
    "combined": {"kind": "combined"},
    "aig": {"kind": "aig"},
    "aig_guided": {"kind": "aig", "base_guidance": 2.0},
    "rlg": {"kind": "rlg"},
    "fusion": {"kind": "fusion"},
}
VALUES = {"tuned": [0], "combined": [4, 8, 12], "aig": [1, 3], "aig_guided": [1, 3], "rlg": [0.5, 1.5], "fusion": [8]}


def made_up(methods: tuple[str, ...], rewards: int, diversities: int) -> ReportData:
    """Invented scores of two prompts and two training seeds, for methods of the study."""
    names = [f"reward{n}" for n in range(rewards)], [f"space{n}_diversity" for n in range(diversities)]
    study = ReportStudy.model_validate({
        "study": {"name": "boxes", "reward": names[0][0], "reference": methods[0]},
        "report": {"rewards": names[0], "diversities": names[1], "candidate": methods[-1], "bootstrap": 100},
        "methods": {name: {"kind": name} for name in methods if name in KINDS},
        "runs": {f"{name}-s{seed}": {"method": name, "seed": seed} for name in methods for seed in (0, 1)},
        "sample": {"steps": 20, "strategies": STRATEGIES},
    })  # fmt: skip
    points = [Point("base", "guidance", g) for g in (1.0, 2.0, 3.0)]
    points += [Point(m, s, float(v)) for m in methods for s, values in VALUES.items() for v in values]
    generator = np.random.default_rng(len(methods))
    metrics = [*names[0], *names[1]]
    evaluation = Measurements(
        prompts=("a", "b"), seeds={"base": (0,)} | dict.fromkeys(methods, (0, 1)), arrays={}, summaries={}, costs={},
        labels={p: f"{p.value:g}" for p in points}, base=points[0], identity="x", steps=20,
    )  # fmt: skip
    found = [one for point, metric in product(points, metrics) for one in invented(point, metric, generator)]
    log = {run: terms(metrics, generator) for run in study.runs}
    findings = Findings(tuple(found), methods[0])
    return ReportData(study, Look.of(study), evaluation, findings, log, None)  # type: ignore[arg-type]


def invented(point: Point, metric: str, generator: np.random.Generator) -> Iterator[Finding]:
    value = float(generator.uniform())
    where = {"value": point.value, "per_seed": (value - 0.02, value + 0.02)}
    yield Finding("estimate", point.method, point.strategy, metric, value, value - 0.1, value + 0.1, **where)
    yield Finding("difference", point.method, point.strategy, metric, 0.1, 0.05, 0.15, against="base", **where)


def terms(metrics: list[str], generator: np.random.Generator) -> dict[str, Series]:
    steps = np.arange(0, 50, 10)
    names = [*(f"probe_{name}" for name in metrics if "reward" in name), "probe_diversity", "queries"]
    return {name: Series(steps, generator.uniform(1, 2, size=5)) for name in names}


METHODS = (1, 2, 5, 12)
PLANES = [(kind, m, 1, d) for kind, m, d in product((frontier, strategies), METHODS, (1, 2, 3, 4))]
PROBES = [(kind, m, r, 1) for kind, m, r in product((training, queries), METHODS, (1, 4))]
CASES = [*PLANES, *PROBES, (strategies, 12, 3, 2)]


def boxes(figure: Figure) -> dict[str, list[Any]]:
    """What is written on a figure, in pixels."""
    (legend,) = figure.legends
    axes = [one for one in figure.axes if one.axison]
    return {
        "legend": [legend.get_window_extent()],
        "entries": [text.get_window_extent() for text in legend.get_texts()],
        "panels": [one.get_tightbbox() for one in axes],  # with ticks, labels and titles
        "labels": [t.get_window_extent() for one in axes for t in one.texts if isinstance(t, Annotation)],
        "axis labels": [
            t.get_window_extent() for one in axes for t in (one.xaxis.label, one.yaxis.label) if t.get_text()
        ],
    }


def check(figure: Figure) -> None:
    """Everything is on the figure, and nothing lies on anything else."""
    found = boxes(figure)
    for what, every in found.items():
        for box in every:
            inside = box.x0 >= 0 and box.y0 >= 0 and box.x1 <= figure.bbox.x1 and box.y1 <= figure.bbox.y1
            assert inside, f"{what}: {box} on {figure.bbox}"
    apart = [(a, b) for kind in ("entries", "labels", "panels") for a, b in combinations(found[kind], 2)]
    apart += [(found["legend"][0], panel) for panel in found["panels"]]
    for a, b in apart:
        assert min(a.x1 - b.x0, b.x1 - a.x0, a.y1 - b.y0, b.y1 - a.y0) < 1, f"{a} lies on {b}"


def drawn(kind: ModuleType, data: ReportData) -> None:
    figure = kind.draw(data)
    figure.canvas.draw()
    try:
        check(figure)
    finally:
        plt.close(figure)


@pytest.mark.parametrize(("kind", "methods", "rewards", "diversities"), CASES, ids=str)
def test_nothing_is_cut_off_or_overlaps(kind: ModuleType, methods: int, rewards: int, diversities: int) -> None:
    drawn(kind, made_up(KINDS[:methods], rewards, diversities))


@pytest.mark.parametrize("kind", [frontier, strategies, training, queries])
def test_names_of_the_greatest_length_fit(kind: ModuleType) -> None:
    drawn(kind, made_up((LONG[:64], "second-" + LONG[:57]), 2, 1))


def test_a_legend_that_is_cut_off_is_found() -> None:
    figure = strategies.draw(made_up(KINDS[:2], 1, 1))
    try:
        figure.set_figwidth(figure.get_figwidth() / 2)
        with pytest.raises(AssertionError):
            check(figure)
    finally:
        plt.close(figure)
