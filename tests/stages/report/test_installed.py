"""A method, a strategy, a metric and a figure from an installed package stand wherever those of this project do."""

from __future__ import annotations

import csv
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest
import report_fixture
import yaml
from report_fixture import Silent, figures_among, folders, write_study

from stages import plugins, study
from stages.report import data as reading
from stages.report import figure, results, settings
from stages.report.__main__ import write_report
from stages.report.figures import frontier, strategies
from workflow.layout import Layout

METHOD = """
from stages.about import MethodAbout
from stages.finetune.settings import MethodSettings

ABOUT = MethodAbout("Gentle-ReFL", "nobody 2026", family="reward gradient")


class Settings(MethodSettings):
    pass
"""
STRATEGY = """
import math

from stages.about import End, StrategyAbout
from stages.sample.mixing import Mixing

ABOUT = StrategyAbout(
    "wavering", letter="u", plain=End(0, "u = 0"), base=End(math.inf, "u = 8"), lines=((0, (9, 9)),), markers=("8",),
    caption="Wavering goes to and fro between the networks u times.",
)


class Settings(Mixing):
    u: tuple[float, ...]
"""
METRIC = """
from stages.about import MetricAbout

ABOUT = MetricAbout("Bluntness", labels={"bluntness": "bluntness of edges"}, rising="blunter")
SCOPE = "set"
"""
FIGURE = """
from stages.report.figure import FigureAbout

ABOUT = FigureAbout("Nothing much", files=("nothing.png",), section="leftovers")


def caption(data):
    return f"The study has {len(data.findings.frame)} findings & no more."


def draw(data):
    from PIL import Image

    return Image.new("RGB", (20, 20), "red")
"""
PACKAGE = {"methods": METHOD, "strategies": STRATEGY, "metrics": METRIC, "figures": FIGURE}


@pytest.fixture(scope="module")
def params(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Path]:
    """A report of a study that uses one plug-in of each sort, from a package that is installed meanwhile."""
    site = tmp_path_factory.mktemp("site")
    package, information = site / "wavering", site / "wavering-1.0.dist-info"
    package.mkdir()
    information.mkdir()
    (package / "__init__.py").touch()
    points = []
    for group, source in PACKAGE.items():
        (package / f"{group}.py").write_text(source)
        points.append(f"[imagerefl.{group}]\nwavering_{group} = wavering.{group}\n")
    (information / "entry_points.txt").write_text("\n".join(points))
    (information / "METADATA").write_text("Metadata-Version: 2.1\nName: wavering\nVersion: 1.0\n")
    with pytest.MonkeyPatch.context() as patch:
        patch.syspath_prepend(str(site))
        plugins._entry_points.cache_clear()
        patch.setitem(report_fixture.FULL, "wavering_methods", 0.9)
        patch.setitem(report_fixture.LOSS_EXPONENT, "wavering_methods", 1.5)
        usual = report_fixture._settings

        def settings_of(run: str, view: dict | None, fusion: bool = False) -> Iterator[report_fixture.MadeUp]:
            yield from usual(run, view, fusion)
            for u in (1.0, 4.0):
                if view is not None:
                    yield report_fixture.MadeUp(
                        run, view["method"], view["seed"], "wave", f"u={u:g}", u, 0.7 - u / 10, 30
                    )

        patch.setattr(report_fixture, "_settings", settings_of)
        made = write_study(tmp_path_factory.mktemp("installed"), runs=("refl-s0", "wavering_methods-s0"), prompts=4)
        content = yaml.safe_load(made.read_text())
        content["methods"]["wavering_methods"] = {"kind": "wavering_methods"}
        content["sample"]["strategies"]["wave"] = {"kind": "wavering_strategies", "u": [1, 4]}
        content["measure"]["set_metrics"] = ["fid", "recall", "wavering_metrics"]
        content["report"] |= {"candidate": "wavering_methods", "figures": ["wavering_figures"]}
        made.write_text(yaml.safe_dump(content, sort_keys=False))
        with figures_among("frontier", "strategies", "training", "wavering_figures"):
            write_report(settings.read(made), folders(made), Silent())  # type: ignore[arg-type]
            yield made
    plugins._entry_points.cache_clear()
    for name in [name for name in sys.modules if name.split(".")[0] == "wavering"]:
        del sys.modules[name]


@pytest.fixture(scope="module")
def page(params: Path) -> str:
    return (folders(params).out / "index.html").read_text()


