"""Searches at sampling time: does one take longer than the evaluations, decodings and reward queries that it counts?

Each search makes the images of one group on a small random Stable Diffusion 1.5. Beside it stand its own counts, priced
at what one evaluation, one decoding and one query take in a full batch; where an evaluation carries gradient, a
decoding and a query belong to it and the three are priced together. Processor time is compared, but other work changes
that too, by more than 15 % within minutes: each search is priced by what the parts take right before and right after.
"""

from __future__ import annotations

import argparse
import json
import os
import statistics
import tempfile
import time
from collections.abc import Callable, Mapping
from dataclasses import asdict, astuple, dataclass, replace
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from benchmarks.machine import machine
from benchmarks.networks import Shape
from benchmarks.sides import Bench
from stages.runtime import threads, whole_file
from stages.sample.context import Context
from stages.sample.job import RecordedReward, Sampling
from stages.sample.meter import Cost
from stages.sample.resolve import strategy

OUT = Path("benchmarks/results/searches.json")
STEPS, SWITCHES = 8, (4,)
REWARD = "clip"
SEARCHES: dict[str, dict[str, Any]] = {
    "best_of_n": {"n": [4]},
    "fk": {"n": [4], "every": 2},
    "code": {"n": [4], "block": 2},
    "svdd": {"m": [4]},
    "dsearch": {"m": [2], "oversample": 2},
    "dlbs": {"b": [2], "lookahead": 2},
    "das": {"n": [2]},
    "dts": {"m": [4]},
    "dts_star": {"m": [4]},
}
"""Every kind of search, with one setting."""


@dataclass(frozen=True)
class Prices:
    """Seconds of the processor for one image in a full batch: an evaluation, a decoding, a query, and the three
    together with their gradient.
    """

    evaluation: float
    decoding: float
    query: float
    gradient: float

    @classmethod
    def mean(cls, *found: Prices) -> Prices:
        """The mean of several measurements."""
        return cls(*(statistics.fmean(column) for column in zip(*map(astuple, found), strict=True)))

    def of(self, counts: Mapping[str, int]) -> float:
        """Seconds that counts amount to."""
        carried = counts["nfe_backward"]
        return (
            self.gradient * carried
            + self.evaluation * (counts["nfe"] - carried)
            + self.decoding * (counts["decodes"] - carried)
            + self.query * (counts["queries"] - carried)
        )


@dataclass(frozen=True)
class Row:
    """One search: what was counted for all images, seconds of the processor of every repetition, and the seconds that
    the counts amount to.
    """

    search: str
    images: int
    counts: dict[str, int]
    seconds: list[float]
    priced: float

    @property
    def ratio(self) -> float:
        """How many times as long the search takes as its counts amount to, by the median."""
        return statistics.median(self.seconds) / self.priced

    def as_dict(self) -> dict[str, Any]:
        """For the results file."""
        return asdict(self) | {"ratio": self.ratio}


def main() -> None:
    """Command line."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks.searches", description=__doc__)
    parser.add_argument("--repeats", type=int, default=3, help="timed repetitions (default: %(default)s)")
    parser.add_argument("--width", type=int, default=Shape.width, help="channels of the UNet's first block")
    parser.add_argument("--batch", type=int, default=Shape.batch, help="images per batch")
    parser.add_argument("--only", nargs="+", default=list(SEARCHES), choices=SEARCHES)
    parser.add_argument("--out", type=Path, default=OUT, help=f"the numbers, as JSON (default: {OUT})")
    args = parser.parse_args()
    torch.set_num_threads(threads())
    shape, load = Shape(width=args.width, batch=args.batch), os.getloadavg()[0]
    with tempfile.TemporaryDirectory(prefix="searches-") as folder:
        work = job(Path(folder), shape)
        found, rows = [prices(work, args.repeats)], []
        for name in args.only:
            counts, seconds = timed_search(work, name, args.repeats)
            found.append(prices(work, args.repeats))
            priced = Prices.mean(*found[-2:]).of(counts)
            rows.append(Row(name, len(work.suite.groups()[0]), counts, seconds, priced))
            print(
                f"{name}: {statistics.median(rows[-1].seconds):.2f} s, {rows[-1].ratio:.2f} of its counts", flush=True
            )
    about = machine() | {"threads": threads(), "load_before": load, "shape": shape.as_dict(), "steps": STEPS}
    args.out.parent.mkdir(parents=True, exist_ok=True)
    with whole_file(args.out) as partial:
        rowed = [row.as_dict() for row in rows]
        partial.write_text(json.dumps(about | {"prices": asdict(Prices.mean(*found)), "rows": rowed}, indent=1) + "\n")


def job(folder: Path, shape: Shape) -> Sampling:
    """The sampling of the base, with one reward to search by."""
    bench = Bench.of(folder, shape, STEPS, SWITCHES)
    work = bench.job(bench.tuned())
    return replace(work, tuned=None, rewards={REWARD: RecordedReward(bench.judge, "benchmark")})


def timed_search(work: Sampling, name: str, repeats: int) -> tuple[dict[str, int], list[float]]:
    """Counts of one search of the first group of images, and its seconds, timed after a first pass that is not."""
    seconds, counts = [], {}
    for _ in range(repeats + 1):
        began = time.process_time()
        counts = counted(work, name)
        seconds.append(time.process_time() - began)
    return counts, seconds[1:]


def counted(work: Sampling, name: str) -> dict[str, int]:
    """What a search of the first group of images counts for all of them."""
    entry = {"kind": name, "reward": REWARD, **SEARCHES[name]}
    settings = strategy(name, entry, work.plan.sample, name).settings
    ctx = work.context(work.suite.groups()[0])
    with torch.no_grad():
        settings.sample(ctx, settings.points()[0].value)
    costs = ctx.rows.meter.costs()
    return {field: sum(getattr(cost, field) for cost in costs) for field in Cost._fields}


def prices(work: Sampling, repeats: int) -> Prices:
    """The parts by themselves, in batches as large as one may be, half way along the trajectory."""
    size, group = work.plan.sample.batch_size, work.suite.groups()[0]
    ctx = work.context(group).place([n % len(group) for n in range(size)], [0] * size)
    x, i = ctx.noise.initial(), STEPS // 2
    predict = ctx.networks.own(1.0)
    with torch.no_grad():
        images = ctx.decode(x)
        parts: list[Callable[[], object]] = [
            lambda: predict(x, i), lambda: ctx.decode(x), lambda: ctx.score(images, REWARD),
            lambda: ctx.gradient(x, lambda part, latents: chain(part, latents, i)),
        ]  # fmt: skip
        return Prices(*(timed(part, 4 * repeats) / size for part in parts))


def chain(ctx: Context, x: Tensor, i: int) -> Tensor:
    """The reward [B] of the clean latents that are predicted from x [B, C, h, w] entering index i."""
    x0 = ctx.grid.x0(x, ctx.networks.own(1.0)(x, i), i)
    return ctx.score(ctx.decode(x0), REWARD)


def timed(part: Callable[[], object], repeats: int) -> float:
    """Median seconds of the processor that a part takes, after a first call that is not timed."""
    part()
    seconds = []
    for _ in range(repeats):
        began = time.process_time()
        part()
        seconds.append(time.process_time() - began)
    return statistics.median(seconds)


if __name__ == "__main__":
    main()
