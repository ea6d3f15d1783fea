"""Bad input of curation: one line that says what, where and what was expected, and nothing written."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from stages.errors import InputError
from stages.world.scene import evaluation_prompts
from tests.stages.curating import SHAPES_PROMPTS, curate, png

TEXT = {"kind": "file", "path": "list.txt"}


def prompts_of(name: str, **more: object) -> dict[str, Any]:
    return {"prompts": {"train": {"kind": "file", "path": name, **more}, "eval": SHAPES_PROMPTS["eval"]}}


def pairs_of(name: str, **more: object) -> dict[str, Any]:
    return {"prompts": SHAPES_PROMPTS, "pairs": {"kind": "file", "path": name, **more}}


def images_of(kind: str, path: str, **more: object) -> dict[str, Any]:
    return {"prompts": SHAPES_PROMPTS, "images": {"kind": kind, "path": path, **more}}


PAIR = b"prompt,image_a,image_b,preference\n"
TWICE = [("f", "a"), ("g", "a"), ("f", "b")]
BAD: dict[str, tuple[dict[str, bytes], dict[str, Any], str]] = {
    "unknown kind": (
        {},
        images_of("foldr", "x"),
        r"curate.images.0.kind: unknown kind 'foldr'; did you mean 'folder'\?",
    ),
    "no kind": (
        {},
        {"prompts": SHAPES_PROMPTS, "images": {"path": "x"}},
        "curate.images.0: expected a mapping with a 'kind'",
    ),
    "unknown key": ({}, prompts_of("x", pth="y"), r"curate.prompts.train.0.pth: unknown key; did you mean 'path'\?"),
    "no evaluation list": ({}, {"prompts": {"train": TEXT}}, "curate.prompts.eval: field required"),
    "no source": (
        {},
        {"prompts": {"train": [], "eval": TEXT}},
        "curate.prompts.train: expected at least 1 item, found the list",
    ),
    "two of a name": (
        {},
        {"prompts": {"train": [TEXT, TEXT], "eval": TEXT}},
        "prompts.train: two sources are called 'file'",
    ),
    "words the wrong way": ({}, {"prompts": SHAPES_PROMPTS, "filters": {"caption_words": [9, 2]}}, "fewest <= most"),
    "quality out of range": ({}, {"prompts": SHAPES_PROMPTS, "filters": {"min_quality": 5}}, "expected 0 to 1"),
    "half the votes": ({}, pairs_of("x", preference=None, votes_a="up"), "`votes_a` and `votes_b` go together"),
    "no list": ({}, prompts_of("list.txt"), "list.txt: no such file"),
    "no Parquet": ({}, prompts_of("list.parquet"), "list.parquet: no such file"),
    "odd suffix": ({"list.doc": b"x"}, prompts_of("list.doc"), "unknown kind of list '.doc'; known: .txt"),
    "empty list": ({"list.txt": b""}, prompts_of("list.txt"), "curate.prompts.train: the sources hold no rows"),
    "blank list": ({"list.txt": b"\n \n"}, prompts_of("list.txt"), "nothing left of 2 rows; removed by text 2"),
    "only evaluation prompts": (
        {"list.txt": evaluation_prompts()[0].encode()},
        prompts_of("list.txt"),
        "removed by leakage 1",
    ),
    "Latin-1 text": (
        {"list.txt": b"a cat\na caf\xe9\n"},
        prompts_of("list.txt"),
        "list.txt, line 2: byte 0xe9 is not UTF-8",
    ),
    "Latin-1 json": (
        {"list.json": b'["a cat",\n"caf\xe9"]'},
        prompts_of("list.json"),
        "list.json, line 2: byte 0xe9 is not",
    ),
    "UTF-16": (
        {"list.csv": "prompt\na".encode("utf-16")},
        prompts_of("list.csv"),
        "list.csv: is UTF-16 text; expected a list or table, saved as UTF-8 text",
    ),
    "half json": ({"list.json": b'["a cat",\n'}, prompts_of("list.json"), "list.json, line 2: not valid JSON"),
    "half jsonl": ({"list.jsonl": b'"a"\n{"p\n'}, prompts_of("list.jsonl"), "list.jsonl, line 2: not valid JSON"),
    "deep json": ({"list.json": b"[" * 10**5}, prompts_of("list.json"), "list.json: not valid JSON"),
    "json of an object": ({"list.json": b'{"a": 1}'}, prompts_of("list.json"), "expected a list of strings or objects"),
    "json of numbers": (
        {"list.json": b"[1, 2]"},
        prompts_of("list.json"),
        "list.json, entry 1: int 1, expected a string or",
    ),
    "no such key": (
        {"list.jsonl": b'{"promt": "a"}'},
        prompts_of("list.jsonl"),
        "line 1: there is no 'prompt' here; did you mean 'promt'",
    ),
    "not text": (
        {"list.json": b'[{"prompt": 7}]'},
        prompts_of("list.json"),
        "entry 1: 'prompt' is int 7, expected text",
    ),
    "half a surrogate": (
        {"list.json": b'["\\ud800"]'},
        prompts_of("list.json"),
        "entry 1: 'prompt' holds half a surrogate",
    ),
    "no such column": (
        {"list.csv": b"text\na\n"},
        prompts_of("list.csv"),
        "list.csv, line 2: there is no 'prompt' here",
    ),
    "ragged csv": (
        {"list.csv": b"prompt,n\na,1\nb\n"},
        prompts_of("list.csv"),
        "list.csv, line 3: 1 cells, expected 2",
    ),
    "open quote": (
        {"list.csv": b'prompt\na\n"b\n' + b"c\n" * 99},
        prompts_of("list.csv"),
        "list.csv, line 3: a quotation mark in this row is never closed",
    ),
    "open quote of the header": (
        {"list.csv": b'"prompt\na\n'},
        prompts_of("list.csv"),
        "list.csv, line 1: a quotation",
    ),
    "quote closed too early": ({"list.csv": b'prompt\n"a"s\n'}, prompts_of("list.csv"), "line 2: not valid csv"),
    "csv of blank lines": ({"list.csv": b"\n\r\n"}, prompts_of("list.csv"), "list.csv: empty, expected a header"),
    "JSON rows as text": (
        {"list.txt": b'\n{"prompt": "a bee"}\n{"prompt": "a wasp"}\n'},
        prompts_of("list.txt"),
        "list.txt, line 2: is JSON, expected a text in every line; call a list in JSON .json, and one with JSON in",
    ),
    "JSON list as text": ({"list.txt": b'["a bee", "a wasp"]'}, prompts_of("list.txt"), "list.txt, line 1: is JSON"),
    "JSON over several lines": ({"list.txt": b'[\n"a bee"\n]'}, prompts_of("list.txt"), "list.txt, line 1: is JSON"),
    "XML as text": ({"list.txt": b"<?xml version='1.0'?>\n<p>a bee</p>"}, prompts_of("list.txt"), "is an XML document"),
    "SVG as text": ({"list.txt": b"\xef\xbb\xbf<svg><text>a</text></svg>"}, prompts_of("list.txt"), "an XML document"),
    "JSON caption": (
        {"photos/a.png": png(0), "photos/a.txt": b'{"caption": "a bee"}'},
        images_of("folder", "photos"),
        "photos/a.txt: is JSON; expected a caption in plain text",
    ),
    "captions in metadata.csv": (
        {"photos/a.png": png(0), "photos/metadata.csv": b"file_name,text\na.png,a bee\n"},
        images_of("folder", "photos"),
        "photos/metadata.csv; if it names images and captions, write `captions: {path: photos/metadata.csv, image: ",
    ),
    "captions in metadata.jsonl": (
        {"photos/train/a.png": png(0), "photos/train/metadata.jsonl": b'{"file_name": "a.png", "text": "a bee"}'},
        images_of("folder", "photos"),
        "no text beside any image, but photos/train/metadata.jsonl",
    ),
    "key in other characters": (
        {"list.json": '[{"pre\u0301nom": "a"}]'.encode()},
        prompts_of("list.json", key="pr\u00e9nom"),
        r"there is no 'prénom' here; did you mean 'pre\\u0301nom'",
    ),
    "an address": ({}, prompts_of("https://x.org/list.txt"), "is an address; nothing is fetched"),
    "a name that is too long": ({}, prompts_of("x" * 300 + ".txt"), "no such file: longer than a name of a file"),
    "a blank at the end of a name": (
        {"photos/a.png": png(0), "c.csv": b"image,caption\na.png ,a bee\n"},
        images_of("folder", "photos", captions={"path": "c.csv"}),
        "c.csv, line 2: image 'photos/a.png ' does not exist",
    ),
    "shards of several splits": (
        {"s/train-00000-of-00001.parquet": b"", "s/test-00000-of-00001.parquet": b""},
        prompts_of("s"),
        "s: holds shards of several splits: test, train; name those of one by a pattern, such as s/../train-",
    ),
    "shards of two sets": (
        {f"s/train-{n}-of-{m}.parquet": b"" for n, m in (("0", "1"), ("00000", "00002"), ("00001", "00002"))},
        prompts_of("s"),
        "s: shards of 1 and of 2 of 'train', which are two sets",
    ),
    "a key twice in a saved data set": (
        {"s/data.arrow": b"", "s/state.json": b'{"_data_files": [],\n"_data_files": [{"filename": "data.arrow"}]}'},
        prompts_of("s"),
        "s/state.json: the key '_data_files' stands twice, first in line 1, then in line 2",
    ),
    "empty csv": ({"list.csv": b""}, prompts_of("list.csv"), "list.csv: empty, expected a header"),
    "column twice": ({"list.csv": b"prompt,prompt\na,b\n"}, prompts_of("list.csv"), "two columns are called 'prompt'"),
    "not Parquet": (
        {"list.parquet": b"PAR1 no"},
        prompts_of("list.parquet"),
        "list.parquet: not a readable Parquet file",
    ),
    "no folder": ({}, images_of("folder", "photos"), "photos: no such folder"),
    "folder without images": ({"photos/a.txt": b"x"}, images_of("folder", "photos"), "photos: no images here"),
    "only bad images": (
        {"photos/a.png": b"", "photos/a.txt": b"x"},
        images_of("folder", "photos"),
        r"nothing left of 1 rows; removed by decode 1 \(such as a.png: empty file\)",
    ),
    "no captions at all": ({"photos/a.png": png(0)}, images_of("folder", "photos"), "removed by text 1"),
    "caption not UTF-8": (
        {"photos/a.png": png(0), "photos/a.txt": b"x\n\xff"},
        images_of("folder", "photos"),
        "a.txt, line 2: byte 0xff",
    ),
    "caption of a missing image": (
        {"photos/a.png": png(0), "c.csv": b"image,caption\nb.png,a bee\n"},
        images_of("folder", "photos", captions={"path": "c.csv"}),
        "c.csv, line 2: image photos/b.png does not exist",
    ),
    "quality that is no number": (
        {"photos/a.png": png(0), "c.csv": b"image,caption,q\na.png,a bee,good\n"},
        images_of("folder", "photos", captions={"path": "c.csv", "quality": "q"}),
        "line 2: 'q' is str 'good', expected a number",
    ),
    "missing pairs file": ({}, pairs_of("p.csv"), "p.csv: no such file"),
    "pair of an unknown image": (
        {"p.csv": PAIR + b"a bee,bee.png,cat.png,1\n"},
        pairs_of("p.csv"),
        "p.csv, line 2: 'image_a' names image 'bee.png', which no source of images has",
    ),
    "pair of two images": (
        {"p.csv": PAIR + b"a bee,a.png,b.png,1\n", **{f"{d}/{n}.png": png(i) for i, (d, n) in enumerate(TWICE)}}
        | {f"{d}/{n}.txt": b"x" for d, n in TWICE},
        pairs_of("p.csv") | {"images": [{"kind": "folder", "name": name, "path": name} for name in "fg"]},
        "p.csv, line 2: 'image_a' names image 'a.png', but two different images are called so",
    ),
    "pair of a missing file": (
        {"p.csv": PAIR + b"a bee,bee.png,cat.png,1\n", "f/cat.png": png(0)},
        pairs_of("p.csv", folder="f"),
        "p.csv, line 2: image f/bee.png does not exist",
    ),
    "pair without an image": ({"p.csv": PAIR + b"a bee,,cat.png,1\n"}, pairs_of("p.csv"), "line 2: 'image_a' is empty"),
    "preference out of range": (
        {"p.csv": PAIR + b"a bee,a.png,b.png,2\n", "f/a.png": png(0), "f/b.png": png(1)},
        pairs_of("p.csv", folder="f"),
        r"line 2: 'preference' is 2, expected 0 \(b\) to 1 \(a\)",
    ),
    "preference a little out of range": (
        {"p.csv": PAIR + b"a bee,a.png,b.png,1.0000001\n", "f/a.png": png(0), "f/b.png": png(1)},
        pairs_of("p.csv", folder="f"),
        r"line 2: 'preference' is 1\.0000001\d*, expected",
    ),
    "votes whose sum is none": (
        {"p.csv": b"prompt,image_a,image_b,u,d\na,a.png,b.png,1e308,1e308\n", "f/a.png": png(0), "f/b.png": png(1)},
        pairs_of("p.csv", folder="f", preference=None, votes_a="u", votes_b="d"),
        r"line 2: 1e\+308 and 1e\+308 votes, expected counts",
    ),
    "a weight beyond 32 bits": (
        {"p.csv": b"prompt,image_a,image_b,preference,w\na,a.png,b.png,1,1e39\n", "f/a.png": png(0), "f/b.png": png(1)},
        pairs_of("p.csv", folder="f", weight="w"),
        r"line 2: 'w' is '1e39', expected a weight from 0 to 1e\+30",
    ),
    "preference that is none": (
        {"p.csv": PAIR + b"a bee,a.png,b.png,nan\n", "f/a.png": png(0), "f/b.png": png(1)},
        pairs_of("p.csv", folder="f"),
        "line 2: 'preference' is nan",
    ),
    "preference with an underscore": (
        {"p.csv": PAIR + b"a bee,a.png,b.png,0_1\n", "f/a.png": png(0), "f/b.png": png(1)},
        pairs_of("p.csv", folder="f"),
        "line 2: 'preference' is str '0_1', expected 0",
    ),
    "preference that is a boolean": (
        {
            "p.jsonl": b'{"prompt": "a bee", "image_a": "a.png", "image_b": "b.png", "preference": true}',
            "f/a.png": png(0),
            "f/b.png": png(1),
        },
        pairs_of("p.jsonl", folder="f"),
        "line 1: 'preference' is bool True, expected 0",
    ),
    "pairs without rows": ({"p.csv": PAIR, "f/a.png": png(0)}, pairs_of("p.csv", folder="f"), "curate.pairs: the sou"),
    "an address in capitals": (
        {"p.csv": PAIR + b"a bee,HTTPS://x/a.png,b.png,1\n", "f/b.png": png(1)},
        pairs_of("p.csv", folder="f"),
        "line 2: 'image_a' is str 'HTTPS://x/a.png'; images are not fetched",
    ),
    "a selection of rows": (
        {
            "s/data.arrow": b"",
            "s/state.json": b'{"_data_files": [{"filename": "data.arrow"}], "_indices_files": [{"filename": "i"}]}',
        },
        prompts_of("s"),
        "s/state.json: _indices_files: a selection of rows",
    ),
    "negative votes": (
        {
            "p.json": b'[{"prompt": "a bee", "image_a": "a.png", "image_b": "b.png", "u": -1, "d": 3}]',
            "f/a.png": png(0),
            "f/b.png": png(1),
        },
        pairs_of("p.json", folder="f", preference=None, votes_a="u", votes_b="d"),
        "entry 1: -1 and 3 votes, expected counts",
    ),
}


@pytest.mark.parametrize("case", BAD)
def test_bad_input(case: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    files, section, message = BAD[case]
    monkeypatch.chdir(tmp_path)
    for name, data in files.items():
        Path(name).parent.mkdir(parents=True, exist_ok=True)
        Path(name).write_bytes(data)
    with pytest.raises(InputError, match=message) as caught:
        curate(tmp_path / "out", section)
    assert "\n" not in str(caught.value)
    assert not list((tmp_path / "out").glob("*"))  # nothing is left that looks finished, hidden files included
