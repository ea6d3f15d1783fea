"""Micro-batches as a pure function of (study, run seed, optimizer step, micro-batch): nothing to save for a resume."""

from __future__ import annotations

import random
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass, replace
from functools import partial
from typing import Protocol, TypeVar

import torch
from torch import Tensor

from stages.encode.store import Item, Pair
from stages.errors import InputError
from stages.finetune.batch import Batch, LatentPairs
from stages.models.conditioning import Conditioning
from stages.models.diffusion import posterior_sample
from stages.models.noise import KeyedNoise
from stages.processes import ALONE, Processes
from stages.runtime import seed_from

T = TypeVar("T")
C = TypeVar("C", bound="Compared")
P = TypeVar("P", bound=Pair)


class Encoded(Protocol):
    """What batches take of the encodings of a study (`stages.encode.store.Encodings`)."""

    def latent_shape(self) -> tuple[int, int, int]: ...

    def text(self, items: Sequence[Item]) -> Conditioning: ...

    def posterior(self, items: Sequence[Item]) -> tuple[Tensor, Tensor]: ...


class Compared(Protocol):
    """A pair of images for a prompt: the preferred one and the other one.

    `label` is the probability that the winner is preferred, `weight` that of the pair in the loss. Where it is
    `captioned`, the text rows of winner and loser are those of captions of their own.
    """

    @property
    def item_id(self) -> str: ...

    @property
    def text(self) -> str: ...

    @property
    def text_row(self) -> int: ...

    @property
    def winner(self) -> Item: ...

    @property
    def loser(self) -> Item: ...

    @property
    def label(self) -> float: ...

    @property
    def weight(self) -> float: ...

    @property
    def captioned(self) -> bool: ...

    @property
    def annotator(self) -> str: ...


