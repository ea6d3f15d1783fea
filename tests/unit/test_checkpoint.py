"""Checkpoints from outside: what is in them arrives exactly, nothing in them runs, and bad ones are one clear line."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import torch
from safetensors.torch import save_file
from torch import nn

from stages.errors import InputError
from stages.models.record import ModelRecord, describe, load, save
from stages.rewards.base import load_reward
from stages.rewards.networks import checkpoint
from tests import tiny_judges

STATE = {"a.weight": torch.arange(6.0).reshape(2, 3), "b": torch.tensor(3, dtype=torch.int64)}


class Trap:
    """An object whose unpickling writes a file."""

    def __init__(self, path: str) -> None:
        self.path = path

    def __reduce__(self) -> tuple[object, ...]:
        return Path.write_text, (Path(self.path), "executed")


def one_line(error: pytest.ExceptionInfo[InputError]) -> str:
    assert "\n" not in str(error.value)
    return str(error.value)


@pytest.mark.parametrize("wrap", [dict, lambda s: {"state_dict": s, "iterations": 4}, lambda s: {"model": s}])
def test_tensors_of_dictionaries(tmp_path: Path, wrap) -> None:
    torch.save(wrap(STATE), tmp_path / "x.pt")
    found = checkpoint.read(tmp_path / "x.pt")
    assert found.keys() == STATE.keys() and all(torch.equal(found[name], STATE[name]) for name in STATE)


def test_tensors_of_safetensors(tmp_path: Path) -> None:
    save_file(STATE, tmp_path / "x.safetensors")
    assert torch.equal(checkpoint.read(tmp_path / "x.safetensors")["a.weight"], STATE["a.weight"])


def test_a_pickled_module_gives_its_state_dict_and_runs_nothing(tmp_path: Path) -> None:
    module = nn.Sequential(nn.Linear(3, 2), nn.BatchNorm1d(2), nn.Sequential(nn.Linear(2, 2).half()))
    module[0].weight = nn.Parameter(torch.arange(6.0).reshape(3, 2).T)  # a tensor that is not contiguous
    module[2].register_buffer("passing", torch.ones(2), persistent=False)
    module.extra = [Trap(str(tmp_path / "trap")), {"deep": Trap(str(tmp_path / "trap"))}]  # type: ignore[assignment]
    torch.save(module, tmp_path / "x.pth")
    found, wanted = checkpoint.read(tmp_path / "x.pth", modules=True), module.state_dict()
    assert found.keys() == wanted.keys()
    assert all(torch.equal(found[n], wanted[n]) and found[n].dtype == wanted[n].dtype for n in wanted)
    assert not (tmp_path / "trap").exists()
    torch.load(tmp_path / "x.pth", weights_only=False)  # the trap is real
    assert (tmp_path / "trap").exists()


def test_pickled_objects_are_refused_and_not_run(tmp_path: Path) -> None:
    torch.save({"state_dict": STATE, "more": Trap(str(tmp_path / "trap"))}, tmp_path / "x.pt")
    with pytest.raises(InputError, match=r"x\.pt: holds pickled Python objects, and loading would execute them") as e:
        checkpoint.read(tmp_path / "x.pt")
    assert one_line(e) and not (tmp_path / "trap").exists()
    torch.save({"a": 1}, tmp_path / "y.pt")
    with pytest.raises(InputError, match="holds a dict without tensors; expected a state_dict"):
        checkpoint.read(tmp_path / "y.pt")


def test_damaged_files_are_refused(tmp_path: Path) -> None:
    torch.save(STATE, tmp_path / "whole.pt")
    torch.save(nn.Linear(2, 2), tmp_path / "module.pth")
    save_file(STATE, tmp_path / "whole.safetensors")
    for name in ("whole.pt", "whole.safetensors", "module.pth"):
        path = tmp_path / f"cut-{name}"
        path.write_bytes((tmp_path / name).read_bytes()[:-40])
        with pytest.raises(InputError, match=rf"cut-{name}: truncated, or no") as error:
            checkpoint.read(path, modules=True)
        assert one_line(error)
    (tmp_path / "text.pt").write_text("version https://git-lfs.github.com/spec/v1")
    with pytest.raises(InputError, match=r"text\.pt"):
        checkpoint.read(tmp_path / "text.pt")
    torch.save(STATE, tmp_path / "old.pt", _use_new_zipfile_serialization=False)
    with pytest.raises(InputError, match=r"old\.pt: truncated, or not a file that torch 1\.6 or later saved"):
        checkpoint.read_module(tmp_path / "old.pt")
    with pytest.raises(InputError, match=r"whole\.pt: not a pickled module"):
        checkpoint.read_module(tmp_path / "whole.pt")


def test_a_script_archive_is_named(tmp_path: Path) -> None:
    torch.jit.save(torch.jit.trace(nn.Linear(2, 2), torch.zeros(1, 2)), str(tmp_path / "x.pt"))
    with pytest.raises(InputError, match=r"x\.pt: a TorchScript archive"):
        checkpoint.read(tmp_path / "x.pt")


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda s: s.pop("bias"), "lacks 'bias', which this model needs"),
        (lambda s: s.update(more=torch.zeros(1)), "has 'more', which this model does not have"),
        (lambda s: s.update(weight=torch.zeros(2, 4)), r"'weight' has shape \(2, 4\), expected \(2, 3\)"),
    ],
)
def test_tensors_that_do_not_fit_are_named(change, message: str) -> None:
    state = {name: value.half() for name, value in nn.Linear(3, 2).state_dict().items()}
    made = checkpoint.build(lambda: nn.Linear(3, 2), state, "here")
    assert torch.equal(made.weight, state["weight"]) and made.weight.dtype == torch.float16
    change(state)
    with pytest.raises(InputError, match=f"^here: {message}"):
        checkpoint.build(lambda: nn.Linear(3, 2), state, "here")


# --- records of models made of others --------------------------------------------------------------------------------


def test_a_record_with_parts_survives_its_file(tmp_path: Path) -> None:
    plain = ModelRecord(name="a", kind="shapes_oracle", options={"x": 1})
    made = ModelRecord(name="sum", kind="weighted_sum", parts={"a": plain}, options={"weights": {"a": 2.0}})
    save(made, tmp_path / "sum.json")
    assert load(tmp_path / "sum.json") == made
    assert json.loads((tmp_path / "sum.json").read_text())["digest"] == made.digest
    other = ModelRecord(
        name="sum", kind="weighted_sum", options=made.options, parts={"a": ModelRecord(name="a", kind="open_clip")}
    )
    assert other.digest != made.digest
    save(plain, tmp_path / "a.json")
    assert "parts" not in json.loads((tmp_path / "a.json").read_text())


# --- folders of transformers ------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("pick")
    tiny_judges.clip_folder(path, "pickscore")
    return path


def copied(folder: Path, to: Path) -> Path:
    to.mkdir()
    for file in folder.iterdir():
        (to / file.name).write_bytes(file.read_bytes())
    return to


def refused(folder: Path, kind: str = "pickscore") -> str:
    with pytest.raises(InputError) as error:
        load_reward(describe("x", kind, folder))
    return one_line(error)


def test_folders_that_are_no_model_are_refused(folder: Path, tmp_path: Path) -> None:
    from safetensors.torch import load_file

    made = copied(folder, tmp_path / "cut")
    whole = (made / "model.safetensors").read_bytes()
    (made / "model.safetensors").write_bytes(whole[:-1000])
    assert "not a readable CLIPModel" in refused(made)
    (made / "model.safetensors").unlink()
    assert "has no weights; expected config.json and model.safetensors or pytorch_model.bin" in refused(made)
    state = load_file(folder / "model.safetensors")
    torch.save({**state, "trap": Trap(str(tmp_path / "trap"))}, made / "pytorch_model.bin")
    assert "pickled Python objects" in refused(made) and not (tmp_path / "trap").exists()
    (made / "pytorch_model.bin").unlink()
    save_file({n: t for n, t in state.items() if n != "logit_scale"}, made / "model.safetensors", {"format": "pt"})
    assert "its weights lack 'logit_scale'" in refused(made)
    wide = state | {"text_projection.weight": torch.zeros(64, 130)}
    save_file(wide, made / "model.safetensors", {"format": "pt"})
    assert "not a readable CLIPModel" in refused(made)
    (made / "config.json").write_text(json.dumps({"model_type": "vit"}))
    assert "model_type is 'vit', expected 'clip'" in refused(made)
    (made / "config.json").unlink()
    assert "has no config.json" in refused(made)
