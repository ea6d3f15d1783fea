"""How long a browser takes until the page of a report shows something: parse and first paint in a headless Chromium,
and how long until its section *Explore* can be used too, which is made when the rest stands.

Seconds on the clock are those of this machine and of what else it does; the page's main thread is counted in processor
time besides, by Chromium's own thread clock (`Performance.enable` with `threadTicks`), which a busy machine does not
stretch. Needs playwright (of the tests' packages) and a Chromium.
"""

from __future__ import annotations

import argparse
import json
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from statistics import median
from typing import TYPE_CHECKING

from benchmarks.machine import machine
from stages.errors import InputError
from stages.report.screenshots import chromium
from stages.runtime import run_and_leave, whole_file

if TYPE_CHECKING:
    from playwright.sync_api import Browser

OUT = Path("benchmarks/results/paint.json")
REPEATS = 5
PATIENCE = 300_000
"""Milliseconds until a page that does not open is an error."""
TIMES = """() => {
  const [all] = performance.getEntriesByType("navigation");
  const painted = performance.getEntriesByName("first-contentful-paint")[0];
  const [explored] = performance.getEntriesByName("explored");
  return [all.domInteractive, painted.startTime, explored.startTime].map((one) => one / 1000);
}"""
EXPLORED = "() => performance.getEntriesByName('explored').length > 0"
"""What `stages/report/page.js` marks when both charts of Explore are drawn."""


@dataclass(frozen=True)
class Opening:
    """One opening of a page in a new window. Seconds on the clock since the navigation until the document was parsed,
    until something of it was painted, until the section Explore was drawn; and processor seconds of the main thread
    until then, in all and in scripts.
    """

    parsed: float
    painted: float
    explored: float
    thread: float
    scripts: float


def main() -> None:
    """Command line."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks.paint", description=__doc__)
    parser.add_argument("--page", type=Path, required=True, help="index.html of a report")
    parser.add_argument("--repeats", type=int, default=REPEATS, help=f"openings (default: {REPEATS})")
    parser.add_argument("--out", type=Path, default=OUT, help=f"written (default: {OUT})")
    args = parser.parse_args()
    if not args.page.is_file():
        raise InputError(f"--page {args.page}: no such file, expected the index.html of a report")
    if "explored" not in args.page.read_text(encoding="utf-8"):
        raise InputError(f"--page {args.page}: does not say when it is drawn; make the report anew")
    if args.repeats < 1:
        raise InputError(f"--repeats {args.repeats}: expected at least 1")
    found = openings(args.page, args.repeats)
    content = {
        **machine(), "page": args.page.resolve().parents[1].name, "megabytes": args.page.stat().st_size / 1e6,
        "openings": [asdict(one) for one in found],
    }  # fmt: skip
    with whole_file(args.out) as partial:
        partial.write_text(json.dumps(content, indent=1) + "\n")
    print(words(found))


def openings(page: Path, repeats: int) -> list[Opening]:
    """Open the page in one browser, in a new window each time; raises InputError where there is no Chromium."""
    program = chromium()
    if program is None:
        raise InputError("no Chromium on this machine in which the page could be opened; install one")
    from playwright.sync_api import sync_playwright

    with sync_playwright() as started:
        browser = started.chromium.launch(executable_path=program, args=["--no-sandbox"])
        found = [_open(browser, page) for _ in range(repeats)]
        browser.close()
    return found


def _open(browser: Browser, page: Path) -> Opening:
    opened = browser.new_page(viewport={"width": 1280, "height": 900})
    opened.set_default_timeout(PATIENCE)
    session = opened.context.new_cdp_session(opened)
    session.send("Performance.enable", {"timeDomain": "threadTicks"})
    opened.goto(page.resolve().as_uri(), timeout=PATIENCE)
    opened.wait_for_function("() => performance.getEntriesByName('first-contentful-paint').length > 0")
    opened.wait_for_function(EXPLORED)
    parsed, painted, explored = opened.evaluate(TIMES)
    spent = {one["name"]: one["value"] for one in session.send("Performance.getMetrics")["metrics"]}
    opened.close()
    return Opening(parsed, painted, explored, spent["TaskDuration"], spent["ScriptDuration"])


def words(found: Sequence[Opening]) -> str:
    """The median and the least of every time."""
    names = {"parsed": "parsed", "painted": "first paint", "explored": "Explore drawn",
             "thread": "main thread, processor", "scripts": "of it scripts"}  # fmt: skip
    rows = {words: [getattr(one, name) for one in found] for name, words in names.items()}
    return "\n".join(f"{name}: {median(values):.2f} s (least {min(values):.2f})" for name, values in rows.items())


if __name__ == "__main__":
    run_and_leave(main)
