"""Every fine-tuning method has a committed result, or docs/methods.md says that it has none and why."""

from __future__ import annotations

import re
from collections.abc import Mapping
from pathlib import Path

import pandas as pd

import stages.finetune.methods
from stages import plugins
from stages.params import read_study

ROOT = Path(__file__).parents[2]
HEADING = "## Methods without a committed result"
LEAST = 20
"""Letters of the shortest text that can be a reason."""


def kinds_with_results() -> set[str]:
    """The kinds of the methods whose tuned images have scores in a folder of docs/results."""
    found: set[str] = set()
    for scores in (ROOT / "docs/results").glob("*/scores.parquet"):
        methods = read_study(ROOT / f"studies/{scores.parent.name}.yaml")["methods"]
        measured = set(pd.read_parquet(scores, columns=["method"])["method"])
        found |= {settings["kind"] for name, settings in methods.items() if name in measured}
    return found


def reasons() -> Mapping[str, str]:
    """What docs/methods.md says of each kind that it lists as one without a result."""
    _, _, rest = (ROOT / "docs/methods.md").read_text(encoding="utf-8").partition(f"\n{HEADING}\n")
    section = rest.partition("\n## ")[0]
    return dict(re.findall(r"^- `(\w+)`: (.+)$", section, re.M))


def unaccounted(kinds: set[str], measured: set[str], said: Mapping[str, str]) -> list[str]:
    """A line for every kind that has neither a result nor a reason, and for every reason that is out of date."""
    given = {kind for kind, reason in said.items() if len(reason) >= LEAST}
    missing = [
        f"{kind}: no run of it in docs/results, and no reason in docs/methods.md" for kind in kinds - measured - given
    ]
    stale = [f"{kind}: docs/methods.md says that it has no result, but it has one" for kind in measured & set(said)]
    unknown = [f"{kind}: in docs/methods.md, but no method" for kind in set(said) - kinds]
    return sorted([*missing, *stale, *unknown])


def test_every_method_has_a_result_or_a_reason() -> None:
    kinds = set(plugins.every(stages.finetune.methods.__name__))
    assert len(kinds) > 20
    assert unaccounted(kinds, kinds_with_results(), reasons()) == []


def test_a_method_without_either_is_named() -> None:
    assert unaccounted({"refl", "new"}, {"refl"}, {}) == [
        "new: no run of it in docs/results, and no reason in docs/methods.md"
    ]
    assert unaccounted({"refl", "new"}, {"refl"}, {"new": "too short"})
    assert unaccounted({"refl", "new"}, {"refl"}, {"new": "its sampler is not in the sample stage"}) == []


def test_a_reason_that_is_out_of_date_is_named() -> None:
    assert unaccounted({"refl"}, {"refl"}, {"refl": "not run yet, for lack of time"})
    assert unaccounted({"refl"}, {"refl"}, {"gone": "not run yet, for lack of time"})
