"""Published data sets, each read from a miniature in the layout in which it is published."""

from __future__ import annotations

import io
import json
import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import yaml
from PIL import Image

from stages.curate.text import prompt_id
from stages.errors import InputError
from tests.stages import published
from tests.stages.curating import ROOT, SHAPES_PROMPTS, Curated, curate

SMALL = {"min_side": 8}


def of(table: str, **source: object) -> dict[str, Any]:
    return {table: source, "prompts": SHAPES_PROMPTS, "filters": SMALL, "val_share": 0}


def pixels(data: bytes) -> bytes:
    return Image.open(io.BytesIO(data)).convert("RGB").tobytes()


def preferences(made: Curated, seeds: Mapping[bytes, object]) -> set[tuple[object, object, float]]:
    """(image a, image b, share), images by what `seeds` says their pixels are."""
    names = {row["image_id"]: seeds[pixels(row["image"])] for row in made.images}
    return {(names[row["image_a"]], names[row["image_b"]], round(row["preference"], 6)) for row in made.pairs}


def drawn(count: int, start: int = 0, **kind: str) -> dict[bytes, object]:
    return {pixels(published.picture(start + n, **kind)): n for n in range(count)}  # type: ignore[arg-type]


def texts(made: Curated, split: str) -> list[str]:
    return [row["prompt"] for row in made.prompts if row["split"] == split]


# --- HPDv2 ----------------------------------------------------------------------------------------------------------


def test_hpdv2_training_pairs(tmp_path: Path) -> None:
    root = published.hpdv2(tmp_path / "HPDv2")
    made = curate(tmp_path, of("pairs", kind="hpdv2", path=str(root)))
    assert preferences(made, drawn(5)) == {(0, 1, 1.0), (0, 2, 0.0)}
    assert made.removed("pairs") == {"judged": 1}  # nobody preferred either
    assert {row["prompt"] for row in made.pairs} == {"A red bird on a wire"}


def test_hpdv2_test_pairs_are_shares_of_annotators(tmp_path: Path) -> None:
    root = published.hpdv2(tmp_path / "HPDv2")
    made = curate(tmp_path, of("pairs", kind="hpdv2", path=str(root), split="test"))
    two, one = round(2 / 3, 6), 1.0
    assert preferences(made, drawn(4, 10)) == {
        (0, 1, two), (0, 2, one), (0, 3, one), (1, 2, one), (1, 3, one), (2, 3, two)
    }  # fmt: skip


@pytest.mark.parametrize(("preferred", "count"), [(True, 2), (False, 5)])
def test_hpdv2_images(preferred: bool, count: int, tmp_path: Path) -> None:
    root = published.hpdv2(tmp_path / "HPDv2")
    made = curate(tmp_path, of("images", kind="hpdv2", path=str(root), preferred=preferred))
    known = drawn(5)
    shown = {known[pixels(row["image"])]: row["caption"] for row in made.images}
    assert len(shown) == count and {0, 2} <= set(shown)
    assert shown[0] == shown[2] == "A red bird on a wire"


def test_hpdv2_where_the_split_stands_in_the_name(tmp_path: Path) -> None:
    root = published.hpdv2(tmp_path / "HPDv2")
    entries = json.loads((root / "train.json").read_text())
    for entry in entries:
        entry["image_path"] = [f"train/{name}" for name in entry.pop("file_path")]
    (root / "train.json").write_text(json.dumps(entries))
    made = curate(tmp_path, of("pairs", kind="hpdv2", path=str(root)))
    assert preferences(made, drawn(5)) == {(0, 1, 1.0), (0, 2, 0.0)}


def test_hpdv2_prompts_do_not_leak(tmp_path: Path) -> None:
    root = published.hpdv2(tmp_path / "HPDv2")
    train = json.loads((root / "train.json").read_text())
    train.append({"prompt": "A castle, above the clouds!", "human_preference": [1, 0], "file_path": ["x", "y"]})
    (root / "train.json").write_text(json.dumps(train))
    lists = {
        part: {"kind": "hpdv2", "path": str(root), "split": split}
        for part, split in (("train", "train"), ("eval", "test"))
    }
    made = curate(tmp_path, {"prompts": lists})
    assert texts(made, "eval") == ["a castle above the clouds"]
    assert texts(made, "train") == ["A red bird on a wire", "two boats at dawn"]
    assert made.removed("prompts_train") == {"duplicates": 1, "leakage": 1}


