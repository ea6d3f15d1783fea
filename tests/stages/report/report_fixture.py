"""A made-up study for tests of the report: every number and picture in it is invented here and means nothing.

The world is a line: a setting has an influence u in [0, 1] of the tuned model; rewards rise and diversities fall with
u, each method with its own exponent. `verdict="shown"` plants the three claims, "null" makes every method the base.
"""

from __future__ import annotations

import io
import json
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from tempfile import TemporaryDirectory

import numpy as np
import pytest
import yaml
from PIL import Image, ImageDraw

from stages import tables
from stages.measure.evaluation import Evaluation
from stages.report import figure
from stages.report.data import Folders
from stages.runtime import seed_from
from tests.samples import PLAIN

STEPS = 20
REWARDS = {"proxy": (0.50, 0.22, 0.03), "heldout": (0.48, 0.15, 0.03), "oracle": (-0.6, 2.1, 0.3)}
"""Value of the base, gain of full influence, spread over prompts."""
DIVERSITIES = {
    "attribute_diversity": (0.95, 0.30, 0.03),
    "patch_diversity": (0.63, 0.33, 0.02),
    "clip_diversity": (0.42, 0.26, 0.03),
}
LOSS_EXPONENT = {"refl": 1.2, "draft1": 1.0, "draftlv": 1.1, "alignprop": 0.9, "imagerefl": 2.2}
FULL = {"refl": 1.0, "draft1": 0.55, "draftlv": 0.7, "alignprop": 0.85, "imagerefl": 1.0}
KINDS = {
    "refl": {"kind": "refl"}, "imagerefl": {"kind": "imagerefl"}, "draft1": {"kind": "draft_k", "k": 1},
    "draftlv": {"kind": "draft_lv"}, "alignprop": {"kind": "alignprop"},
}  # fmt: skip
GUIDANCE = (1.0, 1.5, 2.0, 3.0, 4.0)


@dataclass(frozen=True)
class MadeUp:
    """One setting of one run in the made-up study."""

    run: str
    method: str
    seed: int
    strategy: str
    setting: str
    value: float
    influence: float
    nfe: int


def write_study(
    root: Path, verdict: str = "shown", prompts: int = 8, samples: int = 3, runs: tuple[str, ...] | None = None,
    fusion: bool = False,
) -> Path:  # fmt: skip
    """Write a study file and everything that the report reads below `root/out/madeup`; returns the study file.

    With `fusion` the runs are sampled by that strategy too.
    """
    study = _study(runs)
    if fusion:
        study["sample"]["strategies"]["fusion"] = {"kind": "fusion", "k": [8, 14], "base_guidance": 1.0}
    root.mkdir(parents=True, exist_ok=True)
    params = root / "params.yaml"
    params.write_text(yaml.safe_dump(study, sort_keys=False))
    out = root / "out" / "madeup"
    names = [f"eval-{index:03d}" for index in range(prompts)]
    texts = [
        f"a {colour} {shape}"
        for shape in ("star", "ring", "cross")
        for colour in ("red", "green", "blue", "pink", "cyan")
    ]
    texts = [f"{texts[i % len(texts)]}{' on a dark striped background' * (i % 3 == 1)}" for i in range(prompts)]
    for run in ("base", *study["runs"]):
        settings = list(_settings(run, study["runs"].get(run), fusion))
        _write_run(out, settings, dict(zip(names, texts, strict=True)), samples, verdict)
    for run, view in study["runs"].items():
        _write_log(out / "runs" / run / "train_log.parquet", view, verdict)
    _write_json(out, study)
    return params


def arguments(params: Path) -> list[str]:
    """The report's command line over a written study."""
    out = params.parent / "out" / "madeup"
    folders = {name: str(out / name) for name in ("data", "scores", "runs", "samples", "measures")}
    given = [item for name, folder in folders.items() for item in (f"--{name}", folder)]
    return ["--params", str(params), *given, "--out", str(out / "report")]


