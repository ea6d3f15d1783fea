"""Recompute the numbers of a finished study, or those that the documents quote of kept results; say which differ."""

from __future__ import annotations

import argparse
import math
import re
from collections import Counter
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd

from stages.audit import page
from stages.audit.agreement import OVER, agreement
from stages.audit.documents import documents
from stages.audit.reading import Frame, complete, query, read, read_csv, read_json, require_sections
from stages.audit.statistics import Finding, Study, setting, side
from stages.audit.written import NUMBER, close
from stages.checkpoints.settings import names_checkpoint, with_methods
from stages.errors import InputError
from stages.params import read_study
from stages.runtime import run_and_leave, seed_from

POINT, RUN, ENDS = ["method", "strategy", "setting"], ["run", "method", "train_seed"], ["mean", "low", "high"]
IMAGE = ["run", "strategy", "setting", "prompt_id", "sample", "metric"]
LOGGED = """select r.name as run, m.key as name, m.value from latest_metrics m join runs r using (run_uuid)
    join experiments e using (experiment_id) where e.name = ? and r.lifecycle_stage = 'active'
    and m.key like '%/%' and substr(m.key, 1, 4) not in ('job/', 'trai', 'prob')"""


class Audit:
    """What was compared, and what differs."""

    count = wrong = 0

    def table(self, name: str, keys: list[str], written: Frame, own: dict[Any, Any], *near: float) -> None:
        """Every number of a table; `own` has a row's numbers by column, by the values of `keys`; `near` is relative
        and absolute.
        """
        frame: Frame = pd.DataFrame.from_dict(own, orient="index", dtype=float)
        frame.index = pd.MultiIndex.from_tuples(list(own), names=keys)
        there = written.set_index(keys).reindex(columns=frame.columns).astype(float)
        both = pd.concat([there.stack(), frame.stack()], axis=1, keys=["written", "own"])
        bad = ~np.isclose(both["written"], both["own"], *(near or (1e-5, 1e-9)), equal_nan=True)
        self.count += len(both)
        for key, row in both[bad].iterrows():
            where = " ".join(map(str, key if isinstance(key, tuple) else (key,)))
            self.differ(f"{name}: {where}: {row['written']:.6g}, recomputed {row['own']:.6g}")

    def text(self, name: str, written: str, own: list[float]) -> None:
        """The numbers of a text, each to its decimal places; a dash is none."""
        found = re.findall(rf"{NUMBER}|–", written)
        self.count += len(own)
        if len(found) != len(own) or not all(map(close, found, own)):
            self.differ(f"{name}: {' '.join(written.split())}, recomputed {', '.join(f'{value:.5g}' for value in own)}")

    def differ(self, line: str) -> None:
        """Say what differs."""
        self.wrong += 1
        print(line, flush=True)


