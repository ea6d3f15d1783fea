"""Pictures of the probe: what stands where in the sheet of a run, and beneath the tape, with scripts and without."""

from __future__ import annotations

import base64
import io
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
import pytest
from PIL import Image
from report_fixture import folders, write_study

from stages import tables
from stages.errors import InputError
from stages.pictures import encode
from stages.report import data as reading
from stages.report import interactive, page, probe_sheets, provenance, settings
from stages.report.probe_sheets import Sheet, Strip
from stages.report.screenshots import chromium

if TYPE_CHECKING:
    from playwright.sync_api import Browser, Page

CHROMIUM = chromium()
needs_browser = pytest.mark.skipif(CHROMIUM is None, reason="no Chromium here, in which the page could be opened")
RUNS = ("refl-s0", "refl-s1", "imagerefl-s0")
STEPS = (0, *range(20, 101, 20))
PROMPTS = ("a red star", "a <b>ring</b>")


def colour(run: str, step: int, prompt: str, sample: int) -> tuple[int, int, int]:
    """The one colour of an image of the made-up probe."""
    return 60 * RUNS.index(run) + 40, 2 * step + 20, 100 * PROMPTS.index(prompt) + 40 * sample + 20


def write_probes(folder: Path, run: str) -> None:
    rows: list[dict[str, object]] = [
        {"step": step, "prompt": prompt, "sample": sample,
         "image": encode(np.full((32, 32, 3), colour(run, step, prompt, sample), np.uint8))}
        for step in STEPS for prompt in PROMPTS for sample in range(2)
    ]  # fmt: skip
    tables.write(folder / run / "probes.parquet", tables.table(tables.PROBES, rows), tables.PROBES)