@contextmanager
def figures_only(*kinds: str) -> Iterator[None]:
    """Reports have no other figures meanwhile: drawing all takes seconds, and `test_report.py` looks at them."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(figure, "figures", lambda named: [figure.load(kind) for kind in kinds])
        yield


@contextmanager
def figures_among(*kinds: str) -> Iterator[None]:
    """Of the figures that a study has, reports have only these meanwhile; one that it does not have is not added."""
    usual = figure.figures
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(figure, "figures", lambda named: [one for one in usual(named) if one.kind in kinds])
        yield


def _study(runs: tuple[str, ...] | None) -> dict:
    names = runs or ("refl-s0", "refl-s1", "draft1-s0", "draftlv-s0", "alignprop-s0", "imagerefl-s0", "imagerefl-s1")
    return {
        "study": {
            "name": "madeup", "description": "Invented numbers for tests", "seed": 0, "reward": "proxy",
            "heldout": "heldout", "reference": "refl",
        },
        "runs": {name: {"method": name.split("-")[0], "seed": int(name[-1])} for name in names},
        "methods": {name: KINDS[name] for name in dict.fromkeys(n.split("-")[0] for n in names) if name in KINDS},
        "score": {"rewards": ["proxy", "heldout", "oracle"]},
        "measure": {"set_metrics": ["fid", "recall"]},
        "sample": {
            "steps": STEPS,
            "strategies": {
                "tuned": {"kind": "tuned", "guidance": 1.0},
                "combined": {"kind": "combined", "k": [4, 8, 10, 12, 14, 16], "base_guidance": 1.0},
                "aig": {"kind": "aig", "p": [1, 2, 4], "base_guidance": 1.0},
                "aig_guided": {"kind": "aig", "p": [1, 2, 4], "base_guidance": 2.0},
                "rlg": {"kind": "rlg", "w": [0.5, 1.5], "base_guidance": 1.0},
            },
        },
        "report": {
            "grid": {"prompts": 3, "samples": 3}, "rewards": list(REWARDS), "diversities": list(DIVERSITIES),
            "bootstrap": 200, "main": {"reward": "oracle", "diversity": "attribute_diversity"},
        },
    }  # fmt: skip


def _settings(run: str, view: dict | None, fusion: bool = False) -> Iterator[MadeUp]:
    if view is None:
        for g in GUIDANCE:
            yield MadeUp(
                "base", "base", 0, "guidance", f"guidance={g:g}", g, 0.55 * (1 - 1 / g) ** 0.8, STEPS * (1 + (g > 1))
            )
        return
    method, seed = view["method"], view["seed"]
    yield MadeUp(run, method, seed, "tuned", "tuned", 0.0, 1.0, STEPS)
    for k in (4, 8, 10, 12, 14, 16):
        yield MadeUp(run, method, seed, "combined", f"k={k}", k, (1 - (k / STEPS) ** 1.3) * 0.96, STEPS)
    for p in (1, 2, 4):
        yield MadeUp(run, method, seed, "aig", f"p={p}", p, 0.75 / p**0.75, 2 * STEPS)
        yield MadeUp(run, method, seed, "aig_guided", f"p={p}", p, 0.2 + 0.62 / p**0.8, 3 * STEPS)
    for w in (0.5, 1.5):
        yield MadeUp(run, method, seed, "rlg", f"w={w:g}", w, 0.55 if w < 1 else 1.15, 2 * STEPS)
    for k in (8, 14) if fusion else ():
        yield MadeUp(run, method, seed, "fusion", f"k={k}", k, 0.8 * (1 - k / STEPS), 2 * STEPS - k)


def _levels(made: MadeUp, verdict: str) -> tuple[float, float]:
    """How much of the full gain of reward, and of the full loss of diversity, a setting has."""
    if verdict == "null":
        return 0.0, 0.0
    if made.method == "base":
        return made.influence, made.influence**1.05
    gain = made.influence * FULL[made.method]
    if made.method == "imagerefl" and made.strategy == "tuned":
        return 0.8, 1.05
    return gain, gain ** LOSS_EXPONENT[made.method]


def _write_run(out: Path, settings: list[MadeUp], texts: dict[str, str], samples: int, verdict: str) -> None:
    levels = tuple((made, *_levels(made, verdict)) for made in settings)
    for name, content in _run_files(levels, tuple(texts.items()), samples).items():
        (out / name).parent.mkdir(parents=True, exist_ok=True)
        (out / name).write_bytes(content)


@cache
def _run_files(
    levels: tuple[tuple[MadeUp, float, float], ...], texts: tuple[tuple[str, str], ...], samples: int
) -> dict[str, bytes]:
    """The files of a run by name: made once for all studies that have the same run."""
    sample_rows, measure_rows, summary_rows = [], [], []
    for made, gain, loss in levels:
        keys = {
            "run": made.run, "method": made.method, "train_seed": made.seed, "strategy": made.strategy,
            "setting": made.setting, "value": float(made.value),
        }  # fmt: skip
        by_metric: dict[str, list[float]] = {}
        for prompt_id, text in texts:
            for metric, sample, score in _scores(made, prompt_id, samples, gain, loss):
                measure_rows.append(
                    {**keys, "prompt_id": prompt_id, "sample": sample, "metric": metric, "score": score}
                )
                by_metric.setdefault(metric, []).append(score)
            for sample in range(samples):
                image = _image(text, prompt_id, sample, gain, loss)
                cost = PLAIN | {"nfe": made.nfe, "seconds": 0.011 * made.nfe}
                sample_rows.append(
                    {**keys, "prompt_id": prompt_id, "prompt": text, "sample": sample, "image": image, **cost}
                )
        for metric, score in (("fid", 12 + 30 * loss), ("recall", 0.6 - 0.4 * loss)):
            measure_rows.append({**keys, "prompt_id": None, "sample": None, "metric": metric, "score": score})
            summary_rows.append(
                {**keys, "metric": metric, "mean": score, "low": None, "high": None, "n_prompts": len(texts)}
            )
        for metric, values in by_metric.items():
            mean, half = float(np.mean(values)), 2 * float(np.std(values)) / len(values) ** 0.5
            summary_rows.append(
                {
                    **keys,
                    "metric": metric,
                    "mean": mean,
                    "low": mean - half,
                    "high": mean + half,
                    "n_prompts": len(texts),
                }
            )
    run = levels[0][0].run
    evaluation = Evaluation("made up", len(texts), samples, (32, 32), 0, {"steps": STEPS}, {}, {})
    written = {
        f"samples/{run}.parquet": (sample_rows, tables.SAMPLES, tables.SAMPLES),
        f"measures/{run}.parquet": (measure_rows, tables.MEASURES, evaluation.schema(tables.MEASURES)),
        f"measures/{run}.summary.parquet": (summary_rows, tables.SUMMARY, evaluation.schema(tables.SUMMARY)),
    }
    found: dict[str, bytes] = {}
    with TemporaryDirectory() as folder:
        for name, (rows, schema, described) in written.items():
            tables.write(Path(folder) / "table", tables.table(schema, rows), described)
            found[name] = (Path(folder) / "table").read_bytes()
    return found


def _scores(
    made: MadeUp, prompt_id: str, samples: int, gain: float, loss: float
) -> Iterator[tuple[str, int | None, float]]:
    """Scores of one prompt: the prompt's own level is shared by every setting, the rest is noise of this setting."""
    for metric, (base, full, spread) in REWARDS.items():
        level = base + full * gain + spread * _normal("prompt", prompt_id, metric)
        for sample in range(samples):
            yield metric, sample, level + 0.4 * spread * _normal(made, prompt_id, metric, sample)
    for metric, (base, full, spread) in DIVERSITIES.items():
        common = spread * _normal("prompt", prompt_id, metric)
        yield metric, None, base - full * loss + common + 0.15 * spread * _normal(made, prompt_id, metric)
    for sample in range(samples):
        yield "clipscore", sample, 0.24 + 0.05 * gain + 0.02 * _normal(made, prompt_id, sample)
        yield "caption_accuracy", sample, float(_normal(made, prompt_id, "caption", sample) < 1 + gain)


