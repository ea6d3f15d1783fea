"""Measuring and reporting at size: seconds and memory of the stages on made-up images and scores, and how they grow.

`measure` judges small images of one run by a rule that costs next to nothing, so that what is timed is the stage
itself; `report` reads the measures of a whole study; `sets` are the metrics of a whole set of images (distances of
distributions, precision, recall) of one setting, on made-up features. Each runs as a process of its own.
"""

from __future__ import annotations

import argparse
import io
import json
import sys
import tempfile
from collections.abc import Callable, Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import yaml

from benchmarks.cost import CORES, Cost, exponents, run
from benchmarks.machine import machine
from stages import tables
from stages.measure.evaluation import Evaluation
from stages.models.record import ModelRecord, save
from stages.runtime import whole_file

SIZES = (10_000, 100_000, 1_000_000)
SET_SIZES = (1000, 3000, 10_000)
OUT = Path("benchmarks/results/rows.json")
SAMPLES = 5
"""Images per prompt."""
SETTINGS = 20
"""Settings of the run that is measured."""
RUNS = ("refl-s0", "refl-s1", "imagerefl-s0", "imagerefl-s1")
SWITCHES, STEPS = (20, 25, 30, 32, 35, 38), 40
REWARDS, DIVERSITY = ("proxy", "heldout"), "proxy_diversity"
ROWS_A_PROMPT = (len(RUNS) * (1 + len(SWITCHES)) + 1) * (len(REWARDS) * SAMPLES + 1)
"""Rows of measures per prompt of the reported study: every score of every image, and one diversity, at every point."""
WIDTH = 64
"""Numbers of a feature."""


def main() -> None:
    """Command line."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks.rows", description=__doc__)
    parser.add_argument("--sizes", nargs="+", type=int, default=list(SIZES), help="rows (default: %(default)s)")
    parser.add_argument("--sets", nargs="+", type=int, default=list(SET_SIZES), help="images per set (%(default)s)")
    parser.add_argument("--what", nargs="+", choices=MAKE, default=list(MAKE), help="default: all")
    parser.add_argument("--out", type=Path, default=OUT, help=f"the numbers, as JSON (default: {OUT})")
    args = parser.parse_args()
    costs: dict[tuple[str, int], Cost] = {}
    if args.out.exists():  # keep what is not measured again
        costs = {(one["what"], one["rows"]): Cost(**one) for one in json.loads(args.out.read_text())["runs"]}
    for what in args.what:
        for size in sorted(args.sets if what == "sets" else args.sizes):
            with tempfile.TemporaryDirectory(prefix="rows-") as folder:
                cost = costs[what, size] = measure(what, size, Path(folder))
            print(f"{what} {cost.rows:>9,}: {cost.seconds:7.1f} s, {cost.cpu_seconds:7.1f} s of CPU, "
                  f"{cost.memory_mb:6.0f} MB", flush=True)  # fmt: skip
            write(args.out, list(costs.values()))


def write(path: Path, costs: Sequence[Cost]) -> None:
    """The numbers so far, with what they depend on."""
    names = dict.fromkeys(cost.what for cost in costs)
    found = {what: exponents([cost for cost in costs if cost.what == what]) for what in names}
    content = machine() | {"cores": CORES, "runs": [asdict(cost) for cost in costs], "exponents": found}
    with whole_file(path) as partial:
        partial.write_text(json.dumps(content, indent=1) + "\n")


def measure(what: str, size: int, folder: Path) -> Cost:
    """Make what a stage reads, about `size` rows of it, and run the stage; raises SystemExit with the stage's words."""
    rows, command = MAKE[what](size, folder)
    return Cost(what=what, rows=rows, **asdict(run(command, folder / "log")))


# --- what is measured -----------------------------------------------------------------------------------------------


