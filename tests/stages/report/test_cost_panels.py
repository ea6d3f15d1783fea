"""Reward against cost with many lines: a panel per network; and drawn again from what a study keeps."""

from __future__ import annotations

import math
from dataclasses import replace
from itertools import pairwise, product
from pathlib import Path

import numpy as np
import pytest
from matplotlib.colors import to_hex

from stages import tables
from stages.errors import InputError
from stages.report import cost_panels, kept, redraw
from stages.report.data import ReportData
from stages.report.figures import cost
from stages.report.settings import ReportStudy
from stages.report.verdict import find

SEARCHES = {"best": "best_of_n", "code": "code", "svdd": "svdd", "fk": "fk"}
METHODS, COUNTS = ("a", "b", "c"), (2, 4)
PROMPTS, SEEDS = ("p", "q"), (0, 1)


def study(searches: dict[str, str] = SEARCHES) -> ReportStudy:
    strategies: dict[str, object] = {"tuned": {"kind": "tuned"}}
    return ReportStudy.model_validate({
        "study": {"name": "x", "reward": "proxy", "reference": "a"},
        "report": {"rewards": ["proxy", "truth"], "diversities": ["d"], "bootstrap": 100},
        "methods": {name: {"kind": "refl"} for name in METHODS},
        "runs": {f"{name}-s{seed}": {"method": name, "seed": seed} for name in METHODS for seed in SEEDS},
        "sample": {"steps": 20, "strategies": strategies | {name: {"kind": kind} for name, kind in searches.items()}},
    })  # fmt: skip


def keep(folder: Path, searches: dict[str, str] = SEARCHES) -> Path:
    """What a study keeps: a reward is a hundredth of the evaluations, one more with the seed, a tenth off by prompt."""
    points = [("base", "guidance", "g=1", 1.0, 20), *((name, "tuned", "tuned", 0.0, 20) for name in METHODS)]
    points += [(m, s, f"n={n}", float(n), 20 * n) for m, s, n in product(("base", *METHODS), searches, COUNTS)]
    spent = [
        {"method": m, "strategy": s, "setting": label, "value": value, "nfe": nfe, "nfe_backward": 0.0,
         "queries": 0.0 if nfe == 20 else value, "seconds": nfe / 7, "images": 8, "searched": ["proxy"]}
        for m, s, label, value, nfe in points
    ]  # fmt: skip
    scores = [
        {"method": m, "train_seed": seed, "strategy": s, "setting": label, "metric": metric, "prompt_id": prompt,
         "score": nfe / 100 + seed + 0.1 * PROMPTS.index(prompt)}
        for m, s, label, _, nfe in points
        for seed in (SEEDS if m != "base" else SEEDS[:1])
        for metric in ("proxy", "truth", "d") for prompt in PROMPTS
    ]  # fmt: skip
    tables.write(folder / "costs.parquet", tables.table(tables.COSTS, spent), tables.COSTS)
    tables.write(folder / "scores.parquet", tables.table(tables.RESULTS, scores), tables.RESULTS)
    return folder


@pytest.fixture(scope="module")
def data(tmp_path_factory: pytest.TempPathFactory) -> ReportData:
    return kept.read(study(), keep(tmp_path_factory.mktemp("kept")))


def test_what_is_kept_has_the_costs_and_the_means_over_seeds_and_prompts(data: ReportData) -> None:
    by = {(row["method"], row["strategy"], row["setting"]): row for row in cost.rows(data)}
    assert len(by) == 1 + 3 + 4 * 4 * 2
    assert by["base", "best", "n=4"]["truth"] == pytest.approx(0.8 + 0.05)
    assert by["b", "svdd", "n=2"]["proxy"] == pytest.approx(0.4 + 0.5 + 0.05)
    assert by["b", "svdd", "n=2"]["seconds"] == pytest.approx(40 / 7)
    again = {(row["method"], row["strategy"], row["setting"]): row for row in kept.costs(data)}
    assert again.keys() == by.keys() and all(again[key]["nfe"] == by[key]["evaluations"] for key in by)


