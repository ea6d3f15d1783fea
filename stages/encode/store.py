"""The encodings of a study: VAE posteriors of images and conditioning on texts, each made once and memory-mapped."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

import torch
from safetensors import safe_open
from torch import Tensor

from stages import tables
from stages.encode.pairs import CAPTIONS, LABEL, PAIR, WHO, WINNER_TEXT
from stages.encode.pairs import NAMES as PAIRS
from stages.errors import InputError
from stages.models.conditioning import FIELDS, Conditioning

if TYPE_CHECKING:
    from stages.models.diffusion import DiffusionModel

TEXTS, EMPTY, MEANS, STDS = "text_embeddings", "empty_embedding", "posterior_mean", "posterior_std"
FLOATS = ("F64", "F32", "F16", "BF16")
MADE_WITH = "base"
"""The one key of the file's metadata: the digest of the base's record."""


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
    The text rows of winner and loser are those of their own captions, of the prompt where they have none; `captioned`
    says whether the table of pairs has any.
    """

    item_id: str
    text: str
    text_row: int
    winner: Item
    loser: Item
    label: float
    weight: float
    annotator: str
    captioned: bool = False


class Encodings:
    """Read access to `encodings.safetensors` by rows of `index.parquet`; nothing is held in memory but the index.

    Raises InputError where the files do not fit together, or were made with another base than `base`, the digest of
    its record.
    """

    def __init__(self, tensors: str | Path, index: str | Path, device: torch.device, base: str = "") -> None:
        self._device = device
        try:
            self._file = safe_open(tensors, "pt")
        except Exception as error:  # safetensors raises its own untyped errors
            raise InputError(f"{tensors}: not a readable safetensors file of encodings: {error}") from None
        made = (self._file.metadata() or {}).get(MADE_WITH)
        if base and made and made != base:
            raise InputError(f"{tensors}: made with base {made}, but the base here is {base}; run encode again")
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
        if lost := [r["item_id"] for r in rows if r["item_id"] not in captions]:
            raise InputError(
                f"encodings: image {lost[0]!r} of split {split!r} has no row of its caption; run encode again"
            )
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
        captioned = WINNER_TEXT in self._file.keys()  # noqa: SIM118
        own = [self._file.get_tensor(name).tolist() if captioned else text for name in CAPTIONS]

        def item(row: int, said: int) -> Item:
            return Item(images[row], "", said, row)

        return [
            Pair(
                r["item_id"], r["text"], text[n], item(winner[n], own[0][n]), item(loser[n], own[1][n]), label[n],
                weight[n], who.get(number[n], ""), captioned,
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

    def require_fit(self, model: DiffusionModel, where: str | Path) -> None:
        """Raise InputError that starts with `where` for latents of another number of channels, or embeddings of another
        width, than the networks of the base take.
        """
        channels, width = self.latent_shape()[0], self._file.get_slice(TEXTS).get_shape()[-1]
        if channels != model.channels:
            raise InputError(f"{where}: latents have {channels} channels, but the base's have {model.channels}")
        if model.text_width not in (None, width):
            raise InputError(
                f"{where}: text embeddings have width {width}, but the base takes {model.text_width}; run encode again"
            )

    def latent_shape(self) -> tuple[int, int, int]:
        """(C, h, w) of the latents."""
        _, channels, height, width = self._file.get_slice(MEANS).get_shape()
        return channels, height, width

    def _check(self, tensors: str | Path, index: str | Path) -> None:
        """Raise InputError where the index names rows that the file does not have."""
        if lost := sorted({TEXTS, EMPTY, MEANS, STDS} - set(self._file.keys())):
            raise InputError(f"{tensors}: holds no {lost[0]!r}, expected the encodings that encode writes")
        self._check_shapes(tensors)
        tables.require_unique(index, "item_id", (f"{r['kind']} {r['item_id']}" for r in self._rows))
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

    def _check_shapes(self, tensors: str | Path) -> None:
        """Raise InputError where tensors that belong together have different shapes."""
        shapes = {name: self._file.get_slice(name).get_shape() for name in self._file.keys()}  # noqa: SIM118
        wanted = {STDS: shapes[MEANS]}
        for field in self._fields():
            if (texts := _column(field, False)) not in shapes:
                raise InputError(f"{tensors}: holds no {texts!r}, expected the encodings that encode writes")
            wanted[_column(field, True)] = [1, *shapes[texts][1:]]
        for name, shape in wanted.items():
            if shapes[name] != shape:
                raise InputError(f"{tensors}: {name!r} has shape {shapes[name]}, expected {shape}; run encode again")
        for name in (MEANS, STDS, TEXTS, EMPTY):
            if (kind := self._file.get_slice(name).get_dtype()) not in FLOATS:
                raise InputError(f"{tensors}: {name!r} is {kind}, expected floating-point numbers; run encode again")
        if len(shapes[MEANS]) != 4:
            raise InputError(
                f"{tensors}: {MEANS!r} has shape {shapes[MEANS]}, expected images, channels, height, width"
            )

    def _fields(self) -> list[str]:
        stored = set(self._file.keys())
        return [field for field in FIELDS if _column(field, True) in stored]

    def _take(self, name: str, rows: Sequence[int]) -> Tensor:
        part = self._file.get_slice(name)
        return torch.stack([part[row] for row in rows]).float().to(self._device)
