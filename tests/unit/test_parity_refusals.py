"""A set of reference numbers that is damaged is refused in one line with the file and the item."""

from __future__ import annotations

import json
import shutil
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file, save_file
from torch import Tensor

from stages.parity import __main__ as parity
from stages.runtime import run_stage
from tests import pixelwise_set


@pytest.fixture(scope="module")
def whole(tmp_path_factory: pytest.TempPathFactory) -> Path:
    made = tmp_path_factory.mktemp("set")
    pixelwise_set.write(made)
    return made


@pytest.fixture
def folder(whole: Path, tmp_path: Path) -> Path:
    return Path(shutil.copytree(whole, tmp_path / "set"))


def said(folder: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], *more: str) -> str:
    """The one line on stderr; the exit code has to be 2."""
    monkeypatch.setattr(sys, "argv", ["stages.parity", "--set", str(folder), *more])
    with pytest.raises(SystemExit) as stop:
        run_stage(parity.main)
    (line,) = capsys.readouterr().err.splitlines()
    assert stop.value.code == 2 and line.startswith(f"error: {folder}")
    return line


def change(file: Path, **arrays: Callable[[Tensor], Tensor]) -> None:
    found = load_file(file)
    save_file(found | {name: make(found[name]).contiguous() for name, make in arrays.items()}, file)


def cut(file: Path, size: int) -> None:
    file.write_bytes(file.read_bytes()[:size])


@pytest.mark.parametrize(
    ("name", "damage", "words"),
    [
        ("inputs.safetensors", lambda file: file.unlink(), "no such file"),
        ("expected.safetensors", lambda file: cut(file, 100), "not a readable safetensors file"),
        ("inputs.safetensors", lambda file: cut(file, file.stat().st_size - 4), "not a readable safetensors file"),
        ("expected.json", lambda file: cut(file, 300), "not valid JSON at line"),
        ("expected.json", lambda file: file.write_bytes(b"\xff\xfe"), "not JSON"),
        ("expected.json", lambda file: file.write_text('{"grid": 3}'), "grid: expected a JSON object, found 3"),
        ("expected.json", lambda file: file.write_text('{"config": []}'), "config: expected a JSON object"),
    ],
)
def test_a_damaged_file_is_named(
    name: str, damage: Callable[[Path], Any], words: str, folder: Path, monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:  # fmt: skip
    damage(folder / name)
    line = said(folder, monkeypatch, capsys)
    assert f"{folder / name}: " in line and words in line


@pytest.mark.parametrize(
    ("name", "make"),
    [
        ("x_T", lambda x: x[:, :, :-1]),
        ("z", lambda z: z[0]),
        ("prompt_ids", lambda ids: ids.float()),
        ("real_images_u8", lambda images: images.flatten()),
        ("dpo_timesteps", lambda times: times[:0]),
    ],
)
def test_an_array_of_another_kind_or_shape_is_named_with_its_file(
    name: str, make: Callable[[Tensor], Tensor], folder: Path, monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:  # fmt: skip
    before = load_file(folder / "inputs.safetensors")[name]
    shown = f"{name} {str(make(before).dtype).removeprefix('torch.')} {list(make(before).shape)}"
    change(folder / "inputs.safetensors", **{name: make})
    line = said(folder, monkeypatch, capsys)
    assert shown in line and f" of {folder / 'inputs.safetensors'}" in line and " item " in line
    assert "Error: " in line  # what the code said


def test_a_setting_of_another_kind_is_named_with_its_item(
    folder: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    content = json.loads((folder / "expected.json").read_text())
    (kind, item), *_ = content["reward_to_loss"].items()
    content["reward_to_loss"][kind] = item | {"scale": "a lot"}
    (folder / "expected.json").write_text(json.dumps(content))
    assert "item reward_to_loss cannot be computed from expected.json" in said(folder, monkeypatch, capsys)


def test_traceback_shows_where_it_does_not_fit(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    change(folder / "inputs.safetensors", x_T=lambda x: x[:, :, :-1])
    monkeypatch.setattr(sys, "argv", ["stages.parity", "--set", str(folder), "--traceback"])
    with pytest.raises((RuntimeError, ValueError, IndexError, TypeError)):
        run_stage(parity.main)


def test_a_set_without_networks_is_told_of_the_option(
    folder: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    shutil.rmtree(folder / "weights")
    assert "--base names the set whose networks it takes" in said(folder, monkeypatch, capsys)


def test_networks_of_another_form_are_refused(
    folder: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    save_file({"a": torch.zeros(1)}, folder / "weights" / "pixelwise.safetensors")
    assert "pixelwise.safetensors" in said(folder, monkeypatch, capsys)
