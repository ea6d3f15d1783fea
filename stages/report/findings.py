"""The findings of a study, each number once: what the page, the Markdown account, CSV files and figures show."""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, fields
from functools import cached_property
from typing import TYPE_CHECKING

from stages.report.claims import Interval, State
from stages.report.measurements import Point

if TYPE_CHECKING:
    import pandas as pd

NAN = math.nan
CLAIMS = ("raises", "trade", "best", "above", "parts_company")
"""The claims in their order. The other kinds of findings are `estimate`, `difference`, `gap`, `best_gap`, `ablation`,
`best_passed` (`best` over diversity among images that pass), `rank_prompts` and `rank_images` (of two judges)."""


@dataclass(frozen=True)
class Finding:
    """One number with its interval, and what it is about: a row of the data frame.

    `about` is a claim, or `estimate` (the metric itself), `difference` (paired, to `against`), `gap` (mean reward gap
    of a curve to the reference method's leading one), `best_gap` (best-reward gap of a method's leading curve to the
    same), `ablation` (the mean gap to the candidate's), `rank_prompts` or `rank_images` (the rank correlation of the
    judge `metric` with the judge `against`, over mean scores of prompts or over single images). `metric` at equal
    `at_equal` (of `best` and `best_gap`: at no less), where that is a diversity. `detectable` is the smallest effect
    that a claim could have shown, `p` a two-sided p-value, `p_adjusted` the same after Holm's correction; `main` marks
    the pair of a claim that was named beforehand. `value` is the strategy's free setting where the finding is about one
    point, NaN where it is about a curve. `area` is the integral whose mean is the gap. `per_seed` are the values of the
    single training seeds. `nfe` and `seconds` are means per image.
    """

    about: str
    method: str
    strategy: str
    metric: str
    mean: float
    low: float
    high: float
    against: str = ""
    at_equal: str | None = None
    state: str = ""
    setting: str = ""
    value: float = NAN
    area: float = NAN
    area_low: float = NAN
    area_high: float = NAN
    per_seed: tuple[float, ...] = ()
    note: str = ""
    detectable: float = NAN
    p: float = NAN
    p_adjusted: float = NAN
    main: bool = False
    seeds: int = 0
    n_prompts: int = 0
    nfe: float = NAN
    seconds: float = NAN

    @property
    def point(self) -> Point:
        """The point that the finding is about."""
        return Point(self.method, self.strategy, self.value)

    @property
    def key(self) -> str:
        """What the finding is about, as one text: `refl/combined/k=10/proxy`, `gap/refl/aig/proxy/clip_diversity`."""
        if self.about in ("estimate", "difference"):
            parts = (self.method, self.strategy, self.setting, self.metric, self.against)
        elif self.setting:
            parts = (self.about, self.method, self.strategy, self.setting, self.metric, self.against)
        else:
            parts = (self.about, self.method, self.strategy, *self.axes)
        return "/".join(filter(None, parts))

    @property
    def axes(self) -> tuple[str, ...]:
        """The metric, and the diversity at which it is compared, if any."""
        return (self.metric, self.at_equal) if self.at_equal else (self.metric,)

    @property
    def interval(self) -> Interval:
        """The value and its interval."""
        return Interval(self.mean, self.low, self.high)

    @property
    def area_interval(self) -> Interval:
        """The area between two frontiers and its interval; NaN where the finding is not a gap."""
        return Interval(self.area, self.area_low, self.area_high)

    @property
    def clear(self) -> int:
        """1 or -1 where the whole interval lies above or below zero, else 0."""
        return self.interval.sign()


@dataclass(frozen=True)
class Claim:
    """A claim with its parts, one per metric or per pair of reward and diversity."""

    key: str
    parts: tuple[Finding, ...]

    @property
    def state(self) -> State:
        """That of the main part, where one was named beforehand; else the common state of all parts, partly shown where
        some part is shown, and not shown where none is.
        """
        if main := self.main:
            return State(main.state)
        states = {State(part.state) for part in self.parts}
        if len(states) == 1:
            return states.pop()
        return State.PARTLY if State.SHOWN in states else State.NOT_SHOWN

    @property
    def main(self) -> Finding | None:
        """The part that was named beforehand."""
        return next((part for part in self.parts if part.main), None)

    @property
    def shown(self) -> int:
        """Number of parts that are shown."""
        return sum(part.state == State.SHOWN for part in self.parts)

    @property
    def pairs(self) -> bool:
        """Whether the parts are pairs of reward and diversity."""
        return len(self.parts[0].axes) == 2


@dataclass(frozen=True)
class Findings:
    """All findings of a study; `reference` is the method that the claims compare with."""

    rows: tuple[Finding, ...]
    reference: str

    @cached_property
    def frame(self) -> pd.DataFrame:
        """One row per finding, the fields of `Finding` as columns."""
        import pandas as pd

        return pd.DataFrame({f.name: [getattr(row, f.name) for row in self.rows] for f in fields(Finding)})

    def select(self, about: str, method: str | None = None, against: str | None = None) -> list[Finding]:
        """The findings of a kind, of one method and against one where these are given."""
        return [
            row
            for row in self._by_kind.get(about, ())
            if method in (None, row.method) and against in (None, row.against)
        ]

    def estimate(self, point: Point, metric: str) -> Finding | None:
        """The value of a metric at a point; None where it was not measured."""
        return self._estimates.get((point, metric))

    def difference(self, point: Point, metric: str, against: str) -> Finding | None:
        """The paired difference of a metric between a point and `against`; None where there is none."""
        return self._differences.get((point, metric, against))

    @property
    def claims(self) -> list[Claim]:
        """The claims that could be put to the data, in their order; the trade is that of the reference method."""
        found = {key: self.select(key, self.reference if key == "trade" else None) for key in CLAIMS}
        return [Claim(key, tuple(parts)) for key, parts in found.items() if parts]

    def curves(self, about: str) -> list[tuple[Finding, ...]]:
        """The findings of a kind grouped by curve: one tuple per method and strategy."""
        grouped: dict[tuple[str, str], list[Finding]] = {}
        for row in self.select(about):
            grouped.setdefault((row.method, row.strategy), []).append(row)
        return [tuple(rows) for rows in grouped.values()]

    @cached_property
    def _by_kind(self) -> Mapping[str, list[Finding]]:
        found: dict[str, list[Finding]] = {}
        for row in self.rows:
            found.setdefault(row.about, []).append(row)
        return found

    @cached_property
    def _estimates(self) -> Mapping[tuple[Point, str], Finding]:
        return {(row.point, row.metric): row for row in self.select("estimate")}

    @cached_property
    def _differences(self) -> Mapping[tuple[Point, str, str], Finding]:
        return {(row.point, row.metric, row.against): row for row in self.select("difference")}


def metrics_of(rows: Iterable[Finding]) -> list[str]:
    """The metrics of some findings, each once."""
    return list(dict.fromkeys(row.metric for row in rows))
