"""A study so small that every stage takes a fraction of a second, and its command lines, for breaking one at a time."""

from __future__ import annotations

import contextlib
import io
import itertools
import json
import shutil
import sys
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from importlib import import_module
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import yaml
from PIL import Image

from stages.models.record import ModelRecord, save
from stages.runtime import run_stage
from tests import tiny

STUDY: dict[str, Any] = {
    "study": {"name": "small", "seed": 1, "reward": "proxy", "heldout": "heldout", "reference": "refl",
              "tune": {"rates": [1e-4], "prompts": 2, "samples": 2, "steps": 1, "min_diversity": 0}},
    "decided": {"prompts": 2, "samples": 2, "indices": [1], "diversity": "heldout_diversity"},
    "world": {},
    "curate": {
        "images": {"kind": "folder", "path": "pictures"},
        "pairs": {"kind": "file", "path": "pairs.csv"},
        "prompts": {"train": {"kind": "file", "path": "train.txt"}, "eval": {"kind": "file", "path": "eval.txt"}},
        "filters": {"min_side": 8, "caption_words": [1, 60]}, "side": 16, "val_share": 0.3,
    },
    "prepare": {
        "import": {"oracle": {"kind": "shapes_oracle"}, "taken": {"kind": "open_clip", "folder": "models/proxy"}},
        "train": {"vae": {"vae": {"steps": 2, "batch": 4, "widths": [8, 16]}}},
    },
    "score": {"rewards": ["proxy"], "batch_size": 8},
    "encode": {"batch_size": 8},
    "finetune": {"steps": 1, "batch_size": 2, "sampling_steps": 3, "probe": {"every": 5, "prompts": 2, "samples": 2}},
    "methods": {"refl": {"kind": "refl", "middle": [1, 3]}},
    "runs": {"refl-s0": {"method": "refl", "seed": 0}},
    "sample": {"steps": 3, "samples_per_prompt": 2, "batch_size": 4, "guidance": [1.0],
               "strategies": {"tuned": {"kind": "tuned"}, "combined": {"kind": "combined", "k": [1]}}},
    "measure": {"rewards": ["proxy"], "text_image": "heldout", "features": {"heldout": "embedding"},
                "set_metrics": ["fid"], "neighbours": 2, "bootstrap": 100, "batch_size": 8},
    "report": {"grid": {"prompts": 2, "samples": 2}, "rewards": ["proxy"], "diversities": ["heldout_diversity"]},
}  # fmt: skip
ENCODED = "--tensors e/encodings.safetensors --index e/index.parquet"
LINES = {
    "curate": "curate --prompts d/prompts.parquet --images d/images.parquet --pairs d/pairs.parquet "
    "--manifest d/manifest.json",
    "import": "prepare import --name oracle --record models/oracle.json",
    "import taken": "prepare import --name taken --record models/taken.json",
    "vae": "prepare vae --name vae --images d/images.parquet --out models/vae",
    "score": "score --reward proxy --model models/proxy.json --images d/images.parquet --pairs d/pairs.parquet "
    "--scores s/proxy.parquet --accuracy s/proxy.json",
    "encode": f"encode --base models/base.json --prompts d/prompts.parquet --images d/images.parquet {ENCODED}",
    "finetune": "finetune --run refl-s0 --base models/base.json --reward models/proxy.json --heldout "
    f"models/heldout.json {ENCODED} --weights r/refl-s0/policy.safetensors --log r/refl-s0/train_log.parquet "
    "--probes r/refl-s0/probes.parquet",
    "sample base": f"sample base --base models/base.json {ENCODED} --samples i/base.parquet --latents i/l.safetensors",
    "sample": "sample run --run refl-s0 --base models/base.json --policy r/refl-s0/policy.safetensors "
    f"{ENCODED} --latents i/l.safetensors --samples i/refl-s0.parquet",
    "reference": "measure reference --images d/images.parquet --models models --features m/reference.safetensors",
    "measure base": "measure samples --run base --samples i/base.parquet --models models "
    "--reference m/reference.safetensors --measures m/base.parquet --summary m/base.summary.parquet",
    "measure": "measure samples --run refl-s0 --samples i/refl-s0.parquet --models models "
    "--reference m/reference.safetensors --measures m/refl-s0.parquet --summary m/refl-s0.summary.parquet",
    "decided": f"decided --base models/base.json {ENCODED} --models models --pairs c/pairs.parquet "
    "--shares c/shares.parquet --auto c/auto.json",
    "tune": "tune --base models/base.json --reward models/proxy.json --heldout models/heldout.json "
    f"{ENCODED} --table t/table.parquet",
    "export merged": "export merged --base models/base.json --policy r/refl-s0/policy.safetensors --out w/merged",
    "export combined": "export combined --base models/base.json --policy r/refl-s0/policy.safetensors --out w/both",
    "report": "report --data d --scores s --runs r --samples i --measures m --decided c/shares.parquet --out report",
}
"""By job: the stage and its arguments, without `--params`, which all but `export` have."""
WRITTEN = {
    "curate": ("--prompts", "--images", "--pairs", "--manifest"), "prepare": ("--record", "--out"),
    "score": ("--scores", "--accuracy"), "encode": ("--tensors", "--index"),
    "finetune": ("--weights", "--log", "--probes"), "sample": ("--samples",),
    "measure": ("--features", "--measures", "--summary"), "report": ("--out",),
    "decided": ("--pairs", "--shares", "--auto"), "tune": ("--table",), "export": ("--out",),
}  # fmt: skip


