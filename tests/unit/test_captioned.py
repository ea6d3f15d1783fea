"""The oracle of a world of one's own images: what the nearest of them says, and which tables it refuses."""

from __future__ import annotations

import io
import math
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import torch
from PIL import Image

from stages import sight
from stages.captioned import library
from stages.captioned.oracle import Oracle
from stages.curate.decode import decode
from stages.errors import InputError
from stages.params import validate
from stages.pictures import encode
from stages.prepare import source
from stages.prepare.source import ImportSettings
from stages.rewards.base import load_reward, require_oracle
from tests import tiny_judges

SIDE = 8
ROWS = [("star", "red", "thin"), ("star", "blue", "thin"), ("moon", "red", "bold"), ("moon", "red", "thin"),
        ("sun", "blue", "bold")]  # fmt: skip


def pixels(count: int, side: int = SIDE) -> np.ndarray:
    return np.random.default_rng(0).integers(256, size=(count, side, side, 3), dtype=np.uint8)


def table(path: Path, **changed: Any) -> Path:
    captions, colours, weights = (list(column) for column in zip(*ROWS, strict=True))
    columns = {"image": [encode(each) for each in pixels(len(ROWS))], "caption": captions, "colour": colours}
    pq.write_table(pa.table({**columns, "weight": weights, **changed}), path)
    return path


def oracle_of(path: Path) -> Oracle:
    return Oracle(library.read([path], "image", "caption", ["colour", "weight"]))


@pytest.fixture(scope="module")
def oracle(tmp_path_factory: pytest.TempPathFactory) -> Oracle:
    return oracle_of(table(tmp_path_factory.mktemp("own") / "images.parquet"))


def test_a_real_image_is_right_and_no_other_is(oracle: Oracle) -> None:
    seen = oracle.see(pixels(5), ["star", "star", "star", "moon", "sun"])
    assert seen.right.tolist() == [True, True, False, True, True]
    assert seen.distance.tolist() == [0] * 5
    assert seen.marks(["star"] * 5)["caption_accuracy"].tolist() == [1, 1, 0, 1, 1]


def test_distance_is_the_root_of_the_mean_square_difference(oracle: Oracle) -> None:
    image = pixels(1).astype(int)
    image[0, 0, 0] = np.where(image[0, 0, 0] < 128, image[0, 0, 0] + 51, image[0, 0, 0] - 51)
    seen = oracle.see(image.astype(np.uint8), ["star"])
    assert seen.distance[0] == pytest.approx(0.2 * math.sqrt(1 / SIDE**2))


def test_edges_are_those_of_the_image_in_shares_of_the_nearest_one(oracle: Oracle) -> None:
    """Half the contrast is half the sharpness; grain is excess."""
    real = pixels(1).astype(float)
    grey = real.mean((1, 2), keepdims=True)
    grain = np.random.default_rng(1).normal(0, 30, real.shape)
    seen = oracle.see(
        np.concatenate([grey + (real - grey) / 2, real + grain]).clip(0, 255).round().astype(np.uint8), ["star"] * 2
    )
    assert seen.nearest.tolist() == [0, 0]
    assert seen.sharpness[0] == pytest.approx(0.5, abs=0.02) and seen.excess[0] < 0.05
    assert seen.excess[1] > 0.1


@pytest.mark.parametrize(
    ("prompt", "rows", "entropies"),
    [
        ("star", [0, 0, 1, 1], {"colour_entropy": math.log(2)}),
        ("star", [0, 0, 0, 0], {"colour_entropy": 0}),
        ("moon", [2, 3, 3, 3], {"weight_entropy": -0.25 * math.log(0.25) - 0.75 * math.log(0.75)}),
        ("sun", [4, 0, 1, 2], {}),
    ],
)
def test_diversity_is_over_what_images_of_the_caption_differ_in(
    oracle: Oracle, prompt: str, rows: list[int], entropies: dict[str, float]
) -> None:
    seen = oracle.see(pixels(5)[rows], [prompt] * 4)
    assert seen.diversity() == pytest.approx({"attribute_diversity": sum(entropies.values())} | entropies)
    assert {f"{name}_entropy" for name in seen.open_attributes()} == entropies.keys()


def test_open_attributes_are_one_hot(oracle: Oracle) -> None:
    [(name, values)] = oracle.see(pixels(5)[[0, 1]], ["star", "star"]).open_attributes().items()
    assert name == "colour"
    assert values.sum(1).tolist() == [1, 1]
    assert (values[0] != values[1]).any()


