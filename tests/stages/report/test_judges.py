"""Judges: their roles, how far they rank images alike, and the audit of these numbers."""

from __future__ import annotations

import dataclasses
import json
import shutil
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import yaml
from report_fixture import Silent, figures_only, folders, write_study
from scipy.stats import spearmanr

from stages.audit import agreement as audited
from stages.audit import page as audited_page
from stages.audit.__main__ import POINT, Audit, _ends
from stages.audit.documents import documents
from stages.audit.reading import read, read_csv
from stages.audit.statistics import Study
from stages.measure.evaluation import specification_of
from stages.report import account, agreement, judges, results, settings
from stages.report import data as reading
from stages.report.__main__ import write_report
from stages.report.claims import Draws
from stages.report.data import ReportData
from stages.report.measurements import Cost


def spearman(*given: Any, **how: Any) -> Any:
    """SciPy's coefficient, or matrix of them."""
    found: Any = spearmanr(*given, **how)
    return found.statistic


def draws(*shape: int, seed: int = 0) -> np.ndarray:
    return np.random.default_rng(seed).normal(size=shape)


# --- the statistic ----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("ties", [False, True])
def test_correlations_are_spearmans_of_the_repeated_sample(ties: bool) -> None:
    scores, counts = draws(3, 12), np.random.default_rng(1).multinomial(12, np.full(12, 1 / 12), 5).astype(float)
    scores = np.round(scores) if ties else scores
    found = agreement.correlations(scores, counts)
    for row, count in enumerate(counts.astype(int)):
        wanted = spearman(np.repeat(scores, count, axis=1), axis=1)
        np.testing.assert_allclose(found[row], wanted, atol=1e-12)


def test_known_correlations() -> None:
    up = np.arange(6.0)
    found = agreement.correlations(np.stack([up, np.exp(up), -up, np.ones(6)]), np.ones((1, 6)))[0]
    assert found[0, 1] == pytest.approx(1) and found[0, 2] == pytest.approx(-1)
    assert np.isnan(found[0, 3]) and np.isnan(found[3, 3])


def test_order_and_chunks_do_not_matter(monkeypatch: pytest.MonkeyPatch) -> None:
    weights, scores = Draws.of(9, 100, 0).prompts, draws(2, 9, 4)
    found = agreement.of_seed(weights, scores)
    turned = np.random.default_rng(2).permutation(4)
    np.testing.assert_allclose(agreement.of_seed(weights, scores[:, :, turned]), found, atol=1e-12)
    monkeypatch.setattr(agreement, "CHUNK", 7)
    np.testing.assert_allclose(agreement.of_seed(weights, scores), found, atol=1e-12)


def test_images_that_a_judge_did_not_score_are_left_out() -> None:
    scores = draws(2, 5, 3)
    scores[1, 2, 0] = scores[0, 4, 1] = np.nan
    kept = np.isfinite(scores).all(axis=0)
    found = agreement.of_seed(np.ones((1, 5)) / 5, scores)[0, 0, 1]
    assert found == pytest.approx(spearman(scores[0][kept], scores[1][kept]))


def test_the_interval_narrows_with_prompts_and_holds_the_truth() -> None:
    def ends(count: int) -> np.ndarray:
        common = draws(count, 1)
        pair = np.stack([common, common + draws(count, 1, seed=3)])
        return np.quantile(agreement.of_seed(Draws.of(count, 400, 0).prompts, pair)[1:, 0, 1], [0.025, 0.975])

    wide, narrow = ends(15), ends(240)
    assert narrow[1] - narrow[0] < (wide[1] - wide[0]) / 2
    assert narrow[0] < 6 / np.pi * np.arcsin(0.5**0.5 / 2) < narrow[1]  # of a Gaussian pair with correlation sqrt(1/2)