# --- ImageRewardDB --------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(("ties", "shares"), [(False, [0.0, 1.0]), (True, [0.0, 0.5, 1.0])])
def test_image_reward_db(ties: bool, shares: list[float], tmp_path: Path) -> None:
    root = published.image_reward_db(tmp_path / "db")
    made = curate(tmp_path, of("pairs", kind="image_reward_db", path=str(root), ties=ties))
    assert len(made.pairs) == 2 * len(shares) and len(made.images) == 6
    seeds = {pixels(published.picture(100 * part + n, kind="WEBP")): (part, n) for part in (1, 2) for n in range(3)}
    expected = {(0, 1): 0.0, (1, 2): 1.0} | ({(0, 2): 0.5} if ties else {})
    assert preferences(made, seeds) == {((p, a), (p, b), v) for p in (1, 2) for (a, b), v in expected.items()}


def test_image_reward_db_parts_and_prompts(tmp_path: Path) -> None:
    root = published.image_reward_db(tmp_path / "db")
    published.image_reward_db(root, "test", 1)
    made = curate(tmp_path, of("pairs", kind="image_reward_db", path=str(root), parts=1))
    assert {row["prompt"] for row in made.pairs} == {"a portrait of person 1, oil on canvas"}
    lists = {
        part: {"kind": "image_reward_db", "path": str(root), "split": s}
        for part, s in (("train", "train"), ("eval", "test"))
    }
    made = curate(tmp_path, {"prompts": lists})
    assert texts(made, "eval") == ["a portrait of person 1, oil on canvas"]
    assert texts(made, "train") == ["a portrait of person 2, oil on canvas"]


# --- Pick-a-Pic -----------------------------------------------------------------------------------------------------


def test_pick_a_pic(tmp_path: Path) -> None:
    root = published.pick_a_pic(tmp_path / "pick")
    published.pick_a_pic(root, split="validation_unique", images="none")  # another split: not looked at
    made = curate(tmp_path, of("pairs", kind="pick_a_pic", path=str(root)))
    assert preferences(made, drawn(5)) == {(0, 1, 1.0), (1, 2, 0.0), (2, 3, 0.5)}
    assert made.removed("pairs") == {"judged": 1}
    assert len(made.images) == 5 and not made.removed("images")  # an image of two pairs is read once


@pytest.mark.parametrize("images", ["none", "null"])
def test_pick_a_pic_without_images(images: str, tmp_path: Path) -> None:
    root = published.pick_a_pic(tmp_path / "pick", images)
    with pytest.raises(InputError, match=r"train-00000-of-00002-\w+.parquet: holds no images in jpg_0 and jpg_1"):
        curate(tmp_path / "out", of("pairs", kind="pick_a_pic", path=str(root)))
    assert not list((tmp_path / "out").glob("*"))
    train = {"kind": "pick_a_pic", "path": str(root), "split": "train"}
    made = curate(tmp_path / "prompts", {"prompts": {"train": train, "eval": SHAPES_PROMPTS["eval"]}})
    assert texts(made, "train") == ["a fox, number 0", "a fox, number 1"]


# --- COCO -----------------------------------------------------------------------------------------------------------


def test_coco_images_stay_in_one_split(tmp_path: Path) -> None:
    root = published.coco(tmp_path / "coco", images=60)
    published.coco(root, "validation", first=1000)
    section = of("images", kind="coco", path=str(root)) | {"val_share": 0.3}
    made = curate(tmp_path, section)
    known = {pixels(published.picture(n, 48, 32)): n for n in range(60)}
    shown = {known[pixels(row["image"])]: row for row in made.images}
    assert len(made.images) == len(shown) == 60
    assert {row["split"] for row in made.images} == {"train", "val"}
    for number, row in shown.items():
        assert row["caption"] == f"view 0 of the scene number {number}" and row["group"] == str(number)


