"""Miniatures of published data sets: the same files, names, columns and quirks, with small random images."""

from __future__ import annotations

import io
import json
import tarfile
import zipfile
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
from PIL import Image

IMAGE = pa.struct([("bytes", pa.binary()), ("path", pa.string())])
HF = {"huggingface": json.dumps({"info": {"features": {"image": {"_type": "Image"}}}})}


def picture(seed: int, width: int = 40, height: int = 24, kind: str = "JPEG") -> bytes:
    """A small smooth image, different for each seed."""
    noise = np.random.default_rng(seed).integers(0, 256, (4, 4, 3), dtype=np.uint8)
    buffer = io.BytesIO()
    Image.fromarray(noise).resize((width, height), Image.Resampling.BICUBIC).save(buffer, kind)
    return buffer.getvalue()


def hpdv2(root: Path) -> Path:
    """Three judged pairs, the last of them equally good; one test prompt with four ranked images and three judges."""
    train = [
        {"human_preference": [1, 0], "prompt": "A red bird on a wire", "file_path": ["00000.jpg", "00001.jpg"]},
        {"human_preference": [0, 1], "prompt": "A red bird on a wire", "file_path": ["00000.jpg", "00002.jpg"]},
        {"human_preference": [0, 0], "prompt": "two boats at dawn", "file_path": ["00003.jpg", "00004.jpg"]},
    ]
    judges = [[1, 2, 3, 4], [2, 1, 3, 4], [1, 2, 4, 3]]
    test = [
        {
            "prompt": "a castle above the clouds",
            "image_path": [f"0000{n}.jpg" for n in range(4)],
            "rank": [1, 2, 3, 4],
            "raw_annotations": [{"rank": ranks, "user_hash": f"u{n}"} for n, ranks in enumerate(judges)],
        }
    ]
    for split, entries, count in (("train", train, 5), ("test", test, 4)):
        (root / split).mkdir(parents=True)
        (root / f"{split}.json").write_text(json.dumps(entries))
        for n in range(count):
            (root / split / f"0000{n}.jpg").write_bytes(picture(n + 10 * (split == "test")))
    return root


def image_reward_db(root: Path, split: str = "train", parts: int = 2) -> Path:
    """Two zips of one prompt each: three images, two of which rank alike."""
    folder = root / "images" / split
    folder.mkdir(parents=True)
    metadata: list[dict[str, Any]] = []
    for part in range(1, parts + 1):
        entries = [
            {
                "image_path": f"images/{split}/{split}_{part}/p{part}-{n}.webp", "prompt_id": f"00{part}-0001",
                "prompt": f"a portrait of person {part}, oil on canvas", "classification": "People",
                "image_amount_in_total": 3, "rank": rank, "overall_rating": 7 - rank,
                "image_text_alignment_rating": 5, "fidelity_rating": 6,
            }
            for n, rank in enumerate([2, 1, 2])
        ]  # fmt: skip
        with zipfile.ZipFile(folder / f"{split}_{part}.zip", "w") as archive:
            archive.writestr(f"{split}_{part}.json", json.dumps(entries))
            for n in range(3):
                archive.writestr(f"p{part}-{n}.webp", picture(100 * part + n, kind="WEBP"))
        metadata += entries
    pq.write_table(pa.Table.from_pylist(metadata), root / f"metadata-{split}.parquet")
    return root


def pick_a_pic(root: Path, images: str = "bytes", split: str = "train", shards: int = 2) -> Path:
    """Four rows in two shards; `images` says whether they hold bytes, nulls or no such column."""
    judged: list[tuple[float, bool]] = [(1.0, True), (0.0, True), (0.5, True), (0.0, False)]
    rows = [
        {
            "are_different": True, "best_image_uid": "", "caption": f"a fox, number {n // 2}",
            "created_at": "2023-01-01 00:00:00", "has_label": has_label, "image_0_uid": f"uid-{n}",
            "image_0_url": "https://example.org/0.png", "image_1_uid": f"uid-{n + 1}",
            "image_1_url": "https://example.org/1.png", "jpg_0": picture(n), "jpg_1": picture(n + 1),
            "label_0": label, "label_1": 1 - label, "model_0": "a", "model_1": "b", "ranking_id": n, "user_id": 1,
            "num_example_per_prompt": 2, "__index_level_0__": n,
        }
        for n, (label, has_label) in enumerate(judged)
    ]  # fmt: skip
    root.mkdir(parents=True, exist_ok=True)
    for shard in range(shards):
        table = pa.Table.from_pylist(rows[shard::shards])
        for column in ("jpg_0", "jpg_1") if images != "bytes" else ():
            place = table.schema.get_field_index(column)
            nulls = pa.array([None] * len(table), pa.binary())
            table = table.set_column(place, column, nulls) if images == "null" else table.remove_column(place)
        pq.write_table(table, root / f"{split}-{shard:05d}-of-{shards:05d}-0123456789abcdef.parquet")
    return root


