"""The page with prompts, titles and runs as people may call them, in a headless Chromium: nothing breaks out."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING

import matplotlib
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import yaml
from report_fixture import folders, write_study
from test_explore import PATIENCE, Recording, needs_browser

from stages.report import data as reading
from stages.report import interactive, page, provenance, settings, sources, style
from stages.report.screenshots import chromium

if TYPE_CHECKING:
    from playwright.sync_api import Browser, Dialog

PROMPTS = (
    "<b>bold</b> \"quotes\" 'single' & </script><script>alert(1)</script> <img src=http://evil/x.png onerror=alert(2)>",
    '=HYPERLINK("http://evil") 👩‍👩‍👧‍👦 é̶̢ \u202e reversed',
    "مرحبا بالعالم، قطة حمراء (cat) 123!",
    "x" * 3000 + "\r\nline\ttab",
)
TITLES = {"refl": "W" * 60, "imagerefl": 'costs $5 or $\\bad_{$ <u>"x"</u>'}


@pytest.fixture(scope="module")
def params(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A study with such prompts and titles, and its page."""
    params = write_study(tmp_path_factory.mktemp("texts"), prompts=4, samples=2, runs=("refl-s0", "imagerefl-s0"))
    study = yaml.safe_load(params.read_text())
    study["report"]["titles"] = TITLES
    params.write_text(yaml.safe_dump(study))
    where = folders(params)
    for file in where.samples.glob("*.parquet"):
        table = pq.read_table(file)
        place = table.schema.get_field_index("prompt")
        texts = [PROMPTS[int(name[-1])] for name in table["prompt_id"].to_pylist()]
        pq.write_table(table.set_column(place, table.schema.field(place), pa.array(texts, pa.string())), file)
    checked = settings.read(params)
    found = reading.read(checked, where.measures, where.samples, where.runs)
    background = reading.background(checked, where)
    block = interactive.block(found, provenance.read(found, where), sources=sources.read(found, background, where))
    page.write(where.out / "index.html", found, background, [], None, [], block)
    return params


@pytest.fixture(scope="module")
def browser() -> Iterator[Browser]:
    from playwright.sync_api import sync_playwright

    with sync_playwright() as started:
        opened = started.chromium.launch(executable_path=chromium(), args=["--no-sandbox", "--disable-gpu"])
        yield opened
        opened.close()


@pytest.fixture
def watched(browser: Browser, params: Path) -> Iterator[Recording]:
    opened = browser.new_page(viewport={"width": 1200, "height": 900})
    opened.set_default_timeout(PATIENCE)
    seen = Recording(opened)

    def told(dialog: Dialog) -> None:
        seen.troubles.append(dialog.message)
        dialog.dismiss()

    opened.on("dialog", told)
    yield seen
    assert seen.troubles == []
    assert [url for url in seen.requests if not url.startswith(("file:", "data:", "blob:"))] == []
    opened.close()


@needs_browser
@pytest.mark.parametrize("width", [360, 1200])
def test_texts_are_whole_and_stay_on_the_page(watched: Recording, params: Path, width: int) -> None:
    watched.page.set_viewport_size({"width": width, "height": 800})
    opened = watched.open(params)
    opened.wait_for_selector("#x-tape svg")
    texts = opened.locator("#x-prompts h4 bdi")
    assert sorted(texts.all_text_contents()) == sorted(PROMPTS)
    assert texts.first.evaluate("one => getComputedStyle(one).unicodeBidi") == "isolate"
    assert opened.evaluate("document.documentElement.scrollWidth") <= width
    wide = """() => [...document.querySelectorAll('main *, header *')]
      .filter(one => !one.closest('.scroll, svg, pre, select') && one.getBoundingClientRect().right > innerWidth + 1)
      .map(one => one.outerHTML.slice(0, 80))"""
    assert opened.evaluate(wide) == []


