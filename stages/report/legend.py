"""A legend above the panels, and axis labels, that always fit on the figure."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure
    from matplotlib.legend import Legend
    from matplotlib.lines import Line2D
    from matplotlib.text import Text

MARGIN = 0.08
"""Inches between the legend and the edges of the figure."""


def arrange(figure: Figure, handles: Sequence[Line2D], w_pad: float = 1.4, h_pad: float = 1.2) -> None:
    """Write one legend above all panels, in as few rows as its width allows, and arrange the panels below it.

    The figure grows by the legend's height, and to the width of its widest entry where it is narrower than that. Axis
    labels and titles longer than their panel are wrapped. Sizes are final afterwards.
    """
    dpi = figure.dpi
    columns = len(handles)
    legend = _legend(figure, handles, columns)
    while columns > 1 and _inches(legend, dpi)[0] > figure.get_figwidth() - 2 * MARGIN:
        legend.remove()
        columns -= 1
        rows = -(-len(handles) // columns)
        columns = -(-len(handles) // rows)  # rows of nearly equal length
        legend = _legend(figure, handles, columns)
    width, height = _inches(legend, dpi)
    legend.remove()
    figure.set_size_inches(max(figure.get_figwidth(), width + 2 * MARGIN), figure.get_figheight() + height + MARGIN)
    for axes in figure.axes:
        _wrap(axes)
    top = 1 - (height + MARGIN) / figure.get_figheight()
    figure.tight_layout(rect=(0, 0, 1, top), w_pad=w_pad, h_pad=h_pad)
    _legend(figure, handles, columns)


def _legend(figure: Figure, handles: Sequence[Line2D], columns: int) -> Legend:
    edge = 1 - 0.5 * MARGIN / figure.get_figheight()
    return figure.legend(
        handles=list(handles), loc="upper center", bbox_to_anchor=(0.5, edge), ncols=columns, fontsize=9,
        handlelength=2.6, columnspacing=1.5, borderpad=0.1, borderaxespad=0,
    )  # fmt: skip


def _inches(legend: Legend, dpi: float) -> tuple[float, float]:
    box = legend.get_window_extent()
    return box.width / dpi, box.height / dpi


def _wrap(axes: Axes) -> None:
    """Break the lines of an axes' title and labels that are longer than the panel is wide or high."""
    box = axes.get_window_extent()
    for text in (axes.xaxis.label, axes.set_title(axes.get_title(loc="left"), loc="left")):
        wrap(text, box.width)
    wrap(axes.yaxis.label, box.height, along=1)


def wrap(text: Text, room: float, along: int = 0) -> None:
    """Break a text into lines of at most `room` pixels, at its blanks; `along` 1 for a text that runs upwards."""
    lines: list[str] = []
    for word in text.get_text().split(" "):
        text.set_text(f"{lines[-1]} {word}" if lines else word)
        if lines and text.get_window_extent().bounds[2 + along] <= room:
            lines[-1] = text.get_text()
        else:
            lines.append(word)
    text.set_text("\n".join(lines))
