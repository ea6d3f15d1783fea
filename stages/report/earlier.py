"""The numbers of this report beside those of an earlier one of the same study (`report.against`, or `--against`)."""

from __future__ import annotations

import json
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from stages.errors import InputError
from stages.report import earlier_page, style
from stages.report.compare.sameness import differences
from stages.report.data import ReportData
from stages.report.findings import Finding
from stages.report.provenance import Provenance
from stages.report.table import Cell, Table

FIRST = 25
"""Changes that stand open on the page; the others can be unfolded."""
SAME = 1e-9
"""Numbers nearer to each other than this, relative to their size, are the same: rounding of another machine."""


@dataclass(frozen=True)
class Earlier:
    """The mean of every finding of an earlier report, by its key; `label` is the folder as it was named."""

    label: str
    values: Mapping[str, float]


@dataclass(frozen=True)
class Change:
    """A finding, its mean in the earlier report, and how much it has grown since."""

    finding: Finding
    before: float

    @property
    def growth(self) -> float:
        """This report's number less the earlier one's."""
        return self.finding.mean - self.before

    @property
    def same(self) -> bool:
        """Whether both are one number, but for rounding."""
        return abs(self.growth) <= SAME * max(1.0, abs(self.before))

    @property
    def size(self) -> float:
        """The growth in half widths of the finding's interval; infinite where it has none."""
        half = (self.finding.high - self.finding.low) / 2
        return abs(self.growth) / half if half > 0 else math.inf


@dataclass(frozen=True)
class Since:
    """What the page says: in words, the largest changes, the rest of them."""

    words: str
    first: Table
    rest: Table


def read(folder: Path, study: str, origin: Provenance, named: str = "--against") -> Earlier:
    """The earlier report in `folder`; raises InputError that starts with `named` where it is none, of another study, or
    of another evaluation, and says which setting differs.
    """
    block = earlier_page.read(folder, study, named)
    _require_same_evaluation(f"{named}: {folder}", block["provenance"], origin)
    key, mean = (block["columns"].index(name) for name in ("key", "mean"))
    return Earlier(str(folder), {row[key]: row[mean] for row in block["findings"] if row[mean] is not None})


def _require_same_evaluation(where: str, theirs: Mapping[str, Any], ours: Provenance) -> None:
    before, now = dict(theirs["facts"])["evaluation id"], dict(ours.facts)["evaluation id"]
    if before == now:
        return
    if "specification" not in theirs:
        raise InputError(f"{where}: evaluation {before}, here {now}; expected a report of the same one")
    there = json.loads(json.dumps(theirs["specification"]))
    name, mine, other = next(differences(json.loads(json.dumps(ours.specification)), there))
    raise InputError(f"{where}: {name} is {other} there, but {mine} here; expected a report of the same evaluation")


def changes(data: ReportData, earlier: Earlier) -> list[Change]:
    """Of every finding that both reports have, largest first."""
    both = [Change(one, earlier.values[one.key]) for one in _known(data) if one.key in earlier.values]
    return sorted(both, key=lambda change: (change.same, -change.size))


def since(data: ReportData, earlier: Earlier) -> Since:
    """What the page says of an earlier report."""
    both = changes(data, earlier)
    other = [change for change in both if not change.same]
    new = len(_known(data)) - len(both)
    gone = len(earlier.values.keys() - {change.finding.key for change in both})
    words = (
        f"Of {len(both)} numbers that the report in {earlier.label} has too, {len(other)} differ. {new} are new, and "
        f"{gone} of its numbers are not here. The largest changes come first, in half widths of the number's interval."
    )
    return Since(words, _table(data, other[:FIRST]), _table(data, other[FIRST:]))


def rows(data: ReportData, earlier: Earlier) -> list[dict[str, object]]:
    """The rows of `against.csv`: every number of both reports and the difference."""
    return [
        {"number": change.finding.key, "about": change.finding.about, "earlier": change.before,
         "now": change.finding.mean, "difference": change.growth}
        for change in changes(data, earlier)
    ]  # fmt: skip


def _known(data: ReportData) -> list[Finding]:
    return [one for one in data.findings.rows if math.isfinite(one.mean)]


def _table(data: ReportData, found: Sequence[Change]) -> Table:
    made = []
    for change in found:
        one = change.finding
        places = style.digits((one.high - one.low) / 2 if one.high > one.low else 0, one.mean) + 1
        rest = ", ".join(filter(None, (one.strategy, one.setting, one.against and f"against {one.against}")))
        kind = "up" if change.growth > 0 else "down"
        grown = Cell(style.number(change.growth, places, True), kind=kind, number=f"{one.key}#grown")
        name = Cell(data.look.method(one.method), rest, dot=data.look.colour(one.method))
        what = Cell(data.look.metric(one.metric), " ".join(filter(None, (one.about, one.at_equal))))
        was = Cell(style.number(change.before, places), number=f"{one.key}#was")
        now = Cell(style.number(one.mean, places), number=f"{one.key}#mean")
        made.append([name, what, was, now, grown])
    return Table(["", "number", "earlier", "now", "difference"], made)
