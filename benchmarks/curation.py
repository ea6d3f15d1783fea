"""Measure curation at size: seconds and memory of the stage on made-up prompts and pairs, and how they grow.

Every filter that texts meet is on: exact and near duplicates, leakage and near leakage against evaluation lists as long
as the public ones together, bounds on length. The stage runs as it does in a study, as a process of its own, on two
cores.
"""

from __future__ import annotations

import argparse
import io
import json
import os
import random
import sys
import tempfile
from collections.abc import Iterator
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import yaml
from PIL import Image

from benchmarks.cost import CORES, Cost, exponents, run
from benchmarks.machine import machine

SIZES = (10_000, 100_000, 1_000_000)
EVALUATION = {"parti": 1632, "hpsv2": 3200, "drawbench": 200, "hpdv2": 400, "image_reward": 466}
IMAGES = 500
WORDS, CHUNK = 20_000, 50_000
THRESHOLD = 0.8
EXACT, NEAR, LEAKED = 0.1, 0.1, 0.001
"""Shares of rows that repeat an earlier text, repeat it with one word changed, and are an evaluation prompt."""


@dataclass(frozen=True)
class Curated(Cost):
    """What curating cost, how many rows it kept and removed, and how busy the machine was afterwards."""

    kept: int
    removed: dict[str, int]
    load: float | None = None


def main() -> None:
    """Command line."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks.curation", description=__doc__)
    parser.add_argument("--sizes", nargs="+", type=int, default=list(SIZES), help="rows (default: %(default)s)")
    parser.add_argument("--what", nargs="+", choices=("prompts", "pairs"), default=["prompts", "pairs"])
    parser.add_argument("--out", type=Path, help="JSON file for the numbers; keeps runs that are not repeated")
    args = parser.parse_args()
    costs: dict[tuple[str, int], Curated] = {}
    if args.out and args.out.exists():
        costs = {(run["what"], run["rows"]): Curated(**run) for run in json.loads(args.out.read_text())["runs"]}
    for what in args.what:
        for size in sorted(args.sizes):
            with tempfile.TemporaryDirectory(prefix="bench-") as folder:
                costs[what, size] = measure(what, size, Path(folder))
            show(costs[what, size])
            if args.out:
                write(args.out, list(costs.values()))
    for what in args.what:
        powers = exponents([cost for cost in costs.values() if cost.what == what])
        print(f"{what}: " + ", ".join(f"{name} grow as rows^{power:.2f}" for name, power in powers.items()))


def write(path: Path, costs: list[Curated]) -> None:
    """The numbers so far, with what they depend on."""
    found = {what: exponents([cost for cost in costs if cost.what == what]) for what in {cost.what for cost in costs}}
    content = machine() | {"cores": CORES, "runs": [asdict(cost) for cost in costs], "exponents": found}
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(json.dumps(content, indent=1) + "\n")


def measure(what: str, size: int, folder: Path) -> Curated:
    """Make `size` rows of `what` below `folder` and curate them; raises SystemExit with the stage's own words."""
    study, table = write_sources(what, size, folder), "prompts_train" if what == "prompts" else "pairs"
    names = ("prompts", "images", "pairs", "manifest")
    outputs = [part for name in names for part in (f"--{name}", str(folder / name))]
    command = [sys.executable, "-m", "stages.curate", "--params", str(study), *outputs]
    used = run(command, folder / "log")
    tally = json.loads((folder / "manifest").read_text())["tables"][table]
    removed = {each["filter"]: each["removed"] for each in tally["filters"] if each["removed"]}
    load = round(os.getloadavg()[0], 1)
    return Curated(what=what, rows=size, **asdict(used), kept=tally["out"], removed=removed, load=load)


def show(cost: Curated) -> None:
    """Print one run."""
    print(f"{cost.what} {cost.rows:>9,}: {cost.seconds:7.1f} s, {cost.cpu_seconds:7.1f} s of CPU, ", end="")
    removed = ", ".join(f"{name} {count:,}" for name, count in cost.removed.items())
    print(f"{cost.memory_mb:6.0f} MB, {cost.kept:,} kept; removed: {removed}", flush=True)


# --- what is curated ------------------------------------------------------------------------------------------------


