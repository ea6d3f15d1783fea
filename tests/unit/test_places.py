"""Places that a study names where there is nothing: the message says why, where the name shows it."""

from __future__ import annotations

from pathlib import Path

import pytest

from stages.places import is_folder, missing, real
from stages.runtime import run_stage

WRONG = {
    "https://x.org/a.txt": "is an address; nothing is fetched",
    "https:/x.org/a.txt": "is an address",  # as pathlib writes it
    "s3://bucket/a": "is an address",
    "~/a.txt": "no such file; `~` and variables",
    "$DATA/a.txt": "no such file; `~` and variables",
    "a.txt ": "no such file; the name begins or ends with a blank",
    "a" * 300 + ".txt": "no such file: longer than a name",
    "é" * 130: "no such file: longer than a name",
    "a\0b": "no such file",
    "link": "no such file: a link to nothing",
    "x/link/y": "no such file",
    "loop": "no such file: a link to nothing",
    "loop/x": "no such file",
}


@pytest.mark.parametrize("place", WRONG, ids=lambda place: ascii(place)[:30])
def test_the_reason_is_said(place: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    Path("link").symlink_to("nothing")
    Path("loop").symlink_to("loop")
    assert missing(place, "file").startswith(WRONG[place])
    assert real(place).name  # whatever it is, without an error
    assert not is_folder(place)


def test_what_is_there_is_not_missing(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    Path("a").mkdir()
    Path("a/~b$ ").touch()
    assert [missing(place, "file") for place in ("a", "a/~b$ ")] == ["", ""]
    assert (missing("*/~*", "file"), missing("*/~*", "file", pattern=True)) == ("no such file", "")
    assert (is_folder("a"), is_folder("a/~b$ ")) == (True, False)


@pytest.mark.parametrize("name", ["x" * 300, "folder", "folder/none"])
def test_a_file_that_cannot_be_read_is_one_line(
    name: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(tmp_path)
    Path("folder").mkdir()
    with pytest.raises(SystemExit) as ended:
        run_stage(lambda: print(Path(name).read_text()))
    assert ended.value.code == 2
    assert capsys.readouterr().err.startswith(f"error: {name!r}: ")


def test_an_error_of_no_file_keeps_its_traceback() -> None:
    def fail() -> None:
        raise OSError(5, "Input/output error")

    with pytest.raises(OSError, match="Input/output"):
        run_stage(fail)
