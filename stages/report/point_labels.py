"""Writing short texts beside points so that none lies on another text or point; what finds no place is left out."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    import numpy as np
    from matplotlib.axes import Axes
    from matplotlib.text import Annotation

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
"""Where a text may stand, by compass: right and up."""

Box = tuple[float, float, float, float]
"""Left, bottom, right, top, in pixels."""


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

    `points`, in data coordinates, are not written over, and no label leaves the panel. Returns the labels that found a
    place.
    """
    pixels = axes.get_figure(root=True).dpi / 72  # type: ignore[union-attr]
    panel = axes.get_window_extent()
    taken = [_around(axes.transData.transform(point), 2.5 * pixels) for point in points]
    written = []
    for label in labels:
        for direction in _order(label.toward):
            text = _write(axes, label, DIRECTIONS[direction])
            box = text.get_window_extent().extents
            inside = panel.x0 <= box[0] and panel.y0 <= box[1] and box[2] <= panel.x1 and box[3] <= panel.y1
            if inside and not any(_overlap(box, other) for other in taken):
                taken.append(box)
                written.append(label)
                break
            text.remove()
    return written


def _write(axes: Axes, label: Label, toward: tuple[int, int]) -> Annotation:
    from matplotlib.patheffects import withStroke

    right, up = toward
    return axes.annotate(
        label.text, (label.x, label.y), xytext=(REACH * right, REACH * up), textcoords="offset points",
        fontsize=SIZE, color=label.colour, ha=("right", "center", "left")[right + 1],
        va=("top", "center", "bottom")[up + 1], zorder=6,
        path_effects=[withStroke(linewidth=2, foreground="white")],
    )  # fmt: skip


def _order(toward: str) -> list[str]:
    """All directions by how far they are turned away from `toward`."""
    names = list(DIRECTIONS)
    start = names.index(toward)
    turns = sorted(range(len(names)), key=lambda turn: min(turn, len(names) - turn))
    return [names[(start + turn) % len(names)] for turn in turns]


def _around(spot: np.ndarray, reach: float) -> Box:
    x, y = map(float, spot)
    return x - reach, y - reach, x + reach, y + reach


def _overlap(a: Box, b: Box) -> bool:
    return a[0] < b[2] and b[0] < a[2] and a[1] < b[3] and b[1] < a[3]
