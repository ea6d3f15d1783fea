"""A study in miniature whose every wire carries another value, run through the command lines of the stages.

Random models of a few thousand weights on images of 16x16, so that all stages together take seconds. Its settings are
chosen so that an exchanged wire shows: guidance 1.7, eta 0.6, averaged weights, two micro-batches, two updates, KL
terms, different seeds, several images per prompt, a validation split, prompts whose order is not that of their ids,
several pairs per prompt.
"""

from __future__ import annotations

import json
import random
import re
import sys
from contextlib import chdir
from dataclasses import dataclass, field
from importlib import import_module
from pathlib import Path
from typing import Any
from unittest import mock

import numpy as np
import torch
import yaml
from PIL import Image

from stages.models.record import save
from tests import tiny

WORDS = [f"{colour} {shape} {size}" for size in ("small", "large") for colour in ("red", "blue", "green")
         for shape in ("circle", "square", "cross")]  # fmt: skip
TRAIN, HELD_OUT, CAPTIONS = WORDS[:8], WORDS[8:12], WORDS[12:]
SEED, STEPS, GUIDANCE = 5, 6, 1.7

STUDY: dict[str, Any] = {
    "study": {"name": "mini", "seed": SEED, "reward": "proxy", "heldout": "judge", "reference": "refl"},
    "world": {},
    "curate": {
        "images": {"kind": "folder", "path": "raw/images"},
        "pairs": {"kind": "file", "path": "raw/pairs.csv"},
        "prompts": {
            "train": {"kind": "file", "path": "raw/train.txt"}, "eval": {"kind": "file", "path": "raw/eval.txt"},
        },
        "filters": {"min_side": 8, "near_duplicate_bits": None},
        "val_share": 0.4,
    },
    "prepare": {"import": {}},
    "score": {"rewards": ["proxy", "judge"], "batch_size": 5},
    "encode": {"batch_size": 3},
    "finetune": {
        "steps": 2, "batch_size": 4, "accumulate": 2, "sampling_steps": STEPS, "guidance": GUIDANCE, "ema": 0.6,
        "optimizer": {"lr": 1.0e-3, "clip_norm": None}, "reward_scale": 1.3, "reward_offset": 0.2,
        "probe": {"every": 1, "prompts": 3, "samples": 2},
    },
    "methods": {
        "refl": {"kind": "refl", "middle": [3, 6], "diffusion_weight": 0.3, "kl_weight": 0.5},
        "imagerefl": {
            "kind": "imagerefl", "start": 2, "middle": [2, 6], "diffusion_weight": 0.2, "refl_every": 3,
            "train": {"guidance": 1.0, "trainable": "lora", "lora": {"rank": 2}},
        },
        "ddpo": {
            "kind": "ddpo", "images_per_prompt": 2, "advantage": "group", "updates": 2, "clip": 0.05, "eta": 0.6,
            "kl_weight": 0.7, "train": {"optimizer": {"lr": 2.0e-3}, "batch_size": 8},
        },
    },
    "runs": {
        "refl-s3": {"method": "refl", "seed": 3}, "refl-s8": {"method": "refl", "seed": 8},
        "imagerefl-s8": {"method": "imagerefl", "seed": 8}, "ddpo-s4": {"method": "ddpo", "seed": 4},
    },
    "sample": {
        "steps": STEPS, "samples_per_prompt": 3, "batch_size": 5, "guidance": [1.0, 1.7, 2.5],
        "strategies": {
            "tuned": {"kind": "tuned", "guidance": 1.7},
            "combined": {"kind": "combined", "k": [2, 4], "base_guidance": 2.5, "guidance": 1.7},
            "aig": {"kind": "aig", "p": [1, 2], "base_guidance": 1.7},
            "best": {"kind": "best_of_n", "n": [2, 3], "reward": "judge", "guidance": 1.7, "apply_to": ["base"]},
        },
    },
    "measure": {
        "rewards": ["proxy", "judge"], "text_image": "judge", "features": {"view": "embedding", "proxy": "patches"},
        "set_metrics": ["fid", "kid", "precision", "recall", "vendi"], "bootstrap": 150, "interval": 0.8,
        "batch_size": 7, "neighbours": 2,
    },
    "report": {
        "grid": {"prompts": 2, "samples": 2}, "rewards": ["proxy", "judge"],
        "diversities": ["view_diversity", "proxy_diversity"], "bootstrap": 120, "interval": 0.7,
    },
}  # fmt: skip


def call(module: str, *arguments: object) -> None:
    """The command line of a stage, in this process; raises RuntimeError for another exit code than 0."""
    with mock.patch.object(sys, "argv", [module, *map(str, arguments)]):
        try:
            with torch.enable_grad():  # a test that needs no gradients may be the first to need a trained run
                import_module(f"{module}.__main__").main()
        except SystemExit as ended:
            if ended.code:
                raise RuntimeError(f"{module}: exit code {ended.code}") from None


ENCODED = ("--tensors", ":encodings/encodings.safetensors", "--index", ":encodings/index.parquet")
IMAGES, PAIRS = ("--images", ":data/images.parquet"), ("--pairs", ":data/pairs.parquet")
PROMPTS, BASE, MODELS = ("--prompts", ":data/prompts.parquet"), ("--base", ":models/base.json"), ("--models", ":models")