def test_a_metric_that_no_image_has_is_no_number_and_warns_of_nothing(
    data: ReportData, recwarn: pytest.WarningsRecorder
) -> None:
    arrays = {
        key: np.full_like(found, math.nan) if key[1] == "d" else found for key, found in data.evaluation.arrays.items()
    }
    found = find(data.study, data.look, replace(data.evaluation, arrays=arrays)).estimate(data.evaluation.base, "d")
    assert found is not None and len(found.per_seed) == 1 and math.isnan(found.per_seed[0])
    assert not [each for each in recwarn if "empty slice" in str(each.message)]


def test_many_lines_have_a_panel_per_network_with_the_yardstick_in_each(data: ReportData) -> None:
    assert cost_panels.crowded(data) and "A panel per network" in cost.caption(data)
    figure = cost.draw(data)
    shape = len(cost.AXES) * 2, 1 + len(METHODS)
    assert len(figure.axes) == shape[0] * shape[1]
    panels = np.array(figure.axes).reshape(shape)
    assert [axes.get_title(loc="left") for axes in panels[0]] == ["base", *METHODS]
    for axes in panels[:4].flat:
        (yardstick,) = [line for line in axes.lines if line.get_linewidth() == 4.5]
        assert np.asarray(yardstick.get_ydata()).tolist() == pytest.approx([0.45, 0.85])
    for n in range(2):  # rows of evaluations: the lines of one network alone, and its own searches in their order
        drawn = [line for line in panels[n][1].lines if len(np.asarray(line.get_xdata())) == 2]
        assert len(drawn) == 1 + len(SEARCHES)
        limits = {axes.get_xlim() for axes in panels[:2].flat}, {axes.get_ylim() for axes in panels[n]}
        assert [len(each) for each in limits] == [1, 1]


def test_a_strategy_has_one_look_on_every_network_and_no_other_has_it(data: ReportData) -> None:
    labels = [line.get_label() for line in cost_panels.handles(data)]
    assert len(labels) == len(set(labels)) == len(SEARCHES) + 3  # base, its yardstick, the tuned network
    looks = [
        (to_hex(line.get_color()), str(line.get_marker()), line.get_linestyle()) for line in cost_panels.handles(data)
    ]
    assert len(set(looks)) == len(looks)
    figure = cost.draw(data)
    columns = [{to_hex(line.get_color()) for line in axes.lines} for axes in figure.axes[1:4]]
    assert columns[0] == columns[1] == columns[2]


def test_rows_of_a_block_stand_close_and_no_panel_covers_another(data: ReportData) -> None:
    figure = cost.draw(data)
    panels = np.array(figure.axes).reshape(6, 4)
    places = [axes.get_position() for axes in panels[:, 0]]
    gaps = [(above.y0 - below.y1) * figure.get_figheight() for above, below in pairwise(places)]
    assert gaps == pytest.approx([cost_panels.GAP, cost_panels.GAP_OF_BLOCKS] * 2 + [cost_panels.GAP])


def test_few_lines_stay_together(tmp_path: Path) -> None:
    few = kept.read(study({"best": "best_of_n"}), keep(tmp_path, {"best": "best_of_n"}))
    assert not cost_panels.crowded(few) and len(cost.draw(few).axes) == 2 * len(cost.AXES)
    assert "A panel per network" not in cost.caption(few)


def run(monkeypatch: pytest.MonkeyPatch, folder: Path, out: Path) -> None:
    (folder / "study.yaml").write_text("{}")
    monkeypatch.setattr(redraw.settings, "read", lambda path: study())
    words = ["--params", folder / "study.yaml", "--results", folder, "--figure", "cost", "--out", out]
    monkeypatch.setattr("sys.argv", ["redraw", *map(str, words)])
    redraw.main()


def test_the_command_draws_it_again(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    run(monkeypatch, keep(tmp_path), tmp_path / "figure.png")
    assert (tmp_path / "figure.png").stat().st_size > 50_000


def test_results_without_costs_or_with_scores_of_something_else_are_refused(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    keep(tmp_path)
    found = tables.read(tmp_path / "costs.parquet", tables.COSTS)
    tables.write(tmp_path / "costs.parquet", found.slice(0, found.num_rows - 1), tables.COSTS)
    with pytest.raises(InputError, match=r"costs.parquet: nothing about c fk n=4, which has scores"):
        run(monkeypatch, tmp_path, tmp_path / "figure.png")
    (tmp_path / "costs.parquet").unlink()
    with pytest.raises(InputError, match=r"costs.parquet: no such file; results that were kept before costs"):
        run(monkeypatch, tmp_path, tmp_path / "figure.png")