# --- roles ------------------------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def params(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A small study, with CLIPScore by the model that it trains on, and its report."""
    made = write_study(tmp_path_factory.mktemp("judges"), prompts=6, runs=("refl-s0", "refl-s1", "imagerefl-s0"))
    study = yaml.safe_load(made.read_text())
    study["measure"] |= {"rewards": ["proxy", "heldout", "oracle"], "text_image": "proxy"}
    study["report"] |= {"diversities": ["attribute_diversity"], "bootstrap": 150, "resample": "prompts_and_seeds"}
    made.write_text(yaml.safe_dump(study, sort_keys=False))
    with figures_only("frontier"):
        write_report(settings.read(made), folders(made), Silent())  # type: ignore[arg-type]
    return made


@pytest.fixture(scope="module")
def found(params: Path) -> ReportData:
    where = folders(params)
    return reading.read(settings.read(params), where.measures, where.samples, where.runs)


def roles(found: ReportData) -> Mapping[str, tuple[str, ...]]:
    return {judge.metric: judge.roles for judge in judges.judges(found.study, found.evaluation)}


def test_a_judge_is_what_it_was_used_for(found: ReportData) -> None:
    assert roles(found) == {
        "proxy": ("trained on",), "clipscore": ("trained on",), "heldout": ("held out",), "oracle": ("held out",),
    }  # fmt: skip
    assert [line.partition(":")[0] for line in judges.warnings(found)] == ["proxy reward", "CLIPScore"]


def test_a_judge_that_chose_images_is_said_to(found: ReportData) -> None:
    point = next(point for point in found.evaluation.costs if point.strategy == "aig")
    costs = dict(found.evaluation.costs) | {point: Cost(1.0, 1.0, 1, 4.0, ("heldout", "proxy"))}
    searched = dataclasses.replace(found, evaluation=dataclasses.replace(found.evaluation, costs=costs))
    assert roles(searched)["heldout"] == ("searched with",)
    assert roles(searched)["proxy"] == ("trained on", "searched with")
    lines = judges.warnings(searched)
    assert any(line.startswith("held-out reward: chose among candidates in AIG") for line in lines) and len(lines) == 5


@pytest.mark.parametrize(("digest", "role"), [("3", "searched with"), ("1", "trained on"), ("2", "held out")])
def test_one_model_under_two_names_is_one_judge(params: Path, tmp_path: Path, digest: str, role: str) -> None:
    """The held-out judge is what `aig` is searched with under another name, or what methods are trained on."""
    shutil.copytree(params.parent, tmp_path / "study")
    made = tmp_path / "study" / params.name
    where = folders(made)
    models = {"proxy": {"digest": "1"}, "heldout": {"digest": digest}}
    for path in where.measures.glob("*.parquet"):
        table = pq.read_table(path)
        text = json.dumps(specification_of(path) | {"models": models}).encode()
        metadata = {**(table.schema.metadata or {}), b"evaluation_specification": text}
        pq.write_table(table.replace_schema_metadata(metadata), path)
    for path in where.samples.glob("*.parquet"):
        table = pq.read_table(path)
        for column, value in (("rewards", "another_name"), ("reward_digests", "3")):
            place = table.schema.get_field_index(column)
            asked = [[value] if name == "aig" else [] for name in table["strategy"].to_pylist()]
            table = table.set_column(place, table.schema.field(place), pa.array(asked, table.schema.field(place).type))
        pq.write_table(table, path)
    found = reading.read(settings.read(made), where.measures, where.samples, where.runs)
    assert roles(found)["heldout"] == (role,) and roles(found)["oracle"] == ("held out",)
    warned = [line for line in judges.warnings(found) if line.startswith("held-out reward: ")]
    assert len(warned) == (role != "held out")


def test_a_judge_that_labelled_pairs_is_not_held_out(found: ReportData) -> None:
    section = {"steps": [{"kind": "majority", "by": ["heldout", "proxy"]}, {"kind": "swap"}]}
    chosen = dataclasses.replace(found, study=found.study.model_copy(update={"select": section}))
    assert roles(chosen)["heldout"] == ("chose pairs",) and roles(chosen)["proxy"] == ("trained on", "chose pairs")
    assert roles(chosen)["oracle"] == ("held out",)
    lines = [line for line in judges.warnings(chosen) if "labelled or chose the pairs" in line]
    assert {line.partition(":")[0] for line in lines} == {"proxy reward", "CLIPScore", "held-out reward"}


