"""The verdict in words: one card a claim, with the numbers it rests on."""

from __future__ import annotations

from dataclasses import dataclass

from stages.report import style
from stages.report.claims import BACKTRACK, Claim, Finding, State
from stages.report.display import MARKS, Cell, Table, gap, signed
from stages.report.gaps import ABOVE
from stages.report.settings import ReportStudy
from stages.report.style import Look
from stages.report.verdict import Verdict


@dataclass(frozen=True)
class Card:
    """One claim: what is claimed, what came out of it, the numbers, and the rule by which they were judged."""

    claim: str
    state: State
    outcome: str
    table: Table
    rule: str

    @property
    def kind(self) -> str:
        """The CSS class of the state."""
        return style.plain(self.state.value)

    @property
    def mark(self) -> str:
        """A sign for the state, so that colour is never alone."""
        return MARKS[self.state]


def cards(study: ReportStudy, look: Look, verdict: Verdict) -> list[Card]:
    """The claims that could be put to the data, in their order."""
    reference = style.method_name(study.study.reference)
    candidate = style.method_name(study.report.candidate)
    level = f"{study.report.interval:.0%}"
    found: list[tuple[Claim | None, str, str]] = [
        (
            verdict.raises,
            f"{reference} raises reward and lowers diversity against the base.",
            f"Shown where the {level} interval of the paired difference lies beyond zero and each seed alone agrees.",
        ),
        (
            verdict.trade,
            f"With {reference}, combined generation trades reward for diversity steadily between k = 0 and k = T.",
            "Shown where the whole change from k = 0 to k = T is as clear as in the first claim, no step between "
            f"neighbouring k goes clearly the other way, and steps back make up at most {BACKTRACK:.0%} of the change.",
        ),
        (
            verdict.above,
            f"{candidate} with combined generation lies above {reference} with combined generation at equal diversity.",
            f"The number is the mean reward gap between the two frontiers. Shown where its {level} interval lies above "
            f"zero, every training seed agrees, and the frontier is the higher one over at least {ABOVE:.0%} of the "
            "diversities that both reach.",
        ),
        (
            verdict.parts_company,
            f"Trained longer, {reference} goes on gaining {look.metric(study.study.reward)} while "
            f"{look.metric(study.truth or study.study.reward)} falls.",
            f"{style.method_name(study.report.long or '')} against {reference}, both tuned only, on the training seeds "
            "that both have; judged as in the first claim.",
        ),
    ]
    return [_card(study, look, claim, text, rule) for claim, text, rule in found if claim]


def _card(study: ReportStudy, look: Look, claim: Claim, text: str, rule: str) -> Card:
    pairs = len(claim.findings[0].axes) == 2
    table = _matrix(study, claim, look) if pairs else _list(claim, look)
    return Card(text, claim.state, _count(claim, look), table, rule)


def _count(claim: Claim, look: Look) -> str:
    """How many parts are shown, which are not, and which go the other way."""
    total, kind = len(claim.findings), _axes(claim)
    if claim.shown == total:
        return f"Shown on all {total} {kind}."
    missing = [_name(f, look) for f in claim.findings if f.state is State.NOT_SHOWN]
    opposite = [_name(f, look) for f in claim.findings if f.state is State.OPPOSITE]
    text = f"Shown on {claim.shown or 'none'} of {total} {kind}."
    if missing and claim.shown:
        text += f" Not shown: {', '.join(missing)}."
    if opposite:
        text += f" The other way: {', '.join(opposite)}."
    return text


def _axes(claim: Claim) -> str:
    return "pairs of reward and diversity" if len(claim.findings[0].axes) == 2 else "metrics"


def _name(finding: Finding, look: Look) -> str:
    return " at equal ".join(look.metric(axis) for axis in finding.axes)


def _list(claim: Claim, look: Look) -> Table:
    rows = []
    for finding in claim.findings:
        change = signed(finding.interval)
        cells = [_state(finding), Cell(change.text, change.sub, "number"), Cell(_seeds(finding), kind="seeds")]
        rows.append([Cell(look.metric(finding.axes[0])), *cells])
    return Table(["", "verdict", "change", "single seeds"], rows)


def _matrix(study: ReportStudy, claim: Claim, look: Look) -> Table:
    by_axes = {finding.axes: finding for finding in claim.findings}
    rows = []
    for reward in study.report.rewards:
        findings = [by_axes[reward, diversity] for diversity in study.report.diversities]
        rows.append([Cell(look.metric(reward), look.role(reward)), *(_pair(finding) for finding in findings)])
    return Table(["", *(f"at equal {look.metric(diversity)}" for diversity in study.report.diversities)], rows)


def _pair(finding: Finding) -> Cell:
    """A gap and what it says; below, its interval, the single seeds, and over which diversities it is taken."""
    cell, state = gap(finding), _state(finding)
    if not finding.per_seed:
        return Cell(state.text, finding.note, kind=state.kind)
    sub = f"{cell.sub}; seeds {_seeds(finding)}; {finding.note}"
    return Cell(f"{cell.text}  {state.text}", sub, kind=state.kind)


def _state(finding: Finding) -> Cell:
    text = f"{MARKS[finding.state]} {finding.state.value}"
    return Cell(text, finding.note if len(finding.axes) == 1 else "", kind=style.plain(finding.state.value))


def _seeds(finding: Finding) -> str:
    interval = finding.interval
    places = style.digits((interval.high - interval.low) / 2, interval.mean)
    return " · ".join(style.number(value, places, sign=True) for value in finding.per_seed)