def _normal(*parts: object) -> float:
    return float(np.random.default_rng(seed_from(*parts)).standard_normal())


def _image(text: str, prompt_id: str, sample: int, gain: float, loss: float) -> bytes:
    generator = np.random.default_rng(seed_from(prompt_id, sample))
    x, y = 16 + (1 - 0.7 * loss) * generator.uniform(-7, 7, size=2)
    radius = 5 + 4 * gain + 2 * (1 - loss) * generator.uniform(-1, 1)
    ground = tuple(int(v) for v in generator.uniform(30, 220, size=3) * (1 - 0.75 * loss))
    picture = Image.new("RGB", (32, 32), ground)
    draw = ImageDraw.Draw(picture)
    colour = text.split()[1]
    draw.ellipse((x - radius, y - radius, x + radius, y + radius), fill=colour)
    buffer = io.BytesIO()
    picture.save(buffer, "PNG", compress_level=1)
    return buffer.getvalue()


def _write_log(path: Path, view: dict, verdict: str) -> None:
    generator = np.random.default_rng(seed_from(view["method"], view["seed"]))
    full = 0.0 if verdict == "null" else FULL[view["method"]]
    rows = []
    for step in range(1, 101):
        u = full * (1 - np.exp(-step / 35))
        rows.append({"step": step, "term": "reward", "value": 0.5 + 0.22 * u + 0.02 * generator.standard_normal()})
        rows.append({"step": step, "term": "loss", "value": -0.5 - 0.22 * u})
        rows.append({"step": step, "term": "nfe", "value": 300.0})
        rows.append({"step": step, "term": "seconds", "value": 0.4})
        rows.append({"step": step, "term": "queries", "value": 16.0})
    for step in (0, *range(20, 101, 20)):
        u = full * (1 - np.exp(-step / 35))
        turn = u - 0.5 * max(0.0, u - 0.75)
        for name, level in (("proxy", u), ("heldout", turn), ("oracle", turn)):
            base, gain, spread = REWARDS[name]
            value = base + gain * level + 0.2 * spread * generator.standard_normal()
            rows.append({"step": step, "term": f"probe_{name}", "value": value})
        rows.append(
            {"step": step, "term": "probe_diversity", "value": 0.63 - 0.3 * u**1.2 + 0.01 * generator.standard_normal()}
        )
    tables.write(path, tables.table(tables.TRAIN_LOG, rows), tables.TRAIN_LOG)