@pytest.mark.parametrize(
    ("of", "role"),
    [
        ({"one": {"kind": "open_clip", "folder": "a"}}, "trained on"),
        ({"one": {"kind": "hinge", "of": {"x": {"kind": "open_clip", "folder": "a"}}}}, "trained on"),
        ({"one": {"kind": "clipscore", "folder": "a"}, "two": {"kind": "jpeg"}}, "trained on"),
        ({"one": {"kind": "open_clip", "folder": "b"}, "two": {"kind": "jpeg"}}, "held out"),
    ],
)  # fmt: skip
def test_a_judge_within_a_sum_or_wrapper_is_not_held_out(found: ReportData, of: dict[str, Any], role: str) -> None:
    """The training reward is a sum of which the held-out judge is a part, a part of a part, or none; or the judge is
    the sum.
    """
    whole, part = {"kind": "weighted_sum", "of": of}, {"kind": "open_clip", "folder": "a"}
    for proxy, heldout in ((whole, part), (part, whole)):
        wrapped = importing(found, proxy=proxy, heldout=heldout)
        assert roles(wrapped)["heldout"] == (role,) and roles(wrapped)["proxy"] == ("trained on",)


def importing(found: ReportData, **imported: Mapping[str, Any]) -> ReportData:
    """The study with these models under `prepare.import`."""
    return dataclasses.replace(found, study=found.study.model_copy(update={"prepare": {"import": imported}}))


def test_a_judge_within_what_searched_or_chose_pairs_is_not_held_out(found: ReportData) -> None:
    """Searched with is the sum, pairs are chosen by another one; each has one of two judges in it."""
    part = {name: {"kind": "open_clip", "folder": name} for name in ("heldout", "oracle")}
    sums = {
        name: {"kind": "weighted_sum", "of": {"x": part[inner], "y": {"kind": "jpeg"}}}
        for name, inner in (("searching", "heldout"), ("choosing", "oracle"))
    }
    wrapped = importing(found, **part, **sums)
    point = next(point for point in found.evaluation.costs if point.strategy == "aig")
    costs = dict(found.evaluation.costs) | {point: Cost(1.0, 1.0, 1, 4.0, ("searching",))}
    section = {"steps": [{"kind": "majority", "by": ["choosing", "proxy"]}]}
    wrapped = dataclasses.replace(
        wrapped, evaluation=dataclasses.replace(found.evaluation, costs=costs),
        study=wrapped.study.model_copy(update={"select": section}),
    )  # fmt: skip
    assert roles(wrapped)["heldout"] == ("searched with",) and roles(wrapped)["oracle"] == ("chose pairs",)


def test_a_wrapper_with_files_of_its_own_is_these_too(found: ReportData) -> None:
    own = {"kind": "with_features", "folder": "a", "of": {"x": {"kind": "open_clip", "folder": "b"}}}
    for folder, role in (("a", "trained on"), ("b", "trained on"), ("c", "held out")):
        wrapped = importing(found, proxy=own, heldout={"kind": "open_clip", "folder": folder})
        assert roles(wrapped)["heldout"] == (role,)


# --- where they stand -------------------------------------------------------------------------------------------------


def test_the_table_is_that_of_the_measures(params: Path, found: ReportData) -> None:
    kept: Any = pd.read_csv(folders(params).out / "judges.csv")
    pairs = 6 * 3 * 2  # pairs of four judges; base and two methods; over prompts and images
    assert len(kept) == pairs and set(kept["over"]) == {"prompts", "images"}
    rows: Any = pd.read_parquet(folders(params).measures / "refl-s1.parquet").query("strategy == 'tuned'")
    other: Any = pd.read_parquet(folders(params).measures / "refl-s0.parquet").query("strategy == 'tuned'")
    wanted = []
    for one in (rows, other):
        table = one.pivot_table(index=["prompt_id", "sample"], columns="metric", values="score")
        wanted.append(spearman(table["proxy"], table["oracle"]))
    row = kept.query("method == 'refl' and over == 'images' and judge == 'proxy' and against == 'oracle'").iloc[0]
    assert row["mean"] == pytest.approx(np.mean(wanted), rel=1e-5)
    assert -1 <= row["low"] <= row["mean"] <= row["high"] <= 1
    assert (row["role"], row["against_role"]) == ("trained on", "held out")


