"""Encodings of pairs: both images once, in the same store, with who preferred which and how surely."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from safetensors.torch import load_file

from stages import pictures, tables
from stages.encode.__main__ import main as command
from stages.encode.encode import encode
from stages.encode.settings import EncodeSettings
from stages.encode.store import Encodings
from stages.errors import InputError
from stages.finetune.data import Data
from stages.models.diffusion import DiffusionModel, load_diffusion
from stages.models.record import save
from tests import tiny
from tests.stages.curating import curate, photos, write_table

CAPTIONED = {"i0": "train", "i1": "train", "i2": "val"}
COMPARED = [
    # id, prompt, a, b, share of votes for a, split
    ("q0", "a red circle", "i0", "i1", 1.0, "train"),
    ("q1", "a blue cross on white", "x0", "x1", 0.25, "train"),
    ("q2", "a red circle", "x1", "i0", 0.5, "train"),
    ("q3", "a blue cross on white", "x0", "x2", 0.0, "val"),
]
"""Pairs of captioned images, of images of their own, and of one of each."""


def picture(name: str, width: int = 16, height: int = 16) -> bytes:
    draw = np.random.default_rng(sum(map(ord, name)))
    return pictures.encode(draw.integers(0, 256, (height, width, 3), np.uint8))


def write_images(folder: Path, splits: dict[str, str], sizes: dict[str, tuple[int, int]] | None = None) -> Path:
    rows: list[dict[str, object]] = []
    for name, split in splits.items():
        width, height = (sizes or {}).get(name, (16, 16))
        rows.append(
            {"image_id": name, "caption": f"caption {name}", "image": picture(name, width, height), "width": width,
             "height": height, "split": split, "group": name, "source": "test", "attributes": None}
        )  # fmt: skip
    tables.write(folder / "images.parquet", tables.table(tables.IMAGES, rows), tables.IMAGES)
    return folder / "images.parquet"


def write_pairs(folder: Path, judged: bool = False) -> Path:
    schema = tables.JUDGED_PAIRS if judged else tables.PAIRS
    rows: list[dict[str, object]] = []
    for n, (name, prompt, a, b, share, split) in enumerate(COMPARED):
        row: dict[str, object] = {"pair_id": name, "prompt": prompt, "image_a": a, "image_b": b, "preference": share}
        more: dict[str, object] = {"weight": 0.5 * n, "annotator": ("ann", "", "bob", "ann")[n]} if judged else {}
        rows.append(row | {"split": split, "source": f"set {n % 2}"} | more)
    tables.write(folder / "pairs.parquet", tables.table(schema, rows), schema)
    return folder / "pairs.parquet"


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory) -> DiffusionModel:
    record = tiny.diffusion_folder(tmp_path_factory.mktemp("base") / "base")
    return load_diffusion(record, tiny.CPU, ("vae", "text_encoder"))


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """Prompts, three captioned images, three of pairs and one that nobody compares, and four pairs."""
    prompts: list[dict[str, object]] = [
        {"prompt_id": f"p{n}", "prompt": text, "split": split, "group": text, "source": "test"}
        for n, (text, split) in enumerate([("a red circle", "train"), ("a green square", "eval")])
    ]
    tables.write(tmp_path / "prompts.parquet", tables.table(tables.PROMPTS, prompts), tables.PROMPTS)
    write_images(tmp_path, CAPTIONED | dict.fromkeys(["x0", "x1", "x2", "unused"], "pairs"))
    write_pairs(tmp_path)
    return tmp_path


def made(model: DiffusionModel, folder: Path, name: str = "with", **settings: Any) -> Encodings:
    values = EncodeSettings(**{"batch_size": 2, **settings})
    tensors, index = folder / f"{name}.safetensors", folder / f"{name}.parquet"
    inputs = folder / "prompts.parquet", folder / "images.parquet"
    encode(model, *inputs, tensors, index, values, compared=folder / "pairs.parquet")
    return Encodings(tensors, index, tiny.CPU)


def test_pairs_and_their_order(model: DiffusionModel, folder: Path) -> None:
    encodings = made(model, folder)
    pairs = encodings.pairs("train")
    assert [(p.item_id, p.winner.item_id, p.loser.item_id, p.label) for p in pairs] == [
        ("q0", "i0", "i1", 1.0), ("q1", "x1", "x0", 0.75), ("q2", "x1", "i0", 0.5)
    ]  # fmt: skip
    assert [(p.text, p.weight, p.annotator) for p in pairs] == [(row[1], 1.0, "") for row in COMPARED[:3]]
    [held] = encodings.pairs("val")
    assert (held.winner.item_id, held.loser.item_id, held.label) == ("x2", "x0", 1.0)
    assert [p.item_id for p in encodings.pairs("train", "set 1")] == ["q1"]
    with pytest.raises(InputError, match=r"no pair of split 'train' from source 'set 2', only from 'set 0', 'set 1'"):
        encodings.pairs("train", "set 2")


@torch.no_grad()
def test_values_are_the_networks_own(model: DiffusionModel, folder: Path) -> None:
    encodings = made(model, folder)
    pairs = encodings.pairs("train")
    for side in ("winner", "loser"):
        items = [getattr(pair, side) for pair in pairs]
        pixels = pictures.tensor([picture(item.item_id) for item in items], "test")
        for found, expected in zip(encodings.posterior(items), model.vae.posterior(pixels), strict=True):
            torch.testing.assert_close(found, expected)
    given, _ = model.text.encode([pair.text for pair in pairs])
    torch.testing.assert_close(encodings.text(pairs).text, given.text)


def test_every_image_once_and_others_not_at_all(model: DiffusionModel, folder: Path) -> None:
    made(model, folder)
    rows = tables.read(folder / "with.parquet", tables.ENCODINGS).to_pylist()
    images = [row["item_id"] for row in rows if row["kind"] == "image"]
    assert images == ["i0", "i1", "i2", "x0", "x1", "x2"]
    parts = load_file(folder / "with.safetensors")
    assert len(parts["posterior_mean"]) == 6
    assert len(parts["text_embeddings"]) == len({"a red circle", "a green square", *(f"caption {i}" for i in CAPTIONED),
                                                 "a blue cross on white"})  # fmt: skip


def test_without_pairs_nothing_changes(model: DiffusionModel, folder: Path) -> None:
    """Without a table of pairs there is nothing of them in the store; with one, the other rows stay as they are."""
    inputs = folder / "prompts.parquet", folder / "images.parquet"
    outputs = folder / "a.safetensors", folder / "a.parquet"
    encode(model, *inputs, *outputs, EncodeSettings(batch_size=3))
    plain, more = load_file(outputs[0]), made(model, folder, batch_size=3)
    assert set(plain) == {"text_embeddings", "empty_embedding", "posterior_mean", "posterior_std"}
    with_pairs = load_file(folder / "with.safetensors")
    for name, part in plain.items():
        torch.testing.assert_close(with_pairs[name][: len(part)], part)
    without = Encodings(*outputs, tiny.CPU)
    for split in ("train", "val"):
        assert more.images(split) == without.images(split)
    with pytest.raises(InputError, match=r"encodings: hold no pairs: encode was not given a table of them"):
        without.pairs("train")


def test_weights_and_annotators(model: DiffusionModel, folder: Path) -> None:
    write_pairs(folder, judged=True)
    encodings = made(model, folder, dtype="float16")
    pairs = encodings.pairs("train")
    assert [(p.weight, p.annotator) for p in pairs] == [(0.0, "ann"), (0.5, ""), (1.0, "bob")]
    assert [p.annotator for p in encodings.pairs("val")] == ["ann"]
    assert [p.label for p in pairs] == [1.0, 0.75, 0.5]  # rows and judgements keep their own types


def test_images_of_pairs_are_brought_to_the_size_of_captioned_ones(model: DiffusionModel, folder: Path) -> None:
    write_images(folder, CAPTIONED | dict.fromkeys(["x0", "x1", "x2"], "pairs"), {"x1": (48, 32)})
    encodings = made(model, folder)
    [pair] = [pair for pair in encodings.pairs("train") if pair.item_id == "q1"]
    cut = pictures.tensor([pictures.fitted(picture("x1", 48, 32), 16, 16, "test")], "test")
    torch.testing.assert_close(encodings.posterior([pair.winner])[0], model.vae.posterior(cut)[0].detach())
    with pytest.raises(InputError, match=r"encode.side: is 24, but captioned images have 16x16 pixels; leave it out"):
        made(model, folder, side=24)


def test_pairs_alone(model: DiffusionModel, folder: Path) -> None:
    """Without captioned images, the pairs' images have one size, or the study says which."""
    names = dict.fromkeys(["i0", "i1", "x0", "x1", "x2"], "pairs")
    write_images(folder, names)
    assert made(model, folder).latent_shape() == (4, 8, 8)
    write_images(folder, names, {"x1": (48, 32)})
    with pytest.raises(InputError, match=r"encode.side: images of pairs have several sizes, such as 16x16 and 48x32"):
        made(model, folder)
    assert made(model, folder, side=24).latent_shape() == (4, 12, 12)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (
            lambda f: write_images(f, CAPTIONED | {"x0": "pairs", "x1": "pairs"}),
            "no image 'x2', which pair q3 has",
        ),
        (
            lambda f: tables.write(f / "pairs.parquet", tables.table(tables.PAIRS, []), tables.PAIRS),
            "no pairs, expected",
        ),
        (lambda f: (f / "pairs.parquet").unlink(), "no such file"),
        (lambda f: (f / "pairs.parquet").write_bytes(b"x"), "not a readable Parquet file"),
        (lambda f: write_images(f, {"other": "pairs"}), "no image of splits train and val, expected at least one"),
    ],
)
def test_refusals(change: Any, message: str, model: DiffusionModel, folder: Path) -> None:
    change(folder)
    with pytest.raises(InputError, match=message):
        made(model, folder)
    assert not (folder / "with.safetensors").exists()


