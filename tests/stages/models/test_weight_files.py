"""Headers of weight files are read once as long as the files are the same, and anew as soon as they are not."""

from __future__ import annotations

import os
import time
from collections.abc import Iterator
from pathlib import Path

import pytest
import torch
from safetensors.torch import save_file

from stages.errors import InputError
from stages.mappings import DECODER
from stages.models.bases import weights

LONG_AGO = (1_000_000_000.0, 1_000_000_000.0)


@pytest.fixture
def reads(monkeypatch: pytest.MonkeyPatch) -> Iterator[list[str]]:
    """The headers that have been read."""
    seen: list[str] = []

    class Counting:
        def decode(self, text: str) -> object:
            seen.append(text)
            return DECODER.decode(text)

    monkeypatch.setattr(weights, "DECODER", Counting())
    yield seen


def saved(path: Path, *names: str, at: tuple[float, float] | None = LONG_AGO) -> Path:
    """A file with a tensor of four values per name, last written `at` a time, or just now."""
    save_file({name: torch.ones(2, 2) for name in names}, path)
    if at is not None:
        os.utime(path, at)
    return path


def test_a_header_is_read_once(tmp_path: Path, reads: list[str]) -> None:
    path = saved(tmp_path / "a.safetensors", "x.weight")
    weights.check_safetensors(path)
    weights.check_safetensors(path)
    assert weights.shapes(path) == {"x.weight": (2, 2)}
    assert weights.linear_layers(path) == ["x"]
    assert weights.dtypes(path) == {"x.weight": "F32"}
    assert len(reads) == 1


@pytest.mark.parametrize("change", ["time", "size", "place", "contents"])
def test_a_changed_file_is_read_anew(tmp_path: Path, change: str) -> None:
    """Other names of the same length at another time, more tensors at the same time, another file in its place, and
    other names of the same length at the same time, as `cp -p` and archives write them.
    """
    path = saved(tmp_path / "a.safetensors", "x")
    assert weights.tensor_names(path) == ["x"]
    if change == "time":
        saved(path, "y", at=(LONG_AGO[0] + 1, LONG_AGO[1] + 1))
    elif change == "size":
        saved(path, "y", "z")
    elif change == "contents":
        held = path.stat()
        time.sleep(0.05)  # the clock of file systems ticks
        path.write_bytes(path.read_bytes().replace(b'"x"', b'"y"'))
        os.utime(path, LONG_AGO)
        assert (path.stat().st_ino, path.stat().st_size, path.stat().st_mtime_ns) == (
            held.st_ino, held.st_size, held.st_mtime_ns,
        )  # fmt: skip
    else:
        saved(tmp_path / "b.safetensors", "y").replace(path)
    assert weights.tensor_names(path) == (["y", "z"] if change == "size" else ["y"])


def test_a_file_that_was_written_just_now_is_not_remembered(tmp_path: Path) -> None:
    """It may be written once more within a tick of the clock."""
    path = tmp_path / "a.safetensors"
    now = time.time()
    for name in "xyz":
        saved(path, name, at=(now, now))
        assert weights.tensor_names(path) == [name]


def test_a_fault_is_said_each_time(tmp_path: Path) -> None:
    path = saved(tmp_path / "a.safetensors", "x")
    whole = path.read_bytes()
    path.write_bytes(whole[:-1])
    os.utime(path, LONG_AGO)
    for _ in range(2):
        with pytest.raises(InputError, match="cut off"):
            weights.check_safetensors(path)
    path.write_bytes(whole)
    os.utime(path, LONG_AGO)
    weights.check_safetensors(path)


def test_what_is_remembered_stays_when_a_caller_changes_what_it_was_given(tmp_path: Path) -> None:
    path = tmp_path / "a.safetensors"
    save_file({"x": torch.ones(2)}, path, {"format": "pt"})
    os.utime(path, LONG_AGO)
    weights.metadata(path)["format"] = "np"
    weights.metadata(path).clear()
    assert weights.metadata(path) == {"format": "pt"}
    weights.shapes(path).clear()
    weights.dtypes(path).clear()
    assert weights.shapes(path) == {"x": (2,)} and weights.dtypes(path) == {"x": "F32"}
