"""Pictures of the page for the documentation: `python -m stages.report.screenshots --page PAGE --out FOLDER`.

Needs playwright (of the tests' packages) and a Chromium.
"""

from __future__ import annotations

import argparse
import shutil
from pathlib import Path
from typing import TYPE_CHECKING

from stages.errors import InputError
from stages.runtime import run_and_leave, whole_file

if TYPE_CHECKING:
    from playwright.sync_api import Browser

NAMES = ("chromium", "chromium-browser", "google-chrome")
SIZE = 1280, 900
QUALITY = 82


def main() -> None:
    """Command line."""
    parser = argparse.ArgumentParser(prog="python -m stages.report.screenshots", description=__doc__)
    parser.add_argument("--page", type=Path, required=True, help="index.html of a report")
    parser.add_argument("--out", type=Path, required=True, help="written: page-frontier.webp, page-images.webp")
    args = parser.parse_args()
    if not args.page.is_file():
        raise InputError(f"--page {args.page}: no such file, expected the index.html of a report")
    take(args.page, args.out)


def chromium() -> str | None:
    """The Chromium of this machine; None where it has none."""
    return next(filter(None, map(shutil.which, NAMES)), None)


def take(page: Path, out: Path) -> None:
    """Write a picture of the frontier in light colours and one of the images, worst first, in dark ones.

    Raises InputError where there is no Chromium.
    """
    program = chromium()
    if program is None:
        raise InputError(f"no Chromium on this machine: none of {', '.join(NAMES)} is a command; install one of them")
    from playwright.sync_api import sync_playwright

    with sync_playwright() as started:
        browser = started.chromium.launch(executable_path=program, args=["--no-sandbox"])
        _one(browser, page, "explore", "light", out / "page-frontier.webp")
        _one(browser, page, "x-images", "dark", out / "page-images.webp")
        browser.close()


def _one(browser: Browser, page: Path, anchor: str, scheme: str, path: Path) -> None:
    """The window with the element `anchor` at its top, prompts ordered by the first diversity that was lost."""
    import io

    from PIL import Image

    width, height = SIZE
    dark = scheme == "dark"
    opened = browser.new_page(
        viewport={"width": width, "height": height}, color_scheme="dark" if dark else "light", reduced_motion="reduce"
    )
    opened.goto(page.resolve().as_uri())
    opened.wait_for_selector("#x-frontier path[role=button]")
    opened.select_option("#x-order", index=1)
    opened.evaluate("id => document.getElementById(id).scrollIntoView({behavior: 'instant'})", anchor)
    opened.wait_for_timeout(500)  # until the sheets of pictures that came into view are decoded
    with whole_file(path) as partial:
        Image.open(io.BytesIO(opened.screenshot())).save(partial, "WEBP", quality=QUALITY)
    opened.close()


if __name__ == "__main__":
    run_and_leave(main)
