"""What every section of docs/benchmarks.md is made of: the line that names the machine, tables, fitted powers."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any

Content = Mapping[str, Any]
"""What a results file holds."""


def machine(content: Content) -> str:
    """The line that names the machine."""
    about = [f"{content['processors']} processors", f"{content['memory_mb'] / 1024:.0f} GB"]
    if "processor" in content:
        about[0] += f" ({content['processor']})"
    if "threads" in content:
        about.append(f"{content['threads']} thread{'s' if content['threads'] != 1 else ''} in use")
    if "load_before" in content:
        about.append(f"load {content['load_before']:.1f} before")
    versions = [f"Python {content['python']}", *(f"{name} {number}" for name, number in content["versions"].items())]
    return f"On {', '.join(about)}; {', '.join(versions)}.\n"


def table(head: tuple[str, ...], rows: list[tuple[object, ...]]) -> Iterator[str]:
    """Lines of a table; the first column to the left, the others to the right."""
    yield f"| {' | '.join(head)} |"
    yield f"|{'|'.join(['---', *['---:'] * (len(head) - 1)])}|"
    for row in rows:
        yield f"| {' | '.join(map(str, row))} |"
    yield ""


def powers(exponents: Mapping[str, Mapping[str, float]]) -> Iterator[str]:
    """The fitted exponents."""
    for what, found in exponents.items():
        yield f"{what}: " + "; ".join(f"{name} grow as rows^{power:.2f}" for name, power in found.items()) + ".\n"