@pytest.mark.parametrize("squash", [False, True])
def test_coco_is_cut_or_squashed(squash: bool, tmp_path: Path) -> None:
    root = published.coco(tmp_path / "coco", images=1)
    wide = np.zeros((32, 48, 3), np.uint8)
    wide[:, :8], wide[:, 40:] = 255, 255  # what a cut about the centre takes away
    buffer = io.BytesIO()
    Image.fromarray(wide).save(buffer, "PNG")
    for file in sorted(root.rglob("*.parquet")):
        table = published.pq.read_table(file)
        cells = published.pa.array([{"bytes": buffer.getvalue(), "path": None}] * len(table), published.IMAGE)
        published.pq.write_table(table.set_column(0, "image", cells), file)
    section = of("images", kind="coco", path=str(root)) | {"side": 32, "as_released": {"squash": squash}}
    image = np.asarray(Image.open(io.BytesIO(curate(tmp_path, section).images[0]["image"])))
    assert image.shape == (32, 32, 3)
    assert bool(image.max()) is squash


def test_coco_captions_as_prompts(tmp_path: Path) -> None:
    """An image of both lists, by its number, leaves none of its captions in the training list."""
    root = published.coco(tmp_path / "coco", images=4)
    published.coco(root, "validation", first=3, images=2)
    lists = {
        part: {"kind": "coco", "path": str(root), "split": s}
        for part, s in (("train", "train"), ("eval", "validation"))
    }
    made = curate(tmp_path, {"prompts": lists})
    assert made.removed("prompts_train") == {"leakage": 5}
    assert {row["group"] for row in made.prompts if row["split"] == "train"} == {"0", "1", "2"}


# --- LAION ----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("json_inside", [True, False])
def test_laion(json_inside: bool, tmp_path: Path) -> None:
    root = published.laion(tmp_path / "laion", json_inside)
    made = curate(tmp_path, of("images", kind="laion", path=str(root)))
    assert made.removed("images") == {"metadata": 3}  # unsafe, marked, and of unknown safety
    assert {row["caption"] for row in made.images} == {f"a landscape of type {n}" for n in (0, 3)}
    section = of(
        "images", kind="laion", path=str(root), min_similarity=0.25, max_unsafe=None, quality="AESTHETIC_SCORE"
    )
    made = curate(tmp_path, section | {"filters": SMALL | {"min_quality": 6.6}})
    assert made.removed("images") == {"metadata": 2, "quality": 1}
    assert {row["caption"] for row in made.images} == {f"a landscape of type {n}" for n in (0, 1)}


def test_laion_prompts(tmp_path: Path) -> None:
    train = {"kind": "laion", "path": str(published.laion(tmp_path / "laion"))}
    made = curate(tmp_path, {"prompts": {"train": train, "eval": SHAPES_PROMPTS["eval"]}})
    assert texts(made, "train") == [f"a landscape of type {n}" for n in range(5)]


# --- suites ---------------------------------------------------------------------------------------------------------


def test_suites(tmp_path: Path) -> None:
    root = published.suites(tmp_path / "suites")
    suites = [
        {"kind": "parti_prompts", "path": str(root / "PartiPrompts.tsv")},
        {"kind": "draw_bench", "path": str(root / "DrawBench.csv")},
        {"kind": "hpsv2_benchmark", "path": str(root / "benchmark")},
    ]
    (tmp_path / "train.txt").write_text("a cat - a tabby - on a mat\nanime prompt 2\na new one\n")
    train = {"kind": "file", "path": str(tmp_path / "train.txt")}
    made = curate(tmp_path, {"prompts": {"train": train, "eval": suites}})
    by_source = {s["kind"]: [r["prompt"] for r in made.prompts if r["source"] == s["kind"]] for s in suites}
    assert by_source["parti_prompts"][1] == 'a sign that says "Deep Learning"'
    assert prompt_id(by_source["parti_prompts"][2]) == prompt_id("Hello written on a wall")
    assert len(by_source["parti_prompts"]) == 4
    assert by_source["draw_bench"] == ["A red car.", "One cat, two dogs."]
    assert len(by_source["hpsv2_benchmark"]) == 12  # four styles; its copy of DrawBench only when asked for
    assert texts(made, "train") == ["a new one"]


