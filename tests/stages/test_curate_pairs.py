"""The curate stage: pairs of images that people compared, and what leaks into them."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from tests.stages.curating import SHAPES_PROMPTS, TABLES, captions, curate, photos, png, prompt_list, write_table


def test_pairs_of_curated_images(tmp_path: Path) -> None:
    """By name, by image_id, with shares, words and missing judgements."""
    folder = photos(tmp_path / "photos")
    (folder / "bad.png").write_bytes(b"")
    (folder / "bad.txt").write_text("bad picture")
    images = {"kind": "folder", "path": str(folder)}
    plain = curate(tmp_path, {"images": images, "prompts": SHAPES_PROMPTS, "val_share": 0})
    ids = {row["caption"].split()[-1]: row["image_id"] for row in plain.images}
    rows = [("cat.png", "dog.png", "1"), ("cat.png", "wild/owl.png", "b"), (ids["hen"], "bee.png", "Tie")]
    rows += [("cat.png", "bad.png", "0"), ("bee.png", "bee.png", "0"), ("hen.png", "dog.png", "")]
    rows += [("dog.png", "cat.png", "0.5")]
    values = [{"prompt": "which one", "image_a": a, "image_b": b, "preference": p} for a, b, p in rows]
    pairs = {"kind": "file", "path": write_table(tmp_path / "pairs.csv", values)}
    made = curate(tmp_path, {"images": images, "pairs": pairs, "prompts": SHAPES_PROMPTS, "val_share": 0})
    assert made.removed("pairs") == {"judged": 1, "images_kept": 1, "one_image": 1, "duplicates": 1}
    assert [(row["image_a"], row["image_b"], row["preference"]) for row in made.pairs] == [
        (ids["cat"], ids["dog"], 1.0), (ids["cat"], ids["owl"], 0.0), (ids["hen"], ids["bee"], 0.5)
    ]  # fmt: skip
    assert captions(made) == captions(plain)


@pytest.mark.parametrize("suffix", TABLES)
def test_pairs_with_a_folder_and_votes(suffix: str, tmp_path: Path) -> None:
    folder = photos(tmp_path / "compared", captions=False)
    values = [
        {"text": "one of two", "left": "cat.png", "right": "dog.png", "up": 3, "down": 1},
        {"text": "one of two", "left": "dog.png", "right": "wild/fox.png", "up": 0, "down": 2},
        {"text": "nobody voted", "left": "dog.png", "right": "hen.png", "up": 0, "down": 0},
    ]
    pairs = {
        "kind": "file", "path": write_table(tmp_path / f"pairs{suffix}", values), "folder": str(folder),
        "prompt": "text", "image_a": "left", "image_b": "right", "preference": None, "votes_a": "up", "votes_b": "down",
    }  # fmt: skip
    made = curate(tmp_path, {"pairs": pairs, "prompts": SHAPES_PROMPTS})
    assert [row["preference"] for row in made.pairs] == [0.75, 0.0]
    assert made.removed("pairs") == {"judged": 1} and not made.removed("images")  # dog.png came in once
    assert {row["split"] for row in made.images} == {"pairs"} and len(made.images) == 4
    assert {row["image_id"] for row in made.images} > {row["image_a"] for row in made.pairs}


def test_pairs_that_hold_their_images(tmp_path: Path) -> None:
    """The layout of Pick-a-Pic: two columns of bytes, and a label that may be 1, 0 or 0.5."""
    rows = [
        {"caption": f"prompt {i // 2}", "jpg_0": png(i), "jpg_1": png(i + 1), "label_0": label}
        for i, label in enumerate([1.0, 0.0, 0.5, None])
    ]
    keys = {"prompt": "caption", "image_a": "jpg_0", "image_b": "jpg_1", "preference": "label_0"}
    pairs = {"kind": "file", "path": write_table(tmp_path / "pick.parquet", rows), **keys}
    made = curate(tmp_path, {"pairs": pairs, "prompts": SHAPES_PROMPTS, "val_share": 0})
    assert [row["preference"] for row in made.pairs] == [1.0, 0.0, 0.5]
    assert len(made.images) == 5 and made.removed("images") == {"exact_duplicates": 3}


def test_pairs_with_lists_inside(tmp_path: Path) -> None:
    """The layout of HPDv2: two paths and two judgements in lists."""
    folder = photos(tmp_path / "train", captions=False)
    rows = [{"prompt": "an animal", "human_preference": [0, 1], "file_path": ["cat.png", "dog.png"]}]
    keys = {"image_a": "file_path.0", "image_b": "file_path.1", "preference": "human_preference.0"}
    for suffix in (".json", ".parquet"):
        path = write_table(tmp_path / f"train{suffix}", rows)
        pairs = {"kind": "file", "path": path, "folder": str(folder), **keys}
        made = curate(tmp_path, {"pairs": pairs, "prompts": SHAPES_PROMPTS})
        assert [row["preference"] for row in made.pairs] == [0.0]


def test_pairs_go_where_their_images_are(tmp_path: Path) -> None:
    images = [{"image": png(i), "caption": f"picture {i}", "id": f"i{i}", "who": f"g{i % 20}"} for i in range(80)]
    rng = np.random.default_rng(1)
    rows = [
        {"prompt": f"prompt {i}", "image_a": f"i{a}", "image_b": f"i{b}", "preference": 1}
        for i, (a, b) in enumerate(rng.integers(80, size=(300, 2)))
    ]
    source = {"kind": "parquet", "path": write_table(tmp_path / "i.parquet", images), "id": "id", "group": "who"}
    pairs = {"kind": "file", "path": write_table(tmp_path / "p.jsonl", rows)}
    made = curate(tmp_path, {"images": source, "pairs": pairs, "prompts": SHAPES_PROMPTS, "val_share": 0.3})
    split = {row["image_id"]: row["split"] for row in made.images}
    assert {row["split"] for row in made.pairs} == {"train", "val"}
    assert all(split[row["image_a"]] == split[row["image_b"]] == row["split"] for row in made.pairs)
    crossing = sum(row["image_a"] != row["image_b"] for row in rows) - len(made.pairs)
    assert made.removed("pairs")["across_splits"] == crossing > 0


def test_leakage_into_images_and_pairs(tmp_path: Path) -> None:
    folder = photos(tmp_path / "photos")
    evaluation = prompt_list(tmp_path / "eval.txt", ["The picture of one CAT.", "which one"])
    values = [
        {"prompt": text, "image_a": "dog.png", "image_b": "hen.png", "preference": 1} for text in ("Which one?", "x")
    ]
    section = {
        "images": {"kind": "folder", "path": str(folder)},
        "pairs": {"kind": "file", "path": write_table(tmp_path / "pairs.csv", values)},
        "prompts": {"train": SHAPES_PROMPTS["train"], "eval": {"kind": "file", "path": evaluation}},
        "val_share": 0,
    }
    made = curate(tmp_path, section)
    assert made.removed("images") == {"leakage": 1} and made.removed("pairs") == {"leakage": 1}
    kept = curate(tmp_path, section | {"filters": {"leakage": False}})
    assert not kept.removed("images") and not kept.removed("pairs")