@pytest.mark.parametrize(("prompt", "rows"), [("star", [[0, 1], [0, 0], [1, 1]]), ("moon", [[2, 3], [2, 2], [3, 0]])])
def test_open_attributes_of_other_images_are_as_wide(oracle: Oracle, prompt: str, rows: list[list[int]]) -> None:
    """`stages.decided` takes differences of images that were seen in other batches."""
    seen = [oracle.see(pixels(5)[pair], [prompt] * 2).open_attributes() for pair in rows]
    assert {name: {each[name].shape for each in seen} for name in seen[0]} == {name: {(2, 2)} for name in seen[0]}
    assert seen[0]


def test_what_was_seen_can_be_taken_apart_stored_and_joined(oracle: Oracle) -> None:
    seen = oracle.see(pixels(5), ["star", "star", "moon", "moon", "sun"])
    parts = [sight.take(seen, np.array([0, 1])), sight.take(seen, np.array([2, 3, 4]))]
    stored = [
        sight.restore("nearest_captioned", {
            name: np.frombuffer(values.tobytes(), values.dtype.str).reshape(values.shape)
            for name, values in sight.arrays(part).items()
        })
        for part in parts
    ]  # fmt: skip
    joined = sight.join(stored)
    for name, values in sight.arrays(seen).items():
        assert (sight.arrays(joined)[name] == values).all(), name
    assert sight.take(joined, np.array([0, 1])).diversity() == parts[0].diversity()


@pytest.mark.parametrize(
    ("prompt", "words"),
    [
        ("stars", "did you mean 'star'"),
        ("a star", "is the caption of none of the 5 real images"),
        ("", "prompt '' is the caption of none"),
    ],
)
def test_a_prompt_that_is_no_caption_is_refused(oracle: Oracle, prompt: str, words: str) -> None:
    with pytest.raises(InputError, match=words):
        oracle.see(pixels(1), [prompt])


@pytest.mark.parametrize("prompt", ["Star", " star ", "star.", "\u017ftar"])
def test_a_prompt_is_a_caption_where_curate_takes_them_for_one(oracle: Oracle, prompt: str) -> None:
    """Case, blanks and punctuation: curation keeps one spelling of a prompt, and not always that of the image."""
    seen = oracle.see(pixels(5)[[0, 2]], [prompt] * 2)
    assert seen.right.tolist() == [True, False]
    assert seen.attributes().keys() == {"colour"}


def test_images_with_several_spellings_of_a_caption_are_of_one(tmp_path: Path) -> None:
    own = oracle_of(table(tmp_path / "images.parquet", caption=["Red star", "red  star", "moon", "Moon", "sun"]))
    seen = own.see(pixels(5)[[0, 1, 2, 3]], ["red star", "Red star", "moon", "moon"])
    assert seen.right.all() and seen.free.tolist() == [[True, False]] * 2 + [[False, True]] * 2


def test_a_message_does_not_list_hundreds_of_captions(tmp_path: Path) -> None:
    names = [f"thing number {row} of a list that is much too long for a line" for row in range(5)]
    with pytest.raises(InputError, match=r"say whether an image shows it$"):
        oracle_of(table(tmp_path / "images.parquet", caption=names)).require(["zeppelin"])


