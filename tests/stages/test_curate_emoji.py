"""Emoji as a source: images of the published packages, their names as prompts, pairs that annotators judge."""

from __future__ import annotations

import io
import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from stages.emoji.names import EVALUATION
from stages.errors import InputError
from tests import emoji_packages
from tests.stages.curating import Curated, curate

DEFAULT = {"categories": ["Food & Drink", "People & Body"], "subcategories": None}


def made(folder: Path, root: Path, **more: Any) -> Curated:
    """All images of the packages; prompts of them too, unless `more` says otherwise."""
    source = {"kind": "emoji", "path": str(root), **DEFAULT}
    prompts = {part: source | {"part": part} for part in ("train", "eval")}
    filters = {"leakage": False}
    keys = {"images": source, "prompts": prompts, "filters": filters, "val_share": 0} | more
    return curate(folder, keys)


@pytest.fixture
def root(tmp_path: Path) -> Path:
    return emoji_packages.write(tmp_path / "packages")


def left_out(found: Curated, table: str = "images") -> dict[str, int]:
    return {each["reason"]: each["count"] for each in found.manifest["tables"][table].get("left_out", [])}


def test_captions_are_names_without_tone_and_every_image_says_what_it_shows(tmp_path: Path, root: Path) -> None:
    found = made(tmp_path, root)
    assert {row["caption"] for row in found.images} == {
        "man pilot", "woman pilot", "pilot", "raised hand", "couple with heart man man", "pear",
    }  # fmt: skip
    about = [json.loads(row["attributes"]) | {"caption": row["caption"]} for row in found.images]
    pilots = {(each["concept"], each["gender"], each["tone"]) for each in about if each["caption"] == "woman pilot"}
    assert pilots == {("1F9D1-200D-2708", "woman", tone) for tone in ("yellow", "light", "medium", "dark")}
    assert {each["concept"] for each in about if "pilot" in each["caption"]} == {"1F9D1-200D-2708"}
    assert {(each["gender"], each["tone"]) for each in about if each["caption"] == "pear"} == {("", "")}
    assert {each["vendor"] for each in about} == {"google", "twitter"}


def test_images_lie_on_white_at_the_wanted_size(tmp_path: Path, root: Path) -> None:
    source = {"kind": "emoji", "path": str(root), **DEFAULT, "size": 24}
    for row in made(tmp_path, root, images=source).images:
        image = np.asarray(Image.open(io.BytesIO(row["image"])))
        assert image.shape == (24, 24, 3)
        assert (image[0, 0] == 255).all()


def test_every_file_of_the_packages_is_a_row_or_counted(tmp_path: Path, root: Path) -> None:
    found = made(tmp_path, root)
    counts = left_out(found)
    assert counts == {
        "of two tones": 2, "of category Objects": 2, "an image that emoji.json does not name": 2, "not read (.md)": 2,
        "not read (.png)": 2,
    }  # fmt: skip
    files = sum(path.is_file() for path in root.rglob("*"))
    assert found.manifest["tables"]["images"]["in"] + sum(counts.values()) + len(("google", "twitter")) == files


@pytest.mark.parametrize("missing", ["270b-1f3fd.png", "1f350.png"])
def test_an_image_that_a_vendor_lacks_is_counted(tmp_path: Path, root: Path, missing: str) -> None:
    (root / "emoji-datasource-twitter" / "img" / "twitter" / "64" / missing).unlink()
    assert left_out(made(tmp_path, root))["twitter has no such image"] == 1


def test_an_image_that_cannot_be_read_is_counted_by_the_filter(tmp_path: Path, root: Path) -> None:
    (root / "emoji-datasource-twitter" / "img" / "twitter" / "64" / "1f350.png").write_bytes(b"no image")
    assert made(tmp_path, root).removed("images") == {"decode": 1}


def test_one_vendor_and_one_category(tmp_path: Path, root: Path) -> None:
    source = {"kind": "emoji", "path": str(root), **DEFAULT, "vendors": ["twitter"], "categories": ["Food & Drink"]}
    found = made(tmp_path, root, images=source)
    assert [row["caption"] for row in found.images] == ["pear"]


def test_subcategories_of_a_category(tmp_path: Path, root: Path) -> None:
    source = {"kind": "emoji", "path": str(root), "categories": ["People & Body"], "subcategories": ["person-role"]}
    found = made(tmp_path, root, images=source)
    assert {row["caption"] for row in found.images} == {"man pilot", "woman pilot", "pilot"}
    counts = left_out(found)
    assert (counts["of subcategory family"], counts["of subcategory hand-fingers-open"]) == (10, 8)