def rows(path: Path) -> list[dict[str, str]]:
    with path.open(newline="") as file:
        return list(csv.DictReader(file))


def test_a_strategy_has_its_curves_in_the_figures(params: Path) -> None:
    where = folders(params)
    found = reading.read(settings.read(params), where.measures, where.samples, where.runs)
    (legend,) = strategies.draw(found).legends
    assert {"ReFL, wave", "Gentle-ReFL, wave"} <= {text.get_text() for text in legend.get_texts()}
    drawn = [line for line in legend.get_lines() if line.get_marker() == "8"]
    assert len(drawn) == 2
    (legend,) = frontier.draw(found).legends
    assert "Gentle-ReFL" in {text.get_text() for text in legend.get_texts()}
    curve = [row for row in frontier.rows(found) if row["curve"] == "Gentle-ReFL wave"]
    assert [row["setting"] for row in curve] == ["tuned", "u=1", "u=4", "base"]


def test_everything_installed_stands_in_tables_and_captions(params: Path, page: str) -> None:
    assert "Wavering goes to and fro between the networks u times." in page
    out = folders(params).out
    for name, column, value in (
        ("summary.csv", "strategy", "wave"),
        ("differences.csv", "strategy", "wave"),
        ("plots/frontier.csv", "strategy", "wave"),
        ("plots/training.csv", "method", "wavering_methods"),
    ):
        assert value in {row[column] for row in rows(out / name)}, name
    assert page.count("wave, u=4") >= 4  # settings and differences of both methods
    assert page.count("<small>wave</small>") == 2  # the gaps of both methods to the reference
    kept = params.parent / "kept"
    results.keep(settings.read(params), out.parent, kept)
    assert "| Gentle-ReFL, wave |" in (kept / "README.md").read_text()
    assert (kept / "nothing.png").is_file()


def test_a_metric_is_labelled_by_its_own_words(params: Path) -> None:
    where = folders(params)
    found = reading.read(settings.read(params), where.measures, where.samples, where.runs)
    assert found.look.metric("bluntness") == "bluntness of edges"
    assert found.look.axis("bluntness") == "bluntness of edges  (blunter →)"


def test_a_figure_is_declared_written_and_shown(params: Path, page: str) -> None:
    assert (folders(params).out / "nothing.png").is_file()
    assert "nothing.png" in Layout.read(params).report_files
    assert '<section id="leftovers">' in page and "<h2>Nothing much</h2>" in page
    assert "findings &amp; no more." in page
    assert "nothing.png" not in figure.outputs()  # of a study that does not name it


def test_the_claims_are_about_the_installed_method(page: str) -> None:
    assert "Gentle-ReFL with combined generation lies above ReFL with combined generation" in page


@pytest.mark.parametrize(
    ("source", "message"),
    [
        ("", "has no function 'caption'"),
        ("def caption(data): ...\ndef draw(data): ...", "declares no files"),
        ("ABOUT = 3", "ABOUT is a int, expected a FigureAbout"),
        (FIGURE.replace("nothing.png", "frontier.svg"), "frontier.svg is written by 'odd' and by 'frontier'"),
    ],
)
def test_what_is_not_a_figure_is_refused(
    source: str, message: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from stages.errors import InputError

    (tmp_path / "odd_figure.py").write_text(source)
    (tmp_path / "odd-1.0.dist-info").mkdir()
    (tmp_path / "odd-1.0.dist-info/entry_points.txt").write_text("[imagerefl.figures]\nodd = odd_figure\n")
    (tmp_path / "odd-1.0.dist-info/METADATA").write_text("Metadata-Version: 2.1\nName: odd\nVersion: 1.0\n")
    monkeypatch.syspath_prepend(str(tmp_path))
    plugins._entry_points.cache_clear()
    try:
        with pytest.raises(InputError, match=message):
            figure.figures(["odd"])
    finally:
        plugins._entry_points.cache_clear()
        sys.modules.pop("odd_figure", None)


def test_an_unknown_figure_is_refused_with_the_study(tmp_path: Path) -> None:
    from stages.errors import InputError

    content = yaml.safe_load((Path(__file__).parents[3] / "studies/smoke.yaml").read_text())
    content["report"]["figures"] = ["fronteir"]
    (tmp_path / "study.yaml").write_text(yaml.safe_dump(content))
    with pytest.raises(InputError, match="unknown figure 'fronteir'; did you mean 'frontier'"):
        study.load(tmp_path / "study.yaml")
