"""Files appear whole or not at all, and what a killed process began is taken away."""

from __future__ import annotations

import signal
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file, save_file

from stages.runtime import whole_file, whole_files

KILLED = """
import os, signal, sys
from pathlib import Path
from stages.runtime import {writer}
with {writer}(Path(sys.argv[1])) as place:
    folder = place if place.is_dir() else place.parent
    (folder / "began").write_text("half")
    (folder / ".tmpAbC123").write_text("of the library")
    os.kill(os.getpid(), signal.SIGKILL)
"""


def names(folder: Path) -> list[str]:
    return sorted(path.name for path in folder.iterdir())


@pytest.mark.parametrize("writer", ["whole_file", "whole_files"])
def test_nothing_is_left_of_a_killed_process(tmp_path: Path, writer: str) -> None:
    done = subprocess.run([sys.executable, "-c", KILLED.format(writer=writer), tmp_path / "made"], check=False)
    assert done.returncode == -signal.SIGKILL and len(names(tmp_path)) == 1
    (tmp_path / ".other.node.1.tmp").mkdir()  # somebody else's
    if writer == "whole_file":
        with whole_file(tmp_path / "made") as partial:
            save_file({"x": torch.ones(2)}, partial)
        assert load_file(tmp_path / "made")["x"].tolist() == [1.0, 1.0]
    else:
        with whole_files(tmp_path / "made") as folder:
            save_file({"x": torch.ones(2)}, folder / "weights.safetensors")
        assert names(tmp_path / "made") == ["weights.safetensors"]
    assert names(tmp_path) == [".other.node.1.tmp", "made"]


def test_a_file_is_replaced_only_by_a_whole_one(tmp_path: Path) -> None:
    path = tmp_path / "below" / "made"
    with whole_file(path) as partial:
        partial.write_text("first")
    with pytest.raises(ValueError, match="half-way"), whole_file(path) as partial:
        partial.write_text("sec")
        raise ValueError("half-way")
    assert path.read_text() == "first" and names(path.parent) == ["made"]


def test_files_go_into_a_folder_beside_what_is_there(tmp_path: Path) -> None:
    path = tmp_path / "model"
    (path / "unet").mkdir(parents=True)
    (path / "log").write_text("kept")
    (path / "unet" / "config").write_text("old")
    with pytest.raises(ValueError, match="half-way"), whole_files(path) as folder:
        (folder / "index").write_text("never seen")
        raise ValueError("half-way")
    assert names(path) == ["log", "unet"]
    with whole_files(path) as folder:
        (folder / "unet").mkdir()
        (folder / "unet" / "config").write_text("new")
        (folder / "index").write_text("new")
    assert {file: (path / file).read_text() for file in ("log", "index", "unet/config")} == {
        "log": "kept", "index": "new", "unet/config": "new",
    }  # fmt: skip
    assert names(tmp_path) == ["model"]
