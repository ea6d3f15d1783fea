"""Training steps and the sweep of combined generation, ours against the plain reference, side by side in one process.

Both do the same work on the same numbers: losses, gradients and pictures are compared before anything is timed. Then
the two take turns, so that what else the machine does meets both. Ours is measured as it is by default, and again with
`compile: true`.
"""

from __future__ import annotations

import argparse
import io
import json
import os
import statistics
import tempfile
import time
from collections.abc import Iterator, Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import torch
from PIL import Image

from benchmarks.bare import bare
from benchmarks.machine import machine
from benchmarks.networks import Shape
from benchmarks.plain import Counter
from benchmarks.sides import METHODS, MIDDLES, Bench, Made, Side
from stages.runtime import threads, whole_file

LOSS, GRADIENT, PIXEL = 1e-5, 1e-3, 1
"""How far the two may be apart: losses and gradients relative to their size, pictures in steps of 255."""
OUT = Path("benchmarks/results/steps.json")
JOINED = ("refl", "imagerefl")
"""Methods whose predictions with gradient may be made together."""
RELEASED = 30
"""Images per batch when the released code samples."""


@dataclass(frozen=True)
class Row:
    """One line of the table: seconds of every repetition by the clock and of the processor, evaluations per image (and
    micro-step), and the largest differences: of losses and gradients relative to their size, of pictures in steps of
    255.
    """

    name: str
    batch: int
    compiled: bool
    joined: bool
    plain_seconds: list[float]
    seconds: list[float]
    plain_cpu_seconds: list[float]
    cpu_seconds: list[float]
    plain_evaluations: float
    evaluations: float
    differences: dict[str, float]
    bare_cpu_seconds: list[float]

    @property
    def over_bare(self) -> float | None:
        """How many times the processor time of the bare network calls ours takes; None where they were not timed."""
        if not self.bare_cpu_seconds:
            return None
        return statistics.median(self.cpu_seconds) / statistics.median(self.bare_cpu_seconds)

    @property
    def ratio(self) -> float:
        """How many times as long the plain reference takes, by the medians."""
        return statistics.median(self.plain_seconds) / statistics.median(self.seconds)

    @property
    def cpu_ratio(self) -> float:
        """The same of processor time, which other work on the machine hardly changes."""
        return statistics.median(self.plain_cpu_seconds) / statistics.median(self.cpu_seconds)

    @property
    def evaluation_ratio(self) -> float:
        """How many times as many evaluations the plain reference makes."""
        return self.plain_evaluations / self.evaluations

    def as_dict(self) -> dict[str, Any]:
        """For the results file."""
        ratios = {"ratio": self.ratio, "cpu_ratio": self.cpu_ratio, "evaluation_ratio": self.evaluation_ratio}
        ratios |= {"over_bare": self.over_bare}
        return asdict(self) | ratios


