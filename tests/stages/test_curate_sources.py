"""Nothing that lies in a source vanishes: it is a row, or counted in the manifest with its reason."""

from __future__ import annotations

import base64
import io
import json
import os
import re
import unicodedata
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.ipc as ipc
import pyarrow.parquet as pq
import pytest
import yaml
from PIL import Image

from stages import walk
from stages.errors import InputError
from tests.stages.curating import Curated, curate, photos, png, write_table

POINTER = b"version https://git-lfs.github.com/spec/v1\noid sha256:4d7a2146\nsize 12345\n"
EVALUATION = ["one prompt to judge by"]


def section(folder: Path, **more: object) -> dict[str, Any]:
    """A section `curate` with tiny prompt lists."""
    (folder / "train.txt").write_text("a prompt to train on\n")
    (folder / "eval.txt").write_text("\n".join(EVALUATION))
    lists = {split: {"kind": "file", "path": str(folder / f"{split}.txt")} for split in ("train", "eval")}
    return {"prompts": lists, "val_share": 0, **more}


def from_folder(folder: Path, root: Path, **more: object) -> Curated:
    return curate(folder, section(folder, images={"kind": "folder", "path": str(root), **more}))


def left_out(made: Curated, root: Path, table: str = "images") -> dict[str, list[str]]:
    """Examples by reason, relative to `root`."""
    found: dict[str, list[str]] = {}
    for each in made.manifest["tables"][table].get("left_out", []):
        assert each["count"] >= len(each["examples"]) > 0
        found[each["reason"]] = [example.removeprefix(f"{root}/") for example in each["examples"]]
    return found


def captions(made: Curated) -> list[str]:
    return sorted(row["caption"] for row in made.images)


# --- folders --------------------------------------------------------------------------------------------------------


def test_links_to_folders_are_followed(tmp_path: Path) -> None:
    photos(tmp_path / "elsewhere")
    root = tmp_path / "root"
    root.mkdir()
    (root / "photos").symlink_to(tmp_path / "elsewhere")
    (tmp_path / "elsewhere" / "wild" / "up").symlink_to("..")
    (root / "lost.png").symlink_to("no-such.png")
    made = from_folder(tmp_path, root)
    assert len(made.images) == 6
    assert left_out(made, root) == {walk.DANGLING: ["lost.png"], walk.CYCLE: ["photos/wild/up"]}


def test_images_of_any_suffix_are_read_or_counted(tmp_path: Path) -> None:
    root = tmp_path / "root"
    root.mkdir()
    for seed, name in enumerate(["a.jfif", "b.jpe", "c.JPG", "d.PNG", "e", "f.dat", "g.png.bak"]):
        (root / name).write_bytes(png(seed))
        (root / name).with_suffix(".txt").write_text(f"the picture {name[0]}")
    (root / "h.heic").write_bytes(b"\x00\x00\x00\x18ftypheic\x00\x00\x00\x00")
    (root / "h.txt").write_text("the picture h")
    made = from_folder(tmp_path, root)
    # `g.png.txt` is of the image g.png.bak as `e.txt` is of the image e
    assert captions(made) == [f"the picture {letter}" for letter in "abcdefg"]
    assert made.removed("images") == {"decode": 1}
    example = next(f for f in made.manifest["tables"]["images"]["filters"] if f["filter"] == "decode")["examples"]
    assert example == ["h.heic: a damaged HEIC image, or of a kind that is not read; PNG and JPEG are"]


@pytest.mark.parametrize("suffix", [".txt", ".TXT", ".Txt", ".caption", ".png.txt", ".png.caption"])
def test_captions_by_every_name(suffix: str, tmp_path: Path) -> None:
    root = tmp_path / "root"
    root.mkdir()
    (root / "cat.v2.png").write_bytes(png(0))
    (root / f"cat.v2{suffix}").write_text("a cat\n")
    assert captions(from_folder(tmp_path, root)) == ["a cat"]


@pytest.mark.parametrize("names", [("CAT.PNG", "cat.txt"), ("cat.png", "Cat.TXT"), ("Cat.png", "cat.PNG.caption")])
def test_captions_whose_names_differ_in_case(names: tuple[str, str], tmp_path: Path) -> None:
    root = tmp_path / "root"
    root.mkdir()
    (root / names[0]).write_bytes(png(0))
    (root / names[1]).write_text("a cat\n")
    assert captions(from_folder(tmp_path, root)) == ["a cat"]


