"""How near searches come to the tilted law p exp(lambda r) / Z as they hold more candidates, where p is known.

On a mixture of Gaussians with the exact prediction. p is what plain sampling with the same steps draws, which is not
quite the mixture: its law under the tilt is that of many plain samples weighted by exp(lambda r).
"""

from __future__ import annotations

import argparse
import json
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field, replace
from functools import cache
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from stages.parity.sampling.mixture import Mixture, grid_of
from stages.sample.resolve import strategy
from stages.sample.settings import SampleSettings

STRENGTH = 2.0
BINS = 8
PLAIN = 50_000
"""Plain samples that stand for p."""
MIXTURE = Mixture(
    torch.tensor([0.5, 0.3, 0.2]).double(),
    torch.tensor([[-1.0, 0.2], [0.4, -0.8], [1.0, 0.9]]).double(),
    0.35,
    torch.tensor([0.8, 0.3]).double(),
)
OUT, FIGURE = Path("benchmarks/results/tilt.json"), Path("docs/img/tilt.png")


@dataclass(frozen=True)
class Entry:
    """A search: its kind, the key of its settings for the number of candidates, other keys, and sampling steps."""

    kind: str
    number: str
    keys: Mapping[str, Any] = field(default_factory=dict)
    steps: int = 24


FK = {"strength": STRENGTH, "every": 3, "result": "draw"}
TREE = {"strength": STRENGTH, "result": "draw"}
SEARCHES: dict[str, Entry] = {
    **{f"FK {name}": Entry("fk", "n", {"potential": name, **FK}) for name in ("diff", "max", "rt", "add")},
    "DAS": Entry("das", "n", {"strength": STRENGTH, "gamma": 0.1, "result": "draw"}),
    "DTS, 4 children": Entry("dts", "m", {"children": 4, **TREE}, steps=6),
    "DTS, widening": Entry("dts", "m", {"children": None, **TREE}, steps=6),
    "DTS, any number of children": Entry("dts", "m", {"children": 10_000, **TREE}, steps=6),
    "best of N": Entry("best_of_n", "n"),
}


@dataclass(frozen=True)
class Bulk:
    """Noise of many images from one generator: rows are independent draws, which is all that is needed here."""

    generator: torch.Generator
    count: int

    def initial(self) -> Tensor:
        return torch.randn(self.count, 2, 1, 1, generator=self.generator, dtype=torch.float64)

    def step(self, i: int) -> Tensor:
        return self.initial()

    def extra(self, name: str) -> Tensor:
        return self.initial()

    def uniform(self, name: str, count: int) -> Tensor:
        return torch.rand(self.count, count, generator=self.generator, dtype=torch.float64)

    def rows(self, rows: Sequence[int], candidates: Sequence[int]) -> Bulk:
        return replace(self, count=len(rows))


def rewards(entry: Entry, candidates: int, count: int, seed: int = 0) -> np.ndarray:
    """Rewards [count] of independent searches with so many candidates."""
    alphas = torch.sigmoid(torch.linspace(-7, 7, entry.steps, dtype=torch.float64))
    keys = {"kind": entry.kind, "reward": "reward", entry.number: [candidates], **entry.keys}
    search = strategy(entry.kind, keys, SampleSettings(steps=entry.steps), "tilt").settings
    with torch.no_grad():
        ctx = MIXTURE.context(grid_of(alphas), Bulk(torch.Generator().manual_seed(seed), count), count)
        return MIXTURE.reward(search.sample(ctx, candidates).flatten(1)).numpy()


@cache
def plain(steps: int) -> np.ndarray:
    """Rewards of plain samples."""
    return rewards(replace(SEARCHES["best of N"], steps=steps), 1, PLAIN, seed=1)


def tilted(steps: int) -> tuple[np.ndarray, np.ndarray]:
    """Plain rewards in ascending order, and the cumulative share of each under the tilt."""
    ordered = np.sort(plain(steps))
    weights = np.exp(STRENGTH * (ordered - ordered[-1]))
    return ordered, np.cumsum(weights) / weights.sum()


