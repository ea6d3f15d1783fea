"""The verdict in words: one card per claim, with the numbers it rests on."""

from __future__ import annotations

from dataclasses import dataclass

from stages.report import style
from stages.report.claims import BACKTRACK, State
from stages.report.data import ReportData
from stages.report.display import gap, signed
from stages.report.findings import Claim, Finding
from stages.report.gaps import ABOVE
from stages.report.look import Look
from stages.report.table import Cell, Table

MARKS = {State.SHOWN: "✓", State.PARTLY: "◐", State.NOT_SHOWN: "○", State.OPPOSITE: "✗"}


@dataclass(frozen=True)
class Card:
    """One claim: what is claimed, what came out of it, the numbers, and the rule by which they were judged."""

    claim: str
    state: State
    outcome: str
    table: Table
    rule: str
    wide: bool = False
    """Whether the table has a column per diversity, and needs the width of the page."""

    @property
    def kind(self) -> str:
        """The CSS class of the state."""
        return style.plain(self.state.value)

    @property
    def mark(self) -> str:
        """A sign for the state, so that colour is never alone."""
        return MARKS[self.state]


def cards(data: ReportData) -> list[Card]:
    """The claims that could be put to the data, in their order."""
    return [_card(data, claim) for claim in data.findings.claims]


def _card(data: ReportData, claim: Claim) -> Card:
    text, rule = _words(data)[claim.key]
    table = _matrix(data, claim) if claim.pairs else _list(claim, data.look)
    return Card(text, claim.state, _count(claim, data.look), table, rule, wide=bool(claim.pairs))


def _words(data: ReportData) -> dict[str, tuple[str, str]]:
    """Every claim and the rule by which it is judged, by the claim's key."""
    study, look = data.study, data.look
    reference, candidate = look.method(study.study.reference), look.method(study.report.candidate)
    level, leading = f"{study.report.interval:.0%}", look.leading
    strategy = leading.label if leading else ""
    ends = (leading.about.plain, leading.about.base) if leading else ()
    between = " and ".join(end.text for end in ends if end)
    letter = leading.about.letter if leading else ""
    return {
        "raises": (
            f"{reference} raises reward and lowers diversity against the base.",
            f"Shown where the {level} interval of the paired difference lies beyond zero and each seed alone agrees.",
        ),
        "trade": (
            f"With {reference}, {strategy} trades reward for diversity steadily between {between}.",
            f"Shown where the whole change between {between} is as clear as in the first claim, no step between "
            f"neighbouring {letter} goes clearly the other way, and steps back make up at most {BACKTRACK:.0%} of the "
            "change.",
        ),
        "best": (
            f"{candidate} with {strategy} has more reward than {reference} with {strategy} at no less diversity.",
            "The number is the best reward among points of at least a diversity d, less the same of the reference, "
            f"averaged over d from the least diversity of {reference}'s points to the base's: defined for any two "
            f"curves. {_main(data)} Shown where the {level} interval lies above zero and every training seed agrees.",
        ),
        "above": (
            f"{candidate} with {strategy} lies above {reference} with {strategy} at equal diversity.",
            f"The number is the mean reward gap between the two frontiers. Shown where its {level} interval lies above "
            f"zero, every training seed agrees, and the frontier is the higher one over at least {ABOVE:.0%} of the "
            "diversities that both reach.",
        ),
        "parts_company": (
            f"Trained longer, {reference} keeps gaining {look.metric(study.study.reward)} while "
            f"{look.metric(study.truth or study.study.reward)} falls.",
            f"{look.method(study.report.long or '')} against {reference}, both tuned only, on the training seeds that "
            "both have; judged as in the first claim.",
        ),
    }


def _main(data: ReportData) -> str:
    """Which pair counts alone, and how the others are counted."""
    pair = data.study.report.main_pair
    if pair is None:
        return "The study names no main pair beforehand: all pairs are counted together by Holm's correction."
    reward, diversity = (data.look.metric(name) for name in pair)
    return (
        f"The main pair, named beforehand, is {reward} at no less {diversity} and decides the claim; all other pairs "
        "are counted together by Holm's correction."
    )


def _count(claim: Claim, look: Look) -> str:
    """How many parts are shown, which are not, and which go the other way."""
    if main := claim.main:
        others = [part for part in claim.parts if part is not main]
        shown = sum(part.state == State.SHOWN for part in others)
        text = f"Main pair, {look.metric(main.metric)} at no less {look.metric(main.at_equal or '')}: {main.state}."
        return f"{text} Of the other pairs, {shown} of {len(others)} are shown." if others else text
    total, kind = len(claim.parts), "pairs of reward and diversity" if claim.pairs else "metrics"
    if claim.shown == total:
        return f"Shown on all {total} {kind}."
    missing = [_name(part, look) for part in claim.parts if part.state == State.NOT_SHOWN]
    opposite = [_name(part, look) for part in claim.parts if part.state == State.OPPOSITE]
    text = f"Shown on {claim.shown or 'none'} of {total} {kind}."
    if missing and claim.shown:
        text += f" Not shown: {', '.join(missing)}."
    if opposite:
        text += f" The other way: {', '.join(opposite)}."
    return text


def _name(finding: Finding, look: Look) -> str:
    return " at equal ".join(look.metric(axis) for axis in finding.axes)


def _list(claim: Claim, look: Look) -> Table:
    rows = []
    for part in claim.parts:
        change, seeds = signed(part), Cell(_seeds(part), kind="seeds", number=f"{part.key}#seeds")
        least = Cell(_least(part), number=f"{part.key}#least")
        cells = [_state(part), Cell(change.text, change.sub, "number", number=part.key), seeds, least]
        rows.append([Cell(look.metric(part.metric)), *cells])
    return Table(["", "verdict", "change", "single seeds", "could have seen"], rows)


def _matrix(data: ReportData, claim: Claim) -> Table:
    report, look = data.study.report, data.look
    by_axes = {part.axes: part for part in claim.parts}
    rows = []
    for reward in report.rewards:
        found = [by_axes[reward, diversity] for diversity in report.diversities]
        rows.append([Cell(look.metric(reward), look.role(reward)), *(_pair(part) for part in found)])
    words = "at no less" if claim.key == "best" else "at equal"
    return Table(["", *(f"{words} {look.metric(diversity)}" for diversity in report.diversities)], rows)


def _pair(finding: Finding) -> Cell:
    """A gap and what it says; below, its interval, the single seeds, over which diversities it is taken or its p-value,
    and the smallest gap that could have been seen.
    """
    cell, state = gap(finding), _state(finding)
    if not finding.per_seed:
        return Cell(state.text, finding.note, kind=state.kind, number=f"{finding.key}#all")
    sub = f"{cell.sub}; seeds {_seeds(finding)}; {finding.note}; could have seen {_least(finding)}"
    main = "  (main)" if finding.main else ""
    return Cell(f"{cell.text}  {state.text}{main}", sub, kind=state.kind, number=f"{finding.key}#all")


def _state(finding: Finding) -> Cell:
    text = f"{MARKS[State(finding.state)]} {finding.state}"
    note = finding.note if len(finding.axes) == 1 else ""
    return Cell(text, note, kind=style.plain(finding.state), number=f"{finding.key}#note" if note else "")


def _least(finding: Finding) -> str:
    """The smallest effect that the data could have shown."""
    return style.number(finding.detectable, style.digits(finding.detectable / 10, finding.detectable))


def _seeds(finding: Finding) -> str:
    places = style.digits((finding.high - finding.low) / 2, finding.mean)
    return " · ".join(style.number(value, places, sign=True) for value in finding.per_seed)
