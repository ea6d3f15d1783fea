"""The rows that pass through curation, and the count of what became of them."""

from __future__ import annotations

import sys
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass, field
from typing import Generic, Protocol, TypeVar

from PIL.Image import Image

from stages.curate.left_out import LeftOut, Step
from stages.curate.text import prompt_id
from stages.errors import InputError

T = TypeVar("T")


@dataclass(slots=True)
class PromptRow:
    """One prompt. `name` says where it stands."""

    name: str
    text: str
    source: str
    group: str = ""
    split: str = ""
    prompt_id: str = ""

    def __post_init__(self) -> None:
        self.text = self.text.strip()
        self.prompt_id = prompt_id(self.text)
        self.group = self.group or self.prompt_id


@dataclass(slots=True)
class ImageRow:
    """One captioned image; `image` and `digest` are set when it is decoded.

    `name` is what pairs call it. `for_pairs` marks an image that only pairs brought. `unfit` is what the data set's own
    metadata say against it, such as the probability that it is unsafe; empty for an image to keep.
    """

    name: str
    data: bytes
    text: str
    source: str
    group: str = ""
    quality: float | None = None
    attributes: str | None = None
    for_pairs: bool = False
    image: Image | None = None
    digest: str = ""
    split: str = ""
    unfit: str = ""
    prompt_id: str = ""

    def __post_init__(self) -> None:
        self.text = self.text.strip()
        self.prompt_id = prompt_id(self.text)
        self.group = self.group or self.prompt_id

    @property
    def image_id(self) -> str:
        """First 12 hexadecimal digits of the SHA-256 of the pixels."""
        return self.digest[:12]

    @property
    def pixels(self) -> Image:
        """The decoded image."""
        assert self.image is not None, f"{self.name} has not been decoded"
        return self.image


@dataclass(slots=True)
class PairRow:
    """One comparison: two images by name or image_id, and the share of votes for a, None where nobody judged.

    `weight` is 0 or more; `annotator` is empty where nobody is named; `caption_a` and `caption_b` are captions of the
    images' own, empty where that is the prompt.
    """

    name: str
    text: str
    a: str
    b: str
    preference: float | None
    source: str
    weight: float = 1.0
    annotator: str = ""
    caption_a: str = ""
    caption_b: str = ""
    split: str = ""
    prompt_id: str = ""

    def __post_init__(self) -> None:
        # Prompts and images come back in many pairs; one copy of each is enough for a million of them.
        self.text, self.prompt_id = sys.intern(self.text.strip()), sys.intern(prompt_id(self.text))
        self.a, self.b, self.annotator = sys.intern(self.a), sys.intern(self.b), sys.intern(self.annotator)
        self.caption_a, self.caption_b = sys.intern(self.caption_a.strip()), sys.intern(self.caption_b.strip())

    @property
    def captions(self) -> tuple[str, str]:
        """What is said of images a and b: a caption of their own, or the prompt."""
        return self.caption_a or self.text, self.caption_b or self.text


@dataclass(frozen=True)
class Offer:
    """A pair as a source gives it, with the images it brings along; the others must be known already."""

    pair: PairRow
    brings: tuple[ImageRow, ...] = ()


@dataclass(frozen=True)
class Stream(Generic[T]):
    """Rows to come, how many there are (or at most are), and what of the source is no row: known at its end."""

    rows: Iterator[T]
    total: int
    left_out: LeftOut = field(default_factory=LeftOut)


class Row(Protocol):
    """Anything with a name to report."""

    name: str


class TextRow(Row, Protocol):
    """A row with a text: a prompt, the caption of an image, the prompt of a pair."""

    text: str
    split: str
    prompt_id: str


R = TypeVar("R", bound=Row)
R_contra = TypeVar("R_contra", bound=Row, contravariant=True)


@dataclass(frozen=True)
class Filter(Generic[R_contra]):
    """A named condition: `fault` says what is wrong with a row, or is empty for a row to keep."""

    name: str
    fault: Callable[[R_contra], str]


class Tally:
    """How many rows of a table came in, were removed by each filter, and went out."""

    def __init__(self, filters: Iterable[str]) -> None:
        self.entered = 0
        self.steps = {name: Step() for name in filters}
        self.splits: dict[str, int] = {}
        self.left_out: dict[str, LeftOut] = {}

    @property
    def left(self) -> int:
        """Rows that no filter removed."""
        return self.entered - sum(step.removed for step in self.steps.values())

    def remove(self, name: str, row: Row, fault: str) -> None:
        """Count `row` as removed by the filter `name`."""
        self.steps[name].add(f"{row.name}: {fault}")

    def require_rows(self, where: str) -> None:
        """Raise InputError when nothing is left."""
        if not self.entered:
            steps = [(name, step) for each in self.left_out.values() for name, step in each.counts().items()]
            found = "; left out: " + ", ".join(f"{step.removed} {name}" for name, step in steps) if steps else ""
            raise InputError(f"{where}: the sources hold no rows, expected at least one{found}")
        if not self.left:
            removed = {name: step for name, step in self.steps.items() if step.removed}
            counts = ", ".join(f"{name} {step.removed}" for name, step in removed.items())
            example = next(step.examples[0] for step in removed.values())
            raise InputError(f"{where}: nothing left of {self.entered} rows; removed by {counts} (such as {example})")

    def as_json(self) -> dict[str, object]:
        """The counts for the manifest, in the order in which the filters are applied; last what is no row."""
        left, filters = self.entered, []
        for name, step in self.steps.items():
            left -= step.removed
            filters.append({"filter": name, "removed": step.removed, "left": left, "examples": step.examples})
        counts: dict[str, object] = {
            "in": self.entered,
            "filters": filters,
            "out": left,
            "splits": dict(sorted(self.splits.items())),
        }
        unread = [
            {"source": name, "reason": reason, "count": step.removed, "examples": step.examples}
            for name, left_out in self.left_out.items()
            for reason, step in left_out.counts().items()
        ]
        return counts | ({"left_out": unread} if unread else {})


def sift(rows: Iterable[R], filters: Sequence[Filter[R]], tally: Tally) -> Iterator[R]:
    """The rows that every filter keeps, one by one."""
    for row in rows:
        tally.entered += 1
        if passes(row, filters, tally):
            yield row


def passes(row: R, filters: Iterable[Filter[R]], tally: Tally) -> bool:
    """Whether no filter finds a fault in `row`; the first that does counts it."""
    for each in filters:
        fault = each.fault(row)
        if fault:
            tally.remove(each.name, row, fault)
            return False
    return True
