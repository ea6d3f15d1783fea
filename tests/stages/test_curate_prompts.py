"""The curate stage: lists of prompts."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any

import pytest

from tests.stages.curating import ROOT, SHAPES_PROMPTS, TABLES, curate, prompt_list, write_table

SHARED = Path(os.environ.get("SHARED_DATA", ROOT.parent / "shared" / "data")) / "prompts"

PROMPTS = ["a cat, sitting", "a dog", 'two "quoted" words', "ein Ärger mit Umlauten", "猫が座っている"]


@pytest.mark.parametrize("suffix", [".txt", *TABLES])
def test_prompt_lists(suffix: str, tmp_path: Path) -> None:
    lists = {
        "train": {"kind": "file", "path": prompt_list(tmp_path / f"train{suffix}", PROMPTS, "Prompt"), "key": "Prompt"},
        "eval": {
            "kind": "file",
            "path": prompt_list(tmp_path / f"eval{suffix}", ["A DOG!", "a hen", "", "?!", "a Hen"]),
        },
    }
    made = curate(tmp_path, {"prompts": lists})
    rows = {split: [row["prompt"] for row in made.prompts if row["split"] == split] for split in ("train", "eval")}
    assert rows["train"] == [text for text in PROMPTS if text != "a dog"]
    assert rows["eval"] == ["A DOG!", "a hen"]
    assert made.removed("prompts_train") == {"leakage": 1}
    assert made.removed("prompts_eval") == {"text": 2, "duplicates": 1}
    assert made.images == made.pairs == []


@pytest.mark.parametrize("content", ['["a cat", "a dog"]', '\ufeff["a cat",\n "a dog"]'])
def test_list_of_plain_strings(content: str, tmp_path: Path) -> None:
    (tmp_path / "list.json").write_text(content, encoding="utf-8")
    lists = {"train": {"kind": "file", "path": str(tmp_path / "list.json")}, "eval": SHAPES_PROMPTS["eval"]}
    made = curate(tmp_path, {"prompts": lists})
    assert [row["prompt"] for row in made.prompts if row["split"] == "train"] == ["a cat", "a dog"]


def test_groups_of_prompts(tmp_path: Path) -> None:
    def source(name: str, rows: list[tuple[str, str]]) -> dict[str, Any]:
        values = [{"prompt": text, "topic": topic} for text, topic in rows]
        return {"kind": "file", "path": write_table(tmp_path / name, values), "group": "topic"}

    train = source("train.csv", [("a cat", "animals"), ("a car", "traffic"), ("a bus", "traffic")])
    made = curate(tmp_path, {"prompts": {"train": train, "eval": source("eval.csv", [("a dog", "animals")])}})
    assert made.removed("prompts_train") == {"group_leakage": 1}
    assert {row["group"] for row in made.prompts if row["split"] == "train"} == {"traffic"}


def test_several_lists_and_limits(tmp_path: Path) -> None:
    one = prompt_list(tmp_path / "one.txt", [f"thing {i}" for i in range(50)])
    two = prompt_list(tmp_path / "two.txt", [f"thing {i}" for i in range(45, 55)])
    train = [{"kind": "file", "name": "one", "path": one, "limit": 20}, {"kind": "file", "name": "two", "path": two}]
    made = curate(tmp_path, {"prompts": {"train": train, "eval": SHAPES_PROMPTS["eval"]}})
    assert made.removed("prompts_train") == {"duplicates": 5, "limit": 30}
    counts = [sum(row["source"] == name for row in made.prompts) for name in ("one", "two")]
    assert counts == [20, 5]


@pytest.mark.skipif(not SHARED.is_dir(), reason=f"no public prompt lists in {SHARED} (set SHARED_DATA)")
@pytest.mark.parametrize(
    ("suite", "shared", "unique"),
    [("imagereward_test", 44, 463), ("hpsv2_benchmark", 1, 3167), ("partiprompts", 6, 1631)],
)
def test_public_prompt_lists(suite: str, shared: int, unique: int, tmp_path: Path) -> None:
    lists = {
        "train": {"kind": "file", "path": str(SHARED / "imagereward_refl.json"), "key": "text"},
        "eval": {"kind": "file", "path": str(SHARED / f"{suite}.json")},
    }
    made = curate(tmp_path, {"prompts": lists, "filters": {"caption_words": [1, 1000]}})
    train = made.manifest["tables"]["prompts_train"]
    assert train["in"] == 10_000
    assert [each["left"] for each in train["filters"] if each["filter"] == "duplicates"] == [9793]
    assert made.removed("prompts_train")["leakage"] == shared
    assert made.manifest["tables"]["prompts_eval"]["out"] == unique
    assert train["out"] == 9793 - shared == sum(row["split"] == "train" for row in made.prompts)
