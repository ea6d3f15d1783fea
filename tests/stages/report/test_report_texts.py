"""Names from people and files are text on the page, never markup; the page says which models score."""

from __future__ import annotations

import json
import re
from collections import Counter
from html.parser import HTMLParser

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import report_fixture
import yaml
from report_fixture import write_study
from test_report import Silent, folders

from stages.lineage.record import Code, File, Record, write_record
from stages.measure.evaluation import with_ids
from stages.report import settings
from stages.report.__main__ import write_report

METHOD = '<marquee onclick=alert(1) title="m">'
SCRIPT = "<script>alert('{}')</script> & \"q\" &lt;b&gt; {{{{ 7 * 7 }}}}"
JOB = "<script>alert(job)"
DIGEST = "0123456789abcdef"


class Page(HTMLParser):
    """Tags, names of attributes and text of a page."""

    def __init__(self, text: str) -> None:
        super().__init__()
        self.tags: Counter[str] = Counter()
        self.attributes: Counter[str] = Counter()
        self.text = ""
        self.feed(text)
        self.close()

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags[tag] += 1
        self.attributes.update(name for name, _ in attrs)

    def handle_data(self, data: str) -> None:
        self.text += data


@pytest.fixture(scope="module")
def page(tmp_path_factory: pytest.TempPathFactory) -> Page:
    """The page of a study whose description, prompts, methods, jobs, filters and models are called like markup."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setitem(report_fixture.FULL, METHOD, 1.0)
        patch.setitem(report_fixture.LOSS_EXPONENT, METHOD, 1.0)
        params = write_study(tmp_path_factory.mktemp("texts"), runs=("refl-s0", f"{METHOD}-s0"), prompts=4, samples=2)
    study = yaml.safe_load(params.read_text())
    study["study"]["description"] = SCRIPT.format("description")
    study["report"]["candidate"] = METHOD
    params.write_text(yaml.safe_dump(study))
    where = folders(params)
    for file in where.samples.glob("*.parquet"):
        table = pq.read_table(file)
        place = table.schema.get_field_index("prompt")
        texts = pa.array([SCRIPT.format(text) for text in table["prompt"].to_pylist()], table.schema.field(place).type)
        pq.write_table(table.set_column(place, table.schema.field(place), texts), file)
    for file in where.measures.glob("*.summary.parquet"):
        table = pq.read_table(file)
        ids = {"proxy": f"proxy: {SCRIPT.format('model')}@{DIGEST} (224 shortest bicubic clip)", "oracle": "oracle"}
        pq.write_table(table.replace_schema_metadata(with_ids(table.schema, ids).metadata), file)
    manifest = json.loads((where.data / "manifest.json").read_text())
    manifest["tables"]["images"]["filters"][0] |= {"filter": SCRIPT.format("filter"), "examples": [SCRIPT.format("x")]}
    (where.data / "manifest.json").write_text(json.dumps(manifest))
    records = params.parent / "lineage"
    first = Record("madeup", "finetune", JOB, str(records), 1000.0, File("p", "p"),
                   Code(None, False, ""), {}, status="finished", seconds=10.0, peak_memory=1)  # fmt: skip
    write_record(first)
    job = Silent()
    job.record = type("record", (), {"folder": str(records), "title": "report"})  # type: ignore[misc]
    write_report(settings.read(params), where, job)  # type: ignore[arg-type]
    return Page((where.out / "index.html").read_text())


@pytest.mark.slow
def test_nothing_that_was_named_is_markup(page: Page) -> None:
    assert page.tags["script"] == 3  # the block of data, the drawing library, the page's own
    assert "marquee" not in page.tags
    known = {"alt", "charset", "class", "content", "href", "id", "lang", "name", "scope", "src", "style"}
    explore = {"data-number", "data-source", "for", "hidden", "method", "min", "role", "step", "tabindex", "type"}
    assert {name for name in page.attributes if not name.startswith("aria-")} <= known | explore
    assert page.tags["h1"] == page.tags["header"] == page.tags["title"] == 1


@pytest.mark.parametrize("text", [SCRIPT.format("description"), JOB, SCRIPT.format("model"), METHOD])
def test_it_is_all_there_as_text(page: Page, text: str) -> None:
    assert text in page.text


def test_the_page_says_which_models_score(page: Page) -> None:
    """The id without the metric's name, which stands beside it; a metric that rests on nothing says so."""
    part = " ".join(page.text[page.text.index("Scoring models") :].split())
    assert f"@{DIGEST} (224 shortest bicubic clip)" in part
    assert f"proxy: {SCRIPT.format('model')}" not in part
    assert re.search(r"oracle reward\s*oracle\s*no model", part)
