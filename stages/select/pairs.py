"""The training pairs of a study as columns of numbers, with the scores of both images and no pixels."""

from __future__ import annotations

from collections.abc import Collection, Mapping
from dataclasses import dataclass, replace
from functools import cached_property
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from stages import tables
from stages.errors import InputError

ROWS = 2**16
"""Rows of a table of scores in memory at once."""


@dataclass(frozen=True)
class Pictures:
    """The images of the pairs: their ids, and the table that has them."""

    ids: pa.Array
    path: Path

    def hashes(self, wanted: np.ndarray) -> np.ndarray:
        """64-bit perceptual hashes, uint64 [len(ids)], of the images at the places `wanted`, 0 of others.

        The table is read image by image. Raises InputError for an image that is not in it.
        """
        from PIL import Image

        from stages.curate.near import perceptual_hash
        from stages.pictures import decode_row

        places = {name.as_py(): place for place, name in zip(wanted.tolist(), self.ids.take(wanted), strict=True)}
        found = np.zeros(len(self.ids), np.uint64)
        columns = ["image_id", "image", "width", "height"]
        for part in tables.stream(self.path, tables.IMAGES, rows=64, columns=columns):
            for row in part.to_pylist():
                if (place := places.pop(row["image_id"], None)) is not None:
                    pixels = decode_row(row, f"{self.path}: image {row['image_id']}")
                    found[place] = perceptual_hash(Image.fromarray(pixels))
        if places:
            raise InputError(f"{self.path}: no image {next(iter(places))!r}, which a pair names")
        return found


@dataclass(frozen=True)
class Pairs:
    """n pairs in the order of the table; what a step sees.

    Images and texts are numbers: places in `pictures.ids` and `texts`, which are in alphabetical order, so that nothing
    depends on the order of the table.
    """

    row: np.ndarray
    """int64 [n], place in the table."""
    rank: np.ndarray
    """int64 [n], place among the ids in alphabetical order: what breaks ties, whatever the order of the table."""
    text: np.ndarray
    """int64 [n], the prompt."""
    image: np.ndarray
    """int64 [n, 2], images a and b."""
    preference: np.ndarray
    """float64 [n], the probability that a is preferred."""
    weight: np.ndarray
    """float64 [n]."""
    scores: Mapping[str, np.ndarray]
    """By reward, float64 [n, 2] of images a and b under the prompt."""
    texts: list[str]
    pictures: Pictures

    def __len__(self) -> int:
        return len(self.row)

    def gap(self, reward: str) -> np.ndarray:
        """By how much a reward scores image a higher than b, float64 [n]."""
        return self.scores[reward][:, 0] - self.scores[reward][:, 1]

    def first(self, values: np.ndarray, count: int) -> np.ndarray:
        """Which pairs have the `count` largest of `values` [n], bool [n]; of equal ones the first ids."""
        chosen = np.zeros(len(self), bool)
        chosen[np.lexsort((self.rank, -values))[:count]] = True
        return chosen

    def changed(
        self, keep: np.ndarray | None, preference: np.ndarray | None, weight: np.ndarray | None
    ) -> Pairs:  # fmt: skip
        """The pairs to `keep`, with other preferences and weights where given, each [n] of the pairs before."""
        kept = slice(None) if keep is None else keep
        return replace(
            self, row=self.row[kept], rank=self.rank[kept], text=self.text[kept], image=self.image[kept],
            preference=(self.preference if preference is None else preference)[kept],
            weight=(self.weight if weight is None else weight)[kept],
            scores={name: values[kept] for name, values in self.scores.items()},
        )  # fmt: skip


