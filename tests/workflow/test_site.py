"""Every link of the documentation leads somewhere, and the site builds without a warning."""

import re
import subprocess
import sys
from pathlib import Path

import pytest
from mkdocs.commands.build import build as write
from mkdocs.config import load_config
from mkdocs.exceptions import Abort

ROOT = Path(__file__).parents[2]
LINK = re.compile(r"\]\(([^)#\s]+)(?:#[^)]*)?\)")
PAGES = [*ROOT.glob("*.md"), *ROOT.glob("data/*.md"), *ROOT.glob("votes/*.md")]


def build(config: Path, to: Path) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, "-m", "mkdocs", "build", "--strict", "--config-file", config, "--site-dir", to]
    return subprocess.run(command, cwd=ROOT, capture_output=True, text=True)


def test_the_site_builds_without_a_warning_and_loads_nothing_from_elsewhere(tmp_path: Path) -> None:
    built = build(ROOT / "mkdocs.yml", tmp_path / "site")
    assert built.returncode == 0, built.stderr
    for page in (tmp_path / "site").rglob("*.html"):
        loaded = re.findall(r'<(?:script|img|link)[^>]*(?:src|href)="(https?:[^"]+)"', page.read_text())
        assert not [link for link in loaded if "canonical" not in link], page


def refused(config: Path, to: Path) -> bool:
    """Whether the same ends in an error, within this process."""
    try:
        write(load_config(str(config), strict=True, site_dir=str(to)))
    except Abort:
        return True
    return False


def test_a_broken_link_or_a_page_outside_the_navigation_is_an_error(tmp_path: Path) -> None:
    (tmp_path / "docs").mkdir()
    config = (ROOT / "mkdocs.yml").read_text().split("nav:")[0]
    (tmp_path / "mkdocs.yml").write_text(config + "nav:\n  - Start: index.md\n")
    for text, wrong in (("[there](nowhere.md)", True), ("[there](#nowhere)", True), ("no links", False)):
        (tmp_path / "docs/index.md").write_text(f"# Start\n\n{text}\n")
        assert refused(tmp_path / "mkdocs.yml", tmp_path / "site") is wrong, text
    (tmp_path / "docs/other.md").write_text("# Other\n")
    assert refused(tmp_path / "mkdocs.yml", tmp_path / "site")


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.name)
def test_links_outside_the_site_lead_to_files(page: Path) -> None:
    links = [link for link in LINK.findall(page.read_text()) if "://" not in link]
    assert not [link for link in links if not (page.parent / link).exists()]
