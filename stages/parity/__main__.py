"""Compare what the stages compute with a set of reference numbers; one line per item, exit code 1 on a failure."""

from __future__ import annotations

import argparse
from collections.abc import Iterator
from functools import partial
from pathlib import Path
from types import ModuleType
from typing import TYPE_CHECKING

from stages.errors import InputError
from stages.runtime import run_and_leave

if TYPE_CHECKING:
    from stages.parity.checks import Check
    from stages.parity.reference import ParitySet


def main() -> None:
    """Command line of the comparison."""
    parser = argparse.ArgumentParser(prog="python -m stages.parity", description=__doc__)
    parser.add_argument("--set", type=Path, required=True, help="folder with weights, inputs and expected values")
    parser.add_argument("--base", type=Path, help="the set whose networks and inputs a set without networks takes")
    parser.add_argument("--traceback", action="store_true", help="show where arrays or settings do not fit the code")
    args = parser.parse_args()

    from stages.parity.reference import load
    from stages.runtime import device

    device()  # grants the threads of the job to torch
    reference = load(args.set, args.base)
    count = failed = 0
    try:
        for check in reference.expected.trail.explained(args.set, partial(checks, reference)):
            print(check, flush=True)
            count, failed = count + 1, failed + (not check.passed)
    except InputError as error:
        if args.traceback and error.__cause__:
            raise error.__cause__ from None
        raise
    unread = reference.expected.unread()
    for name in unread:
        print(f"{name:<76} not compared{reason(reference, name)}")
    print(f"{count} compared, {count - failed} passed, {failed} failed, {len(unread)} not compared")
    raise SystemExit(1 if failed or not count else 0)


def layout(reference: ParitySet) -> ModuleType | None:
    """The package that compares sets of this layout; None for the layout of the ImageReFL set."""
    from stages.parity import preference, sampling, stepwise

    return next((package for package in (stepwise, sampling, preference) if package.knows(reference)), None)


def checks(reference: ParitySet) -> Iterator[Check]:
    """Every comparison with the set."""
    from stages.parity import losses, optimizers, parts, rollouts, training

    own = layout(reference)
    for module in (parts, rollouts, training, optimizers, losses) if own is None else (own,):
        yield from module.checks(reference)


def reason(reference: ParitySet, name: str) -> str:
    """Why nothing compares the entry `name` of a set, where that is known: `: <reason>`."""
    own = layout(reference)
    found = reference.expected.left.get(name) or (own.reason(name) if own else "")
    return f": {found}" if found else ""


if __name__ == "__main__":
    run_and_leave(main)
