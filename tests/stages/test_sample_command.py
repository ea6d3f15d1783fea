"""The command line of sampling: rewards and further networks of strategies reach the job, or are asked for."""

from __future__ import annotations

import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import torch
import yaml

import stages.sample.strategies
from stages import plugins, tables
from stages.errors import InputError
from stages.models import record
from stages.models.diffusion import load_diffusion
from stages.models.policy import make_policy
from stages.sample.__main__ import main
from tests import tiny

NEGATIVE = '''
"""Away from a network that was trained for the opposite."""

from __future__ import annotations

from typing import TYPE_CHECKING

from stages.sample.mixing import Predicting
from stages.sample.settings import SweepPoint

if TYPE_CHECKING:
    from torch import Tensor

    from stages.models.diffusion import Predict
    from stages.sample.networks import Networks


class Settings(Predicting):
    """The network and its weight."""

    negative: str
    weight: float

    def points(self) -> list[SweepPoint]:
        return [SweepPoint(f"weight={self.weight:g}", self.weight)]

    def networks(self) -> tuple[str, ...]:
        return (self.negative,)

    def predict(self, networks: Networks, value: float) -> Predict:
        own, other = networks.own(1.0), networks.other(self.negative, 1.0)

        def at(x: Tensor, i: int) -> Tensor:
            return (1 + value) * own(x, i) - value * other(x, i)

        return at
'''
STRATEGIES: dict[str, Any] = {
    "tuned": {"kind": "tuned"},
    "best": {"kind": "best_of_n", "n": [2], "reward": "proxy", "apply_to": ["base", "tuned"]},
    "same": {"kind": "negative", "negative": "refl", "weight": 0.5},
    "away": {"kind": "negative", "negative": "npo-s1", "weight": 0.5, "apply_to": ["base", "tuned"]},
}


