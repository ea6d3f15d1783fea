"""Odd values of tables and lists: read for what they are, counted with their reason, or refused in one line."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from stages.errors import InputError
from tests.stages.curating import SHAPES_PROMPTS, curate, png


def listed(path: Path) -> dict[str, Any]:
    """A section with the list at `path` as training prompts."""
    return {"prompts": {"train": {"kind": "file", "path": str(path)}, "eval": SHAPES_PROMPTS["eval"]}}


def texts(folder: Path) -> list[str]:
    rows = pq.read_table(folder / "prompts.parquet").to_pylist()
    return [row["prompt"] for row in rows if row["split"] == "train"]


def test_a_byte_order_mark_inside_lists_that_were_put_together(tmp_path: Path) -> None:
    mark, (first, second) = b"\xef\xbb\xbf", (b"a bee\n", b"a wasp\n")
    (tmp_path / "list.txt").write_bytes(mark + first + mark + second)
    curate(tmp_path / "out", listed(tmp_path / "list.txt"))
    assert texts(tmp_path / "out") == ["a bee", "a wasp"]


@pytest.mark.parametrize("text", ["\x1b[31ma red bee\x1b[0m", "a \0 bee", "a\x7f bee"])
def test_texts_with_control_characters_are_counted(tmp_path: Path, text: str) -> None:
    (tmp_path / "list.jsonl").write_text("\n".join(json.dumps({"prompt": each}) for each in (text, "a\tbee\nflies")))
    made = curate(tmp_path / "out", listed(tmp_path / "list.jsonl"))
    assert made.removed("prompts_train")["text"] == 1
    assert texts(tmp_path / "out") == ["a\tbee\nflies"]


@pytest.mark.parametrize("kind", [pa.timestamp("s"), pa.date64()])
def test_a_date_that_python_has_none_for(tmp_path: Path, kind: pa.DataType) -> None:
    far = pa.array([10**17 if kind == pa.date64() else 10**13], pa.int64()).cast(kind, safe=False)
    pq.write_table(pa.table({"prompt": ["a bee"], "when": far}), tmp_path / "list.parquet")
    section = listed(tmp_path / "list.parquet")
    section["prompts"]["train"]["group"] = "when"
    with pytest.raises(InputError, match=r"list\.parquet, after row 0: cannot be read on") as refused:
        curate(tmp_path / "out", section)
    assert "\n" not in str(refused.value)


def _times(tmp_path: Path, zone: str | None) -> dict[str, Any]:
    """A section with training prompts that have times of a zone."""
    when = pa.array([0, 10**6], pa.timestamp("us", zone))
    pq.write_table(pa.table({"prompt": ["a bee", "a wasp"], "when": when}), tmp_path / "list.parquet")
    return listed(tmp_path / "list.parquet")


@pytest.mark.parametrize("zone", ["Mars/Phobos", "+99:00", "GMT plus one"])
def test_a_time_zone_that_is_not_known(tmp_path: Path, zone: str) -> None:
    """It is refused by its name; a column that nothing asks for is not looked at."""
    section = _times(tmp_path, zone)
    curate(tmp_path / "out", section)
    assert texts(tmp_path / "out") == ["a bee", "a wasp"]
    section["prompts"]["train"]["group"] = "when"
    with pytest.raises(InputError, match=r"list\.parquet: column 'when' has times of the zone '.*', which is"):
        curate(tmp_path / "out", section)


@pytest.mark.parametrize("zone", ["UTC", "+02:00", None])
def test_times_of_known_zones_are_groups(tmp_path: Path, zone: str | None) -> None:
    section = _times(tmp_path, zone)
    section["prompts"]["train"]["group"] = "when"
    curate(tmp_path / "out", section)
    rows = pq.read_table(tmp_path / "out" / "prompts.parquet").to_pylist()
    groups = {row["group"] for row in rows if row["split"] == "train"}
    assert len(groups) == 2 and all(group.startswith("1970-01-01 0") for group in groups)


def test_nan_in_place_of_a_judgement_is_none(tmp_path: Path) -> None:
    """Tables with gaps come from pandas so."""
    images = [png(seed) for seed in range(4)]
    pairs = pa.table({
        "prompt": ["a bee", "a wasp"], "image_a": images[:2], "image_b": images[2:], "preference": [float("nan"), 0.0],
    })  # fmt: skip
    pq.write_table(pairs, tmp_path / "pairs.parquet")
    source = {"kind": "file", "path": str(tmp_path / "pairs.parquet")}
    made = curate(tmp_path / "out", {"prompts": SHAPES_PROMPTS, "pairs": source})
    assert made.removed("pairs") == {"judged": 1}


def test_a_struct_that_holds_no_image(tmp_path: Path) -> None:
    pq.write_table(pa.table({"image": [{"data": png(0)}], "caption": ["a bee"]}), tmp_path / "images.parquet")
    source = {"kind": "parquet", "path": str(tmp_path / "images.parquet")}
    with pytest.raises(InputError, match="row 1: 'image' is a struct of data, expected one with bytes or path"):
        curate(tmp_path / "out", {"prompts": SHAPES_PROMPTS, "images": source})


@pytest.mark.parametrize("start", [b"\n", b"\r\n\r\n", b"\xef\xbb\xbf\n"])
def test_blank_lines_before_the_header_of_a_csv(tmp_path: Path, start: bytes) -> None:
    (tmp_path / "list.csv").write_bytes(start + b"prompt,n\na bee,1\n")
    curate(tmp_path / "out", listed(tmp_path / "list.csv"))
    assert texts(tmp_path / "out") == ["a bee"]


@pytest.mark.parametrize("text", ["[a bee]", "{a bee} on a leaf", '"a bee"', "[0.5] a bee", "{", "3"])
def test_prompts_that_only_begin_as_json_does(tmp_path: Path, text: str) -> None:
    (tmp_path / "list.txt").write_text(f"a wasp\n{text}\n")
    curate(tmp_path / "out", listed(tmp_path / "list.txt"))
    assert texts(tmp_path / "out")[0] == "a wasp"


def test_shards_that_are_not_here_are_counted(tmp_path: Path) -> None:
    folder = tmp_path / "shards"
    folder.mkdir()
    for number in (0, 3):
        pq.write_table(pa.table({"prompt": [f"bee {number}"]}), folder / f"train-{number:05}-of-00005.parquet")
    made = curate(tmp_path / "out", listed(folder))
    assert texts(tmp_path / "out") == ["bee 0", "bee 3"]
    (absent,) = made.manifest["tables"]["prompts_train"]["left_out"]
    assert (absent["reason"], absent["count"]) == ("a shard that is not here", 3)
    assert absent["examples"] == [f"{folder}/train-{number:05}-of-00005" for number in (1, 2, 4)]


def test_parts_that_are_no_splits_are_read_as_one_table(tmp_path: Path) -> None:
    for part in ("red", "blue"):
        pq.write_table(pa.table({"prompt": [f"a {part} bee"]}), tmp_path / f"{part}-0-of-1.parquet")
    curate(tmp_path / "out", listed(tmp_path))
    assert sorted(texts(tmp_path / "out")) == ["a blue bee", "a red bee"]


def test_a_wrong_bit_in_a_page_with_a_checksum(tmp_path: Path) -> None:
    file = tmp_path / "list.parquet"
    plain = {"compression": "none", "use_dictionary": False, "write_page_checksum": True, "write_statistics": False}
    pq.write_table(pa.table({"prompt": [f"a bee {number}" for number in range(99)]}), file, **plain)
    data = file.read_bytes()
    assert data.count(b"a bee 42") == 1
    file.write_bytes(data.replace(b"a bee 42", b"a bee 43"))
    with pytest.raises(InputError, match=r"list\.parquet, after row 0: cannot be read on: .*checksum"):
        curate(tmp_path / "out", listed(file))


def test_a_table_whose_name_is_not_utf8(tmp_path: Path) -> None:
    file = tmp_path / "s\udcff.parquet"
    with file.open("wb") as stream:
        pq.write_table(pa.table({"prompt": ["a bee"]}), stream)
    with pytest.raises(InputError, match="its name is not UTF-8; rename it"):
        curate(tmp_path / "out", listed(tmp_path))