def _write_json(out: Path, study: dict) -> None:
    """The curation manifest and the pair accuracies, in the form of their stages."""
    (out / "data").mkdir(parents=True, exist_ok=True)
    (out / "scores").mkdir(parents=True, exist_ok=True)
    counts = {
        "in": 4096, "out": 4003, "splits": {"train": 3601, "val": 402},
        "filters": [
            {"filter": "exact_duplicates", "removed": 90, "left": 4006, "examples": []},
            {"filter": "min_side", "removed": 0, "left": 4006, "examples": []},
            {"filter": "leakage", "removed": 3, "left": 4003, "examples": ["a red star: is an evaluation prompt"]},
        ],
    }  # fmt: skip
    manifest = {"version": 1, "settings": "0" * 16, "tables": {"prompts_eval": counts, "images": counts}, "outputs": {}}
    (out / "data" / "manifest.json").write_text(json.dumps(manifest))
    for place, name in enumerate(study["score"]["rewards"]):
        shares = {"accuracy": 0.8 + place / 20, "low": 0.77 + place / 20, "high": 0.83 + place / 20}
        training = {f"train_{key}": value + 0.01 for key, value in shares.items()}
        found = {"reward": name, "model": "made up", "split": "val", "level": 0.95, "pairs": 200, "train_pairs": 1800}
        (out / "scores" / f"{name}.json").write_text(json.dumps({**found, **shares, **training}))


class Silent:
    """A job whose record nobody keeps."""

    class record:
        folder = "/nowhere"
        title = "report"

    def metrics(self, values: dict[str, float]) -> None:
        self.kept = values


def folders(params: Path) -> Folders:
    """Where everything of the made-up study stands."""
    out = params.parent / "out" / "madeup"
    return Folders(*(out / name for name in ("data", "scores", "runs", "samples", "measures", "report")))