@pytest.fixture
def place(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    """A study with two runs and a strategy of a file that was added."""
    monkeypatch.setenv("LINEAGE", "off")
    (tmp_path / "strategies").mkdir()
    (tmp_path / "strategies/negative.py").write_text(NEGATIVE)
    paths = [*stages.sample.strategies.__path__, str(tmp_path / "strategies")]
    monkeypatch.setattr(stages.sample.strategies.__spec__, "submodule_search_locations", paths)
    monkeypatch.setattr(stages.sample.strategies, "__path__", paths)
    plugins._files.cache_clear()
    study = {
        "study": {"name": "s", "seed": 3, "reward": "proxy", "heldout": "proxy"},
        "runs": {"refl-s0": {"method": "refl", "seed": 0}, "npo-s1": {"method": "npo", "seed": 1}},
        "sample": {"steps": 3, "samples_per_prompt": 2, "strategies": STRATEGIES},
    }
    (tmp_path / "params.yaml").write_text(yaml.safe_dump(study))
    record.save(tiny.diffusion_folder(tmp_path / "base"), tmp_path / "base.json")
    (tmp_path / "models").mkdir()
    record.save(tiny.clip_folder(tmp_path / "proxy", 1, "proxy"), tmp_path / "models/proxy.json")
    tiny.encodings(tmp_path, held=2)
    model = load_diffusion(record.load(tmp_path / "base.json"), tiny.CPU, parts=("unet",))
    for seed, run in enumerate(study["runs"]):
        policy, draw = make_policy(model.unet, "full"), torch.Generator().manual_seed(seed)
        with torch.no_grad():
            for _, parameter in policy.parameters():
                parameter.add_(0.05 * torch.randn(parameter.shape, generator=draw))
        policy.save(tmp_path / "runs" / run / "policy.safetensors", model.record.digest)
    yield tmp_path
    plugins._files.cache_clear()
    sys.modules.pop("stages.sample.strategies.negative", None)


def command(place: Path, monkeypatch: pytest.MonkeyPatch, what: str, *more: str) -> Path:
    """Run `sample base` or `sample run` of refl-s0; returns its samples."""
    files = {
        "params": "params.yaml", "base": "base.json", "tensors": "encodings.safetensors", "index": "index.parquet",
        "latents": "latents.safetensors", "samples": f"{what}.parquet",
    }  # fmt: skip
    given = [word for name, file in files.items() for word in (f"--{name}", str(place / file))]
    if what == "run":
        given += ["--run", "refl-s0", "--policy", str(place / "runs/refl-s0/policy.safetensors")]
    monkeypatch.setattr(sys, "argv", ["sample", what, *given, *more])
    main()
    return place / f"{what}.parquet"


def test_rewards_and_further_networks_reach_the_jobs(place: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    folders = ("--models", str(place / "models"), "--runs", str(place / "runs"))
    base, run = (
        tables.read(command(place, monkeypatch, what, *folders), tables.SAMPLES).to_pylist() for what in ("base", "run")
    )
    found = {name: [row["image"] for row in run if row["strategy"] == name] for name in STRATEGIES}
    assert {row["strategy"] for row in base} == {"guidance", "best", "away"}
    assert {row["strategy"] for row in run} == set(STRATEGIES)
    assert found["same"] == found["tuned"]  # its own network is the refl run of the same seed: nothing to go away from
    assert found["away"] != found["tuned"]
    digest = record.load(place / "models/proxy.json").digest
    for row in (*base, *run):
        asked = ["proxy"] if row["strategy"] == "best" else []
        assert (row["rewards"], row["reward_digests"]) == (asked, [digest] * len(asked))
        assert row["nfe"] == {"guidance": 3, "tuned": 3}.get(row["strategy"], 6)


@pytest.mark.parametrize(
    ("folders", "message"),
    [
        (("--runs",), "--models: a strategy asks the reward 'proxy'"),
        (("--models",), "--runs: a strategy evaluates 'npo-s1'"),
    ],
)
def test_a_folder_that_is_needed_is_asked_for(
    place: Path, monkeypatch: pytest.MonkeyPatch, folders: tuple[str, ...], message: str
) -> None:
    given = [word for flag in folders for word in (flag, str(place / flag[2:]))]
    with pytest.raises(InputError, match=message):
        command(place, monkeypatch, "run", *given)


def test_a_network_that_the_study_has_not_is_named(place: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    study = yaml.safe_load((place / "params.yaml").read_text())
    study["sample"]["strategies"]["same"]["negative"] = "npo"  # there is none with seed 0
    (place / "params.yaml").write_text(yaml.safe_dump(study))
    with pytest.raises(InputError, match="no run 'npo', nor one of that method with the seed of 'refl-s0'"):
        command(place, monkeypatch, "run", "--models", str(place / "models"), "--runs", str(place / "runs"))


def test_a_reward_without_gradient_is_refused_where_one_is_needed(place: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    from stages.rewards.open_clip import OpenClip
    from stages.sample.search import Search

    monkeypatch.setattr(Search, "needs_gradient", lambda self: True)
    monkeypatch.setattr(OpenClip, "differentiable", False)
    with pytest.raises(InputError, match="reward 'proxy' gives images no gradient"):
        command(place, monkeypatch, "base", "--models", str(place / "models"), "--runs", str(place / "runs"))


def test_a_distilled_model_and_the_text_encoders_reach_the_jobs(place: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    study = yaml.safe_load((place / "params.yaml").read_text())
    own = {
        "fmtt": {"kind": "fmtt", "n": [1], "reward": "proxy", "flow_map": "student"},
        "sgt": {"kind": "sgt", "c": [2]},
    }
    study["sample"]["strategies"] = {name: {**entry, "apply_to": ["base", "tuned"]} for name, entry in own.items()}
    (place / "params.yaml").write_text(yaml.safe_dump(study))
    tiny.unet(5).save_pretrained(place / "encodings/student")
    described = record.describe("student", "consistency", place / "encodings/student")
    record.save(described, place / "encodings/student.json")
    models = ("--models", str(place / "models"))
    with pytest.raises(InputError, match="--predictors: a strategy evaluates 'student'"):
        command(place, monkeypatch, "base", *models)
    for what in ("base", "run"):
        made = command(place, monkeypatch, what, *models, "--predictors", str(place / "encodings"))
        rows = tables.read(made, tables.SAMPLES).to_pylist()
        assert {(row["nfe"], row["nfe_backward"]) for row in rows if row["strategy"] == "fmtt"} == {(6, 3)}
        assert all(row["nfe"] > 6 for row in rows if row["strategy"] == "sgt")
    record.save(record.describe("student", "diffusers", place / "base"), place / "encodings/student.json")
    with pytest.raises(InputError, match="expected a distilled consistency model"):
        command(place, monkeypatch, "base", *models, "--predictors", str(place / "encodings"))
