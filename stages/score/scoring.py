"""Run one reward over an images table in one pass, for captions and for the prompts of pairs alike."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
import pyarrow as pa
import torch

from stages import tables
from stages.errors import InputError, RowError
from stages.pictures import decode_row
from stages.resume import State, Unit
from stages.rewards.base import Reward
from stages.runtime import device, progress
from stages.table_tensors import packed, unpacked

SIDES = ("a", "b")


@dataclass
class Pairs:
    """The pairs table without its images, and room for their scores."""

    path: Path
    ids: list[str]
    prompts: list[str]
    splits: list[str]
    preferences: np.ndarray
    """[n] share of votes for side a."""
    images: list[tuple[str, str]]
    scores: np.ndarray = field(init=False)
    """float64 [n, 2], of side a and side b; NaN until scored."""

    def __post_init__(self) -> None:
        self.scores = np.full((len(self.ids), 2), np.nan)

    def wanted(self) -> dict[str, list[tuple[int, int]]]:
        """Image id to the (pair, side) places where it stands."""
        found: dict[str, list[tuple[int, int]]] = {}
        for pair, ends in enumerate(self.images):
            for side, image in enumerate(ends):
                found.setdefault(image, []).append((pair, side))
        return found


def read_pairs(path: Path) -> Pairs:
    """The pairs at `path`; raises InputError for a preference outside [0, 1]."""
    rows = tables.read(path, tables.pairs_schema(path)).to_pylist()
    tables.require_unique(path, "pair_id", (row["pair_id"] for row in rows))
    for row in rows:
        if not 0 <= row["preference"] <= 1:
            raise InputError(
                f"{path}: pair {row['pair_id']}: preference {row['preference']}, expected a share of votes in [0, 1]"
            )
    return Pairs(
        path=path,
        ids=[row["pair_id"] for row in rows],
        prompts=[row["prompt"] for row in rows],
        splits=[row["split"] for row in rows],
        preferences=np.array([row["preference"] for row in rows], np.float64),
        images=[(row["image_a"], row["image_b"]) for row in rows],
    )


@dataclass(frozen=True)
class _Question:
    """One (image, text) to score: of image `row` of the batch, for its caption or for a side of a pair."""

    row: int
    text: str
    pair: int = -1
    side: int = -1


def score_rows(
    reward: Reward, name: str, images: Path, pairs: Pairs, batch_size: int, state: State | None = None
) -> Iterator[pa.Table]:
    """Tables of SCORES: every captioned image as it streams by, then both sides of every pair.

    Images that only pairs brought (split `pairs`) have no caption of their own and stand in the rows of pairs alone.
    Scores of pairs are also left in `pairs.scores`. Raises InputError where a pair names an image that is not there.
    """
    wanted = pairs.wanted()
    known = tables.read(images, tables.IMAGES, ["image_id"])["image_id"].to_pylist()
    tables.require_unique(images, "image_id", known)
    for image in sorted(wanted.keys() - set(known)):
        pair = pairs.ids[wanted[image][0][0]]
        raise InputError(f"{pairs.path}: pair {pair} names image {image!r}, which is not in {images}")

    def make(part: pa.Table) -> Unit:
        rows = part.to_pylist()
        captioned = [index for index, row in enumerate(rows) if row["split"] != "pairs"]
        questions = [_Question(index, rows[index]["caption"]) for index in captioned]
        for index, row in enumerate(rows):
            places = wanted.get(row["image_id"], ())
            questions += [_Question(index, pairs.prompts[pair], pair, side) for pair, side in places]
        pixels = [decode_row(row, f"{images}: image {row['image_id']}") for row in rows]
        scores = _answers(reward, pixels, questions, batch_size, [str(row["image_id"]) for row in rows])
        if not np.isfinite(scores).all():
            bad = questions[int(np.flatnonzero(~np.isfinite(scores))[0])]
            raise InputError(
                f"reward {name!r}: gave no finite number for image {rows[bad.row]['image_id']} and text {bad.text!r}"
            )
        own = [("image", rows[i]["image_id"], "", scores[n]) for n, i in enumerate(captioned)]
        sides = [(question.pair, question.side) for question in questions[len(captioned) :]]
        return {
            "images": packed(_table(name, own)),
            "sides": torch.tensor(sides, dtype=torch.long).reshape(-1, 2),
            "scores": torch.from_numpy(scores[len(captioned) :].copy()),
        }

    parts = tables.stream(
        images, tables.IMAGES, batch_size, ["image_id", "caption", "image", "width", "height", "split"]
    )
    units = (state or State()).results("images", parts, make)
    for unit in progress(units, -(-len(known) // batch_size), f"score {name}"):
        pair, side = unit["sides"].numpy().T
        pairs.scores[pair, side] = unit["scores"].numpy()
        yield unpacked(unit["images"])
    yield _table(
        name,
        [
            ("pair", pair, side, pairs.scores[row, k])
            for row, pair in enumerate(pairs.ids)
            for k, side in enumerate(SIDES)
        ],
    )


def _answers(
    reward: Reward, pixels: list[np.ndarray], questions: list[_Question], batch_size: int, ids: list[str]
) -> np.ndarray:
    """Scores float64, one per question; images of one size go together. `ids` are those of the images."""
    sizes: dict[tuple[int, ...], list[int]] = {}
    for index, question in enumerate(questions):
        sizes.setdefault(pixels[question.row].shape, []).append(index)
    found, where = np.empty(len(questions)), device()
    for indices in sizes.values():
        for start in range(0, len(indices), batch_size):
            part = indices[start : start + batch_size]
            stack = torch.from_numpy(np.stack([pixels[questions[i].row] for i in part])).to(where)
            try:
                with torch.no_grad():
                    scores = reward(stack.permute(0, 3, 1, 2).float() / 255, [questions[i].text for i in part])
            except RowError as error:
                raise InputError(f"image {ids[questions[part[error.row]].row]}: {error}") from None
            found[part] = scores.double().cpu().numpy()
    return found


def _table(name: str, rows: list[tuple[str, str, str, float]]) -> pa.Table:
    columns = [list(column) for column in zip(*rows, strict=True)] if rows else [[], [], [], []]
    kinds, items, sides, scores = columns
    return tables.table(
        tables.SCORES,
        {"kind": kinds, "item_id": items, "side": sides, "reward": [name] * len(rows), "score": scores},
    )
