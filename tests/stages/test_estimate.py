"""What a study would take: a moment on a clock that is made up, and the rest by counting."""

from __future__ import annotations

import sys
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
import yaml

from stages.encode.store import Encodings
from stages.estimate import __main__ as command
from stages.estimate import trial
from stages.finetune.context import TrainingContext
from stages.finetune.paths import Paths
from stages.finetune.resolve import TrainingPlan, training_plan
from stages.models import record
from stages.models.diffusion import load_diffusion
from stages.sample.resolve import sampling_plan
from tests import tiny

SECONDS = 6.0
"""What everything takes by the clock of these tests."""
METHODS = {
    "draft": {"kind": "draft_k", "k": 1},
    "lora": {"kind": "refl", "middle": [3, 4], "train": {"trainable": "lora", "lora": {"rank": 2}}},
    "student": {"kind": "sqdf", "predictor": "consistency", "model": "student", "replay": 2},
}


@pytest.fixture(scope="module")
def place(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("estimate")
    study = {
        "study": {"seed": 1, "reward": "proxy", "heldout": "heldout"},
        "finetune": {
            "steps": 10, "batch_size": 4, "sampling_steps": 4, "probe": {"every": 4, "prompts": 2, "samples": 3},
        },
        "methods": METHODS,
        "runs": {f"{name}-s{seed}": {"method": name, "seed": seed} for name in METHODS for seed in (0, 1)},
        "sample": {
            "steps": 4, "samples_per_prompt": 2, "batch_size": 4, "guidance": [1.0, 2.0],
            "strategies": {
                "tuned": {"kind": "tuned"}, "combined": {"kind": "combined", "k": [1, 3]},
                "aig": {"kind": "aig", "p": [1]},
            },
        },
    }  # fmt: skip
    (folder / "params.yaml").write_text(yaml.safe_dump(study))
    record.save(tiny.diffusion_folder(folder / "base"), folder / "base.json")
    record.save(tiny.clip_folder(folder / "proxy", 1, "proxy"), folder / "proxy.json")
    tiny.encodings(folder)
    return folder


@pytest.fixture(autouse=True)
def _clock(monkeypatch: pytest.MonkeyPatch) -> None:
    def clocked(work: Callable[[], None], device: torch.device) -> float:
        work()
        return SECONDS

    monkeypatch.setattr(trial, "clocked", clocked)


def context(place: Path, plan: TrainingPlan) -> TrainingContext:
    encodings = place / "encodings.safetensors", place / "index.parquet"
    return TrainingContext.load(Paths(place / "base.json", place / "proxy.json", None, *encodings), [plan])


def test_training_takes_what_its_compute_takes_at_the_speed_of_the_first_steps(place: Path) -> None:
    plan = training_plan(place / "params.yaml", "draft-s0")
    found = trial.training(plan, context(place, plan))
    a_step = 4 * (4 + 2)  # four images, four evaluations, one of them with a backward pass, which counts two
    probes = 4 * (2 * 3) * 4  # at 0, 4, 8 and 10; six images, four evaluations
    assert found.seconds == pytest.approx(SECONDS / (trial.MOMENT * a_step) * (10 * a_step + probes))
    assert found.steps == 10
    parameters = sum(p.nbytes for p in context(place, plan).model.unet.parameters())
    assert found.weights_mb == pytest.approx(parameters / 2**20)
    plan = training_plan(place / "params.yaml", "lora-s0")
    lora = trial.training(plan, context(place, plan))
    assert 0 < lora.weights_mb < found.weights_mb / 2
    assert lora.memory_mb > 100


def test_sampling_takes_what_its_evaluations_and_pictures_take(place: Path) -> None:
    model = load_diffusion(record.load(place / "base.json"), tiny.CPU, parts=("unet", "vae"))
    encodings = Encodings(place / "encodings.safetensors", place / "index.parquet", tiny.CPU)
    found = trial.sampling(sampling_plan(place / "params.yaml"), model, encodings)
    evaluation, picture, images = SECONDS / (4 * 4), SECONDS / 4, 3 * 2  # a batch of four, four steps; three prompts
    assert found.base_seconds == pytest.approx(images * ((4 + 8) * evaluation + 2 * picture))
    a_run = 4 + (3 + 1) + (2 * 4 - 1)  # tuned; combined at k = 1 and 3; AIG but for the tuned network at first
    assert found.run_seconds == pytest.approx(images * (a_run * evaluation + 4 * picture))
    assert (found.base_images, found.run_images) == (2 * images, 4 * images)
    assert found.latents_mb == pytest.approx(images * 2 * 4 * 4 * 8 * 8 / 2**20)  # at steps 1 and 3
    assert 0 < found.image_mb < 0.01


def test_the_command_leaves_out_what_is_not_there_and_leaves_nothing_behind(
    place: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    before = sorted(place.rglob("*"))
    options = {"params": "params.yaml", "base": "base.json", "reward": "proxy.json", "index": "index.parquet"}
    options |= {"tensors": "encodings.safetensors", "predictors": "."}
    words = [word for name, file in options.items() for word in (f"--{name}", str(place / file))]
    monkeypatch.setattr(sys, "argv", ["estimate", *words])
    command.main()
    lines = capsys.readouterr().out.splitlines()
    assert lines[0] == "student: left out, its distilled model 'student' is not there yet"
    assert [line.split()[:3] for line in lines if line.startswith(("draft", "lora"))] == [
        ["draft", "2", "10"], ["lora", "2", "10"],
    ]  # fmt: skip
    assert any(line.startswith("each run") and line.split()[2] == "4" for line in lines)  # runs that were timed
    assert sum(line.startswith("in all ") for line in lines) == 1
    assert sorted(place.rglob("*")) == before
