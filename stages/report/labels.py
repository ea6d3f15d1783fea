"""Writing short texts beside points so that none lies on another text or point; what finds no place is left out."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from matplotlib.axes import Axes

SIZE = 7.0
"""Font size in points."""
REACH = 5.5
"""Distance of a text from its point, in points."""
DIRECTIONS = {
    "ne": (1, 1),
    "e": (1, 0),
    "se": (1, -1),
    "s": (0, -1),
    "sw": (-1, -1),
    "w": (-1, 0),
    "nw": (-1, 1),
    "n": (0, 1),
}
"""Where a text may stand, by compass."""

Box = tuple[float, float, float, float]
"""Left, bottom, right, top, in points."""


@dataclass(frozen=True)
class Label:
    """A text for the point (x, y) in data coordinates, and the direction in which it would best stand."""

    text: str
    x: float
    y: float
    colour: str
    toward: str


def place(axes: Axes, labels: Sequence[Label], points: Sequence[tuple[float, float]]) -> list[Label]:
    """Write labels into a panel whose limits and size are final; earlier labels get the better places.

    `points`, in data coordinates, are not written over. Returns the labels that found a place.
    """
    from matplotlib.patheffects import withStroke

    scale = 72 / axes.figure.dpi  # type: ignore[union-attr]
    taken = [_around(*(axes.transData.transform(point) * scale)) for point in points]
    written = []
    for label in labels:
        x, y = axes.transData.transform((label.x, label.y)) * scale
        for direction in _order(label.toward):
            right, up = DIRECTIONS[direction]
            box = _box(label.text, x, y, right, up)
            if any(_overlap(box, other) for other in taken):
                continue
            axes.annotate(
                label.text, (label.x, label.y), xytext=(REACH * right, REACH * up), textcoords="offset points",
                fontsize=SIZE, color=label.colour, ha=("right", "center", "left")[right + 1],
                va=("top", "center", "bottom")[up + 1], zorder=6,
                path_effects=[withStroke(linewidth=2, foreground="white")],
            )  # fmt: skip
            taken.append(box)
            written.append(label)
            break
    return written


def _order(toward: str) -> list[str]:
    """All directions by how far they are turned away from `toward`."""
    names = list(DIRECTIONS)
    start = names.index(toward)
    turns = sorted(range(len(names)), key=lambda turn: min(turn, len(names) - turn))
    return [names[(start + turn) % len(names)] for turn in turns]


def _box(text: str, x: float, y: float, right: int, up: int) -> Box:
    width, height = 0.62 * SIZE * len(text), 0.95 * SIZE
    left, bottom = x + REACH * right - (1 - right) / 2 * width, y + REACH * up - (1 - up) / 2 * height
    return left, bottom, left + width, bottom + height


def _around(x: float, y: float) -> Box:
    return x - 2.5, y - 2.5, x + 2.5, y + 2.5


def _overlap(a: Box, b: Box) -> bool:
    return a[0] < b[2] and b[0] < a[2] and a[1] < b[3] and b[1] < a[3]