def test_batches_of_pairs(model: DiffusionModel, folder: Path) -> None:
    """What a method that learns from pairs is given: the latents of both images of each pair, and how it was judged."""
    write_pairs(folder, judged=True)
    encodings = made(model, folder)
    pairs, scale = encodings.pairs("train"), model.vae.scale
    data = Data(
        encodings=encodings, items=encodings.prompts("train"), seed=0, batch_size=3, accumulate=1, scale=scale,
        device=tiny.CPU, posterior=False, pairs=pairs,
    )  # fmt: skip
    batch = data.batch(0, 0)
    drawn = [next(pair for pair in pairs if pair.label == label) for label in batch.preferences().label.tolist()]
    assert sorted(pair.item_id for pair in drawn) == ["q0", "q1", "q2"]
    assert batch.prompts == [pair.text for pair in drawn]
    assert batch.preferences().weight.tolist() == [pair.weight for pair in drawn]
    for side in ("winner", "loser"):
        mean, std = encodings.posterior([getattr(pair, side) for pair in drawn])
        drawn_noise = (getattr(batch.preferences(), side) / scale - mean) / std
        assert drawn_noise.abs().max() < 6 and 0.8 < drawn_noise.std() < 1.2


def test_the_command_line(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    save(tiny.diffusion_folder(folder / "base"), folder / "base.json")
    names = {"params": "params.yaml", "base": "base.json", "prompts": "prompts.parquet", "images": "images.parquet",
             "tensors": "encodings.safetensors", "index": "index.parquet"}  # fmt: skip
    (folder / "params.yaml").write_text("study: {name: tiny}\nencode: {batch_size: 2}\n")
    line = ["encode", *(f"--{flag}={folder / name}" for flag, name in names.items())]
    monkeypatch.setattr(sys, "argv", [*line, f"--pairs={folder / 'pairs.parquet'}"])
    command()
    encodings = Encodings(folder / "encodings.safetensors", folder / "index.parquet", tiny.CPU)
    assert len(encodings.pairs("train")) == 3


def test_weights_and_annotators_of_a_table(tmp_path: Path) -> None:
    """Two people who judge the same pair are two rows, where they are named; weights must be weights."""
    root = photos(tmp_path / "photos", captions=False)
    lists = {}
    for split in ("train", "eval"):
        (tmp_path / f"{split}.txt").write_text(f"a prompt to {split} on")
        lists[split] = {"kind": "file", "path": str(tmp_path / f"{split}.txt")}
    rows = [
        {"prompt": "x", "chosen": "cat.png", "rejected": "dog.png", "who": who, "w": weight}
        for who, weight in (("ann", 1), ("bob", 0.5), ("ann", 2))
    ]
    source = {"kind": "file", "path": write_table(tmp_path / "p.jsonl", rows), "folder": str(root)}
    plain = curate(tmp_path / "plain", {"prompts": lists, "pairs": source})
    assert len(plain.pairs) == 1 and tables.pairs_schema(tmp_path / "plain" / "pairs.parquet") is tables.PAIRS
    named = source | {"annotator": "who", "weight": "w"}
    outputs = tmp_path / "named"
    judged = curate(outputs, {"prompts": lists, "pairs": named}).pairs
    assert [(row["annotator"], row["weight"]) for row in judged] == [("ann", 1.0), ("bob", 0.5)]
    assert len({row["pair_id"] for row in judged}) == 2
    for weight in (-1, None, float("inf")):
        write_table(tmp_path / "p.jsonl", [rows[0] | {"w": weight}])
        with pytest.raises(InputError, match=r"'w' is .*, expected a weight from 0 to "):
            curate(outputs, {"prompts": lists, "pairs": named})