@needs_browser
def test_what_runs_from_right_to_left_ends_before_the_mark_of_quotation(watched: Recording, params: Path) -> None:
    """In Arabic the exclamation mark is the last character and stands furthest left."""
    opened = watched.open(params)
    at = """text => {
      const found = [...document.querySelectorAll('#x-prompts h4 bdi')].find(one => one.textContent === text);
      const range = document.createRange(), node = found.firstChild;
      const left = (from) => {
        range.setStart(node, from);
        range.setEnd(node, from + 1);
        return range.getBoundingClientRect().left;
      };
      return [left(0), left(text.length - 1)];
    }"""
    first, last = opened.evaluate(at, PROMPTS[2])
    assert last < first


@needs_browser
def test_the_window_of_a_number_has_the_prompt_as_it_is(watched: Recording, params: Path) -> None:
    opened = watched.open(params)
    for place, prompt in enumerate(PROMPTS):
        opened.locator(f"#x-prompts li[data-prompt$='{place}'] button").first.evaluate("one => one.click()")
        assert prompt in opened.locator("#x-dialog bdi").all_text_contents()
        assert f"“{prompt}” (" in (opened.locator("#x-dialog dl").text_content() or "")
        opened.keyboard.press("Escape")


@needs_browser
@pytest.mark.parametrize(("width", "columns"), [(360, 1), (800, 2), (1200, 3)])
def test_every_panel_of_the_tape_has_an_axis_of_steps_and_nothing_else_has(
    watched: Recording, params: Path, width: int, columns: int
) -> None:
    """Four panels, so that of three columns two end before the last row."""
    watched.page.set_viewport_size({"width": width, "height": 900})
    opened = watched.open(params)
    opened.wait_for_selector("#x-tape svg")
    boxes = "all => all.map(one => one.getBoundingClientRect()).map(({left, bottom}) => [left, bottom])"
    panels = opened.locator("#x-tape svg .mark-group.role-scope.cell > g > path.background").evaluate_all(boxes)
    axes = opened.locator("#x-tape svg [aria-label^='X-axis']").evaluate_all(boxes)
    assert len(panels) == len(axes) == 4
    assert len({round(left) for left, _ in panels}) == columns, "panels of a column stand one below the other"
    for (left, bottom), (axis, low) in zip(sorted(panels), sorted(axes), strict=True):
        assert abs(left - axis) < 20 and 0 < low - bottom < 60


@needs_browser
def test_tiny_numbers_are_short(watched: Recording, params: Path, tmp_path: Path) -> None:
    opened = watched.open(params)
    whole = (folders(params).out / "index.html").read_text()
    key = str(opened.locator("#x-numbers [data-number]").first.get_attribute("data-number"))
    start = whole.index(f'["{key}",')
    cells = whole[start : whole.index("]", start)].split(",")
    columns = interactive.COLUMNS
    cells[columns.index("mean")], cells[columns.index("low")], cells[columns.index("high")] = "-2.0249e-5", "0", "1e-12"
    (tmp_path / "index.html").write_text(whole[:start] + ",".join(cells) + whole[whole.index("]", start) :])
    opened.goto((tmp_path / "index.html").as_uri())
    opened.wait_for_selector("#x-frontier path[role=button]")
    assert opened.locator(f"#x-numbers [data-number='{key}']").inner_text().split("\n") == [
        "−2.02e−5", "0.00 to 1.00e−12",
    ]  # fmt: skip


@pytest.mark.parametrize("text", ["costs $100 or $5", "a $\\bad_{$ b", "$x_1$"])
def test_dollar_signs_in_figures_are_dollar_signs(tmp_path: Path, text: str) -> None:
    """Neither formulas, whose blanks are lost, nor an error of their grammar."""
    style.use()
    import matplotlib.pyplot as plt

    with matplotlib.rc_context({"svg.fonttype": "none"}):
        figure, axes = plt.subplots()
        axes.plot([0, 1], [0, 1], label=text)
        axes.set_title(text)
        axes.legend()
        style.save(figure, [tmp_path / "figure.svg"])
    assert (tmp_path / "figure.svg").read_text().count(f">{text}<") == 2