def test_a_caption_in_another_case_belongs_to_one_image_only(tmp_path: Path) -> None:
    root = tmp_path / "root"
    root.mkdir()
    for number, name in enumerate(("cat.png", "CAT.png")):
        (root / name).write_bytes(png(number))
    (root / "cat.txt").write_text("a cat\n")
    (root / "dog.png").write_bytes(png(2))
    for name in ("DOG.txt", "Dog.txt"):
        (root / name).write_text("which of the two?\n")
    made = from_folder(tmp_path, root)
    assert captions(made) == ["a cat"] and made.removed("images")["text"] == 2


def test_every_other_file_is_counted(tmp_path: Path) -> None:
    root = photos(tmp_path / "root")
    (root / "cat.caption").write_text("another text of the cat")
    (root / "nobody.txt").write_text("a text of its own")
    (root / "README.md").write_text("about the photos")
    (root / ".DS_Store").write_bytes(b"\0")
    (root / "._cat.png").write_bytes(b"\0")
    (root / ".cache").mkdir()
    (root / ".cache" / "x.png").write_bytes(png(9))
    made = from_folder(tmp_path, root)
    assert len(made.images) == 6 and "the picture of one cat" in captions(made)
    assert left_out(made, root) == {
        "a text beside no image, or one beside another text": ["cat.caption", "nobody.txt"],
        "not read (.md)": ["README.md"],
        walk.HIDDEN: [".DS_Store", "._cat.png", ".cache"],
    }


def test_images_that_a_table_does_not_name_are_counted(tmp_path: Path) -> None:
    root = photos(tmp_path / "root", captions=False)
    rows = [{"image": name, "caption": f"one {name}"} for name in ("cat.png", "./dog.png", "wild\\owl.png")]
    table = write_table(root / "captions.csv", rows)
    made = from_folder(tmp_path, root, captions={"path": table})
    assert captions(made) == ["one ./dog.png", "one cat.png", "one wild\\owl.png"]
    unnamed = sorted(["bee.png", "hen.png", "wild/fox.png"])
    assert left_out(made, root) == {f"an image that {table} does not name": unnamed}


@pytest.mark.parametrize("on_disk", ["NFC", "NFD"])
def test_names_in_either_normal_form(on_disk: Any, tmp_path: Path) -> None:
    """macOS stores é as e and an accent; tables are usually written with one character."""
    root, name = tmp_path / "root", "café/crème.png"
    file = root / unicodedata.normalize(on_disk, name)
    file.parent.mkdir(parents=True)
    file.write_bytes(png(0))
    other: Any = "NFC" if on_disk == "NFD" else "NFD"
    asked = unicodedata.normalize(other, name)
    table = write_table(tmp_path / "c.csv", [{"image": asked, "caption": "cream"}])
    assert captions(from_folder(tmp_path, root, captions={"path": table})) == ["cream"]
    file.with_suffix(".txt").write_text("beside")
    (root / "b.png").write_bytes(png(1))
    (root / "b.txt").write_text("another")
    pairs = {"prompt": "p", "image_a": asked, "image_b": "b.png", "preference": 1}
    source = {"kind": "file", "path": write_table(tmp_path / "p.csv", [pairs])}
    images = {"kind": "folder", "path": str(root)}
    assert len(curate(tmp_path, section(tmp_path, images=images, pairs=source)).pairs) == 1
    assert len(curate(tmp_path, section(tmp_path, pairs=source | {"folder": str(root)})).pairs) == 1


def test_a_missing_name_that_looks_like_another_is_shown_as_it_is(tmp_path: Path) -> None:
    root = photos(tmp_path / "root")
    table = write_table(tmp_path / "c.csv", [{"image": unicodedata.normalize("NFD", "é.png"), "caption": "x"}])
    with pytest.raises(InputError, match=r"does not exist") as caught:
        from_folder(tmp_path, root, captions={"path": table})
    assert r"e\u0301.png" in str(caught.value)


