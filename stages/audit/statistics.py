"""From mean scores of prompts to the findings of a study, written a second time after the page's "How it is computed".

Only the random draws are the report's, so that intervals are equal and not merely alike.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping, Sequence
from functools import cache
from itertools import pairwise
from statistics import NormalDist
from typing import Any, TypeAlias

import numpy as np

from stages import about, plugins
from stages.audit.reading import Frame
from stages.runtime import seed_from

Point = tuple[str, str, str]  # method (or base), strategy, setting
Finding: TypeAlias = dict[
    str, Any
]  # mean, low, high, seeds, and where they apply: area, area_low, area_high, state, note


class Study:
    """A study file, its scores [seeds, prompts] by (method, strategy, setting, metric), and its bootstrap."""

    def __init__(self, raw: Mapping[str, Any], rows: Frame) -> None:
        self.report, self.study, self.given = raw["report"], raw["study"], raw["sample"].get("strategies", {})
        self.methods, self.size = {run["method"] for run in raw["runs"].values()}, self.report.get("bootstrap", 1000)
        self.axes = dict.fromkeys(self.report["rewards"], 1) | dict.fromkeys(self.report["diversities"], -1)
        names = ["method", "strategy", "setting", "metric"]
        wide = rows.pivot(index=[*names, "train_seed"], columns="prompt_id", values="score").sort_index()
        keys = dict.fromkeys(zip(*(rows[name] for name in names), strict=True))
        parts = {key: part.to_numpy() for key, part in wide.groupby(level=names)}
        self.scores = {key: parts[key] for key in keys}
        self.seeds = {method: sorted(part.unique()) for method, part in rows.groupby("method")["train_seed"]}
        self.points: list[Point] = list(dict.fromkeys(key[:3] for key in self.scores))
        places = ("stages.sample.strategies", "imagerefl.strategies")
        found = {n: (plugins.load(*places, given["kind"], "sample"), given["kind"]) for n, given in self.given.items()}
        self.about = {name: about.of(*module, about.StrategyAbout) for name, module in found.items()}
        self.leading = next((name for name, said in self.about.items() if said.leading), "")
        self.draws, self.mean = cache(self._draws), cache(self._mean)  # of every pair of a reward and a diversity
        self.limit = self.base(self.leading)

    def _draws(self, name: str, count: int) -> np.ndarray:
        """[resamples, count]: how often each of `count` is drawn in every resample, as the report draws."""
        random = np.random.default_rng(seed_from(name, self.study.get("seed", 0), count))
        return random.multinomial(count, np.full(count, 1 / count), size=self.size)

    def drawn(self, *sides: np.ndarray, seeds: int = 0) -> np.ndarray:
        """[1 + resamples + seeds]: the mean over seeds, then prompts, or that of the difference of two sides.

        First as they are, then resampled, then of single seeds; a side with another number of seeds enters with their
        mean.
        """
        anew, means = self.report.get("resample") == "prompts_and_seeds", []
        for scores in sides:
            n = len(scores)
            chosen = self.draws("training seeds", n) if anew and n > 1 else np.ones((self.size, n))
            alone = np.eye(n) if n == seeds else np.ones((seeds, n))
            means.append(average(np.vstack([np.ones(n), chosen, alone])[:, None], scores.T))
        prompts = means[0].shape[1]
        weights = np.vstack([np.ones(prompts), self.draws("bootstrap", prompts), np.ones((seeds, prompts))])
        return average(weights, means[0] - means[1] if len(means) > 1 else means[0])

    def interval(self, drawn: np.ndarray) -> Finding:
        """The plain value, percentiles of the resamples that are defined, and the values of single seeds."""
        resampled, tail = drawn[1 : self.size + 1], (1 - self.report.get("interval", 0.95)) / 2
        defined = resampled[np.isfinite(resampled)]
        low, high = np.quantile(defined, [tail, 1 - tail]) if len(defined) else (math.nan, math.nan)
        alone = drawn[self.size + 1 :]
        own = len(alone) ** 2 if self.report.get("resample") == "prompts_and_seeds" else len(alone)
        spread = defined.var(ddof=1) if len(defined) > 1 else math.nan
        spread += alone.var(ddof=1) / own if len(alone) > 1 else 0.0
        normal = NormalDist()
        level = (1 + self.report.get("interval", 0.95)) / 2
        least = (normal.inv_cdf(level) + normal.inv_cdf(0.8)) * math.sqrt(spread)
        return {"mean": drawn[0], "low": low, "high": high, "seeds": alone, "least": least}

    def _change(self, metric: str, mine: Point, other: Point, sign: int, seeds: Any = None) -> Finding:
        sides = [self._at(point, metric, seeds) for point in (mine, other)]
        found = self.interval(self.drawn(*sides, seeds=max(map(len, sides))))
        return found | {"state": _state(found, sign), "note": []}

    def difference(self, mine: Point, other: Point, metric: str) -> Finding:
        """The paired difference of two points: of two methods on the training seeds that both have."""
        seeds = None if "base" in (mine[0], other[0]) else self._shared(mine[0], other[0])
        return self.interval(self.drawn(*(self._at(point, metric, seeds) for point in (mine, other))))

    def tuned_difference(self, method: str, other: str, metric: str) -> Finding:
        """The paired difference of two methods, tuned only, on the training seeds that both have."""
        points = [self.tuned(name) for name in (method, other)]
        if points[0] is None or points[1] is None:
            return {"mean": math.nan, "low": math.nan, "high": math.nan, "seeds": []}
        return self._change(metric, points[0], points[1], 1, self._shared(method, other))

    def _trade(self, metric: str, path: Sequence[Point], sign: int) -> Finding:
        whole = self._change(metric, path[-1], path[0], sign)
        steps = [self._change(metric, after, before, sign) for before, after in pairwise(path)]
        clear, wrong = (sum(side(step) == way for step in steps) for way in (sign, -sign))
        lost = sum(max(0.0, -sign * step["mean"]) for step in steps) / (abs(whole["mean"]) or math.nan)
        note = [sum(step["mean"] * sign > 0 for step in steps), len(steps), clear, *([wrong] if wrong else [])]
        whole["note"] = note + ([round(100 * lost)] if lost and whole["state"] != "not shown" else [])
        bad = whole["state"] == "shown" and (wrong or not lost <= 0.1)
        return whole | ({"state": "not shown"} if bad else {})

    def _gap(self, pair: tuple[str, str], mine: Sequence[Point], other: Sequence[Point], seeds: Any = None) -> Finding:
        most = max(len(self._at(point, pair[1], seeds)) for point in mine)
        drawn = [self._stacked(axis, curve, seeds, most) for curve in (mine, other) for axis in pair[::-1]]
        mean, area, above, low, high = _between(*drawn)
        undefined = np.isnan(mean[: self.size + 1]).mean()
        if undefined > 0.05 or np.isnan(mean[0]):
            note = [] if undefined == 1 else [round(100 * undefined)]
            return {"mean": mean[0], "low": math.nan, "high": math.nan, "seeds": [], "state": "not shown", "note": note}
        made = self.interval(mean)
        state = "not shown" if above[0] < 0.9 and _state(made, 1) == "shown" else _state(made, 1)
        wide = {f"area_{end}": value for end, value in self.interval(area).items()}
        return made | wide | {"state": state, "note": [round(100 * above[0]), low[0], high[0]]}

    def _best(self, pair: tuple[str, str], mine: Sequence[Point], other: Sequence[Point]) -> Finding:
        """The best reward at no less diversity, of one curve less that of another, and its two-sided p-value."""
        assert self.limit is not None
        paths = ([*mine, self.limit], [*other, self.limit], [self.limit])
        most = max(len(self._at(point, pair[0], None)) for point in mine)
        sides = [[self._stacked(axis, path, None, most) for axis in pair[::-1]] for path in paths]
        (d0, r0), (d1, r1), (limit, _) = sides
        low, high = d1.min(1, keepdims=True), limit
        ends = np.sort(np.clip(np.concatenate([d0, d1, low, high], 1), np.minimum(low, high), high), 1)
        places = np.concatenate([(ends[:, 1:] + ends[:, :-1]) / 2, high], 1)  # B is constant between the ends
        b0, b1 = (
            np.where(d[:, None] >= places[..., None], r[:, None], -math.inf).max(2) for d, r in ((d0, r0), (d1, r1))
        )
        width = (high - low)[:, 0]
        inner = ((b0 - b1)[:, :-1] * np.diff(ends)).sum(1)
        drawn = np.where(width > 0, inner / np.where(width > 0, width, 1), (b0 - b1)[:, -1])
        drawn = np.where(np.abs(drawn) <= 1e-12 * np.abs(r0).max(1), 0.0, drawn)  # but for rounding
        made, anew = self.interval(drawn), drawn[1 : self.size + 1]
        p = min(1.0, 2 * (1 + min((anew <= 0).sum(), (anew >= 0).sum())) / (1 + len(anew)))
        return made | {"state": _state(made, 1), "note": [p]}

    def _stacked(self, axis: str, path: Sequence[Point], seeds: Sequence[int] | None, most: int) -> np.ndarray:
        """[rows of `drawn`, points]: the means of every point."""
        return np.stack([self.mean(axis, point, tuple(seeds or ()), most) for point in path], 1)

    def _mean(self, axis: str, point: Point, seeds: tuple[int, ...], most: int) -> np.ndarray:
        return self.drawn(self._at(point, axis, seeds), seeds=most)

    def _together(self, found: dict[tuple[str, str], Finding]) -> None:
        """Holm's correction over all pairs but the one that was named beforehand."""
        main = self.report.get("main") or {}
        rest = [p for p in found if p != (main.get("reward"), main.get("diversity"))]
        worst, level = 0.0, self.report.get("interval", 0.95)
        for rank, pair in enumerate(sorted(rest, key=lambda p: found[p]["note"][0])):
            worst = max(worst, min(1.0, found[pair]["note"][0] * (len(rest) - rank)))
            found[pair]["note"].append(worst)
            found[pair]["state"] = found[pair]["state"] if worst <= 1 - level else "not shown"

    def _at(self, point: Point, metric: str, seeds: Sequence[int] | None) -> np.ndarray:
        chosen = seeds if seeds and point[0] != "base" else self.seeds[point[0]]
        return self.scores[*point, metric][[self.seeds[point[0]].index(seed) for seed in chosen]]

    def base(self, strategy: str, key: str = "base_guidance") -> Point | None:
        """The base at the guidance that a strategy gives its base part, or by `guidance` what it samples."""
        guidance = self.given.get(strategy, {}).get(key, 1.0)
        alone = (p for p in self.points if p[0] == "base" and self.role(p[1]) == "base")
        return next((point for point in alone if setting(point) == guidance), None)

    def role(self, strategy: str) -> str:
        """`curve`, `tuned` or `base` (see `StrategyAbout`)."""
        return self.about[strategy].role if strategy in self.about else "base"  # sample.guidance is named nowhere

    def tuned(self, method: str) -> Point | None:
        """The tuned network alone, at the least guidance."""
        alone = (name for name in self.about if self.role(name) == "tuned")
        return next((path[0] for name in alone if (path := self.curve(method, name))), None)

    def curve(self, method: str, name: str) -> list[Point]:
        """A method's points under a strategy with the ends that it reaches, in the order of the free setting."""
        mine = [point for point in self.points if point[:2] == (method, name)]
        placed = [(setting(point, float(place)), point) for place, point in enumerate(mine)]
        if placed and self.role(name) == "curve":
            said, of_base = self.about[name], method == "base"
            plain = self.base(name, "guidance") if of_base else self.tuned(method)
            ends = (said.plain, plain), (None if of_base else said.base, self.base(name))
            ends = () if self.given[name].get("prediction") else ends  # no network alone is at the end of a search then
            placed += [(end.at, point) for end, point in ends if end and point]
        return [point for _, point in sorted(placed)]

    def findings(self) -> Iterator[tuple[tuple[str, ...], Finding]]:
        """Every finding by (about, method, strategy, metric) or (about, method, strategy, reward, diversity)."""
        reference, candidate, long = (
            self.study["reference"], self.report.get("candidate", "imagerefl"), self.report.get("long"),
        )  # fmt: skip
        tuned, later = self.tuned(reference), self.tuned(long) if long else None
        if tuned and self.limit:
            for metric, sign in self.axes.items():
                yield ("raises", *tuned[:2], metric), self._change(metric, tuned, self.limit, sign)
        if tuned and later and long:
            truth = self.report.get("truth") or self.study.get("heldout")
            for metric, sign in ((self.study["reward"], 1), (truth, -1)):
                change = self._change(metric, later, tuned, sign, self._shared(long, reference))
                yield ("parts_company", *later[:2], metric), change
        curves = {point[:2]: self.curve(*point[:2]) for point in self.points}
        ahead, mine = (curves.get((method, self.leading), []) for method in (reference, candidate))
        pairs = [(r, d) for r in self.report["rewards"] for d in self.report["diversities"]]
        if ahead and mine and reference != candidate:
            best = {pair: self._best(pair, mine, ahead) for pair in pairs}
            self._together(best)
            for pair, found in best.items():
                yield ("best", candidate, self.leading, *pair), found
        for key, path in curves.items():
            leads = key[1] == self.leading and key[0] != "base"
            for metric, sign in self.axes.items() if leads and len(path) > 2 else ():
                yield ("trade", *key, metric), self._trade(metric, path, -sign)
            drawn = self.role(key[1]) == "curve" or (key[0], self.role(key[1])) == ("base", "base")
            for pair in pairs if ahead and drawn and len(path) > 1 and key != (reference, self.leading) else ():
                yield ("gap", *key, *pair), (found := self._gap(pair, path, ahead))
                if leads and key[0] == candidate:
                    yield ("above", *key, *pair), found
            for pair in pairs if ahead and leads and key[0] != reference else ():
                yield ("best_gap", *key, *pair), self._best(pair, path, ahead)
            for pair in pairs if mine and leads and key[0] in self.report.get("ablations", ()) else ():
                yield ("ablation", *key, *pair), self._gap(pair, path, mine, self._shared(key[0], candidate))

    def _shared(self, one: str, other: str) -> list[int]:
        return sorted({*self.seeds[one]} & {*self.seeds[other]})