def test_the_page_and_the_account_show_them(params: Path, found: ReportData) -> None:
    page = (folders(params).out / "index.html").read_text()
    assert 'id="judges"' in page and "Rank correlation over single images" in page
    assert 'data-number="rank_images/refl/tuned/tuned/proxy/oracle"' in page
    assert "proxy reward: the reward that methods were trained on" in page
    text = account.account(found)
    assert "| judges | base, guidance=1 | ReFL | ImageReFL |" in text
    assert text.count("\n| proxy reward, ") == 3


def test_the_account_names_the_methods_that_have_runs(found: ReportData) -> None:
    assert account.account(found).startswith("# madeup: ImageReFL and ReFL\n")
    lone = replace(found, look=replace(found.look, candidate=None))
    assert account.account(lone).startswith("# madeup: ReFL\n")
    assert account.verdicts(lone).startswith("madeup: ReFL\n")


def audit(params: Path) -> tuple[Audit, dict[tuple[str, ...], dict[str, float]]]:
    """The audit of the correlations alone, as `study` of the audit has it."""
    raw, found = yaml.safe_load(params.read_text()), Audit()
    where = folders(params)
    rows = read(*(where.measures / f"{run}.parquet" for run in ("base", *raw["runs"])))
    keys = ["run", "method", "train_seed", *POINT[1:], "prompt_id", "metric"]
    own = Study(raw, rows.groupby(keys, sort=False)["score"].mean().reset_index())
    ranked = {key: value for over in audited.OVER for key, value in audited.agreement(own, raw, rows, over)}
    said = {(key[0].removeprefix("rank_"), *key[1:]): _ends(value) for key, value in ranked.items()}
    found.table("judges.csv", ["over", *POINT, "judge", "against"], read_csv(where.out / "judges.csv"), said)
    return found, ranked


def test_the_audit_computes_the_same_and_names_what_differs(
    params: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    found, ranked = audit(params)
    assert found.count == 6 * 3 * 2 * 3 and not found.wrong, capsys.readouterr().out
    page = (folders(params).out / "index.html").read_text()
    cells = "".join(part.partition("</td>")[0] + "</td>" for part in page.split("<td")[1:] if '"rank_' in part[:200])
    (tmp_path / "page.html").write_text("<td" + cells.replace(" data-number", "<td data-number"))
    audited_page.cells(found, tmp_path / "page.html", {"/".join(key): value for key, value in ranked.items()})
    assert found.count == 6 * 3 * 2 * 3 * 2 and not found.wrong, capsys.readouterr().out
    shutil.copytree(params.parent, tmp_path / "turned")
    table = tmp_path / "turned/out/madeup/report/judges.csv"
    kept: Any = pd.read_csv(table)
    kept.loc[3, "low"] += 0.01
    kept.to_csv(table, index=False)
    found, _ = audit(tmp_path / "turned/params.yaml")
    assert found.wrong == 1 and "judges.csv: prompts" in capsys.readouterr().out


def test_the_audit_of_kept_results_holds_the_account_to_them(
    params: Path, found: ReportData, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    kept = tmp_path / "docs/results/madeup"
    (tmp_path / "studies").mkdir()
    shutil.copy(params, tmp_path / "studies/madeup.yaml")
    with figures_only("frontier"):
        results.keep(found.study, params.parent / "out/madeup", kept)
    monkeypatch.chdir(tmp_path)
    capsys.readouterr()
    checked = Audit()
    documents(checked, kept, None)
    assert not checked.wrong, capsys.readouterr().out
    text = (kept / "README.md").read_text()
    row = next(line for line in text.splitlines() if line.startswith("| held-out reward, oracle reward |"))
    (kept / "README.md").write_text(text.replace(row, row.replace("+0.", "+0.9").replace("−0.", "−0.9")))
    documents(checked, kept, None)
    assert checked.wrong == 1 and "held-out reward, oracle reward" in capsys.readouterr().out
