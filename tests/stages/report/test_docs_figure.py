"""The figure that docs/add-a-figure.md adds is one file and one entry of the study, as the page says."""

from __future__ import annotations

import re
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest
import yaml
from report_fixture import Silent, figures_among, folders, write_study

import stages.report.figures
from stages import plugins
from stages.report import settings
from stages.report.__main__ import write_report
from workflow.layout import Layout

ROOT = Path(__file__).parents[3]
PAGE = (ROOT / "docs" / "add-a-figure.md").read_text()


def block(language: str) -> str:
    found = re.search(rf"```{language}\n(.*?)```", PAGE, re.DOTALL)
    assert found
    return found[1]


@pytest.fixture
def installed(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    """The page's file stands where the page puts it, as far as imports can tell; returns the study."""
    folder = tmp_path / "figures"
    folder.mkdir()
    (folder / "efficiency.py").write_text(block("python"))
    paths = [*stages.report.figures.__path__, str(folder)]
    monkeypatch.setattr(stages.report.figures.__spec__, "submodule_search_locations", paths)
    monkeypatch.setattr(stages.report.figures, "__path__", paths)
    plugins._files.cache_clear()
    made = write_study(tmp_path, runs=("refl-s0", "imagerefl-s0"), prompts=4)
    content = yaml.safe_load(made.read_text())
    content["report"] |= yaml.safe_load(block("yaml"))["report"]
    made.write_text(yaml.safe_dump(content, sort_keys=False))
    with figures_among("efficiency", "cost"):
        yield made
    plugins._files.cache_clear()
    sys.modules.pop("stages.report.figures.efficiency", None)


def test_the_figure_of_the_page_is_written_declared_and_shown(installed: Path) -> None:
    write_report(settings.read(installed), folders(installed), Silent())  # type: ignore[arg-type]
    out = folders(installed).out
    wanted = ("efficiency.svg", "efficiency.png", "plots/efficiency.csv")
    assert all((out / name).stat().st_size > 100 for name in wanted)
    assert set(wanted) <= set(Layout.read(installed).report_files)
    assert {str(file.relative_to(out)) for file in out.rglob("*") if file.is_file()} == set(
        Layout.read(installed).report_files
    )
    page = (out / "index.html").read_text()
    cost = page[page.index('<section id="cost">') : page.index('<section id="data">')]
    assert "Up and to the left is more reward for less work." in cost and "efficiency.svg" in cost
    text = (out / "plots/efficiency.csv").read_text().splitlines()
    assert text[0] == "study,evaluation,method,strategy,setting,nfe,reward" and len(text) == 1 + 5 + 2 * 15


def test_planning_imports_neither_torch_nor_matplotlib() -> None:
    code = "import sys, workflow.layout as l; l.Layout.read('studies/smoke.yaml').report_files; "
    code += "print(sorted({'torch', 'matplotlib', 'pandas', 'pyarrow'} & set(sys.modules)))"
    done = subprocess.run([sys.executable, "-c", code], cwd=ROOT, text=True, capture_output=True, check=True)
    assert done.stdout.strip() == "[]"
