"""Fine-tuning a tiny base end to end, from records and encodings to the checkpoint and the log."""

from __future__ import annotations

from pathlib import Path
from typing import Any, cast

import pytest
import torch
import yaml

from stages import tables
from stages.errors import InputError
from stages.finetune.paths import Paths
from stages.finetune.resolve import training_plan
from stages.finetune.run import finetune
from stages.lineage import Job
from stages.models import record
from stages.models.diffusion import load_diffusion
from stages.models.policy import load_policy
from tests import tiny

METHODS = {
    "imagerefl": {"kind": "imagerefl", "start": 1, "middle": [1, 4], "diffusion_weight": 0.1},
    "lora": {"kind": "refl", "middle": [2, 4], "train": {"trainable": "lora", "lora": {"rank": 2}, "ema": 0.9}},
    "released": {
        "kind": "imagerefl", "start": 1, "middle": [1, 2], "diffusion_weight": 0.1,
        "train": {"trainable": "norm_affine", "as_released": {"extra_step": True, "double_step": True}},
    },
    "draft": {"kind": "draft_k", "k": 2, "train": {"accumulate": 2, "precision": "bfloat16"}},
    "online": {
        "kind": "online", "round_steps": 2, "queries": [6, 3], "inner": {"kind": "gradient", "truncate": [1, 3]},
        "train": {"trainable": "lora", "lora": {"rank": 2}},
    },
}  # fmt: skip


class Quiet:
    """A job that keeps what it is told."""

    def __init__(self) -> None:
        self.seen: list[dict[str, float]] = []

    def metrics(self, values: dict[str, float], step: int | None = None) -> None:
        self.seen.append(values)