@dataclass(frozen=True)
class Data:
    """Training items (prompts, or captioned images when `posterior`), or `pairs` in their place, and how batches are
    drawn from them.

    `scale` is the VAE's scaling factor. Items come in a new random order every epoch, each `repeat` times in a row.
    Of every micro-batch each of `processes` has an equal share, in order.
    """

    encodings: Encoded
    items: list[Item]
    seed: int
    batch_size: int
    accumulate: int
    scale: float
    device: torch.device
    posterior: bool
    repeat: int = 1
    processes: Processes = ALONE
    pairs: Sequence[Compared] = ()

    def batches(self, step: int) -> list[Batch]:
        """This process's share of every micro-batch of optimizer step `step` (from 0)."""
        return [self.batch(step, micro) for micro in range(self.accumulate)]

    def batch(self, step: int, micro: int) -> Batch:
        """This process's share of micro-batch `micro` of optimizer step `step` (both from 0)."""
        size = self.batch_size // self.accumulate
        first = step * self.batch_size + micro * size
        places = [first + row for row in self.processes.rows(size, "finetune: a micro-batch")]
        pairs = [self._drawn(self.pairs, place // self.repeat) for place in places] if self.pairs else []
        items = [Item(pair.item_id, pair.text, pair.text_row) for pair in pairs]
        items = items or [self._drawn(self.items, place // self.repeat) for place in places]
        keys = [("train", place) for place in places]
        noise = KeyedNoise(self.seed, keys, self.encodings.latent_shape(), self.device)
        return Batch(
            prompts=[item.text for item in items],
            text=self.encodings.text(items),
            noise=noise,
            rng=random.Random(seed_from("window", self.seed, step, micro)),
            micro=step * self.accumulate + micro,
            clean=self._clean(items, noise) if self.posterior else None,
            further=partial(self.further, step, micro),
            pairs=self._compared(pairs, noise) if pairs else None,
        )

    def further(self, step: int, micro: int, first: int, count: int) -> Batch:
        """Rows `first` to `first + count` of a draw of items for this micro-batch, beside those of `batch`.

        The draw goes through all items in a random order, then through all in another one.
        """
        size, end = len(self.items), first + count
        draws = [random.Random(seed_from("further", self.seed, step, micro, n)) for n in range(-(-end // size))]
        items = [item for draw in draws for item in draw.sample(self.items, size)][first:end]
        keys = [("further", step, micro, place) for place in range(first, first + count)]
        noise = KeyedNoise(self.seed, keys, self.encodings.latent_shape(), self.device)
        rng = random.Random(seed_from("further", self.seed, step, micro, "window", first))
        return Batch(
            [item.text for item in items], self.encodings.text(items), noise, rng, step * self.accumulate + micro
        )

    def _drawn(self, items: Sequence[T], place: int) -> T:
        epoch, offset = divmod(place, len(items))
        return items[_order(self.seed, epoch, len(items))[offset]]

    def _clean(self, items: Sequence[Item], noise: KeyedNoise, draw: str = "posterior") -> Tensor:
        mean, std = self.encodings.posterior(items)
        return posterior_sample(mean, std, noise.extra(draw), self.scale)

    def _compared(self, pairs: Sequence[Compared], noise: KeyedNoise) -> LatentPairs:
        winner = self._clean([pair.winner for pair in pairs], noise)
        loser = self._clean([pair.loser for pair in pairs], noise, "posterior loser")
        label, weight = (
            winner.new_tensor(values) for values in zip(*((p.label, p.weight) for p in pairs), strict=True)
        )
        captions = None
        if pairs[0].captioned:
            first, second = (self.encodings.text([getattr(p, side) for p in pairs]) for side in ("winner", "loser"))
            captions = first, second
        return LatentPairs(
            winner, loser, label, weight, captions=captions, annotators=[pair.annotator for pair in pairs]
        )


def suitable(pairs: Sequence[C], captions: bool, where: str) -> list[C]:
    """The pairs that a method can learn from: those with `captions` of their own, or else those of two images.

    Raises InputError, which starts with `where`, where none is left.
    """
    if captions:
        kept = [pair for pair in pairs if pair.captioned]
        wanted = "captions of the images' own, expected a source of pairs that gives some"
    else:
        kept = [pair for pair in pairs if pair.winner.image_row != pair.loser.image_row]
        wanted = "two images, expected a method with `captions: curated` or other pairs"
    if not kept:
        raise InputError(f"{where}: none of {len(pairs)} training pairs has {wanted}")
    return kept


def with_preference(pairs: Sequence[C], ties: bool, where: str) -> list[C]:
    """The pairs that are learnt from: all with `ties`, else those with a preference.

    Raises InputError, which starts with `where`, where none is left.
    """
    kept = [pair for pair in pairs if ties or pair.label > 0.5]
    if not kept:
        raise InputError(
            f"{where}: all {len(pairs)} training pairs are ties, expected pairs with a preference other than 0.5; "
            "let the reward label them (labels: {kind: reward}), or take other pairs"
        )
    return kept


def of_annotators(pairs: Sequence[P], lone: str, where: str) -> list[P]:
    """The pairs for a method that learns who likes what. Raises InputError that starts with `where` where nobody is
    named, and for an annotator with one pair, unless `lone` is pool: such a pair then names nobody.
    """
    counts = Counter(pair.annotator for pair in pairs if pair.annotator)
    if not counts:
        raise InputError(f"{where}: none of {len(pairs)} training pairs says who judged, expected some with annotators")
    alone = sorted(who for who, count in counts.items() if count == 1)
    if alone and lone != "pool":
        raise InputError(
            f"{where}: annotator {alone[0]!r} has one training pair ({len(alone)} of {len(counts)} annotators have);"
            " expected two or more of each, or `lone: pool`"
        )
    return [replace(pair, annotator="") if counts[pair.annotator] == 1 else pair for pair in pairs]


def _order(seed: int, epoch: int, count: int) -> list[int]:
    key = (seed, epoch, count)
    if key not in _ORDERS:
        order = list(range(count))
        random.Random(seed_from("order", seed, epoch)).shuffle(order)
        _ORDERS.clear()
        _ORDERS[key] = order
    return _ORDERS[key]


_ORDERS: dict[tuple[int, int, int], list[int]] = {}
