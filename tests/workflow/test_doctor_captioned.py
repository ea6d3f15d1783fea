"""What the doctor says of an oracle of captioned images before anything is trained: one line, whatever is wrong."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from stages.pictures import encode
from tests.stages.curating import png, write_table
from workflow.doctor import captioned
from workflow.doctor.finding import Finding

CAPTIONS = ["star", "star", "moon", "sun"]
OPTIONS = {"attributes": ["colour", "weight"]}


def pictures(side: int = 16) -> list[bytes]:
    noise = np.random.default_rng(0).integers(256, size=(len(CAPTIONS), side, side, 3), dtype=np.uint8)
    return [encode(image) for image in noise]


def world(folder: Path, **changed: Any) -> Path:
    """The table of an oracle, and a list of its captions as prompts."""
    folder.joinpath("world").mkdir()
    columns = {
        "image": pictures(),
        "caption": CAPTIONS,
        "colour": ["red", "blue", "red", "red"],
        "weight": ["thin"] * 4,
    }
    pq.write_table(pa.table(columns | changed), folder / "world" / "images.parquet")
    folder.joinpath("prompts.txt").write_text("Star\nmoon\nsun\n")
    return folder


ASKED = {"finetune": {"probe": {"oracle": "own"}}, "score": {"rewards": ["proxy", "own"]}}
"""Sections by which an oracle judges training prompts and pairs."""


def said(folder: Path, options: Any = OPTIONS, model: Any = None, asked: Any = ASKED, **curate: Any) -> list[Finding]:
    """The findings about a study with this oracle and its own captions as prompts, unless `curate` says others."""
    prompts = {part: {"kind": "file", "path": str(folder / "prompts.txt")} for part in ("train", "eval")}
    own = {"kind": "nearest_captioned", "folder": str(folder / "world"), "options": options}
    study = {
        "prepare": {"import": {"own": own if model is None else model}},
        "curate": {"prompts": prompts} | curate,
        **asked,
    }
    return list(captioned.look(study))


def test_a_sound_oracle_is_counted(tmp_path: Path) -> None:
    [found] = said(world(tmp_path))
    assert found.mark == "ok"
    assert found.found == (
        "4 images of 16x16 pixels, 1 to 2 for each of 3 captions, which leave open: colour in 1, weight in 0"
    )


@pytest.mark.parametrize("part", ["eval", "train"])
@pytest.mark.parametrize(
    ("prompt", "words"), [("a star", "caption of none of the 4"), ("zeppelin", "known: moon, star")]
)
def test_a_prompt_that_no_image_has(tmp_path: Path, part: str, prompt: str, words: str) -> None:
    folder = world(tmp_path)
    other = write_table(tmp_path / "other.csv", [{"prompt": "moon"}, {"prompt": prompt}])
    prompts = {name: {"kind": "file", "path": str(folder / "prompts.txt")} for name in ("train", "eval")}
    [found] = said(folder, prompts=prompts | {part: {"kind": "file", "path": other}})
    assert found.mark == "missing" and found.found.startswith(f"{other}, line 3: prompt {prompt!r}")
    assert words in found.found


def test_a_pair_of_a_prompt_that_no_image_has(tmp_path: Path) -> None:
    rows = [{"prompt": name, "image_a": png(1), "image_b": png(2), "preference": 1.0} for name in ("sun", "suns")]
    pairs = write_table(tmp_path / "pairs.parquet", rows)
    [found] = said(world(tmp_path), pairs={"kind": "file", "path": pairs})
    assert found.mark == "missing" and "pairs.parquet, row 2: prompt 'suns'" in found.found


@pytest.mark.parametrize(
    ("asked", "marks"),
    [({}, "ok ok"), ({"decided": {}}, "missing ok"), ({"score": {"rewards": ["own"]}}, "ok missing")],
)
def test_prompts_that_nobody_asks_the_oracle_about_may_be_any(tmp_path: Path, asked: Any, marks: str) -> None:
    folder = world(tmp_path)
    row = {"prompt": "a free prompt", "image_a": png(1), "image_b": png(2), "preference": 1.0}
    other = write_table(tmp_path / "other.parquet", [row])
    lists = {"train": {"kind": "file", "path": other}, "eval": {"kind": "file", "path": str(folder / "prompts.txt")}}
    [train] = said(folder, asked=asked, prompts=lists)
    [pairs] = said(folder, asked=asked, pairs={"kind": "file", "path": other})
    assert f"{train.mark} {pairs.mark}" == marks


@pytest.mark.parametrize("part", ["eval", "train"])
def test_which_prompts_a_limit_keeps_is_left_to_curation(tmp_path: Path, part: str) -> None:
    folder = world(tmp_path)
    other = write_table(tmp_path / "other.csv", [{"prompt": "moon"}, {"prompt": "a free prompt"}])
    lists = {name: {"kind": "file", "path": str(folder / "prompts.txt")} for name in ("train", "eval")}
    for limit, mark in ((None, "missing"), (1, "ok")):
        [found] = said(folder, prompts=lists | {part: {"kind": "file", "path": other, "limit": limit}})
        assert found.mark == mark


@pytest.mark.parametrize("prompt", ["", " ", "?\u0007", "far too many words"])
def test_prompts_that_curation_leaves_out_are_not_asked_about(tmp_path: Path, prompt: str) -> None:
    """In lists and in tables of pairs."""
    folder = world(tmp_path)
    row = {"prompt": prompt, "image_a": png(1), "image_b": png(2), "preference": 1.0}
    other = write_table(tmp_path / "other.parquet", [row | {"prompt": "moon"}, row])
    lists = {"train": {"kind": "file", "path": other}, "eval": {"kind": "file", "path": str(folder / "prompts.txt")}}
    kept = {"filters": {"caption_words": [1, 3]}}
    assert [found.mark for found in said(folder, prompts=lists, **kept)] == ["ok"]
    assert [found.mark for found in said(folder, pairs={"kind": "file", "path": other}, **kept)] == ["ok"]


def test_images_that_curation_would_scale(tmp_path: Path) -> None:
    """The base would learn another size than the oracle compares with."""
    folder = world(tmp_path)
    assert [found.mark for found in said(folder, side=16)] == ["ok"]
    [found] = said(folder, side=32)
    assert found.mark == "missing"
    assert "images have 16x16 pixels, but curate.side makes 32x32" in found.found


@pytest.mark.parametrize(
    ("changed", "words"),
    [
        ({"image": [*pictures()[:3], pictures()[3][:90]]}, "row 4: 'image': not a readable image"),
        ({"image": [*pictures()[:3], pictures(24)[3]]}, "images of 2 sizes (3 of 16x16, 1 of 24x24)"),
        ({"caption": ["star", "", "moon", "sun"]}, "row 2: 'caption' is empty"),
    ],
)
def test_a_table_with_a_wrong_row(tmp_path: Path, changed: Any, words: str) -> None:
    [found] = said(world(tmp_path, **changed))
    assert found.mark == "missing" and words in found.found and "\n" not in found.found


def test_a_table_of_nothing(tmp_path: Path) -> None:
    folder = world(tmp_path)
    pq.write_table(pa.Table.from_pylist([]), folder / "world" / "images.parquet")
    [found] = said(folder)
    assert found.mark == "missing" and "a table without columns" in found.found


def test_other_mistakes_are_one_line_too(tmp_path: Path) -> None:
    folder = world(tmp_path)
    [found] = said(folder, options={"attributes": ["colour"], "image": "picture"})
    assert found.mark == "missing" and "no column 'picture'" in found.found
    model = {"kind": "nearest_captioned", "folder": str(folder), "options": OPTIONS}
    [found] = said(folder, model=model)
    assert found.mark == "missing" and "prompts.txt: expected Parquet" in found.found
    for own in (
        model | {"only": ["world/*.parquet"]},
        model | {"folder": None, "file": str(folder / "world/images.parquet")},
    ):
        assert [each.mark for each in said(folder, model=own)] == ["ok"]
    assert "no file: no rows, expected captioned images" in said(folder, model=model | {"only": ["*.png"]})[0].found
    [found] = said(folder, model={"kind": "nearest_captioned", "folder": "gone", "options": OPTIONS})
    assert found.mark == "missing" and found.found.endswith("gone: not there")
    assert said(folder, model={"kind": "open_clip", "folder": "gone"}) == []
    assert said(folder, model={"kind": "nearest_captioned", "hub": "me/icons", "options": OPTIONS}) == []
    assert said(folder, prompts=None) == []
