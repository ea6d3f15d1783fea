"""The encode stage, run as typed, against the libraries' own encodings."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import torch

from stages import pictures, tables
from stages.encode.encode import encode
from stages.encode.settings import EncodeSettings
from stages.encode.store import Encodings
from stages.errors import InputError
from stages.models.bases.texts import TextEncoder
from stages.models.diffusion import load_diffusion
from stages.models.record import load, save
from tests import tiny


@pytest.fixture(scope="module")
def encoded(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder in which the stage ran on two prompts, three captioned images and one image of a pair."""
    folder = tmp_path_factory.mktemp("encode")
    save(tiny.diffusion_folder(folder / "base"), folder / "base.json")
    (folder / "params.yaml").write_text("study: {name: tiny}\nencode: {batch_size: 2}\n")
    prompts: list[dict[str, object]] = [
        {"prompt_id": f"p{n}", "prompt": text, "split": split, "group": text, "source": "test"}
        for n, (text, split) in enumerate([("a red circle", "train"), ("a blue cross", "eval")])
    ]
    tables.write(folder / "prompts.parquet", tables.table(tables.PROMPTS, prompts), tables.PROMPTS)
    draw = np.random.default_rng(0)
    images = [
        {
            "image_id": f"i{n}", "caption": caption, "width": 16, "height": 16, "split": split, "group": "g",
            "image": pictures.encode(draw.integers(0, 256, (16, 16, 3), np.uint8)), "source": f"set {n % 4}",
            "attributes": None,
        }
        for n, (caption, split) in enumerate(
            [("a red circle", "train"), ("", "pairs"), ("a small green square", "train"), ("a red cross", "val")]
        )
    ]  # fmt: skip
    tables.write(folder / "images.parquet", tables.table(tables.IMAGES, images), tables.IMAGES)
    names = {"params": "params.yaml", "base": "base.json", "prompts": "prompts.parquet", "images": "images.parquet",
             "tensors": "encodings.safetensors", "index": "index.parquet"}  # fmt: skip
    flags = [part for flag, name in names.items() for part in (f"--{flag}", str(folder / name))]
    done = subprocess.run([sys.executable, "-m", "stages.encode", *flags], capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    return folder


def test_items_and_splits(encoded: Path) -> None:
    encodings = Encodings(encoded / "encodings.safetensors", encoded / "index.parquet", tiny.CPU)
    assert [item.text for item in encodings.prompts("eval")] == ["a blue cross"]
    assert [item.item_id for item in encodings.images("train")] == ["i0", "i2"]
    assert [item.item_id for item in encodings.images("val")] == ["i3"]
    assert [item.item_id for item in encodings.images("train", "set 2")] == ["i2"]
    with pytest.raises(InputError, match=r"no image of split 'train' from source 'set 3', only from 'set 0', 'set 2'"):
        encodings.images("train", "set 3")
    assert encodings.latent_shape() == (4, 8, 8)


def test_without_images_a_side_says_how_large_sampled_ones_are(encoded: Path, tmp_path: Path) -> None:
    tables.write(tmp_path / "images.parquet", tables.table(tables.IMAGES, []), tables.IMAGES)
    model = load_diffusion(load(encoded / "base.json"), tiny.CPU, ("vae", "text_encoder"))
    read = encoded / "prompts.parquet", tmp_path / "images.parquet"
    written = tmp_path / "encodings.safetensors", tmp_path / "index.parquet"
    with pytest.raises(InputError, match=r"expected at least one to encode, or encode.side: the side of the images"):
        encode(model, *read, *written, EncodeSettings())
    with pytest.raises(InputError, match=r"images of 25x25 pixels, expected sides that 2 divides"):
        encode(model, *read, *written, EncodeSettings(side=25))
    encode(model, *read, *written, EncodeSettings(side=24))
    encodings = Encodings(*written, tiny.CPU)
    assert encodings.latent_shape() == (4, 12, 12)
    assert [item.text for item in encodings.prompts("eval")] == ["a blue cross"]


@pytest.mark.parametrize("size", [(17, 16), (16, 15)])
def test_images_that_latents_would_round_down_are_refused(encoded: Path, tmp_path: Path, size: tuple[int, int]) -> None:
    """They would be sampled smaller than the real ones."""
    width, height = size
    rows = tables.read(encoded / "images.parquet", tables.IMAGES).to_pylist()
    image = pictures.encode(np.zeros((height, width, 3), np.uint8))
    made = [row | {"image": image, "width": width, "height": height} for row in rows]
    tables.write(tmp_path / "images.parquet", tables.table(tables.IMAGES, made), tables.IMAGES)
    model = load_diffusion(load(encoded / "base.json"), tiny.CPU, ("vae", "text_encoder"))
    read = encoded / "prompts.parquet", tmp_path / "images.parquet"
    written = tmp_path / "encodings.safetensors", tmp_path / "index.parquet"
    with pytest.raises(InputError, match=f"images of {width}x{height} pixels, expected sides that 2 divides"):
        encode(model, *read, *written, EncodeSettings())


@torch.no_grad()
def test_values_are_the_networks_own(encoded: Path) -> None:
    encodings = Encodings(encoded / "encodings.safetensors", encoded / "index.parquet", tiny.CPU)
    model = load_diffusion(load(encoded / "base.json"), tiny.CPU, ("vae", "text_encoder"))
    items = encodings.images("train")
    assert isinstance(model.text, TextEncoder)
    assert model.text.tokenizer is not None
    ids = model.text.tokenizer([item.text for item in items], padding="max_length", max_length=8, return_tensors="pt")
    expected = model.text.network(ids["input_ids"]).last_hidden_state
    torch.testing.assert_close(encodings.text(items).text, expected)
    rows = {row["image_id"]: row["image"] for row in tables.read(encoded / "images.parquet", tables.IMAGES).to_pylist()}
    pixels = pictures.tensor([rows[item.item_id] for item in items], "test")
    posterior = model.vae.network.encode(2 * pixels - 1, return_dict=False)[0]
    mean, std = encodings.posterior(items)
    torch.testing.assert_close(mean, posterior.mean)
    torch.testing.assert_close(std, posterior.std)
