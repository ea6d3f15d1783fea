"""The encodings of a study: VAE posteriors of images and conditioning on texts, each made once and memory-mapped."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import torch
from safetensors import safe_open
from torch import Tensor

from stages import tables
from stages.encode.pairs import LABEL, PAIR, WHO
from stages.encode.pairs import NAMES as PAIRS
from stages.errors import InputError
from stages.models.conditioning import FIELDS, Conditioning

TEXTS, EMPTY, MEANS, STDS = "text_embeddings", "empty_embedding", "posterior_mean", "posterior_std"


def columns(given: Conditioning, empty: bool) -> dict[str, Tensor]:
    """The tensors of a conditioning by the names they are stored under: of the texts, or of the `empty` prompt."""
    return {_column(field, empty): value for field, value in given.tensors().items()}


def _column(field: str, empty: bool) -> str:
    if field == "text":
        return EMPTY if empty else TEXTS
    return f"empty_{field}" if empty else f"text_{field}"


@dataclass(frozen=True)
class Item:
    """A prompt or a captioned image: its id, its text, and the rows of its encodings."""

    item_id: str
    text: str
    text_row: int
    image_row: int = -1


@dataclass(frozen=True)
class Pair:
    """A pair of images: its id, its prompt and the row of that, the preferred image and the other one.

    `label` is the probability, at least 0.5, that the winner is preferred; `annotator` is empty where nobody is named.
    """

    item_id: str
    text: str
    text_row: int
    winner: Item
    loser: Item
    label: float
    weight: float
    annotator: str


class Encodings:
    """Read access to `encodings.safetensors` by rows of `index.parquet`; nothing is held in memory but the index."""

    def __init__(self, tensors: str | Path, index: str | Path, device: torch.device) -> None:
        self._device = device
        try:
            self._file = safe_open(tensors, "pt")
        except Exception as error:  # safetensors raises its own untyped errors
            raise InputError(f"{tensors}: not a readable safetensors file of encodings: {error}") from None
        self._rows = tables.read(index, tables.ENCODINGS).to_pylist()
        self._check(tensors, index)

    def prompts(self, split: str) -> list[Item]:
        """The prompts of a split (`train` or `eval`), in table order; raises InputError when there are none."""
        rows = [r for r in self._rows if r["kind"] == "prompt" and r["split"] == split]
        if not rows:
            raise InputError(f"encodings: no prompt of split {split!r}")
        return [Item(r["item_id"], r["text"], r["row"]) for r in rows]

    def images(self, split: str, source: str | None = None) -> list[Item]:
        """The captioned images of a split (`train` or `val`), of one `source` or of all, in table order.

        Raises InputError when there are none.
        """
        captions = {r["item_id"]: r["row"] for r in self._rows if r["kind"] == "caption" and r["split"] == split}
        every = [r for r in self._rows if r["kind"] == "image" and r["split"] == split]
        rows = [r for r in every if source in (None, r["source"])]
        if not rows and every:
            known = ", ".join(sorted({repr(r["source"]) for r in every}))
            raise InputError(f"encodings: no image of split {split!r} from source {source!r}, only from {known}")
        if not rows:
            raise InputError(f"encodings: no image of split {split!r}")
        return [Item(r["item_id"], r["text"], captions[r["item_id"]], r["row"]) for r in rows]

    def pairs(self, split: str, source: str | None = None) -> list[Pair]:
        """The pairs of a split (`train` or `val`), of one `source` or of all, in table order.

        `posterior` of their winners and losers gives those of the images, `text` of the pairs that of the prompts.
        Raises InputError when there are none, and where the encodings were made without pairs.
        """
        every = [r for r in self._rows if r["kind"] == PAIR and r["split"] == split]
        rows = [r for r in every if source in (None, r["source"])]
        if LABEL not in self._file.keys():  # noqa: SIM118 (not a mapping)
            raise InputError("encodings: hold no pairs: encode was not given a table of them (--pairs)")
        if not rows:
            known = ", ".join(sorted({repr(r["source"]) for r in every}))
            only = f" from source {source!r}, only from {known}" if every else ""
            raise InputError(f"encodings: no pair of split {split!r}{only}")
        images = {r["row"]: r["item_id"] for r in self._rows if r["kind"] == "image"}
        who = {r["row"]: r["item_id"] for r in self._rows if r["kind"] == WHO}
        text, winner, loser, label, weight, number = (self._file.get_tensor(name).tolist() for name in PAIRS)

        def item(place: int, row: int) -> Item:
            return Item(images[row], "", text[place], row)

        return [
            Pair(
                r["item_id"], r["text"], text[n], item(n, winner[n]), item(n, loser[n]), label[n], weight[n],
                who.get(number[n], ""),
            )
            for r in rows
            for n in (r["row"],)
        ]  # fmt: skip

    def text(self, items: Sequence[Item | Pair]) -> Conditioning:
        """Conditioning [B] on the items' texts, float32."""
        rows = [item.text_row for item in items]
        return Conditioning(**{field: self._take(_column(field, False), rows) for field in self._fields()})

    def empty(self) -> Conditioning:
        """Conditioning [1] on the empty prompt, float32."""
        values = {field: self._file.get_tensor(_column(field, True)) for field in self._fields()}
        return Conditioning(**values).to(torch.float32).to(self._device)

    def posterior(self, items: Sequence[Item]) -> tuple[Tensor, Tensor]:
        """Mean and standard deviation [B, C, h, w] of the images' VAE posteriors, unscaled, float32."""
        rows = [item.image_row for item in items]
        return self._take(MEANS, rows), self._take(STDS, rows)

    def latent_shape(self) -> tuple[int, int, int]:
        """(C, h, w) of the latents."""
        _, *shape = self._file.get_slice(MEANS).get_shape()
        return tuple(shape)  # type: ignore[return-value]

    def _check(self, tensors: str | Path, index: str | Path) -> None:
        """Raise InputError where the index names rows that the file does not have."""
        if lost := sorted({TEXTS, EMPTY, MEANS, STDS} - set(self._file.keys())):
            raise InputError(f"{tensors}: holds no {lost[0]!r}, expected the encodings that encode writes")
        stored = set(self._file.keys())
        counts = {name: self._file.get_slice(name).get_shape()[0] for name in (TEXTS, MEANS)}
        counts[LABEL] = self._file.get_slice(LABEL).get_shape()[0] if LABEL in stored else 0
        kinds = {"image": MEANS, PAIR: LABEL}
        for row in self._rows:
            if row["kind"] == WHO:
                continue
            count = counts[kinds.get(row["kind"], TEXTS)]
            if not 0 <= row["row"] < count:
                raise InputError(
                    f"{index}: {row['kind']} {row['item_id']!r} has row {row['row']}, but {tensors} {count}"
                )

    def _fields(self) -> list[str]:
        stored = set(self._file.keys())
        return [field for field in FIELDS if _column(field, True) in stored]

    def _take(self, name: str, rows: Sequence[int]) -> Tensor:
        part = self._file.get_slice(name)
        return torch.stack([part[row] for row in rows]).float().to(self._device)