def test_names_that_differ_in_case_as_on_other_systems(tmp_path: Path) -> None:
    root = photos(tmp_path / "root", captions=False)
    table = write_table(tmp_path / "c.csv", [{"image": "Wild/OWL.PNG", "caption": "an owl"}])
    assert captions(from_folder(tmp_path, root, captions={"path": table})) == ["an owl"]
    (root / "Cat.png").write_bytes(png(7))
    table = write_table(tmp_path / "c.csv", [{"image": "CAT.png", "caption": "which of the two?"}])
    with pytest.raises(InputError, match=r"CAT\.png does not exist"):
        from_folder(tmp_path, root, captions={"path": table})


def test_names_that_no_file_can_have(tmp_path: Path) -> None:
    root = photos(tmp_path / "root", captions=False)
    for name in ("a\0.png", "x" * 5000 + ".png"):
        table = write_table(tmp_path / "c.jsonl", [{"image": name, "caption": "x"}])
        with pytest.raises(InputError, match="cannot be read") as caught:
            from_folder(tmp_path, root, captions={"path": table})
        assert str(caught.value).isprintable() and len(str(caught.value)) < 500 + len(str(tmp_path))


def test_names_that_are_not_utf8(tmp_path: Path) -> None:
    """They stand in the manifest with their bytes written out."""
    root = photos(tmp_path / "root")
    Path(os.fsdecode(os.fsencode(root) + b"/\xff.png")).write_bytes(b"")
    Path(os.fsdecode(os.fsencode(root) + b"/\xff.txt")).write_text("a text")
    Path(os.fsdecode(os.fsencode(root) + b"/\xfe.md")).write_text("a text")
    made = from_folder(tmp_path, root)
    assert made.removed("images") == {"decode": 1}
    assert left_out(made, root) == {"not read (.md)": ["\\udcfe.md"]}


@pytest.mark.parametrize(
    ("content", "said"),
    [
        (POINTER, "is a Git LFS pointer"),
        (b"<!DOCTYPE html><html>", "is an HTML page"),
        ("a cat".encode("utf-16"), "is UTF-16 text"),
    ],
)
def test_captions_that_are_none(content: bytes, said: str, tmp_path: Path) -> None:
    root = photos(tmp_path / "root")
    (root / "cat.txt").write_bytes(content)
    with pytest.raises(InputError, match=rf"cat\.txt: {said}"):
        from_folder(tmp_path, root)


def test_pointers_for_images_are_counted_as_such(tmp_path: Path) -> None:
    root = photos(tmp_path / "root")
    (root / "cat.png").write_bytes(POINTER)
    made = from_folder(tmp_path, root)
    examples = next(f for f in made.manifest["tables"]["images"]["filters"] if f["filter"] == "decode")["examples"]
    assert examples == ["cat.png: a Git LFS pointer, not the file itself; fetch it with `git lfs pull`"]


# --- Parquet and Arrow ----------------------------------------------------------------------------------------------


def rows_of(count: int) -> list[dict[str, Any]]:
    return [{"image": {"bytes": png(n), "path": None}, "caption": f"picture {n}"} for n in range(count)]


def saved(folder: Path, rows: list[dict[str, Any]], parts: int = 1, footer: bool = False) -> Path:
    """What `Dataset.save_to_disk` writes."""
    folder.mkdir(parents=True)
    names = [f"data-{n:05d}-of-{parts:05d}.arrow" for n in range(parts)]
    for n, name in enumerate(names):
        table = pa.Table.from_pylist(rows[n::parts])
        with (ipc.new_file if footer else ipc.new_stream)(str(folder / name), table.schema) as writer:
            writer.write_table(table, 2)
    (folder / "state.json").write_text(json.dumps({"_data_files": [{"filename": name} for name in names]}))
    (folder / "dataset_info.json").write_text("{}")
    return folder


@pytest.mark.parametrize("footer", [False, True])
@pytest.mark.parametrize("parts", [1, 2])
def test_a_data_set_that_was_saved_to_disk(parts: int, footer: bool, tmp_path: Path) -> None:
    folder = saved(tmp_path / "set", rows_of(5), parts, footer)
    (folder / "cache-0123.arrow").write_bytes(b"what map() left")
    made = curate(tmp_path, section(tmp_path, images={"kind": "parquet", "path": str(folder)}))
    assert captions(made) == [f"picture {n}" for n in range(5)]
    assert left_out(made, folder) == {"not read (.arrow)": ["cache-0123.arrow"]}