@pytest.fixture(scope="module")
def params(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A study of which two runs kept pictures, and the third did not."""
    made = write_study(tmp_path_factory.mktemp("probed"), prompts=4, samples=2, runs=RUNS)
    for run in RUNS[:2]:
        write_probes(folders(made).runs, run)
    return made


@pytest.fixture(scope="module")
def sheets(params: Path) -> dict[str, Sheet]:
    return probe_sheets.sheets(settings.read(params), folders(params).runs)


@pytest.fixture(scope="module")
def report(params: Path, sheets: dict[str, Sheet]) -> Path:
    where, study = folders(params), settings.read(params)
    read = reading.read(study, where.measures, where.samples, where.runs)
    held = interactive.block(read, provenance.read(read, where), probed=sheets)
    written = where.out / "index.html"
    page.write(written, read, reading.background(study, where), [], None, [], held, probed=sheets)
    return written


def test_every_picture_stands_in_its_place(sheets: dict[str, Sheet]) -> None:
    assert sheets.keys() == set(RUNS[:2])
    for run, sheet in sheets.items():
        assert sheet.strip == Strip(list(STEPS), list(PROMPTS), 2, 32, 32)
        pixels = np.asarray(Image.open(io.BytesIO(base64.b64decode(sheet.uri.split(",")[1]))).convert("RGB"), float)
        assert pixels.shape == (6 * 32, 4 * 32, 3)
        for row, step in enumerate(STEPS):
            for column in range(4):
                seen = pixels[32 * row + 16, 32 * column + 16]
                wanted = colour(run, step, PROMPTS[column // 2], column % 2)
                assert np.abs(seen - wanted).max() < 12, (run, step, column)


@pytest.mark.parametrize(
    ("room", "samples", "prompts", "steps"),
    [(10_000, 4, 8, 20), (320, 2, 8, 20), (160, 2, 4, 20), (21, 2, 1, 10), (1, 2, 1, 1)],
)
def test_a_large_probe_shows_fewer_samples_then_prompts_then_steps(
    room: int, samples: int, prompts: int, steps: int
) -> None:
    rows = [{"step": s, "prompt": str(p), "sample": n} for s in range(20) for p in range(8) for n in range(6)]
    strip = probe_sheets.fitting(rows, (64, 48), room, 4)
    assert (strip.samples, len(strip.prompts), len(strip.steps)) == (samples, prompts, steps)
    assert strip.prompts[0] == "0" and strip.steps[0] == 0
    if prompts > 1:
        assert strip.prompts[-1] == "7"
    if steps > 1:
        assert strip.steps[-1] == 19


def test_a_file_that_holds_no_pictures_is_refused(params: Path, tmp_path: Path) -> None:
    write_probes(tmp_path, "refl-s0")
    whole = (tmp_path / "refl-s0/probes.parquet").read_bytes()
    (tmp_path / "refl-s0/probes.parquet").write_bytes(whole[:-20])
    with pytest.raises(InputError, match=r"refl-s0/probes.parquet: not a readable Parquet file"):
        probe_sheets.sheets(settings.read(params), tmp_path)
    rows = [{"step": 0, "prompt": "a", "sample": 0, "image": b"no picture"}]
    tables.write(tmp_path / "refl-s0/probes.parquet", tables.table(tables.PROBES, rows), tables.PROBES)
    with pytest.raises(InputError, match=r"refl-s0/probes.parquet: not a readable image"):
        probe_sheets.sheets(settings.read(params), tmp_path)
    tables.write(tmp_path / "refl-s0/probes.parquet", tables.table(tables.PROBES, []), tables.PROBES)
    assert probe_sheets.sheets(settings.read(params), tmp_path) == {}


@pytest.fixture(scope="module")
def browser() -> Iterator[Browser]:
    from playwright.sync_api import sync_playwright

    with sync_playwright() as started:
        opened = started.chromium.launch(executable_path=CHROMIUM, args=["--no-sandbox", "--disable-gpu"])
        yield opened
        opened.close()


def outside(url: str, report: Path) -> list[str]:
    """The address where it is neither the page nor a part of it."""
    return [] if url.startswith(("data:", report.as_uri())) else [url]


@pytest.fixture
def opened(browser: Browser, report: Path) -> Iterator[Page]:
    """The page, which must ask for nothing and complain of nothing."""
    troubles: list[str] = []
    page = browser.new_page(viewport={"width": 1200, "height": 900})
    page.on("console", lambda message: troubles.append(message.text))
    page.on("pageerror", lambda error: troubles.append(str(error)))
    page.on("request", lambda request: troubles.extend(outside(request.url, report)))
    page.goto(report.as_uri() + "#run=refl-s1&setting=tuned%3Atuned")
    page.wait_for_selector("#x-probed:not([hidden])")
    yield page
    assert troubles == []
    page.close()


def shown(page: Page) -> list[tuple[str, str]]:
    """The label of each strip beneath the tape and its first picture's place in the sheet."""
    strips = page.locator("#x-probed-images [role=img]")
    return [(str(strips.nth(i).get_attribute("aria-label")),
             strips.nth(i).locator("i").first.evaluate("n => n.style.cssText.replace(/\\s/g, '')"))
            for i in range(strips.count())]  # fmt: skip


@needs_browser
def test_the_step_under_the_pointer_shows_its_pictures(opened: Page, sheets: dict[str, Sheet]) -> None:
    assert opened.locator("#x-tape-run").input_value() == "refl-s1"
    points = opened.locator("#x-tape svg g.mark-symbol.role-mark").first.locator("path[aria-roledescription=point]")
    assert points.count() == len(STEPS)
    for row in (1, 4):
        points.nth(row).scroll_into_view_if_needed()
        place = points.nth(row).bounding_box()
        assert place
        opened.mouse.move(place["x"] + 2, place["y"] + 30)  # below the marker: nearest by the step alone
        opened.wait_for_function(f"document.getElementById('x-probed-at').textContent === '{STEPS[row]}'")
        assert shown(opened) == [
            (f"2 images of “{prompt}” at step {STEPS[row]}", f"--x:{2 * place};--y:{row};")
            for place, prompt in enumerate(PROMPTS)
        ]
        assert opened.locator("#x-probed-step").input_value() == str(row)
        opened.wait_for_selector("#vg-tooltip-element.visible")
        assert opened.locator("#vg-tooltip-element").inner_text().split()[:2] == ["step", str(STEPS[row])]
    image = opened.locator("#x-probed-images i").first.evaluate("node => getComputedStyle(node).backgroundImage")
    assert sheets["refl-s1"].uri in image
    position = opened.locator("#x-probed-images i").nth(3).evaluate("node => getComputedStyle(node).backgroundPosition")
    assert position == "-192px -256px"  # the fourth picture of the fifth row, of 64 pixels each


@needs_browser
def test_the_keyboard_goes_through_the_steps_and_a_run_without_pictures_has_none(opened: Page) -> None:
    assert opened.locator("#x-probed").is_visible()
    opened.locator("#x-probed-step").focus()
    opened.keyboard.press("Home")
    assert opened.locator("#x-probed-at").inner_text() == "0"
    opened.keyboard.press("ArrowRight")
    assert opened.locator("#x-probed-at").inner_text() == "20"
    assert opened.locator("#x-probed-step").get_attribute("aria-valuetext") == "step 20"
    opened.select_option("#x-tape-run", "imagerefl-s0")
    opened.wait_for_selector("#x-probed", state="hidden")
    opened.select_option("#x-tape-run", "refl-s0")
    opened.wait_for_selector("#x-probed", state="visible")
    assert len(shown(opened)) == 2


@needs_browser
def test_without_scripts_the_sheets_stand_on_the_page(browser: Browser, report: Path, sheets: dict[str, Sheet]) -> None:
    page = browser.new_context(java_script_enabled=False).new_page()
    page.goto(report.as_uri())
    assert page.locator("#probed-refl-s0").is_visible()
    assert not page.locator("#probed-refl-s1").is_visible()  # folded
    page.locator("summary", has_text="refl-s1").click()
    assert page.locator("#probed-refl-s1").is_visible()
    assert page.locator("#probed-refl-s1").bounding_box()["width"] == 4 * 32  # type: ignore[index]
    assert "Steps 0, 20, 40, 60, 80, 100 from top to bottom" in page.locator("#training").inner_text()
    assert "“a <b>ring</b>”" in page.locator("#training").inner_text()
    assert page.locator("#probed-imagerefl-s0").count() == 0
    text = report.read_text()
    assert all(text.count(sheet.uri) == 1 for sheet in sheets.values())
    page.close()
