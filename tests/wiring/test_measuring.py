"""Scores, measures, findings and report agree with their recomputation, which sees what does not."""

from __future__ import annotations

import json
import re
import shutil
import sqlite3
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pandas as pd
import pytest

from stages.audit.__main__ import ENDS, IMAGE, Audit, _accuracy, _stored, study
from stages.audit.scores import image_scores
from stages.audit.statistics import Study
from tests.wiring.mini import STUDY, Mini


def audit(mini: Mini, out: Path, images: bool = False) -> Audit:
    found = Audit()
    study(found, mini.raw, out, images, Path("no store"))
    return found


def test_every_number_is_recomputed_from_images_and_scores(mini: Mini):
    found = audit(mini, mini.out, images=True)
    assert found.wrong == 0
    assert found.count > 2000


def test_numbers_in_mlflow_are_compared_but_for_those_of_former_settings(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
):
    store = tmp_path / "mlflow.db"
    with sqlite3.connect(store) as made:
        made.executescript(
            """create table experiments (experiment_id, name); insert into experiments values (1, 'mini');
            create table runs (run_uuid, name, experiment_id, lifecycle_stage);
            insert into runs values ('a', 'base', 1, 'active'), ('b', 'base', 1, 'deleted');
            create table latest_metrics (run_uuid, key, value);
            insert into latest_metrics values ('a', 'tuned/proxy', 0.5), ('a', 'guidance g1.5/proxy', 0.7),
            ('b', 'tuned/proxy', 0.9), ('a', 'job/seconds', 3)"""
        )
    for value, extra, wrong in ((0.5, {}, 0), (0.6, {}, 1), (0.5, {("base", "tuned/judge"): {"value": 0.1}}, 1)):
        found = Audit()
        _stored(found, store, "mini", {("base", "tuned/proxy"): {"value": value}} | extra)
        assert found.wrong == wrong
        assert "1 numbers of runs and settings that the study does not have any more" in capsys.readouterr().out


def lines(path: Path, change: Callable[[list[str]], list[str]]) -> None:
    path.write_text("\n".join(change(path.read_text().splitlines())) + "\n")


def swapped(rows: list[str]) -> list[str]:
    """Low and high of the first row with an interval exchanged."""
    place = rows[0].split(",").index("low")
    for n, row in enumerate(rows[1:], 1):
        cells = row.split(",")
        if cells[place] != cells[place + 1]:
            cells[place : place + 2] = cells[place : place + 2][::-1]
            return [*rows[:n], ",".join(cells), *rows[n + 1 :]]
    raise AssertionError


def table(path: Path, column: str, factor: float = 1.01) -> None:
    rows = pd.read_parquet(path)
    rows.loc[rows.index[-1], column] *= factor
    rows.to_parquet(path)


def page(out: Path) -> None:
    """Another mean in the first cell of the page that shows one of the reference method."""
    path = out / "report/index.html"
    text = path.read_text(encoding="utf-8")
    cell = re.search(r'data-number="refl/tuned/tuned/proxy">(?:<i [^>]*></i>)?([−\d.]+)', text)
    assert cell is not None
    path.write_text(text[: cell.start(1)] + "7.5" + text[cell.end(1) :], encoding="utf-8")


def sourced(out: Path, pattern: str) -> None:
    """Another number in the first cell of the page whose source is so named."""
    path = out / "report/index.html"
    text = path.read_text(encoding="utf-8")
    cell = re.search(rf'data-source="{pattern}">([\d.]+)', text)
    assert cell is not None
    path.write_text(text[: cell.start(1)] + "77777" + text[cell.end(1) :], encoding="utf-8")