def write_sources(what: str, size: int, folder: Path) -> Path:
    """Evaluation lists, `size` rows of prompts or pairs, and the study file that names them."""
    rng = random.Random(0)
    vocabulary = words(rng)
    evaluation = []
    for name, count in EVALUATION.items():
        texts = [sentence(vocabulary, rng) for _ in range(count)]
        (folder / f"{name}.json").write_text(json.dumps(texts))
        evaluation += texts
    lists = [{"kind": "file", "name": name, "path": str(folder / f"{name}.json")} for name in EVALUATION]
    path = str(folder / "rows.parquet")
    if what == "prompts":
        write_rows(path, ({"prompt": texts} for texts in prompts(size, vocabulary, evaluation, rng)))
        section: dict[str, Any] = {"prompts": {"train": {"kind": "file", "path": path}, "eval": lists}}
    else:
        images(folder / "images.parquet")
        write_rows(path, pairs(size, vocabulary, evaluation, rng))
        train = {"kind": "file", "path": str(folder / "parti.json"), "name": "train"}
        section = {
            "images": {"kind": "parquet", "path": str(folder / "images.parquet"), "id": "id"},
            "pairs": {"kind": "file", "path": path},
            "prompts": {"train": train, "eval": lists[1:]},
            "val_share": 0,
        }
    section["filters"] = {"near_duplicate_text": THRESHOLD, "min_side": 8, "caption_words": [3, 60]}
    study = folder / "study.yaml"
    study.write_text(yaml.safe_dump({"study": {"name": "curation", "seed": 0}, "curate": section}))
    return study


def words(rng: random.Random) -> list[str]:
    """Made-up words, of which the first are drawn more often, as in a language."""
    return ["".join(rng.choices("etaoinshrdlucmfwypvbgkjqxz", k=rng.randint(2, 10))) for _ in range(WORDS)]


def sentence(vocabulary: list[str], rng: random.Random) -> str:
    """Five to thirty words with frequencies as one over rank, some of them with commas."""
    chosen = (vocabulary[int(WORDS ** rng.random()) - 1] for _ in range(rng.randint(5, 30)))
    return " ".join(word if rng.random() > 0.15 else f"{word}," for word in chosen).capitalize()


def prompts(size: int, vocabulary: list[str], evaluation: list[str], rng: random.Random) -> Iterator[list[str]]:
    """Prompts in pieces, with their share of repeats."""
    earlier: list[str] = []
    for start in range(0, size, CHUNK):
        made = []
        for _ in range(min(CHUNK, size - start)):
            fate = rng.random()
            if fate < LEAKED:
                made.append(rng.choice(evaluation).upper())
            elif earlier and fate < LEAKED + EXACT:
                made.append(rng.choice(earlier).replace(",", ""))
            elif earlier and fate < LEAKED + EXACT + NEAR:
                changed = rng.choice(earlier).split()
                changed[rng.randrange(len(changed))] = rng.choice(vocabulary)
                made.append(" ".join(changed))
            else:
                made.append(sentence(vocabulary, rng))
                if len(earlier) < CHUNK or rng.random() < 0.05:
                    earlier.append(made[-1])
        yield made


def pairs(size: int, vocabulary: list[str], evaluation: list[str], rng: random.Random) -> Iterator[dict[str, Any]]:
    """Pairs of named images; four pairs per prompt, some with a prompt like one for evaluation."""
    for texts in prompts(-(-size // 4), vocabulary, evaluation, rng):
        rows = [text for text in texts for _ in range(4)]
        sides = [[f"i{rng.randrange(IMAGES)}" for _ in rows] for _ in range(2)]
        votes = [rng.choice((0.0, 0.5, 1.0)) for _ in rows]
        yield {"prompt": rows, "image_a": sides[0], "image_b": sides[1], "preference": votes}


def images(path: Path) -> None:
    """Small images with names."""
    rows = []
    for number in range(IMAGES):
        buffer = io.BytesIO()
        noise = np.random.default_rng(number).integers(0, 256, (16, 16, 3), dtype=np.uint8)
        Image.fromarray(noise).save(buffer, "PNG")
        rows.append({"image": buffer.getvalue(), "caption": f"the image of number {number}", "id": f"i{number}"})
    pq.write_table(pa.Table.from_pylist(rows), path)


def write_rows(path: str, pieces: Iterator[dict[str, Any]]) -> None:
    """Columns, piece by piece."""
    writer: pq.ParquetWriter | None = None
    for piece in pieces:
        table = pa.table(piece)
        writer = writer or pq.ParquetWriter(path, table.schema)
        writer.write_table(table)
    assert writer is not None, "no rows"
    writer.close()


if __name__ == "__main__":
    main()
