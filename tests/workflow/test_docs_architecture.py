"""The pages name files that are there, and the number that the architecture follows is one of the default study."""

from __future__ import annotations

import re
from pathlib import Path

import yaml

ROOT = Path(__file__).parents[2]
EXAMPLES = {
    "stages/report/figures/efficiency.py", "stages/finetune/methods/refl_twice.py",
    "stages/measure/metrics/pixel_spread.py", "stages/rewards/colourfulness.py",
}  # fmt: skip
"""Files that a reader is told to write."""


def test_the_number_followed_through_is_one_of_the_default_study() -> None:
    text = " ".join((ROOT / "docs/architecture.md").read_text().split())
    sample = yaml.safe_load((ROOT / "params.yaml").read_text())["sample"]
    switches = sample["strategies"]["combined"]["k"]
    assert f"{sample['samples_per_prompt']} images each" in text
    assert f"combined.py`: k = {', '.join(map(str, switches))})" in text
    (followed,) = {int(k) for k in re.findall(r"(?:generation at k = |`setting` = `k=)(\d+)", text)}
    assert followed in switches


def test_every_file_of_the_code_that_a_page_names_is_there() -> None:
    pages = [*(ROOT / "docs").glob("*.md"), ROOT / "README.md", ROOT / "CONTRIBUTING.md"]
    code = re.compile(r"`((?:stages|workflow|tests)/[\w./]+\.py)`")
    named = {path for page in pages for path in code.findall(page.read_text())}
    assert len(named) > 80
    assert {path for path in named if not (ROOT / path).is_file()} == EXAMPLES
