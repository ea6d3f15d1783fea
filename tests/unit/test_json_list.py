"""Lists in JSON, read entry by entry, against reading them at once."""

from __future__ import annotations

import json
import random
from pathlib import Path
from typing import Any

import pytest

from stages.curate.sources import json_list
from stages.errors import InputError


def value(rng: random.Random, depth: int = 0) -> Any:
    kind = rng.randrange(6 if depth < 3 else 4)
    if kind == 4:
        return [value(rng, depth + 1) for _ in range(rng.randrange(4))]
    if kind == 5:
        return {f'k{n}"]': value(rng, depth + 1) for n in range(rng.randrange(4))}
    return rng.choice([rng.randrange(10**6), -1.5e-3, None, True, 'a "b"\\ ]},[ é猫\n', "", "x" * rng.randrange(60)])


@pytest.mark.parametrize("block", [1, 2, 7, 64, 2**20])
@pytest.mark.parametrize("indent", [None, 2])
def test_as_when_read_at_once(block: int, indent: int | None, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(json_list, "BLOCK", block)
    rng, file = random.Random(block), tmp_path / "list.json"
    for count in (0, 1, 12):
        entries = [value(rng) for _ in range(count)]
        for text in (json.dumps(entries, indent=indent, ensure_ascii=False), f" \n{json.dumps(entries)}\n\n"):
            file.write_text(text, encoding="utf-8")
            assert list(json_list.entries(file)) == list(enumerate(entries, 1))
            file.write_bytes(b"\xef\xbb\xbf" + text.encode())
            assert [each for _, each in json_list.entries(file)] == entries


@pytest.mark.parametrize("block", [1, 3, 2**20])
@pytest.mark.parametrize(
    ("content", "message"),
    [
        (b"", "line 1: not valid JSON"),
        (b"[", "line 1: not valid JSON"),
        (b'["a"', r"line 1: not valid JSON: expected ',' or '\]'"),
        (b'["a",]', "line 1: not valid JSON"),
        (b'["a" "b"]', "line 1: not valid JSON: expected ','"),
        (b'["a"]\n["b"]', "line 2: not valid JSON: extra data"),
        (b'[\n{"a": 1},\n{"b": }]', "line 3: not valid JSON"),
        (b'[\n"a",\n"caf\xe9"]', "line 3: byte 0xe9 is not UTF-8"),
        (b'["caf\xc3', "line 1: byte 0xc3 is not UTF-8"),
        (b'{"a": 1}', "holds dict {'a': 1}, expected a list"),
        (b"7", "holds int 7, expected a list"),
        (b"no", "line 1: not valid JSON"),
    ],
)
def test_refusals(block: int, content: bytes, message: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(json_list, "BLOCK", block)
    (tmp_path / "list.json").write_bytes(content)
    with pytest.raises(InputError, match=message):
        list(json_list.entries(tmp_path / "list.json"))


def test_an_entry_longer_than_can_be_held(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(json_list, "BLOCK", 64)
    monkeypatch.setattr(json_list, "LONGEST", 1000)
    (tmp_path / "list.json").write_text(json.dumps(["x" * 10_000]))
    with pytest.raises(InputError, match="line 1: not valid JSON"):
        list(json_list.entries(tmp_path / "list.json"))


def test_entries_come_before_the_file_is_read(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(json_list, "BLOCK", 256)
    (tmp_path / "list.json").write_bytes(json.dumps([{"n": n} for n in range(1000)]).encode()[:-1] + b"\xff")
    rows = json_list.entries(tmp_path / "list.json")
    assert [next(rows) for _ in range(500)] == [(n + 1, {"n": n}) for n in range(500)]


def test_how_many_there_are_about(tmp_path: Path) -> None:
    (tmp_path / "list.json").write_text(json.dumps([{"prompt": "a", "file_path": ["x", "y"]}] * 7))
    assert (
        json_list.at_most(tmp_path / "list.json", "prompt")
        == json_list.at_most(tmp_path / "list.json", "file_path.0")
        == 7
    )
    (tmp_path / "list.json").write_text(json.dumps(["a cat", "a dog"]))
    assert json_list.at_most(tmp_path / "list.json", "prompt") == 2
