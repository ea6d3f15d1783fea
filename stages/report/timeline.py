"""When every job of the study ran, from the records that jobs leave."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from stages.lineage import Record, read_records

IDLE = 30.0
"""Pauses in which no job ran are cut to at most this many seconds: stages are built on different days."""

STAGES = ("curate", "prepare", "score", "encode", "finetune", "sample", "measure", "report")


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
class Timeline:
    """All bars, and the sums in words."""

    bars: tuple[Bar, ...]
    summary: str


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
    return Timeline(bars, text + ("; pauses are cut short." if cut else "."))


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
    stage = next((name for name in STAGES if record.stage.startswith(name)), "report")
    memory = f"{record.peak_memory / 2**30:.1f} GiB" if record.peak_memory else ""
    width = max(0.2, 100 * record.seconds / total)
    left = min(100 * start / total, 100 - width)
    return Bar(record.title, stage, left, width, duration(record.seconds), memory, record.status != "finished")


def duration(seconds: float) -> str:
    """`8 s`, `3 min 20 s`, `2 h 5 min`."""
    whole = round(seconds)
    if whole < 60:
        return f"{seconds:.2g} s" if seconds < 10 else f"{whole} s"
    minutes, rest = divmod(whole, 60)
    if minutes < 60:
        return f"{minutes} min {rest} s" if rest else f"{minutes} min"
    return f"{minutes // 60} h {minutes % 60} min"
