"""From kept results to the numbers of the README beside them, and to those that documents quote."""

from __future__ import annotations

import csv
import math
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any
from urllib.parse import unquote

import numpy as np

from stages.audit.agreement import agreement
from stages.audit.reading import read
from stages.audit.statistics import Finding, Study
from stages.params import read_study

if TYPE_CHECKING:
    from stages.audit.__main__ import Audit

LAST = 0.2
"""The share of a run's optimizer steps that the end of its training log is a mean over."""

LABELS = {"alone": 1, "curve": 1, "judges": 1, "metric": 2, "reward": 3, "best reward": 3}
"""Columns of labels of a table, by the name of its first one."""


def documents(audit: Audit, results: Path, quotes: Path | None) -> None:
    """Every number beside kept results, and those that `quotes` lists, from the scores of prompts alone."""
    raw, rows = read_study(f"studies/{results.name}.yaml"), read(results / "scores.parquet")
    own = Study(raw, rows)
    means: dict[tuple[str, ...], Finding] = {
        key: {"mean": float(np.nanmean(scores))} for key, scores in own.scores.items()
    }
    ends = {("training", *key): {"end": value} for key, value in ends_of_training(results).items()}
    kept = dict(own.findings())
    _readme(audit, results, own, kept, raw)
    listed = _quotes(quotes) if quotes else []
    _documents(audit, own, [row for row in listed if row["results"] == results.name], means | ends | kept)
    for name, pair in (raw["report"].get("comparisons") or {}).items():  # the claims put to two other methods
        report = raw["report"] | {"candidate": pair["candidate"], "long": None, "ablations": []}
        put = {**raw, "report": report, "study": raw["study"] | {"reference": pair["reference"]}}
        other = Study(put, rows)
        found = dict(other.findings())
        _readme(audit, results / name, other, found, put)
        _documents(audit, other, [row for row in listed if row["results"] == f"{results.name}/{name}"], found)


def _documents(audit: Audit, own: Study, quoted: list[dict[str, str]], found: dict[Any, Finding]) -> None:
    """What documents quote, by the keys of findings."""
    plain = {"/".join(key): value for key, value in found.items()}
    for row in quoted:
        known = plain | dict(_differences(own, row["numbers"]))
        whole = " ".join(Path(row["document"]).read_text(encoding="utf-8").split())
        text = row["text"] if row["text"] in whole else ""
        audit.text(f"{row['document']}: {row['text']!r}", text, list(_quoted(row["numbers"], known)))


def ends_of_training(results: Path) -> dict[tuple[str, str], float]:
    """The mean of every kept term of a run's training log over its last steps, by run and term."""
    log = read(results / "training.parquet")
    late = log[log["step"] >= (1 - LAST) * log.groupby("run")["step"].transform("max")]
    return late.groupby(["run", "term"])["value"].mean().to_dict()


def _quotes(path: Path) -> list[dict[str, str]]:
    with open(path, encoding="utf-8", newline="") as file:
        return list(csv.DictReader(file))


def _quoted(numbers: str, known: dict[str, Finding]) -> Iterator[float]:
    """`KEY` for mean, low and high, `KEY.field` for one number; a minus sign before it turns it round; `%20`: a space.

    `training/RUN/TERM.end` is the mean of a term of the training log over the last fifth of the run's optimizer steps.
    """
    for name in map(unquote, numbers.split()):
        key, field = _key_and_field(name)
        found = known.get(key, {})
        values = [found.get(end, math.nan) for end in ([field] if field else ["mean", "low", "high"])]
        yield from [-value for value in values[:1] + values[:0:-1]] if name.startswith("-") else values


def _key_and_field(name: str) -> tuple[str, str]:
    """What a name of numbers names, and the one of its numbers; a point stands in the key of a setting, `w=0.5` say."""
    place, slash, last = name.removeprefix("-").rpartition("/")
    key, _, field = last.partition(".")
    return place + slash + key, field