def average(weights: np.ndarray, values: np.ndarray) -> np.ndarray:
    """Weighted means over the last axis of what is there; NaN where nothing is."""
    there = np.isfinite(values)
    if there.all():
        return np.einsum("...i,...i->...", weights, values) / weights.sum(-1)
    with np.errstate(invalid="ignore"):
        return (weights * np.where(there, values, 0)).sum(-1) / (weights * there).sum(-1)


def _between(*sides: np.ndarray) -> np.ndarray:
    """[5, rows]: mean gap of two frontiers, its integral, the share where the first is higher, and the common
    diversities, of diversity and reward [rows, points] of each; NaN where they have none in common.
    """
    curves = []
    for d, r in (sides[:2], sides[2:]):
        order = np.lexsort((-r, -d.round(12)))  # entropies tie, but for rounding
        d, r = np.take_along_axis(d, order, 1), np.take_along_axis(r, order, 1)
        beaten = np.pad(r[:, 1:] <= np.maximum.accumulate(r, 1)[:, :-1], ((0, 0), (1, 0)))
        curves.append((np.where(beaten, math.nan, d), r))
    low, high = (np.max([np.nanmin(d, 1) for d, _ in curves], 0), np.min([np.nanmax(d, 1) for d, _ in curves], 0))
    knots = np.concatenate([np.where(np.isnan(d), low[:, None], d) for d, _ in curves], 1)
    x = np.sort(np.clip(knots, low[:, None], np.maximum(low, high)[:, None]), 1)
    (d0, r0), (d1, r1) = curves
    y, width = _height(d0, r0, x) - _height(d1, r1, x), np.diff(x)
    up, size = np.maximum(y, 0), np.abs(y)
    share = (up[:, 1:] + up[:, :-1]) / np.maximum(size[:, 1:] + size[:, :-1], 1e-300)
    area, above = ((y[:, 1:] + y[:, :-1]) / 2 * width).sum(1), (share * width).sum(1)
    with np.errstate(invalid="ignore", divide="ignore"):
        found = np.array([area / (high - low), area, above / (high - low), low, high])
    return np.where(high > low, found, math.nan)