def test_a_saved_data_set_of_several_splits(tmp_path: Path) -> None:
    root = tmp_path / "set"
    for split in ("train", "test"):
        saved(root / split, rows_of(2))
    (root / "dataset_dict.json").write_text(json.dumps({"splits": ["train", "test"]}))
    source = {"kind": "parquet", "path": str(root)}
    with pytest.raises(InputError, match=r"holds the splits train, test; name the folder of one, such as .*/set/train"):
        curate(tmp_path, section(tmp_path, images=source))
    made = curate(tmp_path, section(tmp_path, images=source | {"path": f"{root}/test"}))
    assert captions(made) == ["picture 0", "picture 1"]


def test_prompts_and_pairs_in_saved_data_sets(tmp_path: Path) -> None:
    prompts = saved(tmp_path / "prompts", [{"prompt": "from arrow"}])
    pairs = saved(tmp_path / "pairs", [{"prompt": "x", "chosen": png(0), "rejected": png(1)}])
    content = section(tmp_path, pairs={"kind": "file", "path": str(pairs)})
    content["prompts"]["train"]["path"] = str(prompts)
    made = curate(tmp_path, content)
    assert [row["prompt"] for row in made.prompts] == ["from arrow", *EVALUATION]
    assert [row["preference"] for row in made.pairs] == [1.0]


@pytest.mark.parametrize(
    ("data", "said"),
    [(POINTER, "it is a Git LFS pointer"), (b"<html>", "it is an HTML page")],
)
@pytest.mark.parametrize("suffix", ["parquet", "arrow"])
def test_what_stands_in_the_place_of_a_table(suffix: str, data: bytes, said: str, tmp_path: Path) -> None:
    file = tmp_path / f"t.{suffix}"
    file.write_bytes(data)
    with pytest.raises(InputError, match=f"not a readable {suffix.capitalize()} file: .*{said}"):
        curate(tmp_path, section(tmp_path, images={"kind": "parquet", "path": str(file)}))


def test_a_folder_of_parquet_files(tmp_path: Path) -> None:
    root = tmp_path / "set"
    (tmp_path / "elsewhere").mkdir()
    pq.write_table(pa.Table.from_pylist(rows_of(3)[2:]), tmp_path / "elsewhere" / "b.PARQUET")
    write_table(root / "a.parquet", rows_of(2))
    (root / "linked").symlink_to(tmp_path / "elsewhere")
    (root / "README.md").write_text("about")
    (root / "._a.parquet").write_bytes(b"\0")
    (root / "gone.parquet").symlink_to("nowhere")
    made = curate(tmp_path, section(tmp_path, images={"kind": "parquet", "path": str(root)}))
    assert captions(made) == ["picture 0", "picture 1", "picture 2"]
    assert left_out(made, root) == {
        walk.HIDDEN: ["._a.parquet"], walk.DANGLING: ["gone.parquet"], "not read (.md)": ["README.md"]
    }  # fmt: skip


def test_images_that_a_table_names_are_not_left_out(tmp_path: Path) -> None:
    root = tmp_path / "set"
    photos(root / "photos", captions=False)
    write_table(root / "t.parquet", [{"image": f"photos/{name}.png", "caption": name} for name in ("cat", "dog")])
    made = curate(tmp_path, section(tmp_path, images={"kind": "parquet", "path": str(root)}))
    assert captions(made) == ["cat", "dog"]
    assert len(left_out(made, root)["not read (.png)"]) == 4