def see_through(kind: str) -> bytes:
    """A picture whose upper half is transparent over black, as bytes of a format that has transparency."""
    image = Image.new("RGBA", (SIDE, SIDE), (0, 0, 0, 0))
    image.paste((200, 30, 30, 255), (0, SIDE // 2, SIDE, SIDE))
    buffer = io.BytesIO()
    image.save(buffer, kind, **({"lossless": True} if kind == "WEBP" else {}))
    return buffer.getvalue()


@pytest.mark.parametrize("kind", ["PNG", "WEBP", "GIF"])
def test_images_are_decoded_as_curate_does(tmp_path: Path, kind: str) -> None:
    """Otherwise the base draws on white what the oracle has on black."""
    data = [see_through(kind), *(encode(each) for each in pixels(4))]
    own = oracle_of(table(tmp_path / "images.parquet", image=data))
    curated = decode(data[0], 10**6)
    assert own.library.images[0, 0, 0].tolist() == [255, 255, 255]
    assert own.see(np.asarray(curated.image)[None], ["star"]).distance.tolist() == [0]


def test_images_of_another_size_are_refused(oracle: Oracle) -> None:
    with pytest.raises(InputError, match=r"images of 9x9 pixels, but the real ones .* have 8x8"):
        oracle.see(pixels(1, 9), ["star"])


def bad_tables() -> dict[str, tuple[dict[str, Any], str]]:
    good = [encode(each) for each in pixels(4)]
    return {
        "two sizes": ({"image": [*good, encode(pixels(1, 9)[0])]}, r"images of 2 sizes \(4 of 8x8, 1 of 9x9\)"),
        "no caption": ({"caption": ["star", "star", "moon", " ", "sun"]}, "row 4: 'caption' is empty"),
        "null": ({"weight": ["thin", None, "bold", "thin", "bold"]}, "row 2: 'weight' is empty"),
        "a path": ({"image": ["a.png"] * 5}, "row 1: 'image' holds no bytes"),
        "a struct of a path": ({"image": [{"bytes": None, "path": "a.png"}] * 5}, "row 1: 'image' holds no bytes"),
        "no image": ({"image": [*good, b"GIF"]}, "row 5: 'image'"),
    }


@pytest.mark.parametrize("case", bad_tables())
def test_a_table_with_a_wrong_cell_is_refused_with_its_row(tmp_path: Path, case: str) -> None:
    changed, words = bad_tables()[case]
    with pytest.raises(InputError, match=words):
        oracle_of(table(tmp_path / "images.parquet", **changed))


@pytest.mark.parametrize("attribute", ["colours", "tone", "Weight"])
def test_a_column_that_is_not_there_is_refused(tmp_path: Path, attribute: str) -> None:
    path = table(tmp_path / "images.parquet")
    with pytest.raises(InputError, match=f"'{attribute}'"):
        library.read([path], "image", "caption", [attribute])


def test_other_files_than_parquet_are_refused(tmp_path: Path) -> None:
    file = tmp_path / "images.csv"
    file.write_text("image,caption,colour\n", encoding="utf-8")
    with pytest.raises(InputError, match="expected Parquet"):
        library.read([file], "image", "caption", ["colour"])


def test_structs_of_bytes_numbers_and_several_files_are_read(tmp_path: Path) -> None:
    structs = [{"bytes": encode(each), "path": None} for each in pixels(5)]
    files = [table(tmp_path / "a.parquet", image=structs), table(tmp_path / "b.parquet", colour=[1, 2, 3, 3, 1])]
    found = library.read(files, "image", "caption", ["colour"])
    assert [value for [value] in found.values] == ["red", "blue", "red", "red", "blue", "1", "2", "3", "3", "1"]


def test_utility_of_a_real_image_is_that_of_its_caption(tmp_path: Path) -> None:
    record = tiny_judges.nearest_captioned(tmp_path / "own")
    judge = require_oracle(load_reward(record))
    table = pq.read_table(record.file("images.parquet"))
    image = library.read([record.file("images.parquet")], "image", "caption", ["colour"]).images[:2]
    images = torch.from_numpy(image).permute(0, 3, 1, 2).float() / 255
    assert table["caption"].to_pylist()[:2] == ["star", "star"]
    assert judge(images, ["star", "moon"]).tolist() == [3, 0]


@pytest.mark.parametrize(
    ("options", "words"),
    [
        ({"attributes": ["color"]}, r"images\.parquet: no column 'color'; did you mean 'colour'"),
        ({"attributes": ["colour"], "caption": "text"}, r"images\.parquet: no column 'text'"),
        ({"attributes": ["colour"], "image": "pixels"}, r"images\.parquet: no column 'pixels'"),
        ({}, r"options\.attributes: field required"),
    ],
)
def test_a_missing_column_is_found_while_the_study_is_checked(
    tmp_path: Path, options: dict[str, Any], words: str
) -> None:
    """And not by the first job that loads the oracle, after the models have been trained."""
    table(tmp_path / "images.parquet")
    model = validate(ImportSettings, {"kind": "nearest_captioned", "folder": str(tmp_path), "options": options}, "m")
    with pytest.raises(InputError, match=rf"^m.*{words}"):
        source.check_place(model, "m")


def test_another_file_in_the_folder_of_the_oracle_is_found_as_early(tmp_path: Path) -> None:
    table(tmp_path / "images.parquet")
    values = {"kind": "nearest_captioned", "folder": str(tmp_path), "options": {"attributes": ["colour"]}}
    source.check_place(validate(ImportSettings, values, "m"), "m")
    (tmp_path / "icons.csv").write_text("caption,colour\n", encoding="utf-8")
    with pytest.raises(InputError, match=r"^m: .*icons\.csv: expected Parquet with the columns image, caption, colour"):
        source.check_place(validate(ImportSettings, values, "m"), "m")