def study(audit: Audit, raw: dict[str, Any], out: Path, images: bool, store: Path) -> None:
    """Everything of a study whose results stand in `out`."""
    elsewhere = [run for run, about in raw["runs"].items() if names_checkpoint(about)]
    raw = raw | {"runs": with_methods(raw["runs"])}
    runs, report, keys = ["base", *raw["runs"]], out / "report", [*RUN, *POINT[1:]]
    rows = read(*(out / f"measures/{run}.parquet" for run in runs))
    summaries = read(*(out / f"measures/{run}.summary.parquet" for run in runs))
    costs = read(*(out / f"samples/{run}.parquet" for run in runs), columns=[*keys, "nfe", "seconds", "queries"])
    if images:
        from stages.audit.scores import image_scores

        scored = {key: {"score": value} for key, value in image_scores(raw, out, runs)}
        kept = rows[rows["prompt_id"].notna() & rows["metric"].isin({key[-1] for key in scored})]
        audit.table("scores of images", IMAGE, kept.fillna({"sample": -1}), scored, 1e-4, 2e-5)
    prompts = rows.groupby([*keys, "prompt_id", "metric"], sort=False)["score"].mean().reset_index()
    own, draws = Study(raw, prompts), {"bootstrap": 1000, "interval": 0.95} | raw["measure"] | {"resample": "prompts"}
    plain, found = Study(raw | {"report": raw["report"] | draws}, prompts), {}
    sets = rows[rows["prompt_id"].isna()].set_index([*keys, "metric"])["score"]
    for key in summaries[[*keys, "metric"]].itertuples(index=False, name=None):
        scores = plain.scores.get((key[1], *key[3:]))
        row = None if scores is None else scores[[plain.seeds[key[1]].index(key[2])]]
        row = None if row is None else row[:, np.isfinite(row[0])]  # prompts that have the metric
        ends = {"mean": sets.get(key)} if row is None else plain.interval(plain.drawn(row))
        found[key] = {end: ends[end] for end in ENDS if end in ends}
    widths = summaries.set_index([*keys, "metric"])[ENDS].to_dict("index")  # of set metrics, by the jackknife
    audit.table("summary", [*keys, "metric"], summaries, {key: widths[key] | ends for key, ends in found.items()})
    estimates = summaries.groupby([*POINT, "metric"])[ENDS].mean().to_dict("index")
    estimates |= {key: own.interval(own.drawn(scores)) for key, scores in own.scores.items()}
    spent = costs.groupby(keys)[["nfe", "seconds"]].mean().groupby(POINT).mean().to_dict("index")
    rowed = {key: _ends(value) | spent[key[:3]] for key, value in estimates.items()}
    audit.table("summary.csv", [*POINT, "metric"], read_csv(report / "summary.csv"), rowed)
    differences: dict[tuple[str, ...], Finding] = {}
    for *point, metric in own.scores:
        for other in filter(None, (own.limit, (raw["study"]["reference"], *point[1:]))):
            if (*other, metric) in own.scores and tuple(point) != other and (other == own.limit or point[0] != "base"):
                differences[*point, metric, other[0]] = own.difference((*point,), other, metric)
    rowed = {key: _ends(value) | {"clear": side(value)} for key, value in differences.items()}
    audit.table("differences.csv", [*POINT, "metric", "against"], read_csv(report / "differences.csv"), rowed)
    ranked = {key: value for over in OVER for key, value in agreement(own, raw, rows, over)}
    said = {(key[0].removeprefix("rank_"), *key[1:]): _ends(value) for key, value in ranked.items()}
    named = ["over", *POINT, "judge", "against"]
    if said:  # a study with two judges or more
        audit.table("judges.csv", named, read_csv(report / "judges.csv"), said)
    findings, places, probes = dict(own.findings()), {}, {}
    for key in dict.fromkeys(point[:2] for point in own.points):
        if own.role(key[1]) in ("curve", "base" if key[0] == "base" else "curve"):
            for place, point in enumerate(own.curve(*key)):
                axes = {*own.axes, raw["study"]["reward"], raw["study"].get("heldout")} & {k[3] for k in own.scores}
                places[*key, place] = {axis: own.drawn(own.scores[*point, axis])[0] for axis in axes}
    audit.table("frontier.csv", ["method", "strategy", "place"], read_csv(report / "plots/frontier.csv"), places)
    for run in (run for run in raw["runs"] if run not in elsewhere):
        for row in read(out / f"runs/{run}/train_log.parquet").to_dict("records"):
            if row["term"].startswith("probe_"):
                probes.setdefault((run, row["step"]), {})[row["term"]] = row["value"]
    if len(elsewhere) < len(raw["runs"]):
        audit.table("training.csv", ["run", "step"], read_csv(report / "plots/training.csv"), probes)
    numbers = {(key,): {"value": value} for key, value in _headline(own, findings, raw)}
    kept = list(_flat(read_json(report / "metrics.json")))
    audit.table("metrics.json", ["name"], pd.DataFrame(kept, columns=["name", "value"]), numbers)
    numbered = [*findings.items(), *differences.items(), *estimates.items(), *ranked.items()]
    cells = {"/".join(key): value for key, value in numbered}
    accuracies, trained = dict(_accuracy(raw, out)), [run for run in raw["runs"] if run not in elsewhere]
    page.cells(audit, report / "index.html", cells, page.sources(out, trained, costs, accuracies))
    if accuracies:
        kept = pd.DataFrame([read_json(out / f"scores/{name}.json") for (name,) in accuracies])
        audit.table("pair accuracy", ["reward"], kept, accuracies)
    if store.is_file():
        logged = {
            ("report", *k): v
            for k, v in numbers.items()
            if k[0].split("/")[0] not in ("base", "runs") and v["value"] == v["value"]
        }
        settings = Counter((run, strategy) for run, _, _, strategy, _ in dict.fromkeys(key[:5] for key in found))
        for (run, _, _, strategy, value, metric), ends in found.items():
            names = [f"{strategy} {value}".replace("=", "") if settings[run, strategy] > 1 else strategy]
            names += ["tuned"] if strategy == "guidance" and setting(("", "", value)) == 1 else []
            for name in names:
                made = "" if run == "base" else "import_policy " if run in elsewhere else "finetune "
                logged[f"{made}{run}", f"{name}/{metric}"] = {"value": ends["mean"]}
        _stored(audit, store, raw["study"]["name"], logged)