@pytest.mark.parametrize(
    ("groups", "expected"),
    [
        (pa.array([1.0, 1.0, None, 2.0]), ["1", "1", "", "2"]),  # what pandas makes of whole numbers and a gap
        (pa.array([1.5, float("nan"), 2.0, -3.0]), ["1.5", "", "2", "-3"]),
        (pa.array([1, 1, 2, 3], pa.int8()), ["1", "1", "2", "3"]),
        (pa.array([1, 2, 3, 4], pa.decimal128(5, 1)), ["1", "2", "3", "4"]),
        (pa.array([0, 1, 1, 2], pa.date32()), ["1970-01-01", "1970-01-02", "1970-01-02", "1970-01-03"]),
        (pa.array(["x", "y", "x", None]).dictionary_encode(), ["x", "y", "x", ""]),
    ],
)
def test_groups_of_any_type(groups: pa.Array, expected: list[str], tmp_path: Path) -> None:
    table = pa.table({"image": [png(n) for n in range(4)], "caption": [f"picture {n}" for n in range(4)], "g": groups})
    pq.write_table(table, tmp_path / "t.parquet")
    source = {"kind": "parquet", "path": str(tmp_path / "t.parquet"), "group": "g", "id": "g"}
    made = curate(tmp_path, section(tmp_path, images=source))
    found = {row["caption"]: row["group"] for row in made.images}
    for n, group in enumerate(expected):
        own = found[f"picture {n}"]
        assert own == group if group else len(own) == 12  # no group: the caption's id


def test_parquet_files_by_a_pattern(tmp_path: Path) -> None:
    for n in range(3):
        write_table(tmp_path / f"part{n}.parquet", rows_of(3)[n : n + 1])
    source = {"kind": "parquet", "path": str(tmp_path / "part[02].parquet")}
    assert captions(curate(tmp_path, section(tmp_path, images=source))) == ["picture 0", "picture 2"]


def test_columns_that_cannot_be_told_apart(tmp_path: Path) -> None:
    names = ["image", "caption", "caption"]
    pq.write_table(
        pa.Table.from_arrays([pa.array([png(0)]), pa.array(["a"]), pa.array(["b"])], names), tmp_path / "t.parquet"
    )
    with pytest.raises(InputError, match="two columns are called 'caption', expected one of each name"):
        curate(tmp_path, section(tmp_path, images={"kind": "parquet", "path": str(tmp_path / "t.parquet")}))


def test_captions_in_lists(tmp_path: Path) -> None:
    rows = [{"image": png(n), "caption": each} for n, each in enumerate([["a", "b"], [], ["c"]])]
    source = {"kind": "parquet", "path": write_table(tmp_path / "t.parquet", rows)}
    with pytest.raises(InputError, match=r"expected text; caption\.0 is the first of them"):
        curate(tmp_path, section(tmp_path, images=source))
    made = curate(tmp_path, section(tmp_path, images=source | {"caption": "caption.0"}))
    assert captions(made) == ["a", "c"] and made.removed("images") == {"text": 1}


# --- cells ----------------------------------------------------------------------------------------------------------


def encoded(data: bytes, how: str) -> str:
    plain = base64.b64encode(data).decode()
    return {
        "plain": plain,
        "url alphabet": base64.urlsafe_b64encode(data).decode().rstrip("="),
        "data address": f"data:image/png;base64,{plain}",
        "lines": "\n".join(plain[n : n + 76] for n in range(0, len(plain), 76)),
    }[how]


@pytest.mark.parametrize("how", ["plain", "url alphabet", "data address", "lines"])
def test_images_in_base64(how: str, tmp_path: Path) -> None:
    buffer = io.BytesIO()
    Image.open(io.BytesIO(png(1))).save(buffer, "JPEG")
    images = [png(0), buffer.getvalue()]
    write_table(
        tmp_path / "t.parquet", [{"image": encoded(each, how), "caption": f"{n}"} for n, each in enumerate(images)]
    )
    source = {"kind": "parquet", "path": str(tmp_path / "t.parquet")}
    assert sorted(row["image"] for row in curate(tmp_path, section(tmp_path, images=source)).images) == sorted(images)
    pair = {"prompt": "x", "image_a": encoded(images[0], how), "image_b": encoded(images[1], how), "preference": 1}
    source = {"kind": "file", "path": write_table(tmp_path / "p.jsonl", [pair])}
    assert len(curate(tmp_path, section(tmp_path, pairs=source)).images) == 2


