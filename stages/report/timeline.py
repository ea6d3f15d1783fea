"""When every job of the study ran, from the records that jobs leave."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from stages.lineage import Record, read_records

IDLE = 30.0
"""Pauses in which no job ran are cut to at most this many seconds: stages are built on different days."""

STAGES = ("curate", "prepare", "score", "encode", "decided", "finetune", "sample", "measure", "report")


@dataclass(frozen=True)
class Bar:
    """One job: where its bar starts and how long it is, in per cent of the whole."""

    title: str
    stage: str
    left: float
    width: float
    duration: str
    memory: str
    failed: bool


@dataclass(frozen=True)
class Share:
    """All jobs of one stage: how many, their time together, and what part of all work that is, in per cent."""

    stage: str
    jobs: int
    duration: str
    percent: float


@dataclass(frozen=True)
class Timeline:
    """All bars, the sums in words, and the stages by the work that they are, most first."""

    bars: tuple[Bar, ...]
    summary: str
    shares: tuple[Share, ...]


def timeline(folder: Path, leave_out: str) -> Timeline | None:
    """The jobs recorded in `folder` but `leave_out` (the one that asks); None where there are none."""
    records = [record for record in read_records(folder) if record.title != leave_out and record.seconds > 0]
    if not records:
        return None
    starts, total, cut = _squeeze(records)
    bars = tuple(_bar(record, start, total) for record, start in zip(records, starts, strict=True))
    work, peak = sum(record.seconds for record in records), max(record.peak_memory for record in records)
    text = f"{len(records)} jobs, {duration(work)} of work in {duration(total)} on the clock"
    text += f"; at most {peak / 2**30:.1f} GiB of memory in one job" if peak else ""
    return Timeline(bars, text + ("; pauses are cut short." if cut else "."), _shares(records))


def _shares(records: Sequence[Record]) -> tuple[Share, ...]:
    whole = sum(record.seconds for record in records)
    stages: dict[str, list[float]] = {}
    for record in records:
        stages.setdefault(_stage(record), []).append(record.seconds)
    found = [Share(name, len(each), duration(sum(each)), 100 * sum(each) / whole) for name, each in stages.items()]
    return tuple(sorted(found, key=lambda share: -share.percent))


def _squeeze(records: Sequence[Record]) -> tuple[list[float], float, bool]:
    """Start of each record (ordered by start) on a clock that skips pauses, the clock's end, whether it skipped any."""
    origin, busy_until, skipped = records[0].started, records[0].started, 0.0
    starts = []
    for record in records:
        skipped += max(0.0, record.started - busy_until - IDLE)
        starts.append(record.started - origin - skipped)
        busy_until = max(busy_until, record.started + record.seconds)
    end = max(start + record.seconds for start, record in zip(starts, records, strict=True))
    return starts, end, skipped > 0


def _bar(record: Record, start: float, total: float) -> Bar:
    memory = f"{record.peak_memory / 2**30:.1f} GiB" if record.peak_memory else ""
    width = max(0.2, 100 * record.seconds / total)
    left = min(100 * start / total, 100 - width)
    return Bar(record.title, _stage(record), left, width, duration(record.seconds), memory, record.status != "finished")


def _stage(record: Record) -> str:
    return next((name for name in STAGES if record.stage.startswith(name)), "report")


def duration(seconds: float) -> str:
    """`8 s`, `3 min 20 s`, `2 h 5 min`."""
    whole = round(seconds)
    if whole < 60:
        return f"{seconds:.2g} s" if seconds < 10 else f"{whole} s"
    minutes, rest = divmod(whole, 60)
    if minutes < 60:
        return f"{minutes} min {rest} s" if rest else f"{minutes} min"
    return f"{minutes // 60} h {minutes % 60} min"
