"""The ready studies of learning from pairs have the settings of the releases, and encode both images of every pair."""

from __future__ import annotations

from pathlib import Path

import pytest
from project import ROOT

from stages.finetune.resolve import training_plan
from stages.params import read_study
from workflow.doctor import study as doctor
from workflow.files import Files
from workflow.jobs import ENCODE
from workflow.layout import Layout

RELEASED = {
    "sd15-dpo": (2000, 2048, 1e-8 * 2048, {"dpo": {"beta": 5000}, "sdpo": {"beta": 5000, "mu": 0.9}}),
    "sdxl-dpo": (2000, 2048, 1e-9 * 2048, {"dpo": {"beta": 5000}, "sdpo": {"beta": 5000, "mu": 0.6}}),
    "sd15-kto": (20000, 8, 1e-7, {"kto": {"beta": 1000, "likes": 0.8}, "sft": {}}),
}
"""Steps, pairs (or images) a step, rate, and the settings of the methods."""


@pytest.mark.parametrize("name", RELEASED)
def test_the_settings_are_those_of_the_release(name: str) -> None:
    path = ROOT / "studies" / f"{name}.yaml"
    steps, batch, rate, methods = RELEASED[name]
    runs = read_study(path)["runs"]
    assert {run["method"] for run in runs.values()} == set(methods)
    for run, about in runs.items():
        plan = training_plan(path, run)
        train, settings = plan.train, plan.method_settings
        assert (train.steps, train.batch_size, train.trainable) == (steps, batch, "full")
        assert train.optimizer.lr == pytest.approx(rate)
        assert settings.needs.data == "pairs"
        flat = settings.model_dump() | (settings.model_dump().get("safeguard") or {})
        assert {key: flat[key] for key in methods[about["method"]]} == methods[about["method"]]


@pytest.mark.parametrize("name", RELEASED)
def test_both_images_of_every_pair_are_encoded(name: str) -> None:
    files = Files(Layout("study.yaml", read_study(ROOT / "studies" / f"{name}.yaml")))
    assert f"--pairs {files.layout.out('data/pairs.parquet')}" in files.command(ENCODE)


@pytest.mark.parametrize("name", RELEASED)
def test_the_doctor_names_what_is_not_there(name: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    lacking = [one.found for one in doctor.look(ROOT / "studies" / f"{name}.yaml") if one.mark == "missing"]
    for path in ("data/pickapic_v2", "data/hpdv2/test.json", "data/models/image_reward"):
        assert any(path in found and "\n" not in found for found in lacking), path
