"""Sections on size: whole studies, rows, jobs, and a study through Slurm."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterator, Mapping
from typing import Any

from benchmarks.sections.markdown import Content, machine, powers, table


def studies(content: Content) -> Iterator[str]:
    """Whole studies from nothing."""
    yield "## Whole studies\n"
    yield machine(content)
    for study in content["studies"]:
        yield (
            f"**{study['study']}**: {study['seconds']:.0f} s from nothing, {study['planning_seconds']:.1f} s to plan, "
            f"{study['repeat_seconds']:.1f} s with nothing to do, {study['memory_mb']:.0f} MB in the largest job.\n"
        )
        rules: dict[str, list[Mapping[str, Any]]] = defaultdict(list)
        for job in study["jobs"]:
            rules[job["rule"]].append(job)
        busy = sum(job["seconds"] for job in study["jobs"])
        rows = sorted(rules.items(), key=lambda item: -sum(job["seconds"] for job in item[1]))
        yield from table(
            ("stage", "jobs", "seconds in all", "share", "longest job", "largest memory"),
            [
                (name, len(jobs), f"{(own := sum(job['seconds'] for job in jobs)):.0f}", f"{100 * own / busy:.0f} %",
                 f"{max(job['seconds'] for job in jobs):.0f} s", f"{max(job['memory_mb'] for job in jobs):.0f} MB")
                for name, jobs in rows
            ],
        )  # fmt: skip


def curation(content: Content) -> Iterator[str]:
    """Curation in rows."""
    yield "## Curation in rows\n"
    yield machine(content)
    yield f"All text filters on, {content['cores']} cores (`python -m benchmarks.curation`).\n"
    yield from table(
        ("rows", "of", "seconds", "CPU seconds", "memory", "kept"),
        [
            (f"{run['rows']:,}", run["what"], f"{run['seconds']:.1f}", f"{run['cpu_seconds']:.1f}",
             f"{run['memory_mb']:.0f} MB", f"{run['kept']:,}")
            for run in content["runs"]
        ],
    )  # fmt: skip
    yield from powers(content["exponents"])


ROWS = {
    "measure": "images of one run in 20 settings, 5 per prompt, judged by a rule that costs nothing",
    "report": "rows of measures of a study of 4 runs",
    "sets": "images of one setting, every set metric with its interval, on features of 64 numbers",
}


def rows(content: Content) -> Iterator[str]:
    """Measuring and reporting in rows."""
    yield "## Measure and report in rows\n"
    yield machine(content)
    known = [what for what in ROWS if any(run["what"] == what for run in content["runs"])]
    about = "; ".join(f"{what}: {ROWS[what]}" for what in known)
    yield f"{about} ({content['cores']} cores, `python -m benchmarks.rows`).\n"
    yield from table(
        ("rows", "of", "seconds", "CPU seconds", "memory"),
        [
            (f"{run['rows']:,}", run["what"], f"{run['seconds']:.1f}", f"{run['cpu_seconds']:.1f}",
             f"{run['memory_mb']:.0f} MB")
            for what in known
            for run in sorted(content["runs"], key=lambda run: run["rows"])
            if run["what"] == what
        ],
    )  # fmt: skip
    yield from powers(content["exponents"])
    if "sets" in known:
        yield "Set metrics compare every image with every other, so their time grows with the square of a setting.\n"


def planning(content: Content) -> Iterator[str]:
    """Planning in jobs."""
    yield "## Planning large studies\n"
    yield machine(content)
    yield "A dry run of a generated study, nothing built yet (`python -m benchmarks.planning`).\n"
    yield from table(
        ("runner", "jobs", "seconds", "CPU seconds", "memory"),
        [
            (plan["runner"], f"{plan['jobs']:,}", f"{plan['seconds']:.1f}", f"{plan['cpu_seconds']:.1f}",
             f"{plan['memory_mb']:.0f} MB")
            for plan in content["plans"]
        ],
    )  # fmt: skip
    for runner, power in content["exponents"].items():
        if power is not None:
            yield f"{runner}: CPU seconds grow as jobs^{power:.2f} between the two largest.\n"


def slurm(content: Content) -> Iterator[str]:
    """A study through Slurm."""
    yield "## Through Slurm\n"
    yield machine(content)
    yield (
        f"{content['study']} through a {content['slurm']} of one node: {content['slurm_seconds']} s, without "
        f"{content['local_seconds']} s (`python -m benchmarks.slurm`).\n"
    )
    yield from table(
        ("job", "state", "waited", "seconds"),
        [
            (job["job"], job["state"], f"{job['waited_seconds']:.0f} s", f"{job['seconds']:.0f}")
            for job in content["jobs"]
        ],
    )