@pytest.mark.parametrize(
    ("cell", "said"),
    [
        ("A" * 5000, "neither a file nor an image"),
        ("bm9uc2Vuc2Ug" * 15, "'image' is str 'bm9uc2Vuc2Ug.*neither a file nor an image of a known format in base64"),
        ("_-" * 32, "neither a file nor an image"),
        ("images/" * 12 + "1.png", "does not exist"),
        ("data:image/png;base64," + "!" * 5000, "which is not base64"),
        ("data:text/plain,hello", "expected data:image"),
        ("https://example.org/" + "x" * 5000, "images are not fetched"),
        (["x" * 5000], "is list .*expected bytes, a struct"),
    ],
)
def test_refused_cells_are_cut_in_the_message(cell: object, said: str, tmp_path: Path) -> None:
    write_table(tmp_path / "t.parquet", [{"image": cell, "caption": "a"}])
    with pytest.raises(InputError, match=said) as caught:
        curate(tmp_path, section(tmp_path, images={"kind": "parquet", "path": str(tmp_path / "t.parquet")}))
    assert len(str(caught.value)) < 500 + len(str(tmp_path))


def test_base64_of_no_image_in_a_pair_is_cut_in_the_message(tmp_path: Path) -> None:
    pair = {"prompt": "x", "image_a": "bm9uc2Vuc2Ug" * 15, "image_b": "b.png", "preference": 1}
    source = {"kind": "file", "path": write_table(tmp_path / "p.jsonl", [pair]), "folder": str(tmp_path)}
    with pytest.raises(InputError, match=r"'image_a' is .*neither a file nor an image of a known format") as caught:
        curate(tmp_path, section(tmp_path, pairs=source))
    assert "bm9uc2Vuc2Ug" * 10 not in str(caught.value)


# --- pairs ----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("columns", "more"),
    [
        (("chosen", "rejected"), {}),
        (("image_chosen", "image_rejected"), {}),
        (("winner", "loser"), {}),
        (("Chosen", "Rejected"), {}),
        (("good", "bad"), {"chosen": "good", "rejected": "bad"}),
        (("files.0", "files.1"), {"chosen": "files.0", "rejected": "files.1"}),
    ],
)
@pytest.mark.parametrize("suffix", [".jsonl", ".parquet"])
def test_chosen_and_rejected(suffix: str, columns: tuple[str, str], more: Mapping[str, str], tmp_path: Path) -> None:
    root = photos(tmp_path / "photos", captions=False)
    better, worse = columns
    sides = {"files": ["cat.png", "dog.png"]} if "." in better else {better: "cat.png", worse: "dog.png"}
    path = write_table(tmp_path / f"p{suffix}", [{"prompt": "which", **sides}])
    made = curate(tmp_path, section(tmp_path, pairs={"kind": "file", "path": path, "folder": str(root), **more}))
    [pair] = made.pairs
    images = {row["image_id"]: row["image"] for row in made.images}
    assert (images[pair["image_a"]], images[pair["image_b"]], pair["preference"]) == (png(0), png(1), 1.0)
    assert len(left_out(made, root, "pairs")["an image that no pair names"]) == 4


def test_other_columns_come_before_chosen_and_rejected(tmp_path: Path) -> None:
    root = photos(tmp_path / "photos", captions=False)
    row = {"prompt": "x", "image_a": "cat.png", "image_b": "dog.png", "preference": 0, "chosen": "a", "rejected": "b"}
    path = write_table(tmp_path / "p.csv", [row])
    made = curate(tmp_path, section(tmp_path, pairs={"kind": "file", "path": path, "folder": str(root)}))
    assert [pair["preference"] for pair in made.pairs] == [0.0]


@pytest.mark.parametrize(
    ("keys", "said"),
    [
        ({"chosen": "a"}, "`chosen` and `rejected` go together"),
        ({"chosen": "a", "rejected": "b", "preference": "c"}, "say what `preference` says; leave that out"),
        ({"chosen": "a", "rejected": "b", "image_a": "c"}, "say what `image_a` says; leave that out"),
    ],
)
def test_keys_of_pairs_that_contradict(keys: dict[str, str], said: str, tmp_path: Path) -> None:
    with pytest.raises(InputError, match=said):
        curate(tmp_path, section(tmp_path, pairs={"kind": "file", "path": "p.csv", **keys}))


