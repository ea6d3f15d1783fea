"""How numbers look in tables, and what matplotlib is set to: the same in every figure."""

from __future__ import annotations

import math
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from stages.report.look import INK, MUTED
from stages.runtime import whole_file

if TYPE_CHECKING:
    from matplotlib.figure import Figure


def digits(half: float, mean: float = 0.0) -> int:
    """Decimal places (0 to 4) for a number known to within `half`: one digit of it, two where it starts with 1.

    Where there is no such width, as many as show three digits of `mean`.
    """
    if math.isfinite(half) and half > 1e-9 * abs(mean):
        order = math.floor(math.log10(half))
        places = -order + (half / 10**order < 2)
    elif math.isfinite(mean) and mean:
        places = 2 - math.floor(math.log10(abs(mean)))
    else:
        places = 3
    return min(4, max(0, places))


def number(value: float, places: int | None = None, sign: bool = False) -> str:
    """A number with a real minus sign; `–` where there is none."""
    if value is None or not math.isfinite(value):
        return "–"
    places = digits(0, value) if places is None else places
    text = f"{value:{'+' if sign else ''}.{places}f}"
    if float(text) == 0:
        text = text.lstrip("+-")
    return text.replace("-", "−")


def plain(text: str) -> str:
    """Text for a file name or a key: letters, digits and underscores."""
    return "".join(character if character.isalnum() else "_" for character in text)


def use() -> None:
    """Set matplotlib to the page's look and to output that depends on the data alone."""
    import matplotlib

    matplotlib.use("Agg")
    matplotlib.rcParams.update(
        {
            "font.size": 9, "axes.titlesize": 10, "axes.labelsize": 9, "xtick.labelsize": 8, "ytick.labelsize": 8,
            "axes.edgecolor": "#9aa1ab", "axes.labelcolor": INK, "text.color": INK, "xtick.color": MUTED,
            "ytick.color": MUTED, "axes.spines.top": False, "axes.spines.right": False, "axes.grid": True,
            "grid.color": "#eceff3", "grid.linewidth": 0.8, "axes.axisbelow": True, "legend.frameon": False,
            "lines.solid_capstyle": "round", "figure.facecolor": "white", "savefig.facecolor": "white",
            "svg.hashsalt": "report", "figure.dpi": 100,
            "text.parse_math": False,  # a title may have dollar signs; no figure writes formulas
        }
    )  # fmt: skip


def save(figure: Figure, paths: Sequence[Path]) -> None:
    """Write a figure to each path (the ending names the format), whole or not at all, without a date inside."""
    import matplotlib.pyplot as plt

    for path in paths:
        metadata = {"Date": None} if path.suffix == ".svg" else {"Software": None}
        with whole_file(path) as partial:
            figure.savefig(partial, format=path.suffix[1:], dpi=150, metadata=metadata)
    plt.close(figure)