@dataclass(frozen=True)
class Mini:
    """A study file and where its results stand; a result is made, and what it rests on, when it is first asked for."""

    params: Path
    out: Path
    made: set[str] = field(default_factory=set)

    @property
    def raw(self) -> dict[str, Any]:
        """The study file as it is."""
        return yaml.safe_load(self.params.read_text())

    def path(self, name: str) -> Path:
        """A result, such as `samples/refl-s3.parquet`."""
        folder, _, file = name.partition("/")
        self.make(folder, re.split(r"[./]", file)[0].removeprefix("measure-").removesuffix("_latents"))
        return self.out / name

    def make(self, folder: str, name: str = "") -> None:
        """What stands in a folder under a name."""
        one_for_all = folder in ("data", "encodings", "report")
        job = folder if one_for_all else f"{folder.replace('lineage', 'measures')}/{name}"
        if job not in self.made and folder != "models":
            self.made.add(job)
            getattr(self, job.partition("/")[0])(*([] if one_for_all else [name]))

    def call(self, stage: str, *arguments: object) -> None:
        """A stage on this study, at its root; `:data/images.parquet` and the like are results."""
        given = [self.out / str(a)[1:] if str(a).startswith(":") else a for a in arguments]
        command, *more = [] if str(given[0]).startswith("--") else [given[0]], given
        rest = more[0][len(command) :]
        with chdir(self.params.parent):
            call(f"stages.{stage}", *command, "--params", self.params, *rest)

    def data(self) -> None:
        """Curation."""
        self.call("curate", *PROMPTS, *IMAGES, *PAIRS, "--manifest", ":data/manifest.json")

    def scores(self, name: str) -> None:
        """Of one reward."""
        self.make("data")
        written = ("--scores", f":scores/{name}.parquet", "--accuracy", f":scores/{name}.json")
        self.call("score", "--reward", name, "--model", f":models/{name}.json", *IMAGES, *PAIRS, *written)

    def encodings(self) -> None:
        """Of prompts and images."""
        self.make("data")
        self.call("encode", *BASE, *PROMPTS, *IMAGES, *ENCODED)

    def runs(self, name: str) -> None:
        """Training."""
        self.make("encodings")
        judges = ("--reward", ":models/proxy.json", "--heldout", ":models/judge.json")
        weights, log = f":runs/{name}/policy.safetensors", f":runs/{name}/train_log.parquet"
        written = ("--weights", weights, "--log", log, "--probes", f":runs/{name}/probes.parquet")
        self.call("finetune", "--run", name, *BASE, *judges, *ENCODED, *written)

    def samples(self, name: str) -> None:
        """Of a run, or of the base."""
        self.make("encodings")
        samples, latents = ("--samples", f":samples/{name}.parquet"), ("--latents", ":samples/base_latents.safetensors")
        if name == "base":
            self.call("sample", "base", *BASE, *ENCODED, *MODELS, *samples, *latents)
            return
        self.make("samples", "base")
        self.make("runs", name)
        policy = ("--policy", f":runs/{name}/policy.safetensors")
        self.call("sample", "run", "--run", name, *BASE, *policy, *ENCODED, *latents, *samples)

    def measures(self, name: str) -> None:
        """Of a run, or of the base."""
        if name == "reference":
            self.make("data")
            self.call("measure", "reference", *IMAGES, *MODELS, "--features", ":measures/reference.safetensors")
            return
        self.make("measures", "reference")
        self.make("samples", name)
        read = ("--samples", f":samples/{name}.parquet", *MODELS, "--reference", ":measures/reference.safetensors")
        written = ("--measures", f":measures/{name}.parquet", "--summary", f":measures/{name}.summary.parquet")
        self.call("measure", "samples", "--run", name, *read, *written)

    def report(self) -> None:
        """Everything."""
        for name in STUDY["score"]["rewards"]:
            self.make("scores", name)
        for name in ("base", *STUDY["runs"]):
            self.make("measures", name)
        folders = ("data", "scores", "runs", "samples", "measures")
        given = [part for name in folders for part in (f"--{name}", f":{name}")]
        self.call("report", *given, "--out", ":report")


def write(root: Path) -> Mini:
    """The study's file, its raw data and its models."""
    draw = np.random.default_rng(1)
    (root / "raw" / "images").mkdir(parents=True)
    for n, caption in enumerate(CAPTIONS * 3):
        name = root / "raw" / "images" / f"{n:02}.png"
        Image.fromarray(draw.integers(0, 256, (16, 16, 3), np.uint8)).save(name)
        name.with_suffix(".txt").write_text(caption)
    shuffled = random.Random(2)
    (root / "raw" / "train.txt").write_text("\n".join(shuffled.sample(TRAIN, len(TRAIN))))
    (root / "raw" / "eval.txt").write_text("\n".join(shuffled.sample(HELD_OUT, len(HELD_OUT))))
    rows = [(CAPTIONS[n % 6], *shuffled.sample(range(18), 2), (n * 3 % 8) / 7) for n in range(40)]
    lines = [f"{text},{a:02}.png,{b:02}.png,{share:.4f}" for text, a, b, share in rows]
    (root / "raw" / "pairs.csv").write_text("\n".join(["prompt,image_a,image_b,preference", *lines]))
    study, out = json.loads(json.dumps(STUDY)), root / "out" / "mini"
    save(tiny.diffusion_folder(root / "base", seed=1), out / "models" / "base.json")
    for seed, name in enumerate(("proxy", "judge", "view"), 11):
        save(tiny.clip_folder(root / name, seed, name), out / "models" / f"{name}.json")
        study["prepare"]["import"][name] = {"kind": "open_clip", "folder": str(root / name)}
    study["prepare"]["import"]["base"] = {"kind": "diffusers", "folder": str(root / "base")}
    params = root / "mini.yaml"
    params.write_text(yaml.safe_dump(study, sort_keys=False))
    return Mini(params, out)
