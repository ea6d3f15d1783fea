"""Where diversity among images that pass says something else than diversity among all of them."""

from __future__ import annotations

from collections.abc import Iterator

from stages.measure.settings import PASSED
from stages.report import curves
from stages.report.data import ReportData
from stages.report.findings import Finding
from stages.report.look import BASE

WORDS = {1: "rises", 0: "does not clearly change", -1: "falls"}
AHEAD = {1: "ahead", 0: "not clearly apart", -1: "behind"}


def warnings(data: ReportData) -> list[str]:
    """A sentence for every method whose change of a diversity by tuning, and for every pair of the claim whose verdict,
    is another one among the images that pass.
    """
    return [*_changes(data), *_verdicts(data)]


def _changes(data: ReportData) -> Iterator[str]:
    for method in data.look.order:
        tuned = curves.tuned_point(data.look, data.evaluation, method)
        if tuned is None:
            continue
        for diversity in data.study.report.diversities:
            pair = [data.findings.difference(tuned, name, BASE) for name in (diversity, f"{diversity}{PASSED}")]
            if (signs := _differ(pair)) is not None:
                name = f"{data.look.method(method)} alone: {data.look.metric(diversity)}"
                yield f"{name} {WORDS[signs[0]]} against the base, among images that pass it {WORDS[signs[1]]}."


def _verdicts(data: ReportData) -> Iterator[str]:
    among = {part.axes: part for part in data.findings.select("best_passed")}
    for part in data.findings.select("best"):
        if (signs := _differ([part, among.get((part.metric, f"{part.at_equal}{PASSED}"))])) is not None:
            yield (
                f"{data.look.method(part.method)} is {AHEAD[signs[0]]} in {data.look.metric(part.metric)} at no less "
                f"{data.look.metric(part.at_equal or '')}, {AHEAD[signs[1]]} where only images that pass count."
            )


def _differ(pair: list[Finding | None]) -> tuple[int, int] | None:
    """The signs of two findings where they are not the same; None where one of them is missing."""
    first, second = pair
    if first is None or second is None or first.clear == second.clear:
        return None
    return first.clear, second.clear