def test_parts_of_suites(tmp_path: Path) -> None:
    root = published.suites(tmp_path / "suites")
    suites = [
        {"kind": "parti_prompts", "path": str(root / "PartiPrompts.tsv"), "categories": ["Animals", "Abstract"]},
        {"kind": "hpsv2_benchmark", "path": str(root / "benchmark"), "styles": ["photo"]},
    ]
    made = curate(tmp_path, {"prompts": {"train": SHAPES_PROMPTS["train"], "eval": suites}})
    assert texts(made, "eval") == ["bond", "a cat: a tabby, on a mat", *(f"photo prompt {n}" for n in range(3))]


@pytest.mark.parametrize("name", ["DrawBench.json", "DrawBench.parquet", "DrawBench.txt", "DrawBench.tsv"])
def test_draw_bench_in_other_formats(name: str, tmp_path: Path) -> None:
    path, prompts = tmp_path / name, ["A red car.", "Two dogs."]
    if path.suffix == ".json":
        path.write_text(json.dumps([{"prompt": text} for text in prompts]))
    elif path.suffix == ".parquet":
        published.pq.write_table(published.pa.table({"Prompts": prompts}), path)
    else:
        path.write_text("".join(f"{line}\n" for line in (["Prompt"] if path.suffix == ".tsv" else []) + prompts))
    made = curate(
        tmp_path, {"prompts": {"train": SHAPES_PROMPTS["train"], "eval": {"kind": "draw_bench", "path": str(path)}}}
    )
    assert texts(made, "eval") == prompts


# --- refusals -------------------------------------------------------------------------------------------------------


def damage(path: Path, data: bytes | None) -> None:
    path.unlink() if data is None else path.write_bytes(data)


REFUSED: dict[str, tuple[str, str, str, bytes | None, dict[str, Any], str]] = {
    "no list": ("hpdv2", "pairs", "train.json", None, {}, "there is no train.json here, expected the folder of HPDv2"),
    "no image": ("hpdv2", "pairs", "train/00001.jpg", None, {}, "entry 1: image .*00001.jpg does not exist"),
    "one image": (
        "hpdv2", "pairs", "train.json", b'[{"prompt": "x", "file_path": ["a"], "human_preference": [1]}]', {},
        r"entry 1: 'file_path' is list \['a'\], expected a list of two or more paths",
    ),
    "short ranks": (
        "hpdv2", "pairs", "test.json", b'[{"prompt": "x", "image_path": ["a", "b"], "rank": [1]}]', {"split": "test"},
        r"entry 1: 'rank' is list \[1\], expected 2 numbers, one per image",
    ),
    "no zips": ("image_reward_db", "pairs", "", None, {"split": "test"}, "no zips here, expected files such as test_1"),
    "half a zip": (
        "image_reward_db", "pairs", "images/train/train_2.zip", b"PK\x03\x04 half", {}, "train_2.zip: not a readable"
    ),
    "no metadata": (
        "image_reward_db", "prompts", "metadata-train.parquet", None, {"split": "train"}, "there is no metadata-train"
    ),
    "no split": (
        "pick_a_pic", "pairs", "", None, {"split": "test"}, "no files of split 'test', expected names such as test-"
    ),
    "no tars": ("laion", "images", "00000.tar", None, {}, "no tars here, expected a webdataset"),
    "half a tar": ("laion", "images", "00000.tar", b"0" * 700, {}, "00000.tar: not a readable tar"),
    "no style": (
        "suites", "prompts", "benchmark/photo.json", None, {"kind": "hpsv2_benchmark"}, "there is no photo.json here"
    ),
    "no category": (
        "suites", "prompts", "", None, {"kind": "parti_prompts", "categories": ["Animal"]}, "did you mean 'Animals'"
    ),
}  # fmt: skip


