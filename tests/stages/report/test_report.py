"""The report on a made-up study: what it writes, what the page holds, and what it refuses."""

from __future__ import annotations

import base64
import csv
import io
import json
import os
import re
import subprocess
import sys
import xml.etree.ElementTree as ET
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pyarrow.parquet as pq
import pytest
import yaml
from PIL import Image
from report_fixture import Silent, arguments, figures_only, folders, write_study

from stages import tables
from stages.measure.evaluation import evaluation_of
from stages.report import account, figure, probes, results, settings, style, timeline
from stages.report import data as reading
from stages.report import kept as kept_results
from stages.report import page as pages
from stages.report.__main__ import write_report
from stages.report.claims import Interval
from stages.report.data import Folders, ReportData
from stages.report.figures import grid as grids
from stages.report.figures.training import smooth
from stages.report.measurements import Point, Series

DATA_URI = re.compile(r'src="data:([a-z/+]+);base64,([A-Za-z0-9+/=]+)"')


def report(params: Path) -> Path:
    """Write the report of a study in this process; returns its folder."""
    write_report(settings.read(params), folders(params), Silent())  # type: ignore[arg-type]
    return folders(params).out


def read(params: Path) -> ReportData:
    """What the figures of a study draw from."""
    where = folders(params)
    return reading.read(settings.read(params), where.measures, where.samples, where.runs)


def command(params: Path) -> subprocess.CompletedProcess[str]:
    """The command line, from a folder that is not the project's, in a process that tells whether torch was imported."""
    code = "import sys; from stages.report.__main__ import main; from stages.runtime import run_stage; "
    code += "run_stage(main); print('torch' in sys.modules)"
    root = Path(__file__).parents[3]
    where = os.environ | {"PYTHONPATH": str(root), "MLFLOW_TRACKING_URI": f"sqlite:///{params.parent}/mlflow.db"}
    call = [sys.executable, "-c", code, *arguments(params)]
    return subprocess.run(call, cwd=params.parent, env=where, text=True, capture_output=True, check=False)