def coco(root: Path, split: str = "train", first: int = 0, images: int = 12) -> Path:
    """Five captions an image, a row each, the rows of one image apart from each other; images wider than high."""
    rows = [
        {
            "image": {"bytes": picture(first + n, 48, 32), "path": None},
            "filename": f"COCO_{split}2014_{first + n:012d}.jpg",
            "cocoid": first + n,
            "caption": f"view {caption} of the scene number {first + n}",
        }
        for caption in range(5)
        for n in range(images)
    ]
    schema = pa.schema(
        [("image", IMAGE), ("filename", pa.string()), ("cocoid", pa.int64()), ("caption", pa.string())], metadata=HF
    )
    (root / "data").mkdir(parents=True, exist_ok=True)
    for shard in range(2):
        table = pa.Table.from_pylist(rows[shard::2], schema=schema)
        pq.write_table(table, root / "data" / f"{split}-{shard:05d}-of-00002-0123456789abcdef.parquet")
    return root


LAION = [
    {"punsafe": 0.01, "pwatermark": 0.2, "similarity": 0.33, "AESTHETIC_SCORE": 6.7},
    {"punsafe": 0.70, "pwatermark": 0.2, "similarity": 0.35, "AESTHETIC_SCORE": 6.6},
    {"punsafe": 0.02, "pwatermark": 0.9, "similarity": 0.31, "AESTHETIC_SCORE": 6.9},
    {"punsafe": 0.03, "pwatermark": 0.1, "similarity": 0.22, "AESTHETIC_SCORE": 5.1},
    {"punsafe": None, "pwatermark": 0.1, "similarity": 0.30, "AESTHETIC_SCORE": 6.5},
]


def laion(root: Path, json_inside: bool = True) -> Path:
    """One tar of img2dataset with its Parquet file beside it; the metadata stand in both or only beside."""
    root.mkdir(parents=True)
    rows = []
    with tarfile.open(root / "00000.tar", "w") as archive:
        for n, scores in enumerate(LAION):
            key, caption = f"00000{n:04d}", f"a landscape of type {n}"
            about = {"url": f"https://example.org/{n}.jpg", "caption": caption, "key": key, "width": 40, **scores}
            files = {"jpg": picture(n), "txt": caption.encode(), "json": json.dumps(about).encode()}
            for suffix, data in files.items():
                if suffix != "json" or json_inside:
                    member = tarfile.TarInfo(f"{key}.{suffix}")
                    member.size = len(data)
                    archive.addfile(member, io.BytesIO(data))
            rows.append({**about, "status": "success", "TEXT": caption})
    pq.write_table(pa.Table.from_pylist(rows), root / "00000.parquet")
    return root


PARTI = (
    "Prompt\tCategory\tChallenge\tNote\n"
    "bond\tAbstract\tBasic\tBiology-inspired concepts\n"
    '"a sign that says ""Deep Learning"""\tArtifacts\tWriting & Symbols\t\n'
    '"Hello" written on a wall\tArtifacts\tWriting & Symbols\tquoted start\n'
    "a cat: a tabby, on a mat\tAnimals\tBasic\t\n"
)
"""The header, and rows with the two ways in which its prompts quote."""


def suites(root: Path) -> Path:
    """PartiPrompts, DrawBench and the lists of the HPSv2 benchmark in one folder."""
    (root / "benchmark").mkdir(parents=True)
    (root / "PartiPrompts.tsv").write_text(PARTI)
    (root / "DrawBench.csv").write_text('Prompts,Category\nA red car.,Colors\n"One cat, two dogs.",Counting\n')
    for style in ("anime", "concept-art", "paintings", "photo", "drawbench"):
        (root / "benchmark" / f"{style}.json").write_text(json.dumps([f"{style} prompt {n}" for n in range(3)]))
    return root
