"""Ways to break a world: its study, its tables, its pictures, its networks."""

from __future__ import annotations

import io
import json
import struct
import zlib
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import torch
from PIL import Image
from safetensors import safe_open
from safetensors.torch import load_file, save_file
from world import World

from stages.encode.store import MADE_WITH
from stages.models import record

Breaking = Callable[[World], object]


def key(path: str, value: Any) -> Breaking:
    """Set a dotted key of the study file."""
    *folders, last = path.split(".")

    def change(content: dict[str, Any]) -> None:
        for folder in folders:
            content = content[folder]
        content[last] = value

    return lambda world: world.study(change)


def text(path: str, content: str | bytes) -> Breaking:
    """Overwrite a file."""
    return lambda world: (world.folder / path).write_bytes(content if isinstance(content, bytes) else content.encode())


def truncated(path: str, share: float = 0.6) -> Breaking:
    """Cut a file off."""

    def change(world: World) -> None:
        data = (world.folder / path).read_bytes()
        (world.folder / path).write_bytes(data[: int(share * len(data))])

    return change


def flipped(path: str) -> Breaking:
    """Damage the middle of a file, whose ends stay as they are."""

    def change(world: World) -> None:
        data = bytearray((world.folder / path).read_bytes())
        middle = len(data) // 3
        data[middle : middle + 64] = bytes(255 - byte for byte in data[middle : middle + 64])
        (world.folder / path).write_bytes(bytes(data))

    return change


def gone(path: str) -> Breaking:
    """Remove a file."""
    return lambda world: (world.folder / path).unlink()


def rows(path: str, change: Callable[[list[dict[str, Any]]], object]) -> Breaking:
    """Edit the rows of a table; its schema and metadata stay."""

    def broken(world: World) -> None:
        table = pq.read_table(world.folder / path)
        content = table.to_pylist()
        change(content)
        pq.write_table(pa.Table.from_pylist(content, schema=table.schema), world.folder / path)

    return broken


def cell(path: str, column: str, value: Any, row: int = 1) -> Breaking:
    """Set one cell of a table."""
    return rows(path, lambda content: content[row].update({column: value}))


def other_schema(path: str, change: Callable[[pa.Table], pa.Table]) -> Breaking:
    """Write a table with other columns, or other metadata."""
    return lambda world: pq.write_table(change(pq.read_table(world.folder / path)), world.folder / path)


def tensors(path: str, name: str, change: Callable[[torch.Tensor], torch.Tensor]) -> Breaking:
    """Change the tensors of a safetensors file whose names contain `name`."""

    def broken(world: World) -> None:
        with safe_open(world.folder / path, "pt") as file:
            about = file.metadata()
        content = load_file(world.folder / path)
        assert any(name in each for each in content)
        save_file({n: change(v.clone()) if name in n else v for n, v in content.items()}, world.folder / path, about)

    return broken


def nan(values: torch.Tensor) -> torch.Tensor:
    """The same tensor with a NaN in front."""
    values.view(-1)[0] = torch.nan
    return values


def network(model: str, file: str, name: str, change: Callable[[torch.Tensor], torch.Tensor] = nan) -> Breaking:
    """Change weights of a model, and its record to match."""

    def broken(world: World) -> None:
        tensors(f"models/{model}/{file}", name, change)(world)
        old = record.load(world.folder / f"models/{model}.json")
        made = record.describe(model, old.kind, f"models/{model}", options=old.options)
        record.save(made, world.folder / f"models/{model}.json")

    return broken


def base_of_encodings(file: str, name: str) -> Breaking:
    """Weights of the base that are not finite, in one that the encodings were made with."""

    def broken(world: World) -> None:
        network("base", file, name)(world)
        encodings = world.folder / "e/encodings.safetensors"
        digest = record.load(world.folder / "models/base.json").digest
        save_file(load_file(encodings), encodings, {MADE_WITH: digest})

    return broken


def other_base(world: World) -> None:
    """A base with other weights in place of the one that the policy was trained on."""
    network("base", "unet/diffusion_pytorch_model.safetensors", "conv_out", lambda v: v + 1)(world)


def picture(name: str, data: bytes) -> Breaking:
    """Overwrite a picture of the source."""
    return text(f"pictures/{name}", data)


def saved(mode: str, kind: str = "PNG", side: int = 16, **more: Any) -> bytes:
    """A picture of a mode and format."""
    draw = np.random.default_rng(5)
    if mode == "I;16":
        image = Image.fromarray(draw.integers(0, 65536, (side, side), np.uint16))
    else:
        image = Image.fromarray(draw.integers(0, 256, (side, side, 3), np.uint8)).convert(mode)
    buffer = io.BytesIO()
    image.save(buffer, kind, **more)
    return buffer.getvalue()


def animation() -> bytes:
    """A GIF of three frames."""
    draw = np.random.default_rng(6)
    frames = [Image.fromarray(draw.integers(0, 256, (16, 16, 3), np.uint8)) for _ in range(3)]
    buffer = io.BytesIO()
    frames[0].save(buffer, "GIF", save_all=True, append_images=frames[1:])
    return buffer.getvalue()


def bomb(side: int = 60000) -> bytes:
    """A PNG of a few hundred bytes whose header promises `side` x `side` pixels."""

    def chunk(kind: bytes, data: bytes) -> bytes:
        return struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data))

    header = struct.pack(">IIBBBBB", side, side, 8, 2, 0, 0, 0)
    pixels = zlib.compress(bytes(3 * side + 1))
    return b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", header) + chunk(b"IDAT", pixels) + chunk(b"IEND", b"")


def edited(path: str, change: Callable[[dict[str, Any]], object]) -> Breaking:
    """Edit a JSON file."""

    def broken(world: World) -> None:
        content = json.loads((world.folder / path).read_text())
        change(content)
        (world.folder / path).write_text(json.dumps(content))

    return broken


def folder(path: str) -> Breaking:
    """Put a folder in the place of a file."""

    def broken(world: World) -> None:
        (world.folder / path).unlink()
        (world.folder / path).mkdir()

    return broken


def config(model: str, file: str, change: Callable[[dict[str, Any]], object]) -> Breaking:
    """Edit a configuration of a model, and its record to match."""

    def broken(world: World) -> None:
        edited(f"models/{model}/{file}", change)(world)
        old = record.load(world.folder / f"models/{model}.json")
        record.save(record.describe(model, old.kind, f"models/{model}", options=old.options), f"models/{model}.json")

    return broken


def metadata(path: str, change: Callable[[dict[str, str]], dict[str, str]]) -> Breaking:
    """Change what a safetensors file says of itself."""

    def broken(world: World) -> None:
        with safe_open(world.folder / path, "pt") as file:
            about = file.metadata()
        save_file(load_file(world.folder / path), world.folder / path, change(about))

    return broken


class Payload:
    """What a pickle of foreign origin could do: its reading makes a file."""

    def __reduce__(self) -> tuple[Any, ...]:
        return Path.touch, (Path("executed"),)


def pickled(path: str) -> Breaking:
    """A pickle under the name of weights."""
    return lambda world: torch.save({"weight": Payload()}, world.folder / path)
