"""Sections on what is right: the law that searches sample, and the faults that tests notice."""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence

from benchmarks.sections.markdown import Content, table


def tilt(content: Sequence[Content]) -> Iterator[str]:
    """How far the results of searches are from the tilted law, by candidates."""
    yield "## Searches and the tilted law\n"
    counts = sorted({row["candidates"] for row in content})
    yield (
        f"Total variation of the rewards of {content[0]['count']} independent searches from p exp(lambda r) / Z on a "
        "mixture of Gaussians where that law is known, by the number of particles, candidates or rollouts "
        "(`python -m benchmarks.tilt`; [what it means](sampling.md)).\n"
    )
    found = {(row["search"], row["candidates"]): f"{row['distance']:.3f}" for row in content}
    names = dict.fromkeys(row["search"] for row in content)
    head = ("search", *map(str, counts))
    yield from table(head, [(name, *(found.get((name, count), "") for count in counts)) for name in names])


def mutants(content: Content) -> Iterator[str]:
    """How many of the faults that were put into the code the tests noticed, and which they did not."""
    faults, listed = content["faults"], content["listed"]
    missed = [row for row in faults if not row["noticed"]]
    seen = len(faults) - len(missed)
    share = math.floor(100 * seen / max(1, len(faults)))
    yield "## Faults that the tests notice\n"
    yield (
        f"`tests/mutants/mutants.toml` lists {listed} small faults in the code: two inputs exchanged, a lost factor, a "
        "wrong sign. `make mutants` puts one after another into a copy of the tree and runs the tests that should "
        f"notice. **{seen} of {len(faults)}** were noticed, {share} %. A fault that goes unnoticed gets a test, so the "
        "number says that these tests hold, not how many other faults they would notice.\n"
    )
    if listed > len(faults):
        yield f"{listed - len(faults)} were not tried.\n"
    if missed:
        yield "Not noticed:\n"
        yield from (f"- `{row['file']}`: `{row['old'].strip()}` became `{row['new'].strip()}`" for row in missed)
        yield ""