def main() -> None:
    """Command line."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks.steps", description=__doc__)
    parser.add_argument("--repeats", type=int, default=5, help="timed repetitions of each side (default: 5)")
    parser.add_argument("--width", type=int, default=Shape.width, help="channels of the UNet's first block")
    parser.add_argument("--batch", type=int, default=Shape.batch, help="images per batch")
    parser.add_argument("--sweep-batch", type=int, default=RELEASED, help="images per batch of another sweep; 0: none")
    parser.add_argument("--only", nargs="+", default=[*METHODS, "sweep"], choices=[*METHODS, "sweep"])
    parser.add_argument("--no-compile", action="store_true", help="leave out what is measured with compile: true")
    parser.add_argument("--out", type=Path, default=OUT, help=f"the numbers, as JSON (default: {OUT})")
    args = parser.parse_args()
    torch.set_num_threads(threads())
    shape, rows, load = Shape(width=args.width, batch=args.batch), [], os.getloadavg()[0]
    about = machine() | {"threads": threads(), "load_before": load, "shape": shape.as_dict(), "middles": MIDDLES}
    with tempfile.TemporaryDirectory(prefix="steps-") as folder:
        for row in measured(Path(folder), shape, args):
            show(row)
            rows.append(row.as_dict())
            with whole_file(args.out) as partial:  # after every row: what was measured is not lost
                partial.write_text(json.dumps(about | {"rows": rows}, indent=1) + "\n")


def measured(folder: Path, shape: Shape, args: argparse.Namespace) -> Iterator[Row]:
    """The rows that the command line asks for."""
    bench = Bench.of(folder / "steps", shape)
    yield from measure(bench, args.only, args.repeats)
    yield from measure(bench, [name for name in args.only if name in JOINED], args.repeats, joined=True)
    if not args.no_compile:
        yield from measure(bench, args.only, args.repeats, compiled=True)
    if "sweep" in args.only and args.sweep_batch:
        bench = Bench.of(folder / "sweep", replace(shape, batch=args.sweep_batch))
        yield from measure(bench, ["sweep"], args.repeats)


def measure(
    bench: Bench, names: Sequence[str], repeats: int, compiled: bool = False, joined: bool = False
) -> Iterator[Row]:
    """The rows of the named methods, and of the `sweep`; raises SystemExit where the two sides disagree."""
    for name in names:
        sides = bench.sampling(compiled) if name == "sweep" else bench.training(name, compiled=compiled, joined=joined)
        plain, ours = sides
        (theirs, plain_evaluations), (made, evaluations) = once(plain), once(ours)
        found = differences(theirs, made) | gradient_difference(plain, ours)
        if wrong := [what for what, value in found.items() if not value <= LIMITS[what]]:
            raise SystemExit(f"error: {name}: ours and the plain reference differ in {wrong[0]} by {found[wrong[0]]:g}")
        calls = [replace(ours, work=bare(ours.work, ours.called))] if ours.called and not compiled else []
        spent: dict[int, list[tuple[float, float]]] = {0: [], 1: [], 2: []}
        for turn in range(repeats):
            order = [(0, plain), (1, ours), *((2, side) for side in calls)]
            for number, side in order if turn % 2 else order[::-1]:  # none always goes first
                spent[number].append(timed(side))
        (theirs_wall, theirs_cpu), (wall, cpu) = (map(list, zip(*spent[side], strict=True)) for side in (0, 1))
        cost = (theirs_wall, wall, theirs_cpu, cpu, plain_evaluations, evaluations)
        yield Row(name, bench.shape.batch, compiled, joined, *cost, found, [busy for _, busy in spent[2]])


LIMITS = {"loss": LOSS, "gradient": GRADIENT, "image": PIXEL}


def once(side: Side) -> tuple[Made, float]:
    """What a side makes, and its evaluations per image and micro-step; its gradients stay."""
    side.clear()
    counter = Counter(side.networks)
    made = side.work()
    counter.close()
    return made, counter.count / side.units


def timed(side: Side) -> tuple[float, float]:
    """Seconds of the work of a side, by the clock and of the processor."""
    side.clear()
    began, busy = time.perf_counter(), time.process_time()
    side.work()
    return time.perf_counter() - began, time.process_time() - busy


def differences(theirs: Made, ours: Made) -> dict[str, float]:
    """The largest relative difference of losses, or the largest difference of pixels."""
    if theirs.losses:
        pairs = zip(theirs.losses, ours.losses, strict=True)
        return {"loss": max(abs(a - b) / abs(a) for a, b in pairs)}
    if theirs.images.keys() != ours.images.keys():
        return {"image": float("inf")}
    return {"image": max(_apart(theirs.images[name], ours.images[name]) for name in theirs.images)}


def gradient_difference(plain: Side, ours: Side) -> dict[str, float]:
    """Norm of the difference of the gradients over the norm of the plain one; nothing where there are none."""
    if not plain.parameters:
        return {}
    pairs = [(p.grad, ours.parameters[name].grad) for name, p in plain.parameters.items() if p.grad is not None]
    apart = torch.stack([(a - b).norm() if b is not None else a.norm() for a, b in pairs]).norm()
    return {"gradient": float(apart / torch.stack([a.norm() for a, _ in pairs]).norm())}


def _apart(theirs: Sequence[bytes], ours: Sequence[bytes]) -> float:
    if len(theirs) != len(ours):
        return float("inf")
    return float(max(np.abs(_pixels(a) - _pixels(b)).max() for a, b in zip(theirs, ours, strict=True)))


def _pixels(data: bytes) -> np.ndarray:
    return np.asarray(Image.open(io.BytesIO(data))).astype(int)


def show(row: Row) -> None:
    """Print one line."""
    apart = ", ".join(f"{what} within {value:.1g}" for what, value in row.differences.items())
    name = f"{row.name} of {row.batch}{', joined' if row.joined else ''}{', compiled' if row.compiled else ''}"
    print(f"{name:<24} plain {statistics.median(row.plain_seconds):7.2f} s {row.plain_evaluations:6.1f} evaluations"
          f"   ours {statistics.median(row.seconds):7.2f} s {row.evaluations:6.1f} evaluations"
          f"   ratio {row.ratio:5.2f} (processor time {row.cpu_ratio:.2f}, evaluations {row.evaluation_ratio:.2f})"
          f"   over the bare calls {row.over_bare or float('nan'):.2f}   {apart}", flush=True)  # fmt: skip


if __name__ == "__main__":
    main()