@dataclass
class World:
    """A folder in which every job but the report has run; tests run in it."""

    folder: Path

    def run(self, job: str, **changed: str) -> tuple[int, str]:
        """Run one job in this process; `changed` replaces arguments. Returns exit code and what it said on stderr."""
        stage, *words = LINES[job].split(" ")
        command = [] if words[0].startswith("--") else [words.pop(0)]
        flags = dict(zip(words[::2], words[1::2], strict=True)) | {f"--{k}": v for k, v in changed.items()}
        study = [] if stage == "export" else ["--params", "study.yaml"]
        argv = [*command, *study, *(word for pair in flags.items() for word in pair)]
        before, said = sys.argv, io.StringIO()
        sys.argv = [stage, *argv]
        code = 0
        try:
            with contextlib.redirect_stderr(said), contextlib.redirect_stdout(io.StringIO()):
                run_stage(import_module(f"stages.{stage}.__main__").main)
        except SystemExit as ended:
            code = ended.code if isinstance(ended.code, int) else 1
        finally:
            sys.argv = before
        return code, said.getvalue()

    def written(self, job: str) -> dict[str, str]:
        """The flags that name what a job writes, with their values."""
        stage, *words = LINES[job].split(" ")
        named = dict(itertools.pairwise(words))
        written = WRITTEN[stage] + (("--latents",) if job == "sample base" else ())
        return {flag: named[flag] for flag in written if flag in named}

    def outputs(self, job: str) -> list[Path]:
        """What a job writes."""
        return [self.folder / path for path in self.written(job).values()]

    def forget(self, job: str) -> None:
        """Take away what a job wrote."""
        for path in self.outputs(job):
            shutil.rmtree(path) if path.is_dir() else path.unlink(missing_ok=True)

    def study(self, change: Callable[[dict[str, Any]], object]) -> None:
        """Change the study file."""
        content = yaml.safe_load((self.folder / "study.yaml").read_text())
        change(content)
        (self.folder / "study.yaml").write_text(yaml.safe_dump(content, sort_keys=False))


def build(folder: Path) -> World:
    """The world, made by running every job but the report."""
    (folder / "study.yaml").write_text(yaml.safe_dump(STUDY, sort_keys=False))
    words, rng = tiny.WORDS, np.random.default_rng(0)
    (folder / "train.txt").write_text("".join(f"a {a} {b}\n" for a in words[:3] for b in words[3:6]))
    (folder / "eval.txt").write_text("a small circle\na large square\n")
    (folder / "pictures").mkdir()
    for n in range(12):
        Image.fromarray(rng.integers(0, 256, (16, 16, 3), np.uint8)).save(folder / f"pictures/{n}.png")
        (folder / f"pictures/{n}.txt").write_text(f"{words[n % 3]} {words[3 + n % 3]} and {words[6 + n % 2]} {n}")
    pairs = "".join(f"a {words[n % 3]} cross,{n}.png,{n + 1}.png,1\n" for n in range(10))
    (folder / "pairs.csv").write_text("prompt,image_a,image_b,preference\n" + pairs)
    save(tiny.diffusion_folder(folder / "models/base"), folder / "models/base.json")
    for seed, name in enumerate(("proxy", "heldout")):
        save(tiny.clip_folder(folder / "models" / name, seed, name), folder / f"models/{name}.json")
    save(ModelRecord(name="oracle", kind="shapes_oracle"), folder / "models/oracle.json")
    for file in (folder / "models").glob("*.json"):  # paths from the folder that jobs run in
        record = json.loads(file.read_text())
        record["path"] = record["path"] and Path(record["path"]).relative_to(folder).as_posix()
        file.write_text(json.dumps(record))
    world = World(folder)
    with contextlib.chdir(folder):
        for job in LINES:
            if job == "report":  # draws for seconds, and nothing here reads what it writes
                continue
            code, said = world.run(job)
            assert code == 0, f"{job}: {said}"
    return world


def copies(made: World, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[World]:
    """A copy of the world to break, as working directory."""
    shutil.copytree(made.folder, tmp_path / "world")
    monkeypatch.chdir(tmp_path / "world")
    yield World(tmp_path / "world")