@dataclass(frozen=True)
class Table:
    """The curated pairs at `path`."""

    path: Path

    @cached_property
    def schema(self) -> pa.Schema:
        """Its schema: with or without weights and annotators."""
        return tables.pairs_schema(self.path)

    @cached_property
    def content(self) -> pa.Table:
        """Its columns but for annotators and sources, texts and ids of images as numbers with a dictionary each."""
        wanted = ["pair_id", "prompt", "image_a", "image_b", "preference", "split"]
        wanted += ["weight"] if "weight" in self.schema.names else []
        return tables.read(self.path, self.schema, wanted).combine_chunks()

    def training(self, scores: Mapping[str, Path], images: Path) -> Pairs:
        """The training pairs, with the scores of rewards from their tables.

        Raises InputError for no training pair, an id that stands twice, a preference outside [0, 1] and scores of other
        pairs.
        """
        found = self.content
        ids = found["pair_id"].combine_chunks()
        tables.require_unique(self.path, "pair_id", (name.as_py() for name in ids))
        rows = np.flatnonzero(_numbers(_equal(found["split"], "train")))
        if not rows.size:
            raise InputError(f"{self.path}: no training pair, expected at least one to select")
        preference = _numbers(found["preference"])
        if (bad := np.flatnonzero(~((preference >= 0) & (preference <= 1)))).size:
            name, value = ids[int(bad[0])], preference[bad[0]]
            raise InputError(f"{self.path}: pair {name}: preference {value}, expected 0 to 1")
        rank = np.empty(len(ids), np.int64)
        rank[_sorted(ids)] = np.arange(len(ids))
        text, texts = _coded(found["prompt"])
        image, names = _coded(pa.chunked_array([*found["image_a"].chunks, *found["image_b"].chunks]))
        weight = _numbers(found["weight"]) if "weight" in found.column_names else np.ones(len(ids))
        return Pairs(
            row=rows, rank=rank[rows], text=text[rows], image=image.reshape(2, -1).T[rows],
            preference=preference[rows], weight=weight[rows],
            scores={name: pair_scores(path, ids, self.path)[rows] for name, path in scores.items()},
            texts=texts.to_pylist(), pictures=Pictures(names, images),
        )  # fmt: skip


def pair_scores(path: Path, ids: pa.Array, pairs: Path) -> np.ndarray:
    """Scores float64 [n, 2] of both images of the pairs `ids` [n], from the table of one reward at `path`.

    Raises InputError where it has those of other pairs, or in another order, than the table `pairs`.
    """
    found, place = np.empty(2 * len(ids)), 0
    refusal = InputError(f"{path}: has not the scores of the pairs of {pairs}; run score again")
    for part in tables.stream(path, tables.SCORES, ROWS, ["kind", "item_id", "side", "score"]):
        mine = part.filter(_equal(part["kind"], "pair"))
        places = np.arange(place, place := place + len(mine))
        if place > len(found):
            raise refusal
        sides = pa.array(np.where(places % 2, "b", "a"), pa.string())
        expected = (("item_id", ids.take(pa.array(places // 2))), ("side", sides))
        if not all(_chunk(mine[name]).equals(values) for name, values in expected):
            raise refusal
        found[places] = _numbers(mine["score"])
    if place != len(found):
        raise refusal
    return found.reshape(-1, 2)


def _coded(values: pa.ChunkedArray) -> tuple[np.ndarray, pa.Array]:
    """A column of texts as places, int64 [n], in an array of the different texts in alphabetical order."""
    made = _chunk(values).dictionary_encode()
    order = _sorted(made.dictionary)
    place = np.empty(len(order), np.int64)
    place[order] = np.arange(len(order))
    return place[_numbers(made.indices)], made.dictionary.take(pa.array(order))


def _sorted(values: pa.Array) -> np.ndarray:
    """Places of the values in rising order, int64 [n]."""
    return _numbers(pc.call_function("array_sort_indices", [values])).astype(np.int64)


def _equal(values: pa.ChunkedArray, text: str) -> pa.ChunkedArray:
    """Which values are the text."""
    return pc.call_function("equal", [values, pa.scalar(text)])


def _chunk(values: pa.ChunkedArray) -> pa.Array:
    return pa.concat_arrays(values.chunks) if values.num_chunks else pa.array([], values.type)


def _numbers(values: pa.ChunkedArray | pa.Array) -> np.ndarray:
    return np.asarray(values.to_numpy(zero_copy_only=False) if isinstance(values, pa.Array) else values.to_numpy())


def distinct(values: Collection[str]) -> bool:
    """Whether no text stands twice."""
    return len(set(values)) == len(values)
