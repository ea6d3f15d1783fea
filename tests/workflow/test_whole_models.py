"""A model on this machine that lacks something is refused before the first job, by its key."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from project import ROOT, small_study

from stages.errors import InputError
from stages.study import load
from tests.tiny import clip_folder, diffusion_folder


def _cut(file: str) -> Callable[[Path], Any]:
    return lambda folder: (folder / file).write_bytes((folder / file).read_bytes()[:-8])


def _gone(name: str) -> Callable[[Path], None]:
    def change(folder: Path) -> None:
        path = folder / name
        shutil.rmtree(path) if path.is_dir() else path.unlink()

    return change


def _page(file: str) -> Callable[[Path], Any]:
    return lambda folder: (folder / file).write_text("<!DOCTYPE html><html></html>")


def _pointer(folder: Path) -> None:
    (folder / "vae/config.json").write_text("version https://git-lfs.github.com/spec/v1\noid sha256:0\nsize 1\n")


BASES = {
    "no network": (_gone("unet"), "not a complete diffusers folder; missing unet/"),
    "no weights": (_gone("vae/diffusion_pytorch_model.safetensors"), "missing vae/diffusion_pytorch_model.safetensors"),
    "cut off": (_cut("text_encoder/model.safetensors"), "its header speaks of .*; cut off"),
    "a pointer": (_pointer, "is a Git LFS pointer"),
}


def study(file: Path, name: str, entry: dict[str, Any]) -> None:
    """A study file that imports this model too."""
    content = small_study()
    content["prepare"].setdefault("import", {})[name] = entry
    file.write_text(json.dumps(content))


@pytest.mark.parametrize("case", BASES)
def test_a_base_that_lacks_something(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, case: str) -> None:
    monkeypatch.chdir(ROOT)  # of the other models
    change, message = BASES[case]
    diffusion_folder(tmp_path / "base")
    study(tmp_path / "study.yaml", "base", {"kind": "diffusers", "folder": str(tmp_path / "base")})
    load(tmp_path / "study.yaml")
    change(tmp_path / "base")
    with pytest.raises(InputError, match=message) as refused:
        load(tmp_path / "study.yaml")
    assert str(refused.value).startswith(f"{tmp_path}/study.yaml: prepare.import.base: ") and "\n" not in str(
        refused.value
    )


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (_cut("open_clip_model.safetensors"), "its header speaks of .*; cut off"),
        (_page("open_clip_model.safetensors"), "is an HTML page"),
    ],
)
def test_a_judge_that_lacks_something(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, change: Callable[[Path], None], message: str
) -> None:
    monkeypatch.chdir(ROOT)  # of the other models
    clip_folder(tmp_path / "clip")
    study(tmp_path / "study.yaml", "more", {"kind": "open_clip", "folder": str(tmp_path / "clip")})
    load(tmp_path / "study.yaml")
    change(tmp_path / "clip")
    with pytest.raises(InputError, match=message) as refused:
        load(tmp_path / "study.yaml")
    assert str(refused.value).startswith(f"{tmp_path}/study.yaml: prepare.import.more: ")
