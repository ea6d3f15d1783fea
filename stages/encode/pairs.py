"""Pairs of images with a preference as rows of the encodings: which images, which text, and how they were judged."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from stages import tables
from stages.errors import InputError

TEXT, WINNER, LOSER, LABEL, WEIGHT, ANNOTATOR = (
    "pair_text", "pair_winner", "pair_loser", "pair_label", "pair_weight", "pair_annotator",
)  # fmt: skip
NAMES = (TEXT, WINNER, LOSER, LABEL, WEIGHT, ANNOTATOR)
"""Tensors [pairs] beside the encodings: rows of the text, of the preferred and of the other image (int64), the
probability that the preferred one is preferred (float32, at least 0.5), the weight (float32), and the number of the
annotator (int64, -1 where nobody is named).
"""
CAPTIONS = WINNER_TEXT, LOSER_TEXT = "pair_winner_text", "pair_loser_text"
"""Rows of the texts of captions of the images' own, int64 [pairs]; that of the prompt where an image has none. They are
there only where the table of pairs has captions.
"""
PAIR, WHO = "pair", "annotator"
"""Kinds of rows of the index: `row` is the place in the tensors of pairs, or the number of the annotator `item_id`."""


@dataclass(frozen=True)
class Pairs:
    """The curated pairs of a study. Of equal votes image a counts as preferred, with probability 0.5."""

    rows: Sequence[Mapping[str, object]]

    @classmethod
    def read(cls, *paths: Path) -> Pairs:
        """The pairs of the tables at `paths`, one after the other. Raises InputError for none, an id that stands twice,
        and a preference outside [0, 1].
        """
        rows = []
        for path in paths:
            part = tables.read(path, tables.pairs_schema(path)).to_pylist()
            for row in part:
                if not 0 <= row["preference"] <= 1:
                    raise InputError(f"{path}: pair {row['pair_id']}: preference {row['preference']}, expected 0 to 1")
            rows += part
            tables.require_unique(path, "pair_id", (row["pair_id"] for row in rows))
        if not rows:
            raise InputError(f"{paths[0]}: no pairs, expected at least one to encode")
        return cls(rows)

    @property
    def images(self) -> set[str]:
        """Ids of the images of all pairs."""
        return {str(row[side]) for row in self.rows for side in ("image_a", "image_b")}

    @property
    def texts(self) -> list[str]:
        """The prompt of each pair."""
        return [str(row["prompt"]) for row in self.rows]

    @property
    def captioned(self) -> bool:
        """Whether images of any pair have captions of their own."""
        return any("caption_a" in row for row in self.rows)

    def captions(self, side: str) -> list[str]:
        """What is said of the images of side a or b, where they have captions of their own."""
        return [str(row.get(f"caption_{side}") or row["prompt"]) for row in self.rows]

    @property
    def every_text(self) -> list[str]:
        """Prompts and captions."""
        return self.texts + (self.captions("a") + self.captions("b") if self.captioned else [])

    @property
    def annotators(self) -> list[str]:
        """Everyone who is named, in order of first appearance."""
        return list(dict.fromkeys(str(row["annotator"]) for row in self.rows if row.get("annotator")))

    def tensors(self, texts: Mapping[str, int], images: Mapping[str, int], where: Path) -> dict[str, Tensor]:
        """The pairs as tensors of rows: of `texts` by the text, of `images` by the id.

        Raises InputError, which starts with `where`, for an image that is not there.
        """
        who = {name: number for number, name in enumerate(self.annotators)}
        for row in self.rows:
            for side in ("image_a", "image_b"):
                if row[side] not in images:
                    raise InputError(f"{where}: no image {row[side]!r}, which pair {row['pair_id']} has as {side}")
        share = np.array([row["preference"] for row in self.rows], np.float64)
        a, b = (np.array([images[str(row[side])] for row in self.rows]) for side in ("image_a", "image_b"))
        first = share >= 0.5
        own = {}
        if self.captioned:
            said_a, said_b = (np.array([texts[text] for text in self.captions(side)]) for side in "ab")
            own[WINNER_TEXT] = torch.from_numpy(np.where(first, said_a, said_b))
            own[LOSER_TEXT] = torch.from_numpy(np.where(first, said_b, said_a))
        return own | {
            TEXT: torch.tensor([texts[text] for text in self.texts]),
            WINNER: torch.from_numpy(np.where(first, a, b)),
            LOSER: torch.from_numpy(np.where(first, b, a)),
            LABEL: torch.from_numpy(np.maximum(share, 1 - share).astype(np.float32)),
            WEIGHT: torch.tensor([float(str(row.get("weight", 1.0))) for row in self.rows]),
            ANNOTATOR: torch.tensor([who.get(str(row.get("annotator", "")), -1) for row in self.rows]),
        }

    def index(self) -> Iterable[dict[str, object]]:
        """Rows of the index: the pairs in their order, then the annotators."""
        for place, row in enumerate(self.rows):
            kept = {key: row[key] for key in ("split", "source")}
            yield {"kind": PAIR, "item_id": row["pair_id"], "text": row["prompt"], "row": place, **kept}
        for number, name in enumerate(self.annotators):
            yield {"kind": WHO, "item_id": name, "text": "", "row": number, "split": "", "source": ""}