@pytest.fixture(scope="module")
def params(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A study in which all claims were planted, with its report written by the command line."""
    made = write_study(tmp_path_factory.mktemp("shown"))
    done = command(made)
    assert done.returncode == 0, done.stderr
    assert done.stdout.strip() == "False", "the report imports torch"
    return made


@pytest.fixture(scope="module")
def drawn(params: Path) -> ReportData:
    """What the figures of that study draw from."""
    return read(params)


@pytest.fixture(scope="module")
def page(params: Path) -> str:
    return (folders(params).out / "index.html").read_text()


def test_everything_declared_is_written_and_nothing_else(params: Path) -> None:
    out = folders(params).out
    outputs = figure.outputs()
    assert {str(file.relative_to(out)) for file in out.rglob("*") if file.is_file()} == set(outputs)
    assert all((out / name).stat().st_size > 100 for name in outputs)


def test_the_page_stands_alone(page: str, params: Path) -> None:
    pictures = DATA_URI.findall(page)
    assert [kind for kind, _ in pictures] == ["image/webp"] * 5
    files = [name.rpartition(".")[0] + ".png" for name in re.findall(r'<a href="([^"]+)"><img', page)]
    for name, (_, data) in zip(files, pictures, strict=True):
        shown = Image.open(io.BytesIO(base64.b64decode(data))).convert("RGBA")
        assert shown.tobytes() == Image.open(folders(params).out / name).convert("RGBA").tobytes()
    for file in folders(params).out.glob("*.svg"):
        tree = ET.fromstring(file.read_bytes())
        links = [value for node in tree.iter() for key, value in node.attrib.items() if key.endswith("href")]
        assert all(link.startswith("#") for link in links)
    text = re.sub(r"<script[^>]*>.*?</script>", "", DATA_URI.sub("", page), flags=re.DOTALL)
    assert "<script" not in text
    assert re.findall(r"<script([^>]*)>", page) == [
        ' type="application/json" id="x-data"', ' type="text/plain" id="x-library"', "",
    ]  # fmt: skip
    assert "http:" not in text
    assert "https:" not in text
    assert not re.search(r"url\(|@import|<script|<link", text)
    linked = set(re.findall(r'href="([^"#]+)"', text))
    assert {"frontier.svg", "summary.csv", "../measures/base.parquet"} <= linked
    assert all((folders(params).out / link).resolve().is_file() for link in linked)


def test_pictures_that_webp_cannot_hold_stay_what_they_are(tmp_path: Path) -> None:
    for name, size, kind in (("long", (2, 16384), "png"), ("short", (2, 16383), "webp")):
        Image.new("RGB", size, "red").save(tmp_path / f"{name}.png")
        assert pages.uri(tmp_path / f"{name}.png").startswith(f"data:image/{kind};base64,")
    (tmp_path / "drawn.svg").write_text("<svg/>")
    assert pages.uri(tmp_path / "drawn.svg") == "data:image/svg+xml;base64,PHN2Zy8+"


def test_planted_claims_are_found(page: str, params: Path) -> None:
    numbers = json.loads((folders(params).out / "metrics.json").read_text())
    assert numbers["claims"] == {
        "raises": {"shown": 6, "of": 6},
        "trade": {"shown": 6, "of": 6},
        "best": {"shown": 1, "of": 9},  # of 200 resamples no p-value is small enough for eight pairs together
        "above": {"shown": 9, "of": 9},
    }
    assert "Verdict: 4 of 4 claims shown" in page
    assert page.count('class="card shown"') == page.count('class="card shown wide"') == 2


@pytest.mark.slow
def test_the_verdicts_in_plain_text_are_the_findings(drawn: ReportData) -> None:
    lines = account.verdicts(drawn).splitlines()
    assert [line for line in lines if not line.startswith(" ")] == [
        "madeup: ImageReFL and ReFL",
        "1. Tuning raises the reward, and diversity collapses: shown",
        "2. Combined generation brings diversity back: shown",
        "3. More reward than the reference at no less diversity: shown",
        "4. Above the reference at equal diversity: shown",
    ]
    assert len(lines) == 5 + sum(len(claim.parts) for claim in drawn.findings.claims)
    (one,) = [part for part in drawn.findings.select("raises") if part.metric == "heldout"]
    (line,) = [line for line in lines if line.startswith("    held-out reward: ")][:1]
    assert line.startswith("    held-out reward: shown, +")
    assert f"could have seen {one.detectable:.2g}" in line
    assert ", ".join(f"{value:+.3g}" for value in one.per_seed) in line
    assert any(line.startswith("    oracle reward at no less CLIP diversity: ") for line in lines)
    assert any(line.startswith("    oracle reward at equal CLIP diversity: ") for line in lines)


def test_nothing_is_found_where_nothing_was_planted(tmp_path: Path) -> None:
    made = write_study(tmp_path, verdict="null", runs=("refl-s0", "refl-s1", "imagerefl-s0", "imagerefl-s1"))
    with figures_only("frontier"):
        out = report(made)
    numbers = json.loads((out / "metrics.json").read_text())
    assert sum(claim["shown"] for claim in numbers["claims"].values()) <= 1  # each part may err once in forty
    page = (out / "index.html").read_text()
    assert "Verdict: 0 of 4 claims shown" in page
    assert "○ not shown" in page
    assert 'class="card shown' not in page


@pytest.mark.slow
def test_a_study_of_one_run_reports_what_it_can(tmp_path: Path) -> None:
    made = write_study(tmp_path, runs=("refl-s0",))
    study = yaml.safe_load(made.read_text())
    del study["sample"]["strategies"]["combined"]
    made.write_text(yaml.safe_dump(study))
    out = report(made)
    numbers = json.loads((out / "metrics.json").read_text())
    assert set(numbers["claims"]) == {"raises"}
    assert "gap" not in numbers
    assert list(numbers["runs"]["refl-s0"]) == ["tuned"]


@pytest.mark.slow
def test_long_training_and_ablations_are_compared_on_the_seeds_they_share(tmp_path: Path) -> None:
    made = write_study(tmp_path, runs=("refl-s0", "refl-s1", "imagerefl-s0", "imagerefl-s1", "draftlv-s1", "draft1-s1"))
    study = yaml.safe_load(made.read_text())
    study["report"] |= {"long": "draftlv", "truth": "oracle", "ablations": ["draft1"], "resample": "prompts_and_seeds"}
    made.write_text(yaml.safe_dump(study))
    out = report(made)
    # the made-up DRaFT-LV gains less than ReFL: training it "longer" lowers every reward
    assert json.loads((out / "metrics.json").read_text())["claims"]["parts_company"] == {"shown": 1, "of": 2}
    assert "resample the prompts and the training seeds" in (out / "index.html").read_text()

    kept = tmp_path / "kept"
    results.keep(settings.read(made), out.parent, kept)
    found = tables.read(kept / "findings.parquet", tables.FINDINGS).to_pylist()
    parts = {row["metric"]: row for row in found if row["about"] == "parts_company"}
    assert {metric: row["state"] for metric, row in parts.items()} == {"proxy": "opposite", "oracle": "shown"}
    scores = tables.read(kept / "scores.parquet", tables.RESULTS).to_pylist()
    tuned = [r for r in scores if (r["strategy"], r["train_seed"], r["metric"]) == ("tuned", 1, "oracle")]
    long, short = (np.mean([r["score"] for r in tuned if r["method"] == name]) for name in ("draftlv", "refl"))
    assert parts["oracle"]["per_seed"] == pytest.approx([long - short])
    ablation = [row for row in found if row["about"] == "ablation"]
    assert len(ablation) == 9
    assert all(len(row["per_seed"]) == 1 and row["against"] == "imagerefl" for row in ablation)
    other = tmp_path / "other"
    pair = settings.ComparisonSettings(reference="draft1", candidate="imagerefl")
    results.keep(results.between(settings.read(made), pair), out.parent, other, alone=True)
    assert {path.name for path in other.iterdir()} == {"README.md", "findings.parquet"}
    rows = tables.read(other / "findings.parquet", tables.FINDINGS).to_pylist()
    assert {(row["method"], row["against"]) for row in rows if row["about"] == "above"} == {("imagerefl", "draft1")}
    page = (kept / "README.md").read_text()
    assert "## 5. Training reward and true reward diverge under long training: partly shown" in page
    assert page.count("| DRaFT-1, combined generation |") == 2  # against the reference, and as an ablation
    assert {path.name for path in kept.iterdir()} == {
        "README.md", "scores.parquet", "costs.parquet", "findings.parquet", "training.parquet", "frontier.png",
        "strategies.png", "training.png", "queries.png", "grid.png",
    }  # fmt: skip
    before = reading.read(settings.read(made), *(out.parent / name for name in ("measures", "samples", "runs")))
    again = kept_results.read(settings.read(made), kept)
    assert again.evaluation.costs == before.evaluation.costs and len(again.evaluation.costs) > 10
    for point in before.evaluation.points:
        first, second = (one.findings.difference(point, "oracle", "base") for one in (before, again))
        assert (first and (first.mean, first.low, first.high)) == (second and (second.mean, second.low, second.high))


def test_numbers_are_means_over_samples_then_prompts_then_seeds(params: Path) -> None:
    out, measures = folders(params).out, folders(params).measures

    def mean(run: str, strategy: str, value: float, metric: str) -> float:
        rows = pq.read_table(measures / f"{run}.parquet").to_pylist()
        by_prompt: dict[str, list[float]] = {}
        for row in rows:
            if (row["strategy"], row["value"], row["metric"]) == (strategy, value, metric):
                by_prompt.setdefault(row["prompt_id"], []).append(row["score"])
        return float(np.mean([np.mean(scores) for scores in by_prompt.values()]))

    numbers = json.loads((out / "metrics.json").read_text())
    assert numbers["base"]["proxy"] == pytest.approx(mean("base", "guidance", 1.0, "proxy"), rel=1e-5)
    seeds = [mean(f"imagerefl-s{seed}", "combined", 10.0, "patch_diversity") for seed in (0, 1)]
    assert numbers["runs"]["imagerefl-s1"]["combined_k_10"]["patch_diversity"] == pytest.approx(seeds[1], rel=1e-5)
    summary = rows_of(out / "summary.csv")
    row = one(summary, method="imagerefl", strategy="combined", setting="k=10", metric="patch_diversity")
    assert float(row["mean"]) == pytest.approx(np.mean(seeds), rel=1e-5)
    assert float(row["low"]) < float(row["mean"]) < float(row["high"])
    assert (row["seeds"], row["n_prompts"], row["nfe"]) == ("2", "8", "20")
    difference = one(rows_of(out / "differences.csv"), method="imagerefl", strategy="combined", setting="k=10",
                     metric="patch_diversity", against="refl")  # fmt: skip
    theirs = [mean(f"refl-s{seed}", "combined", 10.0, "patch_diversity") for seed in (0, 1)]
    assert float(difference["mean"]) == pytest.approx(np.mean(seeds) - np.mean(theirs), rel=1e-4)
    assert difference["clear"] == "1"


def test_every_table_says_which_evaluation_it_is_of(params: Path) -> None:
    out = folders(params).out
    said = evaluation_of(folders(params).measures / "base.parquet")
    study = yaml.safe_load(params.read_text())["study"]["name"]
    tables = sorted(out.rglob("*.csv"))
    assert {"summary.csv", "differences.csv", "judges.csv", "frontier.csv"} <= {table.name for table in tables}
    for table in tables:
        rows = rows_of(table)
        assert {(row["study"], row["evaluation"]) for row in rows} <= {(study, said)}, table
        assert table.read_text().startswith("study,evaluation"), table


def test_set_metrics_are_reported_without_a_score_per_prompt(params: Path) -> None:
    row = one(rows_of(folders(params).out / "summary.csv"), method="base", setting="guidance=1", metric="fid")
    assert (row["mean"], row["low"], row["high"]) == ("12", "", "")


def test_frontier_points_run_from_tuned_to_base(params: Path) -> None:
    rows = rows_of(folders(params).out / "plots" / "frontier.csv")
    curve = [row["setting"] for row in rows if row["curve"] == "ReFL combined generation"]
    assert curve == ["tuned", "k=4", "k=8", "k=10", "k=12", "k=14", "k=16", "base"]
    weights = [row["setting"] for row in rows if row["curve"] == "ReFL RLG"]
    assert weights == ["base", "w=0.5", "tuned", "w=1.5"]


def test_training_plot_holds_every_probe(params: Path) -> None:
    rows = rows_of(folders(params).out / "plots" / "training.csv")
    assert list(rows[0]) == [
        "study",
        "evaluation",
        "run",
        "method",
        "seed",
        "step",
        "probe_proxy",
        "probe_heldout",
        "probe_oracle",
        "probe_diversity",
    ]
    assert [row["step"] for row in rows if row["run"] == "refl-s0"] == ["0", "20", "40", "60", "80", "100"]


def test_the_grid_shows_the_samples_enlarged(params: Path, drawn: ReportData) -> None:
    assert [row.caption for row in grids.rows_of(drawn)[:4]] == [
        ("base", "guidance 1"), ("base", "guidance 2"), ("ReFL", "tuned only (k = 0)"), ("ReFL", "combined, k = 10"),
    ]  # fmt: skip
    assert grids.chosen_prompts(drawn.evaluation, 3) == ["eval-000", "eval-004", "eval-007"]
    grid = np.asarray(Image.open(folders(params).out / "grid.png").convert("RGB"))
    samples = pq.read_table(folders(params).samples / "refl-s0.parquet").to_pylist()
    wanted = next(
        row["image"] for row in samples
        if (row["strategy"], row["value"], row["prompt_id"], row["sample"]) == ("combined", 10.0, "eval-004", 1)
    )  # fmt: skip
    picture = np.asarray(Image.open(io.BytesIO(wanted)).convert("RGB")).repeat(3, axis=0).repeat(3, axis=1)
    top = grids.HEAD + 3 * (96 + grids.GAP)
    left = grids.LABEL_WIDTHS[0] + (3 * (96 + grids.GAP) + grids.BLOCK_GAP) + (96 + grids.GAP)
    np.testing.assert_array_equal(grid[top : top + 96, left : left + 96], picture)


def test_the_grid_is_as_wide_as_there_are_samples(tmp_path: Path) -> None:
    made = write_study(tmp_path, runs=("refl-s0",), prompts=4, samples=2)
    found = read(made)
    grid = grids.draw(found)
    assert found.study.report.grid.samples == 3
    assert grid.width == grids.LABEL_WIDTHS[0] + 3 * (2 * (96 + grids.GAP) + grids.BLOCK_GAP)


@pytest.mark.parametrize(("spoil", "message"), [
    (lambda f: (f.measures / "refl-s1.parquet").unlink(), "refl-s1.parquet: no such file"),
    (lambda f: (f.samples / "base.parquet").write_bytes(b"no table"), "base.parquet: not a readable Parquet file"),
    (lambda f: (f.runs / "refl-s0" / "train_log.parquet").unlink(), "train_log.parquet: no such file"),
    (lambda f: (f.measures / "refl-s0.parquet").write_bytes((f.measures / "refl-s1.parquet").read_bytes()),
     "refl-s0.parquet: holds 'refl-s1' of 'refl' with seed 1, expected only 'refl-s0' of 'refl' with seed 0"),
    (lambda f: (f.data / "manifest.json").write_text("{"), "manifest.json: not readable as JSON"),
    (lambda f: (f.data / "manifest.json").write_text("{}"), "manifest.json.tables: field required"),
    (lambda f: (f.scores / "oracle.json").unlink(), "oracle.json: no such file"),
    (lambda f: (f.scores / "oracle.json").write_text((f.scores / "proxy.json").read_text()),
     "oracle.json: the pair accuracy of 'proxy', expected that of 'oracle'"),
], ids=["measures", "samples", "log", "foreign", "json", "manifest", "accuracy", "reward"])  # fmt: skip
def test_wrong_input_is_refused_in_one_line(tmp_path: Path, spoil: Callable[[Folders], object], message: str) -> None:
    made = write_study(tmp_path, runs=("refl-s0", "refl-s1"), prompts=4, samples=2)
    spoil(folders(made))
    refused(made, message)


@pytest.mark.parametrize(("key", "value", "message"), [
    ("rewards", ["proxy", "oracel"], "report.rewards: 'oracel' has no score per prompt"),
    ("diversities", ["fid"], "report.diversities: 'fid' has no score per prompt"),
    ("bootstrap", 3, "report.bootstrap: input should be greater than or equal to 100, found 3"),
    ("candidates", "x", "report.candidates: unknown key; did you mean 'candidate'?"),
])  # fmt: skip
def test_wrong_settings_are_refused(tmp_path: Path, key: str, value: object, message: str) -> None:
    made = write_study(tmp_path, runs=("refl-s0",), prompts=4, samples=2)
    study = yaml.safe_load(made.read_text())
    study["report"][key] = value
    study["report"].pop("main", None)  # which would be refused first where it is no longer shown
    made.write_text(yaml.safe_dump(study))
    refused(made, message)


def test_numbers_of_two_evaluations_are_not_mixed(tmp_path: Path) -> None:
    made = write_study(tmp_path, runs=("refl-s0",), prompts=4, samples=2)
    other = write_study(tmp_path / "other", runs=("refl-s0",), prompts=4, samples=3)
    for name in ("refl-s0.parquet", "refl-s0.summary.parquet"):
        (folders(made).measures / name).write_bytes((folders(other).measures / name).read_bytes())
    refused(made, "measure both again")


def test_the_command_refuses_with_code_2_and_writes_nothing(tmp_path: Path) -> None:
    made = write_study(tmp_path, runs=("refl-s0",), prompts=4, samples=2)
    (folders(made).measures / "base.parquet").unlink()
    done = command(made)
    assert done.returncode == 2
    lines = [line for line in done.stderr.splitlines() if line.startswith("error: ")]
    assert len(lines) == 1
    assert "base.parquet: no such file" in lines[0]
    assert not folders(made).out.exists()


def refused(params: Path, message: str) -> None:
    from stages.errors import InputError

    with pytest.raises(InputError) as error:
        report(params)
    assert message in str(error.value)
    assert "\n" not in str(error.value)
    assert not folders(params).out.exists()


def rows_of(path: Path) -> list[dict[str, str]]:
    with path.open(newline="") as file:
        return list(csv.DictReader(file))


def one(rows: list[dict[str, str]], **wanted: str) -> dict[str, str]:
    found = [row for row in rows if all(row[key] == value for key, value in wanted.items())]
    assert len(found) == 1
    return found[0]


# --- parts ----------------------------------------------------------------------------------------------------------


def test_over_optimisation_is_a_fall_while_the_training_reward_rises(params: Path) -> None:
    study = settings.read(params)
    steps = np.array([0, 10, 20, 30])

    def log(proxy: list[float], heldout: list[float]) -> dict:
        terms = {"probe_proxy": Series(steps, np.array(proxy)), "probe_heldout": Series(steps, np.array(heldout))}
        return {"refl-s0": terms}

    (turn,) = probes.turns(study, log([0, 1, 2, 3], [0, 2, 1.5, 1]))
    assert (turn.best_step, turn.gain, turn.fall, turn.rising, turn.alarm) == (10, 2, 1, True, True)
    assert not probes.turns(study, log([0, 1, 2, 3], [0, 1, 2, 1.9]))[0].alarm  # a twentieth of the gain
    assert not probes.turns(study, log([0, 3, 2, 1], [0, 3, 2, 1]))[0].alarm  # everything got worse


def test_smoothing_is_a_mean_over_neighbours() -> None:
    values = np.random.default_rng(0).standard_normal(30)
    plain = [values[max(0, i - 4) : i + 5].mean() for i in range(30)]
    np.testing.assert_allclose(smooth(values), plain)


@pytest.mark.parametrize(("value", "half", "text"), [
    (0.48213, 0.0046, "0.482"), (0.48213, 0.012, "0.482"), (0.48213, 0.03, "0.48"),
    (12.34, 2.5, "12"), (-0.5, 0.1, "−0.50"),
])  # fmt: skip
def test_numbers_show_what_their_interval_deserves(value: float, half: float, text: str) -> None:
    assert style.number(value, style.digits(half, value)) == text


def test_numbers_have_no_negative_zero() -> None:
    assert style.number(-0.0001, 2, sign=True) == "0.00"
    assert style.number(float("nan")) == "–"
    assert Interval.of(np.array([1.0, np.nan]), 0.95).sign() == 0


def test_the_timeline_cuts_pauses(tmp_path: Path) -> None:
    from dataclasses import replace

    from stages.lineage.record import Code, File, Record, write_record

    first = Record("madeup", "curate", "", str(tmp_path), 1000.0, File("p", "p"), Code(None, False, ""), {},
                   status="finished", seconds=10.0, peak_memory=2**30)  # fmt: skip
    later = replace(first, stage="finetune", name="refl-s0", started=9000.0, seconds=60.0)
    beside = replace(first, stage="finetune", name="refl-s1", started=9010.0, seconds=20.0, status="failed")
    for record in (first, later, beside):
        write_record(record)
    made = timeline.timeline(tmp_path, leave_out="report")
    assert made is not None
    assert [bar.title for bar in made.bars] == ["curate", "finetune refl-s0", "finetune refl-s1"]
    assert made.summary.startswith("3 jobs, 1 min 30 s of work in 1 min 40 s on the clock; at most 1.0 GiB")
    assert [(round(bar.left), round(bar.width)) for bar in made.bars] == [(0, 10), (40, 60), (50, 20)]
    assert [bar.failed for bar in made.bars] == [False, False, True]
    assert [(share.stage, share.jobs, share.duration, round(share.percent)) for share in made.shares] == [
        ("finetune", 2, "1 min 20 s", 89), ("curate", 1, "10 s", 11),
    ]  # fmt: skip
    assert timeline.timeline(tmp_path / "none", leave_out="report") is None


def test_points_are_one_per_way_of_making_images(drawn: ReportData) -> None:
    evaluation = drawn.evaluation
    assert evaluation.base == Point("base", "guidance", 1.0)
    assert len(evaluation.points) == 5 + 5 * 15
    assert evaluation.scores(Point("refl", "aig", 2.0), "oracle").shape == (2, 8)
    assert evaluation.costs[Point("refl", "aig_guided", 2.0)].nfe == 60
