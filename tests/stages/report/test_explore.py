"""The interactive part of the page: its JSON block against the findings, and the page in a headless Chromium."""

from __future__ import annotations

import csv
import dataclasses
import io
import json
import re
import shutil
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq
import pytest
from PIL import Image
from report_fixture import folders, write_study

from stages.errors import InputError
from stages.report import data as reading
from stages.report import interactive, page, provenance, settings, sources, sprites, worst
from stages.report.data import ReportData
from stages.report.look import BASE
from stages.report.screenshots import chromium
from stages.report.settings import ThumbnailSettings

if TYPE_CHECKING:
    from playwright.sync_api import Browser, Page

CHROMIUM = chromium()
needs_browser = pytest.mark.skipif(CHROMIUM is None, reason="no Chromium here, in which the page could be opened")
RUNS = ("refl-s0", "refl-s1", "imagerefl-s0")
PATIENCE = 240_000
"""Milliseconds: a machine that does much else takes long to draw, and is not wrong."""


@pytest.fixture(scope="module")
def params(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_study(tmp_path_factory.mktemp("explored"), prompts=6, samples=2, runs=RUNS)


@pytest.fixture(scope="module")
def found(params: Path) -> ReportData:
    """What the page is made of; the page itself is written without figures, which take longest and are not touched."""
    where = folders(params)
    study = settings.read(params)
    read = reading.read(study, where.measures, where.samples, where.runs)
    background = reading.background(study, where)
    held = interactive.block(read, provenance.read(read, where), sources=sources.read(read, background, where))
    page.write(where.out / "index.html", read, background, [], None, [], held)
    return read


@pytest.fixture(scope="module")
def block(params: Path, found: ReportData) -> dict[str, Any]:
    page = (folders(params).out / "index.html").read_text()
    held = re.search(r'<script type="application/json" id="x-data">(.*?)</script>', page, re.DOTALL)
    assert held
    return json.loads(held[1])


# --- the JSON block -------------------------------------------------------------------------------------------------


def test_every_number_of_the_block_is_that_of_the_finding(block: dict[str, Any], found: ReportData) -> None:
    rows = [dict(zip(block["columns"], row, strict=True)) for row in block["findings"]]
    assert len(rows) == len(found.findings.rows) > 500
    for row, finding in zip(rows, found.findings.rows, strict=True):
        assert (row["key"], row["about"], row["metric"]) == (finding.key, finding.about, finding.metric)
        for name in ("mean", "low", "high", "nfe"):
            np.testing.assert_equal(np.nan if row[name] is None else row[name], getattr(finding, name))
        assert row["per_seed"] == list(finding.per_seed)
        assert (row["seeds"], row["n_prompts"]) == (finding.seeds, finding.n_prompts)


def test_scores_and_worst_cases_are_those_of_the_measures(block: dict[str, Any], params: Path) -> None:
    place = next(p for p in block["places"] if (p["method"], p["setting"]) == ("refl", "k=10"))
    assert place["runs"] == ["refl-s0", "refl-s1"]

    def scores(run: str, setting: str, metric: str) -> np.ndarray:
        rows = pq.read_table(folders(params).measures / f"{run}.parquet").to_pylist()
        rows = [row for row in rows if (row["setting"], row["metric"]) == (setting, metric)]
        return np.array(
            [np.mean([row["score"] for row in rows if row["prompt_id"] == p["id"]]) for p in block["prompts"]]
        )

    changed = {}
    for reward in ("proxy", "heldout", "oracle"):
        mine, base = scores("refl-s1", "k=10", reward), scores("base", "guidance=1", reward)
        assert place["scores"][reward][1] == pytest.approx(mine, rel=1e-5)
        changed[reward] = (mine - base) / base.std()
    spread = np.max(list(changed.values()), axis=0) - np.min(list(changed.values()), axis=0)
    assert place["disagreement"][1] == pytest.approx(spread, rel=1e-4)
    lost = scores("base", "guidance=1", "patch_diversity") - scores("refl-s1", "k=10", "patch_diversity")
    assert place["lost"]["patch_diversity"][1] == pytest.approx(lost, rel=1e-4)


def test_turned_is_a_rise_of_the_training_reward_and_a_fall_of_another() -> None:
    changed = {
        "proxy": np.array([[1.0, 1.0, -1.0, 2.0]]),
        "heldout": np.array([[-0.5, 0.5, -2.0, 1.0]]),
        "oracle": np.array([[0.5, 0.2, 1.0, -3.0]]),
    }
    np.testing.assert_allclose(worst.turned(changed, "proxy"), [[1.5, 0, 0, 5]])
    np.testing.assert_allclose(worst.disagreement(changed), [[1.5, 0.8, 3, 5]])
    np.testing.assert_allclose(worst.turned({"proxy": changed["proxy"]}, "proxy"), np.zeros((1, 4)))
    np.testing.assert_allclose(worst.changes(np.array([[3.0, 5.0]]), np.array([1.0, 1.0])), [[2, 4]])


def test_a_sheet_holds_every_image_where_it_belongs(params: Path, block: dict[str, Any]) -> None:
    path, shape = folders(params).samples / "refl-s0.parquet", sprites.Layout(**block["layout"])
    assert (shape.samples, shape.width, shape.height, len(shape.prompts)) == (2, 32, 32, 6)
    rows = pq.read_table(path).to_pylist()
    place = next(p for p in block["places"] if (p["method"], p["setting"]) == ("refl", "p=2"))
    import base64

    uri = block["sheets"][place["sheets"][0]]
    kept = np.asarray(Image.open(io.BytesIO(base64.b64decode(uri.split(",")[1]))).convert("RGB")).astype(float)
    for row in (r for r in rows if (r["strategy"], r["setting"]) == (place["strategy"], "p=2")):
        top, left = 32 * shape.prompts.index(row["prompt_id"]), 32 * row["sample"]
        own = np.asarray(Image.open(io.BytesIO(row["image"])).convert("RGB")).astype(float)
        near = np.abs(kept[top : top + 32, left : left + 32] - own).mean()
        assert near < 12, "of 255: what WebP loses"


def test_settings_without_images_and_damaged_images_are_refused_in_one_line(params: Path, tmp_path: Path) -> None:
    where = folders(params)
    for file in where.samples.glob("*.parquet"):
        shutil.copy(file, tmp_path)
    read = reading.read(settings.read(params), where.measures, where.samples, where.runs)
    spoiled, origin = dataclasses.replace(read, samples=tmp_path), provenance.read(read, where)
    table = pq.read_table(tmp_path / "refl-s0.parquet")
    pq.write_table(table.filter(pc.field("setting") != "k=10"), tmp_path / "refl-s0.parquet")
    with pytest.raises(InputError, match=r"refl-s0\.parquet: no images of combined k=10"):
        interactive.block(spoiled, origin)
    images = pa.array([b"no image", *table["image"].to_pylist()[1:]], pa.binary())
    place = table.schema.get_field_index("image")
    pq.write_table(table.set_column(place, table.schema.field(place), images), tmp_path / "refl-s0.parquet")
    with pytest.raises(InputError, match=r"refl-s0\.parquet: not a readable image"):
        interactive.block(spoiled, origin)


@pytest.mark.parametrize(("megapixels", "samples", "prompts"), [(1.0, 2, 6), (0.05, 2, 1), (0.2, 2, 4)])
def test_big_studies_show_fewer_images(params: Path, megapixels: float, samples: int, prompts: int) -> None:
    path = folders(params).samples / "base.parquet"
    ids = [f"eval-{index:03d}" for index in range(6)]
    shape = sprites.layout(path, ids, 20, ThumbnailSettings(megapixels=megapixels))
    assert (shape.samples, len(shape.prompts)) == (samples, prompts)
    assert shape.prompts[0] == "eval-000" and (prompts == 1 or shape.prompts[-1] == "eval-005")
    small = sprites.layout(path, ids, 1, ThumbnailSettings(side=16))
    assert (small.width, small.height) == (16, 16)


def test_every_way_of_making_images_is_on_a_line(block: dict[str, Any], found: ReportData) -> None:
    assert len(block["places"]) == len(found.evaluation.points)
    assert {place for line in block["lines"] for place in line["places"]} == set(range(len(block["places"])))
    assert all(len(line["stops"]) == len(line["places"]) for line in block["lines"])
    assert block["places"][block["base"]]["method"] == BASE


def test_every_sheet_is_stored_once(block: dict[str, Any], params: Path) -> None:
    whole = (folders(params).out / "index.html").read_text()
    assert len(block["sheets"]) == 5 + 15 * len(RUNS)
    assert [whole.count(one) for one in block["sheets"]] == [block["sheets"].count(one) for one in block["sheets"]]
    assert len(whole) < 2_500_000


def test_a_tape_is_the_probe_of_its_run(block: dict[str, Any], params: Path) -> None:
    rows = pq.read_table(folders(params).runs / "refl-s1" / "train_log.parquet").to_pylist()
    probe = [(row["step"], row["value"]) for row in rows if row["term"] == "probe_heldout"]
    tape = block["tapes"]["refl-s1"]
    assert [(shot["step"], shot["value"]) for shot in tape["shots"] if "held-out reward" in shot["panel"]] == probe
    best = max(probe, key=lambda one: one[1])[0]
    assert tape["mark"] == best
    assert f"The held-out reward peaked at step {best} of 100" in tape["words"]
    assert {shot["panel"].split(" ")[0] for shot in tape["shots"]} == {"proxy", "held-out", "oracle", "diversity"}


# --- in a browser ---------------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def browser() -> Iterator[Browser]:
    from playwright.sync_api import sync_playwright

    with sync_playwright() as started:
        opened = started.chromium.launch(executable_path=CHROMIUM, args=["--no-sandbox", "--disable-gpu"])
        yield opened
        opened.close()


class Recording:
    """A page with everything that it asked for and complained about."""

    def __init__(self, page: Page) -> None:
        self.page, self.requests, self.troubles = page, list[str](), list[str]()
        page.on("request", lambda request: self.requests.append(request.url))
        page.on("console", lambda message: self.troubles.append(message.text))
        page.on("pageerror", lambda error: self.troubles.append(str(error)))

    def open(self, params: Path, address: str = "") -> Page:
        """Open the report of a study, and wait until its chart is drawn."""
        self.page.goto((folders(params).out / "index.html").as_uri() + address)
        self.page.wait_for_selector("#x-frontier path[role=button]")
        return self.page


@pytest.fixture
def watched(browser: Browser, found: ReportData) -> Iterator[Recording]:
    page = browser.new_page(viewport={"width": 1200, "height": 900})
    page.set_default_timeout(PATIENCE)
    seen = Recording(page)
    yield seen
    assert seen.troubles == []
    assert [url for url in seen.requests if not url.startswith(("file:", "data:", "blob:"))] == []
    assert len([url for url in seen.requests if url.startswith("file:")]) == len(
        [url for url in seen.requests if "index.html" in url]
    )
    page.close()


def place(block: dict[str, Any], method: str, strategy: str, setting: str) -> int:
    return next(i for i, p in enumerate(block["places"])
                if (p["method"], p["strategy"], p["setting"]) == (method, strategy, setting))  # fmt: skip


@needs_browser
def test_a_click_on_a_marker_shows_its_images_and_numbers(
    watched: Recording, params: Path, block: dict[str, Any], found: ReportData
) -> None:
    page = watched.open(params)
    k16 = place(block, "imagerefl", "combined", "k=16")
    marker = page.locator(f"#x-frontier path[data-place='{k16}']")
    marker.hover()
    assert "k=16" in page.locator("#x-numbers h3").inner_text()
    finding = found.findings.estimate(found.evaluation.points[k16], "oracle")
    assert finding
    shown = page.locator(f"#x-numbers [data-number='{finding.key}']").inner_text()
    assert float(shown.split()[0].replace("−", "-")) == pytest.approx(finding.mean, rel=0.01)
    assert " to " in shown

    marker.click()
    strips = page.locator("#x-prompts li").first.locator("[role=img]")
    assert page.locator("#x-prompts li").count() == 6
    assert [strips.nth(i).locator("i").count() for i in range(strips.count())] == [2, 2]
    assert "k=16" in str(strips.nth(1).get_attribute("aria-label"))
    image = strips.nth(1).locator("i").first.evaluate("node => getComputedStyle(node).backgroundImage")
    assert block["sheets"][block["places"][k16]["sheets"][0]] in image
    page.select_option("#x-rival", str(place(block, "refl", "tuned", "tuned")))
    assert strips.count() == 3
    assert "rival: ReFL" in str(strips.nth(2).get_attribute("aria-label"))


@needs_browser
def test_the_keyboard_reaches_every_marker(watched: Recording, params: Path, block: dict[str, Any]) -> None:
    page = watched.open(params)
    markers = page.locator("#x-frontier path[role=button]")
    assert markers.count() == len(block["places"])
    assert page.locator("#x-frontier path[tabindex='0']").count() == 1
    page.locator("#x-frontier path[tabindex='0']").focus()
    page.keyboard.press("ArrowRight")
    focused = page.evaluate("document.activeElement.dataset.place")
    assert page.evaluate("document.activeElement.getAttribute('aria-label')").startswith(
        block["places"][int(focused)]["label"]
    )
    page.keyboard.press("Enter")
    assert page.evaluate("document.activeElement.id") == "x-images"
    chosen = block["places"][int(focused)]
    assert f"setting={chosen['strategy']}%3A" in page.evaluate("location.hash")


@needs_browser
def test_the_slider_moves_along_a_curve(watched: Recording, params: Path, block: dict[str, Any]) -> None:
    page = watched.open(params)
    line = next(i for i, one in enumerate(block["lines"]) if one["label"] == "ReFL, AIG")
    page.select_option("#x-curve", str(line))
    stops, places = block["lines"][line]["stops"], block["lines"][line]["places"]
    slider = page.locator("#x-slider")
    assert slider.get_attribute("max") == str(len(stops) - 1)
    slider.focus()
    page.keyboard.press("Home")
    for stop, index in zip(stops, places, strict=True):
        assert page.locator("#x-setting").inner_text() == slider.get_attribute("aria-valuetext") == stop
        mine = block["places"][index]
        scores = mine["scores"]["proxy"][0]
        shown = page.locator("#x-prompts li tbody tr:first-child td:nth-child(3)").all_text_contents()
        assert [float(text) for text in shown] == pytest.approx(scores, rel=0.01)
        key = "/".join((mine["method"], mine["strategy"], mine["setting"], "patch_diversity"))
        assert page.locator(f"#x-live [data-number='{key}']").count() == 1
        page.keyboard.press("ArrowRight")


@needs_browser
def test_the_worst_come_first_and_an_address_restores_the_view(
    watched: Recording, params: Path, block: dict[str, Any]
) -> None:
    address = "#run=refl-s1&setting=combined%3Ak%3D4&order=lost%3Aclip_diversity&prompt=eval-003"
    address += "&rival=imagerefl%3Atuned%3Atuned"
    page = watched.open(params, address)
    assert page.locator("#x-run").input_value() == "1"
    assert page.locator("#x-setting").inner_text() == "k=4"
    mine = block["places"][place(block, "refl", "combined", "k=4")]
    lost = dict(zip([p["id"] for p in block["prompts"]], mine["lost"]["clip_diversity"][1], strict=True))
    ordered = sorted(lost, key=lambda prompt: -lost[prompt])
    listed = "items => items.map(item => item.dataset.prompt)"
    assert page.locator("#x-prompts li").evaluate_all(listed) == ordered
    assert page.locator("#x-prompts li[aria-current=true]").get_attribute("data-prompt") == "eval-003"

    with page.expect_download() as waited:
        page.locator("#x-csv").click()
    rows = list(csv.DictReader(io.StringIO(Path(waited.value.path()).read_text())))
    assert [row["prompt_id"] for row in rows] == ordered
    assert [float(row["lost_clip_diversity"]) for row in rows] == [lost[prompt] for prompt in ordered]
    assert {row["run"] for row in rows} == {"refl-s1"}
    said = {(row["study"], row["evaluation"]) for row in rows}
    assert said == {(block["study"], dict(block["provenance"]["facts"])["evaluation id"])}

    page.fill("#x-filter", "STRIPED red")
    assert "of 6 prompts" in page.locator("#x-count").inner_text()
    texts = page.locator("#x-prompts h4").all_text_contents()
    assert 0 < len(texts) < 6 or not [p for p in block["prompts"] if "red" in p["text"] and "striped" in p["text"]]
    again = page.evaluate("location.hash")
    page.goto("about:blank")
    watched.open(params, again)
    assert page.locator("#x-prompts h4").all_text_contents() == texts
    assert page.locator("#x-order").input_value() == "lost:clip_diversity"
    assert page.locator("#x-rival").input_value() == str(place(block, "imagerefl", "tuned", "tuned"))


@needs_browser
@pytest.mark.parametrize(
    ("address", "setting", "run"),
    [
        ("#prompt=eval-003&k=16", "k=16", "refl-s0"),
        ("#prompt=eval-003&k=16&run=imagerefl-s0", "k=16", "imagerefl-s0"),
        ("#p=2", "p=2", "refl-s0"),
        ("#prompt=eval-003&k=17", "", ""),
        ("#run=imagerefl-s0", "tuned only", "imagerefl-s0"),
    ],
)
def test_a_setting_may_be_written_as_it_is_called(
    watched: Recording, params: Path, address: str, setting: str, run: str
) -> None:
    page = watched.open(params)
    start = page.locator("#x-setting").inner_text(), page.locator("#x-run option:checked").inner_text()
    page.goto("about:blank")
    watched.open(params, address)
    found = page.locator("#x-setting").inner_text(), page.locator("#x-run option:checked").inner_text()
    assert found == ((setting, run) if setting else start)
    assert page.locator("#x-prompts li[aria-current=true]").count() == ("prompt=" in address)


@needs_browser
@pytest.mark.parametrize(
    ("address", "strange"),
    [
        ("#prompt=999&k=zz", "prompt=999, k=zz"),
        ("#run=refl-s9&setting=combined%3Ak%3D4", "run=refl-s9, setting=combined:k=4"),
        ("#reward=beauty&diversity=&order=lost:x&rival=refl:no:no", "reward=beauty, order=lost:x, rival=refl:no:no"),
        ("#hidden=__proto__+refl+toString&curve=%E0%A4%A", "curve=\ufffd%A, hidden=__proto__, hidden=toString"),
        ("#k=16&prompt=%3Cscript%3E", "prompt=<script>"),
        ("#verdict", ""),
        ("#=&&===&%", ""),
        ("#order=turned", ""),
    ],
)
def test_what_an_address_names_in_vain_is_said(watched: Recording, params: Path, address: str, strange: str) -> None:
    page = watched.open(params, address)
    said = page.locator("#x-strange").text_content() or ""
    if strange:
        found = said.removeprefix("The address names what this page does not have: ").partition(". Shown instead")[0]
        assert sorted(found.split(", ")) == sorted(strange.split(", "))
        page.evaluate("location.hash = '#order=turned'")
        page.wait_for_function("() => document.getElementById('x-strange').textContent === ''")
    assert strange or not said
    assert page.locator("#x-prompts li").count() == 6
    if "turned" in address or strange:
        assert page.locator("#x-order").input_value() == "turned"


@needs_browser
@pytest.mark.parametrize("rival", ["", "&rival=imagerefl%3Atuned%3Atuned"])
def test_a_prompt_that_is_gone_to_is_not_covered_by_what_stays_in_sight(
    watched: Recording, params: Path, rival: str
) -> None:
    watched.page.emulate_media(reduced_motion="reduce")
    page = watched.open(params, f"#run=refl-s1&setting=combined%3Ak%3D4&prompt=eval-003{rival}")
    page.wait_for_function("() => performance.getEntriesByName('explored').length > 0")
    on_top = """one => {
      const {left, top} = one.getBoundingClientRect();
      return one.contains(document.elementFromPoint(left + 5, top + 5));
    }"""
    link = page.locator("#x-prompts li[aria-current=true] h4 a")
    assert link.evaluate(on_top)
    button = page.locator("#x-prompts li[data-prompt=eval-002] button").first
    button.focus()
    button.evaluate("one => one.scrollIntoView()")
    assert button.evaluate(on_top)


@needs_browser
@pytest.mark.parametrize(
    ("order", "said"),
    [
        ("turned", "on none did the training reward rise while another fell"),
        ("disagreement", "the judges disagree on none"),
        ("lost%3Apatch_diversity", "none lost patch diversity"),
        ("", ""),
    ],
)
def test_where_no_prompt_is_such_a_case_the_first_one_is_not_shown_as_the_worst(
    watched: Recording, params: Path, order: str, said: str
) -> None:
    """The base has lost nothing against itself; a method has."""
    page = watched.open(params, f"#setting=guidance%3Aguidance%3D1&order={order}")
    assert page.locator("#x-count").inner_text() == f"6 of 6 prompts{'; ' if said else ''}{said}"
    page.fill("#x-filter", "no prompt has this")
    assert page.locator("#x-count").inner_text() == "0 of 6 prompts"
    if order.startswith("lost"):
        page.evaluate("location.hash = '#run=refl-s0&setting=tuned%3Atuned&order=lost%3Apatch_diversity'")
        page.wait_for_function("() => document.getElementById('x-count').textContent === '6 of 6 prompts'")


@needs_browser
@pytest.mark.parametrize("address", ["", "#numbers", "#order=turned"])
def test_explore_waits_for_the_rest_but_not_for_paper_nor_for_an_address(
    watched: Recording, params: Path, address: str
) -> None:
    page = watched.page
    page.add_init_script("window.requestIdleCallback = () => {}")  # a browser that always has something else to do
    page.goto((folders(params).out / "index.html").as_uri() + address)
    assert page.locator("#numbers table").first.is_visible()
    if not address:
        assert page.locator("#explore").is_hidden() and page.locator("#x-prompts li").count() == 0
        page.evaluate("window.dispatchEvent(new Event('beforeprint'))")
    page.wait_for_function("() => performance.getEntriesByName('explored').length > 0")
    assert page.locator("#explore").is_visible()
    assert page.locator("#x-frontier path[role=button]").count() > 0 < page.locator("#x-tape svg").count()


@needs_browser
def test_what_is_chosen_and_everything_may_be_hidden(watched: Recording, params: Path) -> None:
    """Without a warning in the console, which `watched` looks for; and it all comes back."""
    page = watched.open(params, "#run=refl-s0&setting=combined%3Ak%3D4&hidden=refl")
    ring = page.locator("#x-frontier svg g.mark-symbol path").first
    assert ring.get_attribute("opacity") == "0"
    boxes = page.locator("#x-methods input")
    for index in (0, 2):
        boxes.nth(index).uncheck()
    page.wait_for_function("() => !document.querySelector('#x-frontier svg')")
    assert "is hidden" in page.locator("#x-frontier").inner_text()
    page.locator("#x-slider").press("ArrowRight")
    for index in range(3):
        boxes.nth(index).check()
    page.wait_for_selector("#x-frontier path[role=button]")
    assert page.locator("#x-frontier svg g.mark-symbol path").first.get_attribute("opacity") == "1"


@needs_browser
@pytest.mark.parametrize("scheme", ["light", "dark"])
def test_on_paper_everything_is_open_light_and_as_wide_as_the_sheet(
    watched: Recording, params: Path, scheme: Literal["light", "dark"]
) -> None:
    watched.page.emulate_media(color_scheme=scheme)
    page = watched.open(params)
    tables = page.locator("main details:not([open]) table, main details:not([open]) .timeline")
    assert tables.count() >= 2
    seen = "all => all.map(one => one.checkVisibility({ contentVisibilityAuto: true }))"
    assert not any(tables.evaluate_all(seen))
    page.emulate_media(media="print", color_scheme=scheme)
    page.set_viewport_size({"width": 1040, "height": 720})  # A4 across, less its margins
    assert all(tables.evaluate_all(seen))
    too_wide = "all => all.filter(one => one.scrollWidth > one.clientWidth + 1).map(one => one.innerText.slice(0, 60))"
    assert page.locator("main .scroll").evaluate_all(too_wide) == []
    assert page.locator("thead th:empty").count() == 0  # read out as a heading without words
    colours = "one => [getComputedStyle(one).backgroundColor, getComputedStyle(one).color]"
    assert page.locator("body").evaluate(colours) == ["rgb(255, 255, 255)", "rgb(31, 35, 40)"]
    text = page.locator("#x-frontier svg text").first
    assert text.evaluate("one => getComputedStyle(one).fill") == "rgb(31, 35, 40)"


@needs_browser
def test_the_address_has_the_hidden_methods_and_prompts_link_to_their_own(watched: Recording, params: Path) -> None:
    page = watched.open(params, "#setting=combined%3Ak%3D4&run=refl-s1")
    shown = page.locator("#x-frontier path[role=button]").count()
    page.locator("#x-methods label", has_text="ImageReFL").locator("input").uncheck()
    page.wait_for_function("n => document.querySelectorAll('#x-frontier path[role=button]').length < n", arg=shown)
    left = page.locator("#x-frontier path[role=button]").count()
    link = str(page.locator("#x-prompts li[data-prompt=eval-003] h4 a").get_attribute("href"))
    page.goto("about:blank")
    watched.open(params, link)
    assert page.locator("#x-frontier path[role=button]").count() == left
    assert page.locator("#x-methods input:not(:checked)").evaluate_all("all => all.map(one => one.value)") == [
        "imagerefl"
    ]
    assert page.locator("#x-prompts li[aria-current=true]").get_attribute("data-prompt") == "eval-003"
    assert (page.locator("#x-setting").inner_text(), page.locator("#x-run").input_value()) == ("k=4", "1")


@needs_browser
def test_a_prompt_without_images_says_so(watched: Recording, params: Path, tmp_path: Path) -> None:
    whole = (folders(params).out / "index.html").read_text()
    (tmp_path / "index.html").write_text(whole.replace('"row":3', '"row":null', 1))
    page = watched.page
    page.goto((tmp_path / "index.html").as_uri())
    page.wait_for_selector("#x-frontier path[role=button]")
    images = page.locator("#x-prompts li").evaluate_all("all => all.map(one => one.querySelectorAll('.strip').length)")
    assert images == [2, 2, 2, 0, 2, 2]
    assert "not on this page" in str(page.locator("#x-prompts li").nth(3).text_content())


@needs_browser
def test_numbers_say_where_they_come_from(watched: Recording, params: Path, found: ReportData) -> None:
    page = watched.open(params)
    page.locator("#numbers details summary").nth(1).click()
    shown = page.locator("#numbers details[open] button.figures").first
    key = shown.locator("xpath=..").get_attribute("data-number")
    finding = next(row for row in found.findings.rows if row.key == key)
    shown.focus()
    page.keyboard.press("Enter")
    dialog = page.locator("#x-dialog")
    says = dialog.inner_text()
    assert str(finding.mean) in says
    assert found.evaluation.identity in says
    assert "6 × 2" in says and "32 × 32 pixels" in says and "20 steps" in says
    command = dialog.locator("pre").inner_text()
    assert command.startswith("snakemake --cores all --config study=params.yaml --force ")
    for run in ("refl-s0", "refl-s1"):
        assert str(folders(params).measures / f"{run}.parquet") in command
        assert str(folders(params).samples / f"{run}.parquet") in command
    page.keyboard.press("Escape")
    assert not dialog.is_visible()
    page.locator("#x-numbers button.figures").first.click()
    assert dialog.is_visible()


NUMERIC = re.compile(r"[+−]?\d[\d .e+−]*( to [+−]?\d[\d.e+−]*)?( %)?")
CELLS = re.compile(r"<td([^>]*)>(.*?)</td>", re.DOTALL)


def test_every_number_in_a_table_names_where_it_comes_from(
    params: Path, found: ReportData, block: dict[str, Any]
) -> None:
    text = (folders(params).out / "index.html").read_text()
    known, named = {row[0] for row in block["findings"]}, set()
    numbers = [
        (written, re.search(r'data-(number|source)="([^"#]+)', about))
        for about, written in CELLS.findall(re.sub(r"<small>.*?</small>|<i [^>]*></i>", "", text))
        if NUMERIC.fullmatch(written.strip())
    ]
    assert len(numbers) > 300
    assert not [written for written, source in numbers if source is None]
    for _, source in numbers:
        assert source is not None and source[2] in (known if source[1] == "number" else block["sources"])
        named |= {source[2]} if source[1] == "source" else set()
    assert {name.partition("/")[0] for name in named} == {"cost", "training", "curation", "accuracy"}
    assert named == set(block["sources"])


def test_sources_say_the_number_in_full(params: Path, found: ReportData, block: dict[str, Any]) -> None:
    where = folders(params)
    kept = json.loads((where.scores / "proxy.json").read_text())
    accuracy = block["sources"]["accuracy/proxy"]
    assert repr(kept["accuracy"]) in dict(accuracy["facts"])["on validation pairs"]
    assert accuracy["targets"] == [str(where.scores / "proxy.json")]
    cost = block["sources"]["cost/refl/combined/k=10"]
    rows = [pq.read_table(where.samples / f"refl-s{seed}.parquet").to_pylist() for seed in (0, 1)]
    mine = [[row["nfe"] for row in some if row["setting"] == "k=10"] for some in rows]
    assert float(dict(cost["facts"])["network evaluations per image"]) == np.mean([np.mean(one) for one in mine])
    assert cost["targets"] == [str(where.samples / f"refl-s{seed}.parquet") for seed in (0, 1)] and cost["evaluated"]
    training = dict(block["sources"]["training/refl-s1"]["facts"])
    log = pq.read_table(where.runs / "refl-s1/train_log.parquet").to_pylist()
    assert int(training["optimizer steps"]) == sum(row["term"] == "loss" for row in log)
    manifest = json.loads((where.data / "manifest.json").read_text())["tables"]["images"]
    assert dict(block["sources"]["curation/images"]["facts"])["rows in"] == str(manifest["in"])


@needs_browser
def test_numbers_that_are_no_findings_say_where_they_come_from(
    watched: Recording, params: Path, block: dict[str, Any]
) -> None:
    page, dialog = watched.open(params), watched.page.locator("#x-dialog")
    for section, key in (
        ("cost", "cost/combined#nfe"), ("cost", "training/refl-s0#steps"), ("data", "curation/images#out"),
        ("data", "accuracy/proxy#val"), ("numbers", "cost/refl/tuned/tuned#seconds"),
    ):  # fmt: skip
        source = block["sources"][key.partition("#")[0]]
        page.locator(f"#{section} [data-source='{key}'] button").first.focus()
        page.keyboard.press("Enter")
        says, command = dialog.inner_text(), dialog.locator("pre").inner_text()
        assert source["title"] in says and all(value in says for _, value in source["facts"])
        assert command.startswith("snakemake ") and all(target in command for target in source["targets"])
        page.keyboard.press("Escape")
    least = page.locator("#verdict [data-number$='#least'] button").first
    least.click()
    assert "could have seen" in dialog.inner_text()


@needs_browser
def test_the_numbers_of_a_prompt_say_which_run_makes_its_images(
    watched: Recording, params: Path, block: dict[str, Any]
) -> None:
    """Those of the chosen run, of the base, their difference, and of a rival."""
    page = watched.open(params, "#run=refl-s1&setting=combined%3Ak%3D16&rival=imagerefl%3Atuned%3Atuned")
    chosen, rival = place(block, "refl", "combined", "k=16"), place(block, "imagerefl", "tuned", "tuned")
    before = block["places"][block["base"]]["scores"]["heldout"][0][2]
    after = block["places"][chosen]["scores"]["heldout"][1][2]
    other = block["places"][rival]["scores"]["heldout"][0][2]
    wanted = {
        "base": (before, ["base"]),
        "chosen": (after, ["refl-s1"]),
        "change": (after - before, ["base", "refl-s1"]),
        "rival": (other, ["imagerefl-s0"]),
    }
    dialog, item = page.locator("#x-dialog"), page.locator("#x-prompts li[data-prompt=eval-002]")
    for side, (value, runs) in wanted.items():
        item.locator(f"button[data-side={side}][data-metric=heldout]").focus()
        page.keyboard.press("Enter")
        says, written = dialog.inner_text(), dialog.locator("pre").inner_text()
        assert f"{value:.6g}" in says and "(eval-002)" in says and all(f"{run}: " in says for run in runs)
        made = re.findall(r"/(\S+)\.parquet", written)
        assert sorted({name.rpartition("/")[2] for name in made}) == sorted(runs)
        assert len(made) == 2 * len(runs) and written.endswith("index.html")
        page.keyboard.press("Escape")


@needs_browser
def test_the_tape_follows_the_chosen_run(watched: Recording, params: Path, block: dict[str, Any]) -> None:
    page = watched.open(params, "#run=refl-s1&setting=tuned%3Atuned")
    page.wait_for_selector("#x-tape svg")
    assert page.locator("#x-tape-run").input_value() == "refl-s1"
    assert page.locator("#x-peak").inner_text() == block["tapes"]["refl-s1"]["words"]
    assert page.locator("#x-tape svg g.mark-rule.role-mark > *").count() == 8  # two a panel
    page.select_option("#x-tape-run", "imagerefl-s0")
    assert page.locator("#x-peak").inner_text() == block["tapes"]["imagerefl-s0"]["words"]


@needs_browser
def test_a_study_without_training_has_no_tape(
    watched: Recording, params: Path, block: dict[str, Any], tmp_path: Path
) -> None:
    page = watched.open(params)
    assert page.locator("#x-tape-part").is_visible()
    whole = (folders(params).out / "index.html").read_text()
    bare = re.sub(r'"tapes": ?\{.*?\}, ?"provenance"', '"tapes":{},"provenance"', whole, count=1, flags=re.DOTALL)
    assert len(bare) < len(whole)
    (tmp_path / "index.html").write_text(bare)
    page.goto((tmp_path / "index.html").as_uri())
    page.wait_for_selector("#x-frontier path[role=button]")
    assert page.locator("#x-tape-part").is_hidden()
    assert page.locator("#x-frontier").is_visible()


@needs_browser
def test_without_scripts_the_page_is_what_it_was(
    browser: Browser, params: Path, found: ReportData, tmp_path: Path
) -> None:
    whole = (folders(params).out / "index.html").read_text()
    plain = re.sub(r'<section id="explore".*?</section>|<a [^>]*id="x-link".*?</a>|<script.*?</script>', "", whole,
                   flags=re.DOTALL)  # fmt: skip
    assert len(plain) < len(whole) - 500_000
    texts = []
    for name, text in (("whole", whole), ("plain", plain)):
        (tmp_path / f"{name}.html").write_text(text)
        page = browser.new_context(java_script_enabled=False).new_page()
        page.goto((tmp_path / f"{name}.html").as_uri())
        texts.append(page.locator("body").inner_text())
        page.close()
    assert "Verdict" in texts[0]
    assert texts[0] == texts[1]