def _height(d: np.ndarray, r: np.ndarray, x: np.ndarray) -> np.ndarray:
    """The straight lines through points (d, r) [rows, points] at x [rows, n]; points with NaN are none."""
    left = np.where(d[:, None] <= x[..., None], d[:, None], -math.inf).argmax(2)
    right = np.where(d[:, None] >= x[..., None], d[:, None], math.inf).argmin(2)
    (a, b), (ra, rb) = ([np.take_along_axis(v, place, 1) for place in (left, right)] for v in (d, r))
    return ra + (rb - ra) * np.where(b > a, (x - a) / np.where(b > a, b - a, 1), 0)


def _state(found: Finding, sign: int) -> str:
    """A claim is shown where its interval and every seed alone lie on the claimed side of 0."""
    ways = {side(found), *(side({"low": value, "high": value}) for value in found["seeds"])}
    return {sign: "shown", -sign: "opposite"}.get(ways.pop() if len(ways) == 1 else 0, "not shown")


def side(found: Finding) -> int:
    """1 or -1 where the whole interval lies above or below 0."""
    return int(found["low"] > 0) - int(found["high"] < 0)


def setting(point: Point, place: float = 0.0) -> float:
    """The free setting of a point: 10 of `k=10`, 0 where it has none, its `place` where it is a name."""
    value = point[2].rpartition("=")[2] if "=" in point[2] else "0"
    try:
        return float(value)
    except ValueError:
        return place