def test_prompts_are_all_names_but_those_for_evaluation(tmp_path: Path, root: Path) -> None:
    rows = made(tmp_path, root).prompts
    by = {split: {row["prompt"] for row in rows if row["split"] == split} for split in ("train", "eval")}
    assert by["eval"] == {"pilot"} and "pilot" in EVALUATION
    assert by["train"] == {"man pilot", "woman pilot", "raised hand", "couple with heart man man", "pear"}


def test_evaluation_prompts_without_images_are_counted(tmp_path: Path, root: Path) -> None:
    counts = left_out(made(tmp_path, root), "prompts_eval")
    assert counts["an evaluation prompt without images"] == len(EVALUATION) - 1


def test_a_part_of_the_images_by_their_names(tmp_path: Path, root: Path) -> None:
    source = {"kind": "emoji", "path": str(root), **DEFAULT}
    parts = {part: made(tmp_path, root, images=source | {"part": part}).images for part in ("train", "eval")}
    assert {row["caption"] for row in parts["eval"]} == {"pilot"}
    assert "pilot" not in {row["caption"] for row in parts["train"]}


def test_parquet_that_was_made_of_packages_gives_the_same_images(tmp_path: Path, root: Path) -> None:
    first = made(tmp_path, root)
    source = {"kind": "emoji", "path": str(tmp_path / "images.parquet"), **DEFAULT}
    (tmp_path / "again").mkdir()
    again = made(tmp_path / "again", root, images=source)
    for key in ("image_id", "caption", "attributes", "image"):
        assert [row[key] for row in again.images] == [row[key] for row in first.images]
    one = made(tmp_path / "again", root, images=source | {"vendors": ["google"]})
    assert left_out(one) == {"of vendor twitter": len(first.images) - len(one.images)}


def test_pairs_ask_for_no_evaluation_prompt_and_do_not_depend_on_their_number(tmp_path: Path, root: Path) -> None:
    source = {"kind": "emoji", "path": str(root), **DEFAULT, "count": 40, "seed": 3}
    found = made(tmp_path, root, pairs=source)
    assert len(found.pairs) > 30
    assert not {pair["prompt"] for pair in found.pairs} & {*EVALUATION}
    assert {pair["preference"] for pair in found.pairs} == {0.0, 1.0}
    fewer = made(tmp_path, root, pairs=source | {"count": 20}).pairs
    assert [pair["pair_id"] for pair in fewer] == [pair["pair_id"] for pair in found.pairs][: len(fewer)]
    other = made(tmp_path, root, pairs=source | {"seed": 4}).pairs
    assert {pair["pair_id"] for pair in other}.isdisjoint(pair["pair_id"] for pair in found.pairs)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"vendors": ["google"], "path": "nowhere"}, "no such file or folder, expected emoji packages or Parquet"),
        ({"subcategories": ["person-rolle"]}, "there is no subcategory 'person-rolle'; did you mean 'person-role'"),
        ({"categories": ["Food and Drink"]}, "there is no category 'Food and Drink'; did you mean 'Food & Drink'"),
    ],
)
def test_wrong_settings_are_refused(tmp_path: Path, root: Path, change: dict[str, Any], message: str) -> None:
    source = {"kind": "emoji", "path": str(root), **DEFAULT} | change
    with pytest.raises(InputError, match=message):
        made(tmp_path, root, images=source)


def test_a_missing_package_is_named(tmp_path: Path) -> None:
    root = emoji_packages.write(tmp_path / "packages", ["google"])
    with pytest.raises(InputError, match="there is no folder emoji-datasource-twitter here"):
        made(tmp_path, root)


@pytest.mark.parametrize("text", ["{}", "[", '[{"name": "PEAR"}]', '[{"name": 3}]'])
def test_a_list_of_another_layout_is_refused(tmp_path: Path, root: Path, text: str) -> None:
    (root / "emoji-datasource-google" / "emoji.json").write_text(text)
    with pytest.raises(InputError, match=r"emoji-datasource-google/emoji.json: "):
        made(tmp_path, root)


def test_parquet_of_other_images_is_refused(tmp_path: Path, root: Path) -> None:
    (tmp_path / "photos").mkdir()
    Image.new("RGB", (32, 32)).save(tmp_path / "photos" / "a.png")
    (tmp_path / "photos" / "a.txt").write_text("a photo")
    made(tmp_path, root, images={"kind": "folder", "path": str(tmp_path / "photos")})
    source = {"kind": "emoji", "path": str(tmp_path / "images.parquet")}
    (tmp_path / "again").mkdir()
    with pytest.raises(InputError, match="expected those of an emoji"):
        made(tmp_path / "again", root, images=source)
