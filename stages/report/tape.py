"""The over-optimisation tape: what the probe of a run saw over optimizer steps, and where rewards peaked."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

from stages.report import probes, style
from stages.report.probe_sheets import Strip

if TYPE_CHECKING:
    from collections.abc import Mapping

    from stages.report.data import ReportData


@dataclass(frozen=True)
class Shot:
    """One value of the probe: the title of its panel, the optimizer step, the value."""

    panel: str
    step: int
    value: float


@dataclass(frozen=True)
class Tape:
    """The probe of a run, panels in the order of the figure of training, and the same in words.

    `mark` is the step at which the study's held-out reward peaked (without one, the first reward that the run was not
    trained on); None where the probe asked none. `strip` says what stands where in the sheet of its pictures, of a run
    that kept some.
    """

    shots: list[Shot]
    mark: int | None
    words: str
    strip: Strip | None = None


def tapes(data: ReportData, strips: Mapping[str, Strip]) -> dict[str, Tape]:
    """The tape of every run whose log has probes; `strips` are those of the runs that kept pictures."""
    return {
        run: _tape(data, run, strips.get(run))
        for run, terms in data.log.items()
        if any(t.startswith(probes.PROBE) for t in terms)
    }


def _tape(data: ReportData, run: str, strip: Strip | None) -> Tape:
    mine = data.log[run]
    shots = [
        Shot(probes.title(data.look, term), int(step), float(value))
        for term in probes.terms(data.study, data.log)
        if term in mine
        for step, value in zip(mine[term].steps, mine[term].values, strict=True)
    ]
    turns = [turn for turn in probes.turns(data.study, data.log) if turn.run == run]
    held_out = [turn for turn in turns if turn.reward == data.study.study.heldout] or turns
    return Tape(shots, held_out[0].best_step if held_out else None, _words(data, turns, shots), strip)


def _words(data: ReportData, turns: list[probes.Turn], shots: list[Shot]) -> str:
    last = max((shot.step for shot in shots), default=0)
    found = []
    for turn in turns:
        name = data.look.metric(turn.reward)
        fall = f", then fell by {style.number(turn.fall)}" if turn.fall > 0 else ""
        rise = " while the training reward went on rising" if turn.alarm else ""
        found.append(f"The {name} peaked at step {turn.best_step} of {last}{fall}{rise}.")
    return " ".join(found) or "The probe of this run asked no reward that the run was not trained on."