def images(size: int, folder: Path) -> tuple[int, list[str]]:
    """Images of one run under `SETTINGS` settings, and the stage that measures them."""
    prompts = max(size // (SETTINGS * SAMPLES), 2)
    settings = [("combined", f"k={k}", float(k)) for k in range(1, SETTINGS + 1)]
    write_samples(folder / "samples.parquet", "refl-s0", settings, prompts)
    judge = ModelRecord(name="proxy", kind="python", options={"function": "benchmarks.rows:brightness"})
    save(judge, folder / "proxy.json")
    study = {
        "study": {"name": "rows", "seed": 0}, "sample": {"steps": STEPS, "sampler": "ddpm"},
        "measure": {"rewards": ["proxy"]},
    }  # fmt: skip
    (folder / "study.yaml").write_text(yaml.safe_dump(study))
    files = {"samples": "samples.parquet", "reference": "none", "measures": "measures", "summary": "summary"}
    places = [part for name, file in files.items() for part in (f"--{name}", str(folder / file))]
    command = [sys.executable, "-m", "stages.measure", "samples", "--params", str(folder / "study.yaml"),
               "--models", str(folder), "--run", "refl-s0", *places]  # fmt: skip
    (folder / "none").touch()
    return len(settings) * prompts * SAMPLES, command


def brightness(pixels: np.ndarray, prompts: Sequence[str]) -> np.ndarray:
    """A reward that costs nothing: the mean of all numbers of an image."""
    return pixels.reshape(len(prompts), -1).mean(1) / 255


def study(size: int, folder: Path) -> tuple[int, list[str]]:
    """Measures, images and logs of a whole study of about `size` rows of measures, and the stage that reports it."""
    prompts = max(size // ROWS_A_PROMPT, 4)
    runs = {name: {"method": name.split("-")[0], "seed": int(name[-1])} for name in RUNS}
    text = {
        "study": {"name": "rows", "seed": 0, "reward": REWARDS[0], "heldout": REWARDS[1], "reference": "refl"},
        "runs": runs,
        "sample": {
            "steps": STEPS,
            "strategies": {"tuned": {"kind": "tuned"}, "combined": {"kind": "combined", "k": list(SWITCHES)}},
        },
        "report": {"rewards": list(REWARDS), "diversities": [DIVERSITY]},
    }
    (folder / "study.yaml").write_text(yaml.safe_dump(text))
    places = {name: folder / name for name in ("data", "scores", "runs", "samples", "measures", "out")}
    for place in places.values():
        place.mkdir()
    (places["data"] / "manifest.json").write_text(json.dumps({"version": 1, "tables": {}, "outputs": {}}))
    tuned = [("tuned", "tuned", 0.0), *(("combined", f"k={k}", float(k)) for k in SWITCHES)]
    rows = 0
    for number, name in enumerate(("base", *RUNS)):
        settings = tuned if name in runs else [("guidance", "g=1", 1.0)]
        write_samples(places["samples"] / f"{name}.parquet", name, settings, prompts)
        rows += write_measures(places["measures"], name, settings, prompts, np.random.default_rng(number))
    for name in RUNS:
        steps = range(0, 101, 10)
        terms = [f"probe_{reward}" for reward in (*REWARDS, "diversity")]
        log: list[dict[str, object]] = [{"step": n, "term": t, "value": 0.5} for n in steps for t in terms]
        tables.write(places["runs"] / name / "train_log.parquet", tables.table(tables.TRAIN_LOG, log), tables.TRAIN_LOG)
    given = [part for name, place in places.items() for part in (f"--{name}", str(place))]
    return rows, [sys.executable, "-m", "stages.report", "--params", str(folder / "study.yaml"), *given]


def sets(size: int, folder: Path) -> tuple[int, list[str]]:
    """The set metrics of `size` images, as `measure` computes them."""
    return size, [sys.executable, "-c", f"from benchmarks.rows import set_metrics; set_metrics({size})"]


def set_metrics(size: int) -> None:
    """Every set metric of `size` features against as many, with its interval."""
    from stages.measure.bootstrap import jackknife
    from stages.measure.metrics import coverage, fid, kid, precision, recall
    from stages.measure.statistics import reference

    draw = np.random.default_rng(0)
    real, made = (draw.standard_normal((size, WIDTH)) for _ in range(2))
    known, owners = reference(real, 3), [f"p{row // SAMPLES}" for row in range(size)]
    for module in (fid, kid, precision, recall, coverage):
        jackknife(module.metric(made, known), owners)


MAKE: dict[str, Callable[[int, Path], tuple[int, list[str]]]] = {"measure": images, "report": study, "sets": sets}
"""What is measured to a function that makes it: (rows, folder) to the rows made and the command to time."""


# --- tables ---------------------------------------------------------------------------------------------------------


def keys(name: str, settings: Sequence[tuple[str, str, float]], each: int) -> dict[str, Any]:
    """The columns that say whose rows they are, `each` rows per setting."""
    method, _, seed = name.partition("-s")
    count = each * len(settings)
    columns: dict[str, Any] = {"run": _constant(name, count), "method": _constant(method, count)}
    columns["train_seed"] = np.full(count, int(seed or 0))
    for place, column in enumerate(("strategy", "setting", "value")):
        columns[column] = np.repeat([setting[place] for setting in settings], each)
    return columns


def write_samples(path: Path, name: str, settings: Sequence[tuple[str, str, float]], prompts: int) -> None:
    """Small pictures, a few different ones over and over."""
    each = prompts * SAMPLES
    pictures = pa.array([_picture(number) for number in range(64)])
    rows = np.arange(each * len(settings))
    place = rows % each // SAMPLES
    columns = keys(name, settings, each) | {
        "prompt_id": _named("eval-{:06d}", prompts, place), "prompt": _named("a picture of number {}", prompts, place),
        "sample": rows % SAMPLES, "image": pictures.take(pa.array(rows * 7 % 64)), "nfe": np.full(len(rows), STEPS),
        "nfe_backward": np.zeros(len(rows), np.int64), "queries": np.zeros(len(rows), np.int64),
        "decodes": np.ones(len(rows), np.int64), "seconds": np.full(len(rows), 0.1),
        "rewards": [[]] * len(rows), "reward_digests": [[]] * len(rows),
    }  # fmt: skip
    tables.write(path, tables.table(tables.SAMPLES, columns), tables.SAMPLES)


def write_measures(
    folder: Path, name: str, settings: Sequence[tuple[str, str, float]], prompts: int, draw: np.random.Generator
) -> int:
    """Scores of every image, a diversity of every prompt, and their summaries; returns the rows of measures."""
    parts, summary = [], []
    for metric in (*REWARDS, DIVERSITY):
        samples = SAMPLES if metric in REWARDS else 1
        each = prompts * samples
        columns = keys(name, settings, each)
        rows = np.arange(each * len(settings))
        scores = 0.01 * np.arange(len(settings)).repeat(each) + 0.1 * draw.standard_normal(len(rows))
        sample = pa.array(rows % samples) if samples > 1 else pa.nulls(len(rows), pa.int64())
        columns |= {
            "prompt_id": _named("eval-{:06d}", prompts, rows % each // samples), "sample": sample,
            "metric": _constant(metric, len(rows)), "score": scores,
        }  # fmt: skip
        parts.append(tables.table(tables.MEASURES, columns))
        means = scores.reshape(len(settings), each).mean(1)
        summary += [
            {
                "run": name, "method": name.partition("-s")[0], "train_seed": int(name.partition("-s")[2] or 0),
                "strategy": strategy, "setting": setting, "value": value, "metric": metric, "mean": float(mean),
                "low": float(mean) - 0.01, "high": float(mean) + 0.01, "n_prompts": prompts,
            }
            for (strategy, setting, value), mean in zip(settings, means, strict=True)
        ]  # fmt: skip
    about = Evaluation("made up", prompts, SAMPLES, (8, 8), 0, {}, {}, {})
    tables.write(
        folder / f"{name}.summary.parquet", tables.table(tables.SUMMARY, summary), about.schema(tables.SUMMARY)
    )
    return tables.write(folder / f"{name}.parquet", parts, about.schema(tables.MEASURES))


def _constant(value: str, count: int) -> pa.Array:
    return pa.repeat(value, count)


def _named(pattern: str, count: int, places: np.ndarray) -> pa.Array:
    """Names of things by their places."""
    return pa.array([pattern.format(number) for number in range(count)]).take(pa.array(places))


def _picture(number: int) -> bytes:
    from PIL import Image

    buffer = io.BytesIO()
    pixels = np.random.default_rng(number).integers(0, 256, (8, 8, 3), dtype=np.uint8)
    Image.fromarray(pixels).save(buffer, "PNG")
    return buffer.getvalue()


if __name__ == "__main__":
    main()
