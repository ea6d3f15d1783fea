"""YAML and JSON are read alike by all: by YAML 1.2 as DVC does, with no key twice and no disputed value."""

from __future__ import annotations

import random
from contextlib import suppress
from pathlib import Path

import pytest
from ruamel.yaml import YAML

from stages.curate.sources.records import open_records
from stages.errors import InputError
from stages.mappings import read_json, read_yaml
from stages.models.bases.layout import read_json as read_config
from stages.params import read_study

NUMBERS = {"5e-5": 5e-5, "5.0e-5": 5e-5, "1E3": 1000.0, "+5": 5, "-3": -3, ".5": 0.5, "5.": 5.0, "0x10": 16, "0": 0}
TEXTS = ("yes", "no", "on", "off", "Yes", "OFF", "y", "n", "1:30", "190:20:30", "1.2.3", ".", "..", "a=b", "-", "e5")
DISPUTED = ("010", "0777", "-010", "08", "1_000", "0b1", "2001-01-01", "2001-12-14t21:59:43Z", "=", ".7e1", "1_0.5")


def test_the_core_schema_of_yaml_1_2() -> None:
    for text, value in NUMBERS.items():
        assert repr(read_yaml(f"a: {text}", "f")["a"]) == repr(value)
    for text in TEXTS:
        assert read_yaml(f"a: {text if text != '-' else repr(text)}", "f")["a"] == text
    found = read_yaml("a: [true, False, null, ~, '010', \"1_000\"]\nb:\n", "f")
    assert found == {"a": [True, False, None, None, "010", "1_000"], "b": None}


@pytest.mark.parametrize("text", DISPUTED)
def test_what_readers_disagree_about_is_refused(text: str) -> None:
    with pytest.raises(InputError, match=r"\Af.yaml, line 2: .* to some readers of YAML and text to others; [^\n]*\Z"):
        read_yaml(f"a: 1\nb: {text}\n", "f.yaml")
    assert read_yaml(f"b: '{text}'", "f.yaml") == {"b": text}


def test_what_is_accepted_is_what_dvc_reads() -> None:
    """DVC reads params.yaml with ruamel.yaml; values made of the signs that numbers, dates and booleans are made of."""
    draw, accepted = random.Random(0), 0
    signs = [*"0178.+-_:=<~eETfnxobN", "0x", "0o", "0b", "true", "null", "yes", "inf", ".inf", ".nan", "2001-01-01"]
    for _ in range(4000):
        text = f"a: {''.join(draw.choices(signs, k=draw.randint(1, 4))).strip()}\n"
        try:
            ours = read_yaml(text, "f")
        except InputError:
            continue
        assert repr(YAML(typ="safe", pure=True).load(text)) == repr(ours), text
        accepted += 1
    assert accepted > 3000


TWICE = {
    "a: 1\nb: 2\na: 3\n": "f, line 3: the key 'a' stands twice, first in line 1; keep one of them",
    "runs:\n  x: {}\n  y: {}\n  x: {}\n": "f, line 4: the key 'x' stands twice, first in line 2; keep one of them",
    "a: [{k: 1, 'k': 2}]": "f, line 1: the key 'k' stands twice, first in line 1; keep one of them",
    "x: &x {a: 1}\ny:\n  <<: *x\n  b: 1\n  b: 2\n": "f, line 5: the key 'b' stands twice, first in line 4",
}


@pytest.mark.parametrize("text", TWICE)
def test_a_key_twice_in_yaml(text: str) -> None:
    with pytest.raises(InputError) as error:
        read_yaml(text, "f")
    assert str(error.value).startswith(TWICE[text])


ODD = {
    "1: a": "line 1: the key 1 is not text; put it in quotes",
    "a: {true: 1}": "line 1: the key true is not text",
    "? [1]\n: 2": "line 1: the key (a list or mapping) is not text",
    "a: &a\n  - *a\n": "line 1: an alias stands for what it is a part of",
    "a: [1,\nb: 2": "not valid YAML at line",
    "%YAML 1.1\n---\na: 1": "line 1: names a version of YAML; leave the line out, YAML 1.2 is read",
    "a: 1\n---\nb: 2": "not valid YAML at line 2",
    "a: !!python/name:os.system x": "not valid YAML at line 1: could not determine a constructor",
}


