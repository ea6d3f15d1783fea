"""Published numbers stand beside this study's where both measured the same, and nowhere else."""

from __future__ import annotations

import csv
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import yaml
from report_fixture import arguments, figures_only, write_study

from stages.errors import InputError
from stages.params import read_study
from stages.report import __main__ as report
from stages.report import settings
from stages.report.data import ReportData, read
from stages.report.figures import published

ROOT = Path(__file__).parents[3]
SAID = {
    "source": "a paper, table 4", "prompts": 8, "samples": 3, "steps": 20,
    "values": {
        "base": {"proxy": 0.4, "elsewhere": 12.0}, "refl": {"proxy": 0.75}, "imagerefl": {"clip_diversity": 0.3},
    },
}  # fmt: skip


def study(folder: Path, **changes: Any) -> Path:
    """A made-up study of 8 prompts with 3 images in 20 steps that names published numbers."""
    params = write_study(folder)
    said = yaml.safe_load(params.read_text())
    said["report"] |= {"published": SAID | changes, "figures": ["published"]}
    params.write_text(yaml.safe_dump(said, sort_keys=False))
    return params


def with_published(made: ReportData, **changes: Any) -> ReportData:
    """The same measurements beside numbers that were published for other settings."""
    said = made.study.report.published
    assert said is not None
    report = made.study.report.model_copy(update={"published": said.model_copy(update=changes)})
    return replace(made, study=made.study.model_copy(update={"report": report}))


def data(params: Path) -> ReportData:
    out = params.parent / "out/madeup"
    return read(settings.read(params), out / "measures", out / "samples", out / "runs")


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory) -> ReportData:
    return data(study(tmp_path_factory.mktemp("published")))


def test_rows_are_of_metrics_that_both_have_and_alone(made: ReportData) -> None:
    found = {(row["method"], row["metric"]): row for row in published.rows(made)}
    assert set(found) == {("base", "proxy"), ("refl", "proxy"), ("imagerefl", "clip_diversity")}
    row = found["refl", "proxy"]
    point = next(p for p in made.evaluation.points if (p.method, p.strategy) == ("refl", "tuned"))
    ours = made.evaluation.scores(point, "proxy").mean()
    assert row["theirs"] == 0.75
    assert row["ours"] == pytest.approx(ours)
    assert row["ours_minus_theirs"] == pytest.approx(ours - 0.75)
    assert float(row["low"]) < ours < float(row["high"])  # type: ignore[arg-type]
    base = made.evaluation.scores(made.evaluation.base, "proxy").mean()
    assert found["base", "proxy"]["ours"] == pytest.approx(base)


def test_the_caption_says_whose_they_are_and_what_is_missing(made: ReportData) -> None:
    assert "(theirs): a paper, table 4" in published.caption(made)
    assert published.caption(made).endswith("Not measured here: elsewhere.")


@pytest.mark.parametrize(
    ("changes", "said"),
    [
        ({"prompts": 400}, "prompts: 400 there, 8 here"),
        ({"samples": 4, "steps": 50}, "samples: 4 there, 3 here; steps: 50 there, 20 here"),
    ],
)
def test_numbers_of_another_setting_are_not_drawn(made: ReportData, changes: dict[str, int], said: str) -> None:
    found = with_published(made, **changes)
    assert published.rows(found) == []
    assert published.caption(found) == f"Numbers of a paper, table 4 are not drawn: {said}."


def test_a_setting_that_is_not_known_is_not_compared(made: ReportData) -> None:
    assert published.differing(with_published(made, prompts=None, samples=None, steps=None)) == []


def test_the_page_has_the_figure_and_its_table(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    params = study(tmp_path)
    monkeypatch.setattr("sys.argv", ["report", *arguments(params)])
    with figures_only("published"):
        report.main()
    folder = tmp_path / "out/madeup/report"
    assert "Beside published numbers" in (folder / "index.html").read_text()
    with open(folder / "plots/published.csv", newline="") as file:
        assert len(list(csv.DictReader(file))) == 3


def test_a_method_without_a_run_is_refused(tmp_path: Path) -> None:
    with pytest.raises(InputError, match=r"report\.published\.values 'rfel' .* did you mean 'refl'"):
        settings.read(study(tmp_path, values={"rfel": {"proxy": 1.0}}))


def test_the_study_of_sd35_is_in_the_setting_of_what_it_quotes() -> None:
    said = read_study(ROOT / "studies/sd35-hps.yaml")
    found = settings.read(ROOT / "studies/sd35-hps.yaml").report.published
    assert found is not None
    assert (found.samples, found.steps) == (said["sample"]["samples_per_prompt"], said["sample"]["steps"])
    assert all(values.keys() == set(said["measure"]["rewards"]) for values in found.values.values())
    assert set(found.values) == {"base", *said["methods"]}