@pytest.mark.parametrize("case", REFUSED)
def test_refusals(case: str, tmp_path: Path) -> None:
    name, table, damaged, data, more, message = REFUSED[case]
    root = getattr(published, name)(tmp_path / "set")
    if damaged:
        damage(root / damaged, data)
    places = {"hpsv2_benchmark": root / "benchmark", "parti_prompts": root / "PartiPrompts.tsv"}
    source = {"kind": name, "path": str(places.get(more.get("kind", ""), root))} | more
    section = of(table, **source)
    if table == "prompts":
        section = {"prompts": {"train": source, "eval": SHAPES_PROMPTS["eval"]}}
    with pytest.raises(InputError, match=message) as caught:
        curate(tmp_path / "out", section)
    assert "\n" not in str(caught.value)
    assert not list((tmp_path / "out").glob("*"))


def test_a_list_whose_image_is_not_in_the_zip(tmp_path: Path) -> None:
    root = published.image_reward_db(tmp_path / "db", parts=1)
    file = root / "images" / "train" / "train_1.zip"
    with published.zipfile.ZipFile(file) as archive:
        kept = {name: archive.read(name) for name in archive.namelist() if name != "p1-1.webp"}
    with published.zipfile.ZipFile(file, "w") as archive:
        for name, data in kept.items():
            archive.writestr(name, data)
    with pytest.raises(InputError, match=r"train_1.zip: there is no image 'p1-1.webp' in it, which its list names"):
        curate(tmp_path / "out", of("pairs", kind="image_reward_db", path=str(root)))


def test_laion_metadata_without_a_key(tmp_path: Path) -> None:
    root = published.laion(tmp_path / "laion", json_inside=False)
    (root / "00000.parquet").unlink()
    with pytest.raises(
        InputError,
        match="its metadata have no 'punsafe', on which `max_unsafe` is a bound; `max_unsafe: null` keeps all",
    ):
        curate(tmp_path / "out", of("images", kind="laion", path=str(root)))
    section = of("images", kind="laion", path=str(root), max_unsafe=None, max_watermark=None)
    assert len(curate(tmp_path / "all", section).images) == 5


# --- the page -------------------------------------------------------------------------------------------------------


def test_the_example_of_the_page_runs(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The section as it stands in the page, on miniatures at the paths that it names; only sizes are made small."""
    page = (ROOT / "docs" / "bring-your-own-data.md").read_text(encoding="utf-8")
    blocks = re.findall(r"^```yaml\n(.*?)^```", page, flags=re.DOTALL | re.MULTILINE)
    section = next(found for found in map(yaml.safe_load, blocks) if found["study"]["name"] == "published")["curate"]
    data = tmp_path / "data"
    published.hpdv2(data / "HPDv2")
    published.coco(data / "coco_captions")
    published.pick_a_pic(data / "pickapic_v2")
    made = published.suites(tmp_path / "suites")
    (made / "PartiPrompts.tsv").rename(data / "PartiPrompts.tsv")
    (made / "benchmark").rename(data / "HPDv2" / "benchmark")
    monkeypatch.chdir(tmp_path)
    section["filters"]["min_side"] = 16
    out = curate(tmp_path / "out", section | {"side": 32, "val_share": 0})
    assert {row["source"] for row in out.prompts} == {"coco", "hpdv2", "parti_prompts", "hpsv2_benchmark"}
    assert {row["source"] for row in out.pairs} == {"hpdv2", "pick_a_pic"}
    assert {(row["width"], row["height"]) for row in out.images if row["split"] == "train"} == {(32, 32)}
    assert {"near_leakage", "near_duplicates"} <= {
        each["filter"] for each in out.manifest["tables"]["prompts_train"]["filters"]
    }
    assert {entry["name"] for entry in out.manifest["versions"]} >= {"HPDv2", "COCO captions", "PartiPrompts"}
