"""The numbers of the page, in the cells that name a finding (`data-number`) or another source (`data-source`)."""

from __future__ import annotations

import math
import re
from collections.abc import Iterator, Mapping, Sequence
from html import unescape
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pandas as pd

from stages.audit.reading import Frame, read, read_csv, read_json
from stages.audit.statistics import Finding
from stages.audit.written import NUMBER, close

if TYPE_CHECKING:
    from stages.audit.__main__ import Audit

CELL = re.compile(r'data-(number|source)="([^"]+)"[^>]*>(.*?)</t[dh]>', re.DOTALL)
SMALL, SPACED = re.compile(r"<small>.*?</small>", re.DOTALL), re.compile(r"(?<=\d) (?=\d{3})")
ENDS = ["mean", "low", "high"]
OTHERS = ("votes", "student/")
"""Sources of numbers that are taken as they are: the analysis of votes, and what distilled models logged."""


def cells(
    audit: Audit, path: Path, own: Mapping[str, Finding], others: Mapping[str, Sequence[float]] | None = None
) -> None:
    """Every cell of the page that names its finding, `#seeds`, `#note`, `#least`, `#mean`, `#was`, `#grown` or `#all`
    of it, else mean and interval; and with `others` every cell that names another source.
    """
    before = _earlier(audit, path.parent / "against.csv", own)
    for kind, written, content in CELL.findall(path.read_text(encoding="utf-8")):
        name = unescape(written)
        key, _, part = name.partition("#")
        if kind == "number":
            wanted = before[name] if part in ("was", "grown") else _parts(key, part, own)
            audit.text(f"page: {key}", _text(content), [float(value) for value in wanted])
        elif others is not None and not name.startswith(OTHERS):
            text = _text(content if key.startswith("accuracy/") or part == "out" else SMALL.sub("", content))
            text = SPACED.sub("", text) if key.startswith("training/") else text
            audit.text(f"page: {name}", text, _range(text, others.get(name, [math.nan])))


def _parts(key: str, part: str, own: Mapping[str, Finding]) -> Sequence[Any]:
    found = {"seeds": [], "note": []} | own.get(key, {"mean": math.nan, "low": math.nan, "high": math.nan})
    ends = [found[end] for end in ENDS] if found["low"] == found["low"] else [found["mean"]]
    ends = [math.nan] if key.startswith(("gap", "above", "ablation")) and len(ends) < 3 else ends
    least = [found["least"]] if "least" in found else []
    every = [*ends, *found["seeds"], *found["note"], *least] if len(ends) == 3 else found["note"]
    parts = {"": ends, "all": every, "least": least, "mean": [found["mean"]]}
    return (parts | {name: found[name] for name in ("seeds", "note")})[part]


def _text(content: str) -> str:
    return unescape(re.sub("<[^>]*>", " ", content))


def _range(text: str, own: Sequence[float]) -> list[float]:
    """One number where a range is written as one, since both ends round to it."""
    numbers = re.findall(NUMBER, text)
    return list(own[:1]) if len(numbers) == 1 and len(own) == 2 and close(numbers[0], own[1]) else list(own)


def _earlier(audit: Audit, path: Path, own: Mapping[str, Finding]) -> dict[str, list[float]]:
    """What cells show of an earlier report, whose numbers are taken as `against.csv` has them; the others in it are
    compared.
    """
    found: dict[str, list[float]] = {}
    if not path.is_file():
        return found
    rows = read_csv(path).to_dict("records")
    mine = {(row["number"],): own.get(row["number"], {"mean": math.nan})["mean"] for row in rows}
    audit.table("against.csv", ["number"], pd.DataFrame(rows), {key: {"now": mean} for key, mean in mine.items()})
    for row in rows:
        grown = mine[row["number"],] - row["earlier"]
        audit.count += 1
        if not abs(row["difference"] - grown) <= 1e-5 * (abs(row["earlier"]) + abs(row["now"])) + 1e-9:
            audit.differ(f"against.csv: {row['number']} difference: {row['difference']:.6g}, recomputed {grown:.6g}")
        found |= {f"{row['number']}#was": [row["earlier"]], f"{row['number']}#grown": [row["difference"]]}
    return found


def sources(
    out: Path, trained: Sequence[str], costs: Frame, accuracies: Mapping[tuple[str], Finding]
) -> dict[str, list[float]]:
    """What cells show that is no finding, by what they name: costs, counts of curation and of choice, accuracies."""
    found = dict(_costs(costs))
    for run in trained:
        terms = read(out / f"runs/{run}/train_log.parquet").groupby("term")["value"].agg(["size", "sum"])
        kept = (("steps", "loss", "size"), ("nfe", "nfe", "sum"), ("queries", "queries", "sum"))
        found |= {
            f"training/{run}#{name}": [float(terms.at[term, how])] for name, term, how in kept if term in terms.index
        }
    for name, said in read_json(out / "data/manifest.json")["tables"].items():
        counts = _kept(out / "data", name)
        left = float(sum(counts.values()))
        splits = [float(counts.get(split, 0)) for split in said["splits"]] if len(said["splits"]) > 1 else []
        removed = [float(step["removed"]) for step in said["filters"] if step["removed"]]
        found[f"curation/{name}#in"], found[f"curation/{name}#removed"] = [left + sum(removed)], removed
        found[f"curation/{name}#out"] = [left, *splits]
    if (out / "select/manifest.json").is_file():
        found |= _selected(out)
    for (name,), one in accuracies.items():
        for side, prefix in (("val", ""), ("train", "train_")):
            shares = [100 * one[f"{prefix}{end}"] for end in ("accuracy", "low", "high")]
            ends = shares if shares[1] == shares[1] else shares[:1]
            found[f"accuracy/{name}#{side}"] = [*ends, float(one[f"{prefix}pairs"])]
    return found


def _selected(out: Path) -> dict[str, list[float]]:
    """What the steps over pairs did: how many there were and are is counted in the tables, and what is left after a
    step from what it removed.
    """
    said = read_json(out / "select/manifest.json")["steps"]
    left, last = (float(_kept(out / folder, "pairs")["train"]) for folder in ("data", "select"))
    found = {"select/0#left": [left]}
    for place, step in enumerate(said, start=1):
        removed = left - last if place == len(said) else float(step["removed"])
        left -= removed
        found |= {f"select/{place}#{name}": [float(count)] for name, count in step.items() if name != "step"}
        found |= {f"select/{place}#removed": [removed], f"select/{place}#left": [left]}
    return found


def _kept(data: Path, name: str) -> dict[str, int]:
    """The rows of a curated table by split; `prompts_eval` are those of one split."""
    kind, _, split = name.partition("_")
    counts = read(data / f"{kind}.parquet", columns=["split"])["split"].value_counts().to_dict()
    return {key: count for key, count in counts.items() if split in ("", key)}


def _costs(costs: Frame) -> Iterator[tuple[str, list[float]]]:
    """Of every point, and the least and the most of a strategy."""
    names = ["nfe", "seconds", "queries"]
    runs = costs.groupby(["run", "method", "strategy", "setting"])[names].mean()
    spent = runs.groupby(["method", "strategy", "setting"]).mean()
    for key, row in spent.to_dict("index").items():
        yield from ((f"cost/{'/'.join(key)}#{name}", [row[name]]) for name in names)
    for strategy, rows in spent.groupby("strategy"):
        yield from ((f"cost/{strategy}#{name}", [rows[name].min(), rows[name].max()]) for name in names)
