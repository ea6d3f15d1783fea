"""The curate stage: sources of images, splits, the manifest, and the example of its page."""

from __future__ import annotations

import io
import json
import os
import re
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import yaml
from PIL import Image

from stages import tables
from stages.curate.decode import square
from stages.curate.text import prompt_id
from stages.errors import InputError
from stages.runtime import sha256
from stages.world.oracle import utility
from stages.world.scene import evaluation_prompts
from stages.world.settings import WorldSettings
from tests.stages.curating import (
    NAMES,
    ROOT,
    SHAPES_PROMPTS,
    TABLES,
    Curated,
    captions,
    curate,
    environment,
    photos,
    png,
    write_table,
)

# --- the simulated world --------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def shapes(tmp_path_factory: pytest.TempPathFactory) -> Curated:
    section = {
        "images": {"kind": "shapes", "count": 300, "seed": 1},
        "pairs": {"kind": "shapes", "count": 120, "seed": 2},
        "prompts": SHAPES_PROMPTS,
    }
    return curate(tmp_path_factory.mktemp("shapes"), section)


def test_shapes_prompts_are_disjoint(shapes: Curated) -> None:
    train = {row["prompt_id"] for row in shapes.prompts if row["split"] == "train"}
    evaluation = {row["prompt_id"] for row in shapes.prompts if row["split"] == "eval"}
    assert evaluation == {prompt_id(text) for text in evaluation_prompts()}
    assert not train & evaluation
    assert shapes.removed("prompts_train") == {"leakage": len(evaluation)}
    assert len(shapes.prompts) == len(train) + len(evaluation)


def test_shapes_images_show_their_captions_and_no_evaluation_prompt(shapes: Curated) -> None:
    evaluation = {row["prompt_id"] for row in shapes.prompts if row["split"] == "eval"}
    clean = [row for row in shapes.images if row["split"] != "pairs"]
    assert {row["split"] for row in clean} == {"train", "val"}
    for row in clean:
        known = json.loads(row["attributes"])
        assert known["colour"] in row["caption"] and known["shape"] in row["caption"]
        assert row["split"] == "val" or prompt_id(row["caption"]) not in evaluation
        assert Image.open(io.BytesIO(row["image"])).size == (row["width"], row["height"]) == (32, 32)


def test_shapes_pairs_follow_the_utility(shapes: Curated) -> None:
    images = {row["image_id"]: np.asarray(Image.open(io.BytesIO(row["image"]))) for row in shapes.images}
    texts = [row["prompt"] for row in shapes.pairs]
    a, b = (utility(np.stack([images[row[side]] for row in shapes.pairs]), texts) for side in ("image_a", "image_b"))
    votes = np.array([row["preference"] for row in shapes.pairs])
    assert set(votes) == {0.0, 1.0}
    assert 0.75 < np.mean((a > b) == (votes > 0.5)) < 1  # about 0.88 by the annotators' temperature
    assert 0.3 < votes.mean() < 0.7


def test_shapes_depend_on_seeds_alone(tmp_path: Path) -> None:
    def made(name: str, count: int, seed: int = 1, study_seed: int = 0) -> list[str]:
        section = {"images": {"kind": "shapes", "count": count, "seed": seed}, "prompts": SHAPES_PROMPTS}
        return [row["image_id"] for row in curate(tmp_path / name, section, seed=study_seed).images]

    few = made("few", 40)
    assert made("more", 300)[: len(few)] == few  # the count changes neither the rows before it nor their split
    assert made("again", 40) == few
    assert sha256(tmp_path / "few" / "images.parquet") == sha256(tmp_path / "again" / "images.parquet")
    assert not set(made("seed", 40, seed=2)) & set(few)
    assert not set(made("study", 40, study_seed=1)) & set(few)


def test_shares_of_several_votes(tmp_path: Path) -> None:
    pairs = {"kind": "shapes", "count": 40, "votes": 4}
    made = curate(tmp_path, {"pairs": pairs, "prompts": SHAPES_PROMPTS})
    assert {row["preference"] for row in made.pairs} <= {0.0, 0.25, 0.5, 0.75, 1.0}
    assert len({row["preference"] for row in made.pairs}) > 2
    assert {row["split"] for row in made.images} == {"pairs"}