def test_judgements_that_are_none(tmp_path: Path) -> None:
    root = photos(tmp_path / "photos", captions=False)
    for value, shown in (("left", "str 'left'"), (2, "2"), ("70%", "str '70%'")):
        row = {"prompt": "x", "image_a": "cat.png", "image_b": "dog.png", "preference": value}
        path = write_table(tmp_path / "p.csv", [row])
        with pytest.raises(InputError, match=rf"'preference' is {shown}, expected 0 \(b\) to 1 \(a\), or a, b or tie"):
            curate(tmp_path, section(tmp_path, pairs={"kind": "file", "path": path, "folder": str(root)}))


def test_near_duplicates_name_the_earlier_one(tmp_path: Path) -> None:
    root = tmp_path / "root"
    root.mkdir()
    big = Image.open(io.BytesIO(png(0, 96)))
    for name, side in (("a.png", 96), ("b.png", 72)):
        big.resize((side, side)).save(root / name)
        (root / name).with_suffix(".txt").write_text(f"caption of {name}")
    content = section(tmp_path, images={"kind": "folder", "path": str(root)}, filters={"near_duplicate_bits": 6})
    made = curate(tmp_path, content)
    found = {f["filter"]: f["examples"] for f in made.manifest["tables"]["images"]["filters"]}
    assert found["near_duplicates"] == ["b.png: looks like a.png"]


# --- texts ----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("end", ["\n", "\r\n", "\r", "\r\r\n"])
@pytest.mark.parametrize("suffix", [".txt", ".csv", ".tsv", ".jsonl"])
def test_line_ends_of_every_system(suffix: str, end: str, tmp_path: Path) -> None:
    texts = ["first prompt", "second prompt", "third prompt"]
    lines = [json.dumps({"prompt": text}) for text in texts] if suffix == ".jsonl" else texts
    head = ["prompt"] if suffix in (".csv", ".tsv") else []
    content = section(tmp_path)
    content["prompts"]["train"]["path"] = str(tmp_path / f"list{suffix}")
    (tmp_path / f"list{suffix}").write_bytes(end.join([*head, *lines, ""]).encode())
    made = curate(tmp_path, content)
    assert [row["prompt"] for row in made.prompts if row["split"] == "train"] == texts


def test_cells_between_other_signs(tmp_path: Path) -> None:
    study = section(tmp_path)
    study["prompts"]["train"]["path"] = str(tmp_path / "list.csv")
    for content in ("prompt;n\na cat;1\n", "sep=;\nprompt;n\n"):
        (tmp_path / "list.csv").write_text(content)
        with pytest.raises(InputError, match=r"list\.csv, line 1: one column, '.*;.*'; expected cells between ','"):
            curate(tmp_path, study)


@pytest.mark.parametrize("suffix", [".txt", ".csv", ".json", ".jsonl"])
@pytest.mark.parametrize(
    ("content", "said"),
    [
        (POINTER, "a Git LFS pointer, not the file itself"),
        (b"<!doctype html>\n<title>404</title>", "an HTML page, not the file itself"),
        (b'<?xml version="1.0"?><Error><Code>NoSuchKey</Code></Error>', "an error message in XML"),
        ("a\nb".encode("utf-16-le"), "binary, or UTF-16 text"),
        (b"PK\x03\x04aaaa", "a zip archive"),
    ],
)
def test_lists_that_are_none(suffix: str, content: bytes, said: str, tmp_path: Path) -> None:
    (tmp_path / f"list{suffix}").write_bytes(content)
    study = section(tmp_path)
    study["prompts"]["train"]["path"] = str(tmp_path / f"list{suffix}")
    with pytest.raises(InputError, match=rf"list\{suffix}: is {said}"):
        curate(tmp_path, study)


def test_the_pairs_of_the_page(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    page = (Path(__file__).parents[2] / "docs" / "bring-your-own-data.md").read_text(encoding="utf-8")
    block = next(text for text in re.findall(r"^```yaml\n(.*?)^```", page, re.DOTALL | re.MULTILINE) if "good" in text)
    monkeypatch.chdir(tmp_path)
    write_table(Path("data/preferences.parquet"), [{"prompt": "x", "good": png(0), "bad": png(1)}])
    made = curate(tmp_path / "out", section(tmp_path, **yaml.safe_load(block)))
    assert [row["preference"] for row in made.pairs] == [1.0]