@pytest.fixture(scope="module")
def place(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("study")
    study = {
        "study": {"seed": 1, "reward": "proxy", "heldout": "heldout"},
        "finetune": {
            "steps": 3,
            "batch_size": 4,
            "sampling_steps": 4,
            "probe": {"every": 2, "prompts": 2, "samples": 2},
        },
        "methods": METHODS,
        "runs": {f"{name}-s0": {"method": name, "seed": 0} for name in METHODS},
    }
    (folder / "params.yaml").write_text(yaml.safe_dump(study))
    record.save(tiny.diffusion_folder(folder / "base"), folder / "base.json")
    record.save(tiny.clip_folder(folder / "proxy", 1, "proxy"), folder / "proxy.json")
    record.save(tiny.clip_folder(folder / "heldout", 2, "heldout"), folder / "heldout.json")
    tiny.encodings(folder)
    return folder


def run(place: Path, method: str, out: Path, reward: str = "proxy.json") -> tuple[dict[tuple[int, str], float], Quiet]:
    """The log by step and term, and what the job was told."""
    job = Quiet()
    out.mkdir(exist_ok=True)
    names = ("base.json", reward, "heldout.json", "encodings.safetensors", "index.parquet")
    finetune(
        training_plan(place / "params.yaml", f"{method}-s0"), Paths(*(place / name for name in names)),
        out / "policy.safetensors", out / "log.parquet", cast(Job, job),
    )  # fmt: skip
    rows: list[dict[str, Any]] = tables.read(out / "log.parquet", tables.TRAIN_LOG).to_pylist()
    return {(row["step"], row["term"]): row["value"] for row in rows}, job


# evaluations of the network in a step of four images, where the judged index is fixed
NFE = {"draft": 4 * 4, "released": 4 * 3}


@pytest.mark.parametrize("method", METHODS)
def test_a_run_writes_its_checkpoint_and_its_log(place: Path, tmp_path: Path, method: str):
    log, job = run(place, method, tmp_path)
    for step in range(3):
        assert {term for at, term in log if at == step} >= {"reward", "loss", "grad_norm", "nfe"}
    probes = {at for at, term in log if term == "probe_diversity"}
    assert probes == {0, 2, 3}
    assert {term for _, term in log if term.startswith("probe_")} == {"probe_proxy", "probe_heldout", "probe_diversity"}
    assert all(NFE.get(method, value) == value for (_, term), value in log.items() if term == "nfe")
    assert any("probe/reward" in values for values in job.seen)

    base = load_diffusion(record.load(place / "base.json"), tiny.CPU, parts=("unet",))
    policy = load_policy(base.unet, tmp_path / "policy.safetensors", base.record.digest)
    x, t, text = torch.ones(1, *tiny.LATENT), torch.tensor(400), tiny.text(1)
    with torch.no_grad():
        outputs = [n(x, t, encoder_hidden_states=text, return_dict=False)[0] for n in (base.unet, policy.network)]
    assert not torch.equal(*outputs)


def test_running_again_gives_the_same_checkpoint_and_log(place: Path, tmp_path: Path):
    first = run(place, "imagerefl", tmp_path / "one")[0]
    torch.manual_seed(123)
    second = run(place, "imagerefl", tmp_path / "two")[0]
    assert first.keys() == second.keys()
    assert {key: value for key, value in first.items() if key[1] != "seconds"} == {
        key: value for key, value in second.items() if key[1] != "seconds"
    }
    files = [(tmp_path / name / "policy.safetensors").read_bytes() for name in ("one", "two")]
    assert files[0] == files[1]


def test_a_compiled_network_makes_what_needs_no_gradient(place: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    made: list[tiny.Watched] = []

    def compile_(network: torch.nn.Module, dynamic: bool) -> tiny.Watched:
        made.append(tiny.Watched(network, dynamic))
        return made[-1]

    monkeypatch.setattr(torch, "compile", compile_)
    plain = run(place, "imagerefl", tmp_path / "plain")[0]
    assert not made
    text = (place / "params.yaml").read_text()
    (tmp_path / "params.yaml").write_text(text.replace("finetune:\n", "finetune:\n  compile: true\n"))
    for file in ("base", "proxy", "heldout"):
        (tmp_path / f"{file}.json").write_bytes((place / f"{file}.json").read_bytes())
    tiny.encodings(tmp_path)
    quick = run(tmp_path, "imagerefl", tmp_path / "quick")[0]
    assert {key: value for key, value in quick.items() if key[1] != "seconds"} == {
        key: value for key, value in plain.items() if key[1] != "seconds"
    }
    nfe = sum(quick[step, "nfe"] for step in range(3))
    assert sum(network.images for network in made) == nfe - quick[2, "backward"] > 0


def test_a_probe_without_its_oracle_is_refused(place: Path, tmp_path: Path):
    text = (place / "params.yaml").read_text()
    changed = yaml.safe_load(text)
    changed["finetune"]["probe"]["oracle"] = "oracle"
    (tmp_path / "params.yaml").write_text(yaml.safe_dump(changed))
    for file in ("base", "proxy", "heldout"):
        (tmp_path / f"{file}.json").write_bytes((place / f"{file}.json").read_bytes())
    tiny.encodings(tmp_path)
    with pytest.raises(InputError, match=r"finetune\.probe\.oracle: oracle is asked for, expected --oracle"):
        run(tmp_path, "imagerefl", tmp_path)


def test_refuses_a_reward_without_gradient(place: Path, tmp_path: Path):
    record.save(record.ModelRecord(name="proxy", kind="shapes_oracle"), place / "oracle.json")
    with pytest.raises(InputError, match="gives images no gradient"):
        run(place, "draft", tmp_path, reward="oracle.json")
    assert not list(tmp_path.glob("*.safetensors"))


def test_a_black_box_is_asked_as_often_as_the_study_says(place: Path, tmp_path: Path):
    parts = {"reward": record.ModelRecord("jpeg", "jpeg"), "features": record.load(place / "heldout.json")}
    record.save(record.ModelRecord("proxy", "black_box", parts=parts), place / "box.json")
    log, _ = run(place, "online", tmp_path, reward="box.json")
    assert [log[step, "queries"] for step in range(3)] == [6, 0, 3]
    assert {"proxy", "proxy_loss", "proxy_uncertainty", "kl", "kl_previous", "nfe"} <= {term for _, term in log}
    assert log[0, "reward"] < 0
    record.save(record.ModelRecord("proxy", "jpeg"), place / "jpeg.json")
    with pytest.raises(InputError, match="expected a reward of kind black_box"):
        run(place, "online", tmp_path / "bare", reward="jpeg.json")


@pytest.mark.parametrize(
    ("method", "message"),
    [
        ({"kind": "imagerefl", "start": 3, "middle": [1, 4]}, "middle .* is not a range of indices"),
        ({"kind": "draft_k", "train": {"as_released": {"doublestep": True}}}, r"as_released\.doublestep: unknown key"),
        ({"kind": "draft_k", "train": {"accumulate": 3}}, "not a multiple of accumulate"),
        ({"kind": "draftk"}, "unknown kind 'draftk'; did you mean 'draft_k'"),
    ],
)
def test_refuses_settings_in_one_line(place: Path, tmp_path: Path, method: dict[str, object], message: str):
    study = yaml.safe_load((place / "params.yaml").read_text())
    study["methods"] = {"bad": method}
    study["runs"] = {"bad-s0": {"method": "bad", "seed": 0}}
    (tmp_path / "params.yaml").write_text(yaml.safe_dump(study))
    with pytest.raises(InputError, match=message) as found:
        training_plan(tmp_path / "params.yaml", "bad-s0")
    assert "\n" not in str(found.value)