def test_a_smaller_world(tmp_path: Path) -> None:
    world = WorldSettings(shapes=("circle", "star"), colours=("red", "blue"), image_size=16)
    section = {"images": {"kind": "shapes", "count": 60}, "prompts": SHAPES_PROMPTS, "filters": {"min_side": 16}}
    made = curate(tmp_path, section, world)
    assert {json.loads(row["attributes"])["shape"] for row in made.images} == {"circle", "star"}
    assert {row["width"] for row in made.images} == {16}


def test_pairs_of_two_sources_share_no_image(tmp_path: Path) -> None:
    names = ("proxy", "heldout")
    pairs = [{"kind": "shapes", "name": name, "count": 40, "seed": seed} for seed, name in enumerate(names)]
    made = curate(tmp_path, {"pairs": pairs, "prompts": SHAPES_PROMPTS})
    used = {n: {r[s] for r in made.pairs if r["source"] == n for s in ("image_a", "image_b")} for n in names}
    assert all(used.values()) and not used["proxy"] & used["heldout"]


# --- images ---------------------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def from_folder(tmp_path_factory: pytest.TempPathFactory) -> Curated:
    """Six images with caption files: what the other ways of giving the same images must reproduce."""
    folder = tmp_path_factory.mktemp("folder")
    images = {"kind": "folder", "path": str(photos(folder / "photos"))}
    return curate(folder, {"images": images, "prompts": SHAPES_PROMPTS})


def test_folder_with_caption_files(from_folder: Curated) -> None:
    assert sorted(captions(from_folder).values()) == sorted(f"the picture of one {name}" for name in NAMES)
    assert {row["source"] for row in from_folder.images} == {"folder"}
    assert all(row["attributes"] is None for row in from_folder.images)
    assert {row["image"] for row in from_folder.images} == {png(seed) for seed in range(6)}  # PNG bytes are kept


@pytest.mark.parametrize("suffix", TABLES)
def test_folder_with_a_table(suffix: str, tmp_path: Path, from_folder: Curated) -> None:
    folder = photos(tmp_path / "photos", captions=False)
    files = sorted(folder.rglob("*.png"))
    rows = [
        {"file": f.relative_to(folder).as_posix(), "text": f"the picture of one {f.stem}", "who": "Ann", "good": 0.5}
        for f in files
    ]
    table = {"path": write_table(tmp_path / f"table{suffix}", rows), "image": "file", "caption": "text"}
    images = {"kind": "folder", "path": str(folder), "captions": table | {"group": "who", "quality": "good"}}
    made = curate(tmp_path, {"images": images, "prompts": SHAPES_PROMPTS, "filters": {"min_quality": 0.5}})
    assert captions(made) == captions(from_folder)
    assert {row["group"] for row in made.images} == {"Ann"}
    with pytest.raises(InputError, match="nothing left of 6 rows; removed by quality 6"):
        curate(tmp_path, {"images": images, "prompts": SHAPES_PROMPTS, "filters": {"min_quality": 0.51}})


CELLS: dict[str, Callable[[str, bytes], object]] = {
    "bytes": lambda name, data: data,
    "struct": lambda name, data: {"bytes": data, "path": None},
    "struct of path": lambda name, data: {"bytes": None, "path": f"photos/{name}"},
    "path": lambda name, data: f"photos/{name}",
}


@pytest.mark.parametrize("cell", CELLS)
@pytest.mark.parametrize("parts", [1, 2])
def test_parquet(cell: str, parts: int, tmp_path: Path, from_folder: Curated) -> None:
    folder = photos(tmp_path / "table" / "photos", captions=False)
    rows = [
        {"jpg": CELLS[cell](f.relative_to(folder).as_posix(), f.read_bytes()), "TEXT": f"the picture of one {f.stem}"}
        for f in sorted(folder.rglob("*.png"))
    ]
    for part in range(parts):
        write_table(tmp_path / "table" / f"part-{part}.parquet", rows[part::parts])
    path = tmp_path / "table" if parts > 1 else tmp_path / "table" / "part-0.parquet"
    images = {"kind": "parquet", "path": str(path), "image": "jpg", "caption": "TEXT"}
    made = curate(tmp_path, {"images": images, "prompts": SHAPES_PROMPTS})
    assert captions(made) == captions(from_folder)


