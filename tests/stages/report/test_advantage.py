"""The figure of every method against the reference: its findings are those of the claim, and it shows them."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest
import yaml
from matplotlib import pyplot as plt
from matplotlib.axes import Axes
from matplotlib.lines import Line2D
from report_fixture import folders, write_study

from stages.report import data as reading
from stages.report import settings
from stages.report.data import ReportData
from stages.report.figures import advantage

RUNS = ("refl-s0", "refl-s1", "imagerefl-s0", "imagerefl-s1", "draft1-s0")


@pytest.fixture(scope="module")
def found(tmp_path_factory: pytest.TempPathFactory) -> ReportData:
    """A made-up study of three methods; the main pair is not the first one."""
    made = write_study(tmp_path_factory.mktemp("advantage"), runs=RUNS)
    study = yaml.safe_load(made.read_text())
    study["report"] |= {"main": {"reward": "oracle", "diversity": "patch_diversity"}, "figures": ["advantage"]}
    made.write_text(yaml.safe_dump(study))
    where = folders(made)
    return reading.read(settings.read(made), where.measures, where.samples, where.runs)


def test_every_other_method_has_a_gap_of_every_pair(found: ReportData) -> None:
    gaps = found.findings.select("best_gap")
    report = found.study.report
    pairs = {(reward, diversity) for reward in report.rewards for diversity in report.diversities}
    assert {(one.method, one.axes) for one in gaps} == {(name, p) for name in ("imagerefl", "draft1") for p in pairs}
    assert {one.against for one in gaps} == {"refl"}


def test_that_of_the_candidate_is_the_number_of_the_claim(found: ReportData) -> None:
    claimed = {one.axes: one for one in found.findings.select("best")}
    gaps = found.findings.select("best_gap", "imagerefl")
    assert len(gaps) == len(claimed)
    for one in gaps:
        assert (one.interval, one.per_seed) == (claimed[one.axes].interval, claimed[one.axes].per_seed)
        assert one.p == claimed[one.axes].p


def test_the_panels_show_the_gaps_of_their_reward_at_the_main_diversity(found: ReportData) -> None:
    figure = advantage.draw(found)
    methods = [name for name in found.look.methods if name != "refl"]
    gaps = {(one.method, one.axes): one for one in found.findings.select("best_gap")}
    try:
        for panel, reward in zip(figure.axes, found.study.report.rewards, strict=True):
            wanted = [gaps[name, (reward, "patch_diversity")] for name in methods]
            assert x_of(panel, lambda line: line.get_marker() in ("s", "^")) == [[one.mean] for one in wanted]
            bars = x_of(panel, lambda line: line.get_linewidth() == advantage.BAR)
            assert bars == [[one.low, one.high] for one in wanted]
        labels = [text.get_text() for text in figure.axes[0].get_yticklabels()]
        assert labels == ["DRaFT-1 (1 seed)", "ImageReFL (2 seeds)"]
        figure.canvas.draw()
        for axes in figure.axes:
            box = axes.get_tightbbox()
            assert box is not None
            assert min(box.x0, box.y0) >= 0
            assert (box.x1 <= figure.bbox.x1, box.y1 <= figure.bbox.y1) == (True, True)
    finally:
        plt.close(figure)


def x_of(panel: Axes, wanted: Callable[[Line2D], bool]) -> list[list[float]]:
    """The abscissas of the lines of a panel that are wanted, in order; the line at zero is none."""
    return [list(map(float, line.get_xdata())) for line in panel.lines[1:] if wanted(line)]  # type: ignore[arg-type]


def test_its_table_has_every_gap(found: ReportData) -> None:
    rows = advantage.rows(found)
    assert len(rows) == len(found.findings.select("best_gap"))
    one = next(r for r in rows if (r["method"], r["reward"], r["diversity"]) == ("draft1", "proxy", "clip_diversity"))
    (gap,) = [g for g in found.findings.select("best_gap", "draft1") if g.axes == ("proxy", "clip_diversity")]
    assert (one["gap"], one["low"], one["high"]) == (gap.mean, gap.low, gap.high)


def test_a_study_of_the_reference_alone_has_nothing_to_compare(tmp_path: Path) -> None:
    made = write_study(tmp_path, runs=("refl-s0",))
    where = folders(made)
    assert not advantage.shown(reading.read(settings.read(made), where.measures, where.samples, where.runs))
