"""`python -m stages.power` on a made-up study whose slope and variances are known."""

from __future__ import annotations

import json
import sys
from pathlib import Path

import numpy as np
import pytest
import yaml

from stages import tables
from stages.errors import InputError
from stages.power.__main__ import main
from tests.samples import PLAIN

SEEDS, PROMPTS, IMAGES = 3, 6, 4
FALL, RISE = 0.4, 2.0
"""The tuned network loses this diversity, and gains this reward."""


def write(root: Path, seeds: int = SEEDS, seed_deviation: float = 0.1) -> list[str]:
    """Reward rises with what diversity falls along the curve, by RISE / FALL, so that scores at equal diversity are
    those of the base but for noise.
    """
    study = {
        "study": {"name": "p", "reward": "proxy", "heldout": "heldout", "reference": "refl"},
        "runs": {f"refl-s{n}": {"method": "refl", "seed": n} for n in range(seeds)},
        "methods": {"refl": {"kind": "refl"}},
        "sample": {"steps": 20, "strategies": {"tuned": {"kind": "tuned"}, "combined": {"kind": "combined", "k": [9]}}},
        "report": {"rewards": ["proxy"], "diversities": ["clip_diversity"]},
    }  # fmt: skip
    (root / "params.yaml").write_text(yaml.safe_dump(study))
    rng, prompt = np.random.default_rng(0), np.random.default_rng(1).standard_normal(PROMPTS)
    _run(root, "base", 0, [("guidance", "g=1", 1.0, 0.0)], prompt, rng, 0.0)
    for n in range(seeds):
        points = [("tuned", "tuned", 0.0, 1.0), ("combined", "k=5", 5.0, 0.75), ("combined", "k=10", 10.0, 0.25)]
        _run(root, f"refl-s{n}", n, points, prompt, rng, seed_deviation * (n - (seeds - 1) / 2))
    return ["power", "--params", str(root / "params.yaml"), "--study", str(root)]


def _run(
    root: Path, run: str, seed: int, points: list[tuple[str, str, float, float]], prompt: np.ndarray,
    rng: np.random.Generator, shift: float,
) -> None:  # fmt: skip
    rows, images = [], []
    for strategy, setting, value, influence in points:
        head = {"run": run, "method": run.split("-")[0], "train_seed": seed, "strategy": strategy, "setting": setting,
                "value": value}  # fmt: skip
        for p in range(PROMPTS):
            about = head | {"prompt_id": f"p{p}"}
            rows.append(about | {"sample": None, "metric": "clip_diversity", "score": 1 - FALL * influence})
            for n in range(IMAGES):
                score = prompt[p] + RISE * influence + shift * (strategy != "tuned")
                noise = 0.05 * rng.standard_normal() * (strategy == "combined")
                rows.append(about | {"sample": n, "metric": "proxy", "score": float(score + noise)})
                images.append(about | {"prompt": "", "sample": n, "image": b"", "nfe": 20, "seconds": 0.1} | PLAIN)
    for folder in ("measures", "samples", f"runs/{run}"):
        (root / folder).mkdir(parents=True, exist_ok=True)
    tables.write(root / f"measures/{run}.parquet", tables.table(tables.MEASURES, rows), tables.MEASURES)
    tables.write(root / f"samples/{run}.parquet", tables.table(tables.SAMPLES, images), tables.SAMPLES)
    log: list[dict[str, object]] = [
        {"step": s, "term": term, "value": value * s}
        for s in (1, 2) for term, value in (("forward", 50.0), ("backward", 10.0))
    ]  # fmt: skip
    tables.write(root / f"runs/{run}/train_log.parquet", tables.table(tables.TRAIN_LOG, log), tables.TRAIN_LOG)


def test_components_of_a_finished_study(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(sys, "argv", [*write(tmp_path), "--out", str(tmp_path / "power.json")])
    main()
    found = json.loads((tmp_path / "power.json").read_text())
    assert found["span"] == pytest.approx(RISE) and found["slope"] == pytest.approx(-RISE / FALL)
    assert found["gap"] == pytest.approx(0.02 * RISE)
    assert found["prompts"] == [f"p{n}" for n in range(PROMPTS)]  # the scores that were read, of one method
    assert found["components"]["seed"] == pytest.approx(0.1**2, rel=0.35)  # shifts -0.1, 0, 0.1
    prompts = np.random.default_rng(1).standard_normal(PROMPTS)
    assert found["components"]["prompt"] == pytest.approx(prompts.var(ddof=1), rel=0.05)
    assert found["components"]["seed_image"] == pytest.approx(0.05**2 / 2, rel=0.5)  # mean of two points
    for one in found["designs"]:
        assert one["evaluations"] == 2 * one["seeds"] * (100 + 2 * 20 + one["prompts"] * one["images"] * 40)
    said = capsys.readouterr().out
    assert "3 seeds, 6 prompts, 4 images per prompt" in said and "2 degrees of freedom" in said
    if found["designs"]:
        assert "<- cheapest" in said


def test_seeds_alone_limit_what_is_seen(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """Where seeds differ by much, no number of images helps."""
    monkeypatch.setattr(sys, "argv", [*write(tmp_path, seed_deviation=2.0), "--seeds", "6"])
    main()
    assert "no design that was tried sees the gap" in capsys.readouterr().out


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["--method", "imagerefl"], "--method imagerefl: found 0 runs, expected at least two training seeds"),
        (["--reward", "proxi"], "--reward proxi: not in the report of the study; did you mean 'proxy'"),
        (["--gap", "2"], "--gap 2: expected a number between 0 and 1"),
        (["--seeds", "0"], "--seeds 0: expected 2 or more"),
        (["--prompts", "-1"], "--prompts -1: expected 2 or more"),
        (["--prompts", "0"], "--prompts 0: expected 2 or more"),
    ],
)
def test_refusals(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, words: list[str], message: str) -> None:
    monkeypatch.setattr(sys, "argv", [*write(tmp_path), *words])
    with pytest.raises(InputError, match=message):
        main()


def test_a_single_run_is_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sys, "argv", write(tmp_path, seeds=1))
    with pytest.raises(InputError, match="--method refl: found 1 runs"):
        main()