def test_bad_images_are_counted_and_left_out(tmp_path: Path, from_folder: Curated) -> None:
    folder = photos(tmp_path / "photos")
    broken = {
        "empty.png": b"",
        "page.jpg": b"<html>",
        "short.png": png(7)[:-40],
        "tiny.png": png(8, 8),
        "again.bmp": png(0),
    }
    for name, data in broken.items():
        (folder / name).write_bytes(data)
        (folder / name).with_suffix(".txt").write_text("some words")
    (folder / "silent.png").write_bytes(png(9))
    (folder / ".hidden.png").write_bytes(png(10))
    made = curate(tmp_path, {"images": {"kind": "folder", "path": str(folder)}, "prompts": SHAPES_PROMPTS})
    assert made.removed("images") == {"text": 1, "decode": 3, "min_side": 1, "exact_duplicates": 1}
    assert made.manifest["tables"]["images"]["in"] == 12
    examples = next(f["examples"] for f in made.manifest["tables"]["images"]["filters"] if f["filter"] == "decode")
    assert examples[0] == "empty.png: empty file"
    again = {"some words", "the picture of one cat"}
    assert set(captions(made).values()) ^ set(captions(from_folder).values()) <= again


def test_sides_are_made_equal(tmp_path: Path) -> None:
    folder = photos(tmp_path / "photos")
    section = {"images": {"kind": "folder", "path": str(folder)}, "prompts": SHAPES_PROMPTS}
    plain, square = curate(tmp_path / "a", section), curate(tmp_path / "b", section | {"side": 16})
    assert {(row["width"], row["height"]) for row in square.images} == {(16, 16)}
    assert all(Image.open(io.BytesIO(row["image"])).size == (16, 16) for row in square.images)
    assert captions(square) == captions(plain)  # an image keeps its id


def test_squashing_keeps_the_edges_that_cutting_takes_away() -> None:
    wide = np.zeros((16, 32, 3), np.uint8)
    wide[:, :8], wide[:, 24:] = (255, 0, 0), (0, 0, 255)
    image = Image.fromarray(wide)
    cut, squashed = (np.asarray(square(image, b"", 16, squash)[0]) for squash in (False, True))
    assert not cut[8, [2, 13]].any()
    assert squashed[8, 1, 0] > 250
    assert squashed[8, 14, 2] > 250


def test_no_group_stands_in_two_splits(tmp_path: Path) -> None:
    rng = np.random.default_rng(0)
    rows = [
        {"image": png(i, 16), "caption": f"number {i}", "group": int(rng.integers(150)), "n": i} for i in range(2000)
    ]

    def splits(count: int) -> tuple[dict[str, set[str]], dict[str, str]]:
        path = write_table(tmp_path / f"{count}.parquet", rows[:count])
        images = {"kind": "parquet", "path": path, "group": "group", "id": "n"}
        made = curate(tmp_path / str(count), {"images": images, "prompts": SHAPES_PROMPTS, "val_share": 0.2})
        groups: dict[str, set[str]] = {}
        for row in made.images:
            groups.setdefault(row["group"], set()).add(row["split"])
        return groups, {row["image_id"]: row["split"] for row in made.images}

    groups, by_image = splits(2000)
    assert len(by_image) == 2000 and len(groups) == 150
    assert all(len(found) == 1 for found in groups.values())
    share = sum(found == {"val"} for found in groups.values()) / len(groups)
    assert abs(share - 0.2) < 4 * (0.2 * 0.8 / 150) ** 0.5
    _, earlier = splits(500)
    assert all(by_image[image] == split for image, split in earlier.items())  # data added later moves nothing


# --- the manifest ---------------------------------------------------------------------------------------------------


def test_manifest_adds_up(tmp_path: Path) -> None:
    images = {"kind": "folder", "path": str(photos(tmp_path / "photos"))}
    section = {"images": images, "prompts": SHAPES_PROMPTS}
    made = curate(tmp_path, section)
    for table in made.manifest["tables"].values():
        left = table["in"]
        for each in table["filters"]:
            left -= each["removed"]
            assert each["left"] == left
        assert table["out"] == left == sum(table["splits"].values())
    for name, digests in made.manifest["outputs"].items():
        assert digests["sha256"] == sha256(tmp_path / name)
    digest = made.manifest["settings"]
    assert curate(tmp_path, section).manifest["settings"] == digest
    assert curate(tmp_path, section | {"val_share": 0.2}).manifest["settings"] != digest
    assert curate(tmp_path, section, seed=1).manifest["settings"] != digest  # its prompts are the world's


# --- the command line -----------------------------------------------------------------------------------------------


def command(folder: Path, study: dict[str, Any]) -> list[str]:
    (folder / "study.yaml").write_text(yaml.safe_dump(study))
    out = [f"--{name}={folder}/out/{name}" for name in ("prompts", "images", "pairs", "manifest")]
    return [sys.executable, "-m", "stages.curate", f"--params={folder}/study.yaml", *out]