def distance(found: np.ndarray, steps: int) -> float:
    """Total variation of rewards from the tilted law, over bins equally probable under it: 0 to 1 - 1 / bins."""
    ordered, cumulative = tilted(steps)
    edges = ordered[np.searchsorted(cumulative, np.arange(1, BINS) / BINS)]
    shares = np.bincount(np.searchsorted(edges, found), minlength=BINS) / len(found)
    return float(np.abs(shares - 1 / BINS).sum() / 2)


def chance(count: int, quantile: float = 0.999) -> float:
    """The quantile of the distance that `count` draws of the tilted law itself have."""
    shares = np.random.default_rng(0).multinomial(count, [1 / BINS] * BINS, 4000) / count
    return float(np.quantile(np.abs(shares - 1 / BINS).sum(1) / 2, quantile))


@dataclass(frozen=True)
class Row:
    """One search with so many candidates: its distance with a 95 % bootstrap interval, and its mean reward."""

    search: str
    candidates: int
    count: int
    distance: float
    low: float
    high: float
    mean: float


def measure(name: str, candidates: int, count: int) -> Row:
    """The distance of `count` independent searches."""
    entry = SEARCHES[name]
    found = rewards(entry, candidates, count)
    drawn = np.random.default_rng(0).choice(found, (400, count))
    low, high = np.quantile([distance(row, entry.steps) for row in drawn], (0.025, 0.975))
    return Row(name, candidates, count, distance(found, entry.steps), float(low), float(high), float(found.mean()))


def draw(rows: Sequence[Row], count: int, path: Path) -> None:
    """Distance over candidates, a line per search, with the range that chance alone would give."""
    import matplotlib as mpl

    mpl.use("Agg")
    from matplotlib import pyplot as plt

    figure, axes = plt.subplots(1, 2, figsize=(9, 3.6), sharey=True, layout="constrained")
    for axis, trees in zip(axes, (False, True), strict=True):
        names = [name for name in SEARCHES if name.startswith("DTS") == trees]
        axis.axhspan(0, chance(count, 0.95), color="0.9", lw=0)
        for name in names:
            mine = [row for row in rows if row.search == name]
            at, away = [row.candidates for row in mine], [row.distance for row in mine]
            bars = [[row.distance - row.low for row in mine], [row.high - row.distance for row in mine]]
            axis.errorbar(at, away, np.maximum(bars, 0), label=name, marker="o", ms=4, capsize=2)
        axis.set_xscale("log", base=2)
        axis.set_xlabel("rollouts M" if trees else "particles or candidates N")
        axis.legend(fontsize=8, frameon=False)
    axes[0].set_ylabel("total variation from $p\\,e^{\\lambda r}/Z$")
    path.parent.mkdir(parents=True, exist_ok=True)
    figure.savefig(path, dpi=110)
    plt.close(figure)


def main() -> None:
    """Command line."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks.tilt", description=__doc__)
    parser.add_argument("--count", type=int, default=400, help="independent searches each (default: %(default)s)")
    parser.add_argument("--most", type=int, default=256, help="most candidates (default: %(default)s)")
    parser.add_argument("--trees", type=int, default=64, help="most rollouts of a tree (default: %(default)s)")
    parser.add_argument("--out", type=Path, default=OUT, help=f"the numbers, as JSON (default: {OUT})")
    parser.add_argument("--figure", type=Path, default=FIGURE, help=f"the figure (default: {FIGURE})")
    args = parser.parse_args()
    rows = []
    for name in SEARCHES:
        most = args.trees if name.startswith("DTS") else args.most
        for n in (n for n in (1, 2, 4, 8, 16, 32, 64, 128, 256, 512) if n <= most):
            rows.append(measure(name, n, args.count))
            row = rows[-1]
            print(f"{name}, {n}: {row.distance:.3f} [{row.low:.3f}, {row.high:.3f}], reward {row.mean:.3f}", flush=True)
    args.out.parent.mkdir(parents=True, exist_ok=True)
    args.out.write_text(json.dumps([asdict(row) for row in rows], indent=1) + "\n", encoding="utf-8")
    draw(rows, args.count, args.figure)


if __name__ == "__main__":
    main()