@pytest.mark.parametrize("text", ODD)
def test_one_line_for_other_faults(text: str) -> None:
    with pytest.raises(InputError) as error:
        read_yaml(text, "f")
    assert ODD[text] in str(error.value)
    assert "\n" not in str(error.value)


def test_merging_may_override() -> None:
    assert read_yaml("x: &x {a: 1, b: 2}\ny:\n  <<: *x\n  b: 3\n", "f")["y"] == {"a": 1, "b": 3}


def test_a_key_twice_in_json_names_both_lines() -> None:
    text = '[{"b": {"a": 1}, "a": "\\"a\\":"},\n {"c": ["a", {"a": 1}],\n  "a": 1,\n  "\\u0061": 2}]'
    with pytest.raises(
        InputError, match="f: the key 'a' stands twice, first in line 3, then in line 4; keep one of them"
    ):
        read_json(text, "f")
    assert read_json('{"a": {"a": {"b": 1}}, "b": 1}', "f") == {"a": {"a": {"b": 1}}, "b": 1}


ROWS = {
    "rows.jsonl": (
        '{"prompt": "a"}\n{"prompt": "b", "prompt": "c"}\n',
        "rows.jsonl, line 2: the key 'prompt' stands twice",
    ),
    "rows.json": ('[{"prompt": "a"},\n {"prompt": "b",\n "prompt": "c"}]', "first in line 2, then in line 3"),
    "rows.csv": ("prompt,prompt\na,b\n", "rows.csv, line 1: two columns are called 'prompt'"),
}


@pytest.mark.parametrize("name", ROWS)
def test_a_key_twice_in_rows(tmp_path: Path, name: str) -> None:
    text, message = ROWS[name]
    (tmp_path / name).write_text(text)
    with pytest.raises(InputError) as error:
        list(open_records(str(tmp_path / name), ["prompt"]).rows)
    assert message in str(error.value)


def test_a_key_twice_in_a_study_and_in_a_configuration(tmp_path: Path) -> None:
    study, config = tmp_path / "params.yaml", tmp_path / "config.json"
    study.write_text("finetune: {steps: 5}\nruns: {}\nfinetune: {lr: 1}\n")
    with pytest.raises(InputError, match=r"params\.yaml, line 3: the key 'finetune' stands twice, first in line 1"):
        read_study(study)
    config.write_text('{"a": 1,\n"a": 2}')
    with pytest.raises(InputError, match=r"config\.json: the key 'a' stands twice, first in line 1, then in line 2"):
        read_config(config)


def test_aliases_of_aliases_take_no_longer_than_their_text() -> None:
    text = "a: &a0 [x, x, x, x, x, x, x, x, x]\n"
    text += "".join(f"b{n}: &a{n + 1} [{', '.join([f'*a{n}'] * 9)}]\n" for n in range(30))
    assert read_yaml(text, "f")["a"] == ["x"] * 9


def test_a_character_that_yaml_does_not_allow_is_named_with_its_line() -> None:
    for odd in ("\a", "\0", "\x1b"):
        with pytest.raises(InputError, match=rf"f, line 2: the character U\+{ord(odd):04X} is not allowed"):
            read_yaml(f"study: é\nname: a{odd}b\n", "f")


def test_a_folder_is_no_study(tmp_path: Path) -> None:
    with pytest.raises(InputError, match=r"is a folder, expected a study file in it \(such as params\.yaml\)$"):
        read_study(tmp_path)


def test_a_study_is_read_anew_for_everyone_who_asks(tmp_path: Path) -> None:
    path = tmp_path / "params.yaml"
    path.write_text("runs: {a: {seed: 0}}\n")
    read_study(path)["runs"]["a"]["seed"] = 1
    assert read_study(path) == {"runs": {"a": {"seed": 0}}}
    path.write_text("runs: {a: {seed: 2}}\n")
    assert read_study(path) == {"runs": {"a": {"seed": 2}}}


def test_a_study_that_is_nested_too_deeply_is_refused_in_one_line(tmp_path: Path) -> None:
    for depth in (200, 400, 700, 3000):
        (tmp_path / "params.yaml").write_text(f"a: {'[' * depth}{']' * depth}\n")
        with suppress(InputError):
            read_study(tmp_path / "params.yaml")
    with pytest.raises(InputError, match=r"params\.yaml: [^\n]*$"):
        read_study(tmp_path / "params.yaml")
