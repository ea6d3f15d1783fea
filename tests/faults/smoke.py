"""The smoke study as command lines, and the comparison of two folders of its results."""

from __future__ import annotations

import itertools
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pyarrow.parquet as pq
import yaml

ROOT = Path(__file__).resolve().parents[2]
OUT, PARAMS = "out/smoke", "params.yaml"
RUNS = ("refl-s0", "imagerefl-s0")
TIMES = ("seconds",)
"""Columns that hold measured time."""


@dataclass(frozen=True)
class Job:
    """One command; `tried` says whether it is worth interrupting."""

    title: str
    argv: tuple[str, ...]
    tried: bool = True

    def outputs(self) -> list[Path]:
        """The files and folders that it writes."""
        stage, flags = self.argv[0].removeprefix("stages."), dict(itertools.pairwise(self.argv))
        written = WRITTEN[stage] + (("--latents",) if self.argv[1:2] == ("base",) else ())
        return [Path(flags[name]) for name in written if name in flags]


WRITTEN = {
    "prepare": ("--out", "--record"), "score": ("--scores", "--accuracy"), "encode": ("--tensors", "--index"),
    "decided": ("--pairs", "--shares", "--auto"), "sample": ("--samples",),
    "finetune": ("--weights", "--log", "--probes"), "measure": ("--features", "--measures", "--summary"),
}  # fmt: skip
"""The flags that name what a stage writes."""


def study() -> dict[str, Any]:
    """The smoke study, with enough batches everywhere for an interruption to fall between two of them."""
    content = yaml.safe_load((ROOT / "studies/smoke.yaml").read_text())
    content["encode"]["batch_size"] = content["score"]["batch_size"] = 32
    content["sample"]["batch_size"] = 4
    content["measure"]["batch_size"] = 16
    content["decided"]["batch_size"] = 2
    content["finetune"] |= {"steps": 6, "ema": 0.9}
    content["prepare"]["train"]["base"]["base"]["polish"] = {"steps": 3}
    return content


def jobs() -> list[Job]:
    """Every job of the study up to the measures, in an order in which they can run."""
    data, models, encodings = f"{OUT}/data", f"{OUT}/models", f"{OUT}/encodings"
    encoded = ("--tensors", f"{encodings}/encodings.safetensors", "--index", f"{encodings}/index.parquet")
    auto = ("--auto", f"{OUT}/decided/auto.json")
    images, pairs, prompts = (f"{data}/{name}.parquet" for name in ("images", "pairs", "prompts"))
    base, latents = ("--base", f"{models}/base.json"), ("--latents", f"{OUT}/samples/base_latents.safetensors")

    def job(title: str, stage: str, *argv: str, tried: bool = True) -> Job:
        command = () if argv[0].startswith("--") else (argv[0],)
        return Job(title, (f"stages.{stage}", *command, "--params", PARAMS, *argv[len(command) :]), tried)

    def trained(kind: str, name: str, *more: str) -> Job:
        record = () if kind == "vae" else ("--record", f"{models}/{name}.json")
        argv = ("--name", name, "--images", images, "--out", f"{models}/{name}", *record, *more)
        return job(f"prepare {name}", "prepare", kind, *argv)

    def measured(run: str) -> Job:
        return job(f"measure {run}", "measure", "samples", "--run", run, "--samples", f"{OUT}/samples/{run}.parquet",
                   "--models", models, "--reference", f"{OUT}/measures/reference.safetensors",
                   "--measures", f"{OUT}/measures/{run}.parquet", "--summary", f"{OUT}/measures/{run}.summary.parquet",
                   )  # fmt: skip

    return [
        job("curate", "curate", "--prompts", prompts, "--images", images, "--pairs", pairs,
            "--manifest", f"{data}/manifest.json", tried=False),
        job("prepare oracle", "prepare", "import", "--name", "oracle", "--record", f"{models}/oracle.json",
            tried=False),
        trained("vae", "vae"),
        trained("base", "base", "--vae", f"{models}/vae"),
        *(trained("clip", name, "--pairs", pairs) for name in ("proxy", "heldout")),
        job("score proxy", "score", "--reward", "proxy", "--model", f"{models}/proxy.json", "--images", images,
            "--pairs", pairs, "--scores", f"{OUT}/scores/proxy.parquet", "--accuracy", f"{OUT}/scores/proxy.json"),
        job("encode", "encode", *base, "--prompts", prompts, "--images", images, *encoded),
        job("decided", "decided", *base, *encoded, "--models", models, "--pairs", f"{OUT}/decided/pairs.parquet",
            "--shares", f"{OUT}/decided/shares.parquet", *auto),
        *(
            job(f"finetune {run}", "finetune", "--run", run, *base, "--reward", f"{models}/proxy.json", "--heldout",
                f"{models}/heldout.json", "--oracle", f"{models}/oracle.json", *encoded, *auto,
                "--weights", f"{OUT}/runs/{run}/policy.safetensors", "--log", f"{OUT}/runs/{run}/train_log.parquet",
                "--probes", f"{OUT}/runs/{run}/probes.parquet")
            for run in RUNS
        ),
        job("sample base", "sample", "base", *base, *encoded, *auto, "--models", models,
            "--samples", f"{OUT}/samples/base.parquet", *latents),
        job(f"sample {RUNS[0]}", "sample", "run", "--run", RUNS[0], *base, *encoded, *auto, *latents,
            "--policy", f"{OUT}/runs/{RUNS[0]}/policy.safetensors",
            "--samples", f"{OUT}/samples/{RUNS[0]}.parquet"),
        job("measure reference", "measure", "reference", "--images", images, "--models", models,
            "--features", f"{OUT}/measures/reference.safetensors"),
        *(measured(run) for run in ("base", RUNS[0])),
    ]  # fmt: skip


def files(root: Path) -> set[str]:
    """Every file of the results, hidden ones too, but for the records of jobs, which hold times."""
    found = {path.relative_to(root).as_posix() for path in (root / OUT).rglob("*") if path.is_file()}
    return {name for name in found if not name.startswith(f"{OUT}/lineage/")}


def differences(one: Path, other: Path) -> list[str]:
    """Names of results that only one folder has, or that differ in a byte; measured times do not count."""
    names = files(one) | files(other)
    return sorted(name for name in names if not _equal(one / name, other / name))


def _equal(one: Path, other: Path) -> bool:
    if not one.exists() or not other.exists():
        return False
    if one.read_bytes() == other.read_bytes():
        return True
    if one.suffix != ".parquet" or not set(TIMES) & set(pq.read_schema(one).names):
        return False
    tables = [pq.read_table(path) for path in (one, other)]
    return tables[0].drop_columns(list(TIMES)).equals(tables[1].drop_columns(list(TIMES)), check_metadata=True)