def test_command_line(tmp_path: Path) -> None:
    images = {"kind": "shapes", "count": 20}
    study = {"study": {"name": "small", "seed": 3}, "curate": {"images": images, "prompts": SHAPES_PROMPTS}}
    done = subprocess.run(command(tmp_path, study), cwd=ROOT, capture_output=True, text=True, env=environment())
    assert done.returncode == 0, done.stderr
    assert "prompts_eval: 24 of 24 rows kept" in done.stderr
    assert {p.name for p in (tmp_path / "out").iterdir() if p.is_file()} == {"prompts", "images", "pairs", "manifest"}


def test_command_line_refuses_in_one_line(tmp_path: Path) -> None:
    study = {
        "study": {"name": "small"},
        "curate": {"prompts": {"train": {"kind": "file", "path": "list.txt"}, "eval": SHAPES_PROMPTS["eval"]}},
    }
    done = subprocess.run(command(tmp_path, study), cwd=tmp_path, capture_output=True, text=True, env=environment())
    assert done.returncode == 2
    assert done.stderr == "error: list.txt: no such file, expected a list or table\n"
    assert not list((tmp_path / "out").glob("p*")) and not (tmp_path / "out" / "manifest").exists()


def test_no_torch(tmp_path: Path) -> None:
    code = (
        "import sys; sys.argv = sys.argv[1:]; import stages.curate.pipeline; from stages.curate.__main__ import main\n"
        "main()\n"
        "assert 'torch' not in sys.modules and 'mlflow' not in sys.modules"
    )
    study = {
        "study": {"name": "small"},
        "curate": {"images": {"kind": "shapes", "count": 3}, "prompts": SHAPES_PROMPTS},
    }
    arguments = ["curate", *command(tmp_path, study)[3:]]
    done = subprocess.run(
        [sys.executable, "-c", code, *arguments], cwd=ROOT, capture_output=True, text=True, env=environment()
    )
    assert done.returncode == 0, done.stderr
    assert (tmp_path / "out" / "manifest").exists()


# --- the page -------------------------------------------------------------------------------------------------------


def blocks(language: str) -> list[str]:
    text = (ROOT / "docs" / "bring-your-own-data.md").read_text(encoding="utf-8")
    return re.findall(rf"^```{language}\n(.*?)^```", text, flags=re.DOTALL | re.MULTILINE)


def test_the_example_of_the_page_runs(tmp_path: Path) -> None:
    """The files and the command as they stand in the page, on made-up images."""
    data = tmp_path / "data"
    for seed, name in enumerate(["cat.png", "dog.jpg", "hen.png"]):
        (data / "photos").mkdir(parents=True, exist_ok=True)
        image = Image.open(io.BytesIO(png(seed, 80)))
        image.save(data / "photos" / name)
        (data / "photos" / name).with_suffix(".txt").write_text(f"the picture of a {name[:3]}")
    (data / "photos" / "owl.jpg").write_bytes((data / "photos" / "dog.jpg").read_bytes()[:300])
    (data / "photos" / "owl.txt").write_text("the picture of an owl")
    (data / "prompts.txt").write_text("a hen on a hill\nA dog in the rain!\n")
    for language, name in (("jsonl", "suite.jsonl"), ("csv", "pairs.csv"), ("yaml", "mine.yaml")):
        (data / name).write_text(blocks(language)[0], encoding="utf-8")
    path = f"{Path(sys.executable).parent}:{os.environ['PATH']}"
    done = subprocess.run(
        ["bash", "-euc", blocks("sh")[0]],
        cwd=tmp_path,
        capture_output=True,
        text=True,
        env=environment() | {"PATH": path},
    )
    assert done.returncode == 0, done.stderr
    out = tmp_path / "out" / "mine" / "data"
    manifest = json.loads((out / "manifest.json").read_text())
    assert {name: table["out"] for name, table in manifest["tables"].items()} == {
        "prompts_eval": 2, "prompts_train": 1, "images": 3, "pairs": 3
    }  # fmt: skip
    pairs = tables.read(out / "pairs.parquet", tables.PAIRS).to_pylist()
    assert [row["preference"] for row in pairs] == [0.8, 0.4, 1.0]
    sizes = tables.read(out / "images.parquet", tables.IMAGES, ["width", "height"]).to_pylist()
    assert sizes == [{"width": 64, "height": 64}] * 3