FAULTS: dict[str, Callable[[Path], object]] = {
    "summary.csv": lambda out: lines(out / "report/summary.csv", swapped),
    "differences.csv": lambda out: lines(out / "report/differences.csv", swapped),
    "judges.csv": lambda out: lines(out / "report/judges.csv", swapped),
    "frontier.csv": lambda out: lines(out / "report/plots/frontier.csv", lambda rows: rows[:-1]),
    "training.csv": lambda out: lines(
        out / "report/plots/training.csv", lambda rows: [rows[0], *rows[2:], rows[1][:-1]]
    ),
    "metrics.json": lambda out: (out / "report/metrics.json").write_text(
        json.dumps(json.loads((out / "report/metrics.json").read_text()) | {"base": {"proxy": 0.5, "judge": 0.1}})
    ),
    "summary:": lambda out: table(out / "measures/refl-s3.summary.parquet", "mean"),
    "page": page,
    "page: cost": lambda out: sourced(out, "cost/[^/]*#nfe"),
    "page: training": lambda out: sourced(out, 'training/[^"]*#steps'),
    "page: curation": lambda out: sourced(out, "curation/images#out"),
    "page: accuracy": lambda out: sourced(out, "accuracy/proxy#train"),
    "pair accuracy": lambda out: (out / "scores/proxy.json").write_text(
        json.dumps(json.loads((out / "scores/proxy.json").read_text()) | {"low": 0.123})
    ),
}


@pytest.mark.parametrize("fault", FAULTS)
def test_a_false_number_is_named(fault: str, mini: Mini, tmp_path: Path, capsys: pytest.CaptureFixture[str]):
    out = tmp_path / "mini"
    shutil.copytree(mini.out, out, ignore=shutil.ignore_patterns("*.png", "*.svg", "encodings", ".state"))
    FAULTS[fault](out)
    assert audit(mini, out).wrong > 0
    assert fault in capsys.readouterr().out


def test_every_curated_image_is_scored(parts: Mini):
    images, scores = (pd.read_parquet(parts.path(name)) for name in ("data/images.parquet", "scores/judge.parquet"))
    assert {"train", "val"} <= set(images["split"])
    assert set(scores.query("kind == 'image'")["item_id"]) == set(images["image_id"])


def test_pair_accuracy_is_recomputed(parts: Mini):
    for name in STUDY["score"]["rewards"]:
        parts.path(f"scores/{name}.json")
    found, own = Audit(), dict(_accuracy(parts.raw, parts.out))
    written = pd.DataFrame([json.loads(parts.path(f"scores/{name}.json").read_text("utf-8")) for (name,) in own])
    found.table("pair accuracy", ["reward"], written, own)
    assert found.wrong == 0 and found.count == 16


def test_measures_of_the_base_are_recomputed_from_its_images(parts: Mini):
    rows: Any = pd.read_parquet(parts.path("measures/base.parquet"))
    found, own = Audit(), {key: {"score": value} for key, value in image_scores(parts.raw, parts.out, ["base"])}
    kept = rows[rows["prompt_id"].notna() & rows["metric"].isin({key[-1] for key in own})].fillna({"sample": -1})
    found.table("scores of images", IMAGE, kept, own, 1e-4, 2e-5)
    assert found.wrong == 0 and found.count > 200
    point = ["method", "strategy", "setting", "metric"]
    prompts = rows.groupby([*point, "train_seed", "prompt_id"], dropna=True)["score"].mean().reset_index()
    study = Study(parts.raw | {"report": parts.raw["report"] | parts.raw["measure"]}, prompts)
    ends = {key: study.interval(study.drawn(scores)) for key, scores in study.scores.items()}
    summary: Any = pd.read_parquet(parts.path("measures/base.summary.parquet"))
    summary = summary[summary["metric"].isin({key[-1] for key in ends})]
    found.table("summary", point, summary, {key: {name: own[name] for name in ENDS} for key, own in ends.items()})
    assert found.wrong == 0


def test_final_measures_of_the_base_are_those_without_guidance(parts: Mini):
    record = json.loads(parts.path("lineage/measure-base.json").read_text())
    found = record["evaluations"]["base"]
    for metric in (*STUDY["measure"]["rewards"], "view_diversity", "fid"):
        assert found[f"tuned/{metric}"] == found[f"guidance g=1/{metric}"] != found[f"guidance g=2.5/{metric}"]


def test_final_measures_are_the_means_of_the_summary(mini: Mini):
    for run in ("base", *STUDY["runs"]):
        found = json.loads((mini.out / "lineage" / f"measure-{run}.json").read_text())["evaluations"][run]
        for row in pd.read_parquet(mini.path(f"measures/{run}.summary.parquet")).to_dict("records"):
            several = row["strategy"] != "tuned"
            name = f"{row['strategy']} {row['setting']}" if several else row["strategy"]
            assert found[f"{name}/{row['metric']}"] == row["mean"]