def _differences(own: Study, numbers: str) -> Iterator[tuple[str, Finding]]:
    """Of every `difference/A/B/METRIC` among the names of numbers: A less B, which are methods, tuned only, or points
    `METHOD:STRATEGY:SETTING`.
    """
    for name in map(unquote, numbers.split()):
        kind, *rest = _key_and_field(name)[0].split("/")
        if kind != "difference" or len(rest) != 3:
            continue
        mine, other, metric = rest
        yield "/".join(["difference", *rest]), _difference(own, mine, other, metric)


def _difference(own: Study, mine: str, other: str, metric: str) -> Finding:
    if ":" not in mine + other:
        return own.tuned_difference(mine, other, metric)
    points = {":".join(point): point for point in own.points if (*point, metric) in own.scores}
    if mine not in points or other not in points:
        return {"mean": math.nan, "low": math.nan, "high": math.nan, "seeds": []}
    return own.difference(points[mine], points[other], metric)


def _readme(
    audit: Audit, folder: Path, own: Study, found: dict[tuple[str, ...], Finding], raw: Mapping[str, Any]
) -> None:
    """The tables of a README, row by row; rows stand in the order of `findings.parquet` beside it."""
    order = read(folder / "findings.parquet")
    keys = [
        tuple(filter(None, key))
        for key in order[["about", "method", "strategy", "metric", "at_equal"]].fillna("").to_numpy()
    ]
    for key, row in zip(keys, order.to_dict("records"), strict=True):
        mine = found[key]
        wanted = [mine["mean"], mine["low"], mine["high"], *mine["seeds"], mine.get("area_mean", math.nan)]
        given = [row["mean"], row["low"], row["high"], *row["per_seed"], row["area"]]
        if not np.allclose(given, wanted, 1e-9, 1e-12, equal_nan=True) or mine["state"] != row["state"]:
            audit.differ(f"{folder}/findings.parquet: {' '.join(key)}: {given} {row['state']}, recomputed {wanted}")
    alone = [p for p in own.points if own.role(p[1]) == ("base" if p[0] == "base" else "tuned")]
    rows: dict[str, list[list[float]]] = {name: [] for name in LABELS}
    rows["alone"] = [[float(np.nanmean(own.scores[*point, axis])) for axis in own.axes] for point in alone]
    for key in keys:
        one = found[key]
        if key[0] in ("raises", "parts_company") or key[:2] == ("trade", own.study["reference"]):
            rows["metric"].append([*_ends(one), *one["seeds"], *one["note"]])
        elif key[0] == "above":
            rows["reward"].append([*_ends(one, "area_"), *_ends(one), *one["seeds"], *one["note"]])
        elif key[0] == "best":
            rows["best reward"].append([*_ends(one), *one["seeds"], *one["note"]])
        elif key[0] in ("gap", "ablation"):
            rows["curve"] += [[]] if key[3:] == (own.report["rewards"][0], own.report["diversities"][0]) else []
            rows["curve"][-1] += _ends(one)
    text = (folder / "README.md").read_text(encoding="utf-8")
    rows["judges"] = _ranked(own, raw) if "\n| judges |" in text else []
    kind = ""
    for line in text.splitlines():
        cells = [cell.strip() for cell in line.strip("|").split("|")] if line.startswith("|") else []
        if cells and cells[0] in LABELS:
            kind = cells[0]
        elif cells and set(cells[0]) != {"-"}:
            audit.text(
                f"{folder}/README.md: {', '.join(cells[: LABELS[kind]])}",
                " ; ".join(cells[LABELS[kind] :]),
                rows[kind].pop(0) if rows[kind] else [],
            )


def _ranked(own: Study, raw: Mapping[str, Any]) -> list[list[float]]:
    """The rank correlations of every pair of judges over prompts: those of all points in one row."""
    rows: dict[tuple[str, ...], list[float]] = {}
    for key, found in agreement(own, raw, None, "prompts"):
        rows.setdefault(key[-2:], []).extend(_ends(found))
    return list(rows.values())


def _ends(found: Finding, prefix: str = "") -> list[float]:
    values = [found.get(f"{prefix}{end}", math.nan) for end in ("mean", "low", "high")]
    return values if values[0] == values[0] else [math.nan]