def _stored(audit: Audit, store: Path, study: str, own: dict[Any, Any]) -> None:
    """The numbers in MLflow's database, where those that an earlier version of the study logged stay for ever."""
    stored = query(store, LOGGED, study)
    kept = pd.DataFrame(stored, columns=["run", "name", "value"])
    points = {(run, name.split("/")[0]) for run, name in own}
    former = np.array([(run, name.split("/")[0]) not in points for run, name, _ in stored], bool)
    if former.any():
        print(f"MLflow: {former.sum()} numbers of runs and settings that the study does not have any more")
    audit.table("MLflow", ["run", "name"], kept[~former], own)


def _ends(found: Finding) -> Finding:
    return {end: found[end] for end in ENDS}


def _flat(content: dict[str, Any], prefix: str = "") -> Iterator[tuple[str, Any]]:
    for key, value in content.items():
        yield from _flat(value, f"{prefix}{key}/") if isinstance(value, dict) else [(f"{prefix}{key}", value)]


def _headline(own: Study, findings: dict[tuple[str, ...], Finding], raw: dict[str, Any]) -> Iterator[tuple[str, Any]]:
    """The content of metrics.json by path."""
    for claim in ("raises", "trade", "best", "above", "parts_company"):
        mine = {
            k: f
            for k, f in findings.items()
            if k[0] == claim and (claim != "trade" or k[1] == raw["study"]["reference"])
        }
        if mine:
            yield f"claims/{claim}/shown", sum(found["state"] == "shown" for found in mine.values())
            yield f"claims/{claim}/of", len(mine)
        for key, found in mine.items() if claim == "best" else ():
            yield f"best/{key[3]}/{key[4]}", found["mean"]
        for key, found in mine.items() if claim == "above" else ():
            yield f"gap/{key[3]}/{key[4]}", found["mean"]
            yield f"area/{key[3]}/{key[4]}", found.get("area_mean")
    whose: dict[str, tuple[Any, int]] = {"base": (own.limit, 0)}
    for run, about in raw["runs"].items():
        middle = [p for p in own.curve(about["method"], own.leading) if p[:2] == (about["method"], own.leading)]
        for name, point in (
            ("tuned", own.tuned(about["method"])),
            ("", middle[(len(middle) - 1) // 2] if middle else None),
        ):
            if point:
                label = name or re.sub(r"[\W_]", "_", f"{point[1]}_{point[2]}")
                whose[f"runs/{run}/{label}"] = (point, own.seeds[about["method"]].index(about.get("seed", 0)))
    for name, (point, row) in whose.items():
        for axis in own.axes if point else ():
            yield f"{name}/{axis}", float(np.nanmean(own.scores[*point, axis][row]))


def _accuracy(raw: dict[str, Any], out: Path) -> Iterator[tuple[tuple[str], dict[str, float]]]:
    """How often every scored reward prefers what people preferred, with a bootstrap over prompts."""
    pairs = read(out / "data/pairs.parquet").set_index("pair_id")
    for name in raw["score"].get("rewards", ()):
        scores = read(out / f"scores/{name}.parquet").query("kind == 'pair'")
        gap = scores.pivot(index="item_id", columns="side", values="score").eval("a - b").reindex(pairs.index)
        weight = (2 * pairs["preference"] - 1).abs() * (pairs["image_a"] != pairs["image_b"])
        agrees = np.where(gap == 0, 0.5, np.sign(gap) == np.sign(2 * pairs["preference"] - 1)) * weight
        rows = pairs.assign(agrees=agrees, weight=weight)
        found: dict[str, float] = {}
        for split, prefix in (("val", ""), ("train", "train_")):
            mine = rows[(rows["split"] == split) & (rows["weight"] > 0)]
            sums = mine.groupby("prompt")[["agrees", "weight"]].sum().to_numpy()
            random = np.random.default_rng(seed_from("bootstrap", 0, len(sums)))
            drawn = (
                random.multinomial(len(sums), np.full(len(sums), 1 / len(sums)), 1000) @ sums if len(sums) > 1 else sums
            )
            shares = drawn[drawn[:, 1] > 0, 0] / drawn[drawn[:, 1] > 0, 1]
            low, high = np.quantile(shares, [0.025, 0.975]) if len(sums) > 1 else (math.nan, math.nan)
            share = sums[:, 0].sum() / sums[:, 1].sum() if len(sums) else math.nan
            found |= {
                f"{prefix}accuracy": share,
                f"{prefix}low": low,
                f"{prefix}high": high,
                f"{prefix}pairs": len(mine),
            }
        yield (name,), found


def main() -> None:
    """Command line."""
    parser = argparse.ArgumentParser(prog="python -m stages.audit", description=__doc__)
    parser.add_argument("--params", type=Path, help="study file; its results stand in out/<name>")
    parser.add_argument("--study", type=Path, help="folder of the study's results, where that is another")
    parser.add_argument("--without-images", action="store_true", help="take the scores of images as they are")
    parser.add_argument("--store", type=Path, default=Path("mlflow.db"), help="MLflow's database; none, no comparison")
    where = "folders of kept results, or a folder of such folders: docs/results"
    parser.add_argument("--results", type=Path, nargs="+", default=[], help=where)
    parser.add_argument("--quotes", type=Path, help="table of the numbers that documents quote of such folders")
    args = parser.parse_args()
    audit = Audit()
    if args.params:
        raw = read_study(args.params)
        about = raw.get("study")
        if not isinstance(about, dict) or not isinstance(about.get("name"), str):
            raise InputError(f"{args.params}: study.name: there is none, expected the name of a finished study")
        require_sections(raw, args.params)
        out = args.study or Path("out") / about["name"]
        with complete(out):
            study(audit, raw, out, not args.without_images, args.store)
    elif not args.results:
        raise InputError("nothing to audit; expected --params STUDY.yaml or --results docs/results/NAME")
    for folder in [kept for given in args.results for kept in _kept(given)]:
        documents(audit, folder, args.quotes)
    print(f"{audit.count} numbers compared, {audit.wrong} differ")
    raise SystemExit(1 if audit.wrong else 0)


def _kept(folder: Path) -> list[Path]:
    """The folders of kept results that `folder` holds; itself, where it holds none."""
    return sorted(scores.parent for scores in folder.glob("*/scores.parquet")) or [folder]


if __name__ == "__main__":
    run_and_leave(main)
