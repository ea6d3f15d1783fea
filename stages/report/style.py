"""How names, numbers, colours and lines look, the same in every figure and table."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from stages.report.settings import ReportStudy
from stages.runtime import whole_file

if TYPE_CHECKING:
    from matplotlib.figure import Figure

INK, MUTED, RULE = "#1f2328", "#6b7280", "#d9dde3"
BASE_COLOUR = "#4b5563"
REFERENCE_COLOUR, CANDIDATE_COLOUR = "#0072b2", "#d55e00"
OTHER_COLOURS = ("#009e73", "#cc79a7", "#b58900", "#56b4e9", "#7f3c8d", "#80ba5a", "#a0522d", "#008695")
"""Okabe and Ito's palette, told apart under the common kinds of colour blindness, then darker relatives."""
MARKERS = ("o", "s", "^", "v", "D", "P", "X", "<", ">", "h")

METHOD_NAMES = {
    "refl": "ReFL", "imagerefl": "ImageReFL", "draft1": "DRaFT-1", "draft_k": "DRaFT-K", "draftk": "DRaFT-K",
    "draftlv": "DRaFT-LV", "draft_lv": "DRaFT-LV", "alignprop": "AlignProp", "vader": "VADER", "ddpo": "DDPO",
    "dpok": "DPOK", "dpo": "Diffusion-DPO", "spo": "SPO", "sqdf": "SQDF", "drtune": "DRTune", "hrf": "HRF",
    "awm": "AWM", "d3po": "D3PO", "tailorpo": "TailorPO",
}  # fmt: skip
WORDS = {
    "fid": "FID", "kid": "KID", "clip": "CLIP", "clipscore": "CLIPScore", "vendi": "Vendi score", "dino": "DINO",
    "hps": "HPS", "hpsv2": "HPSv2", "pickscore": "PickScore", "imagereward": "ImageReward", "aig": "AIG", "rlg": "RLG",
    "heldout": "held-out",
}  # fmt: skip


@dataclass(frozen=True)
class Look:
    """Names and colours of one study."""

    methods: tuple[str, ...]
    reference: str
    candidate: str | None
    reward: str
    heldout: str | None
    rewards: tuple[str, ...]

    @classmethod
    def of(cls, study: ReportStudy) -> Look:
        """The look of a study; the candidate is None where it has no run."""
        candidate = study.report.candidate if study.report.candidate in study.methods else None
        about = study.study
        return cls(study.methods, about.reference, candidate, about.reward, about.heldout, study.report.rewards)

    @property
    def featured(self) -> tuple[str, ...]:
        """The reference and the candidate: the methods that the claims are about."""
        return tuple(dict.fromkeys(name for name in (self.reference, self.candidate) if name))

    @property
    def order(self) -> tuple[str, ...]:
        """All methods, featured ones first."""
        return (*self.featured, *(name for name in self.methods if name not in self.featured))

    def colour(self, method: str) -> str:
        """The colour of a method in every figure."""
        if method == "base":
            return BASE_COLOUR
        if method == self.reference:
            return REFERENCE_COLOUR
        if method == self.candidate:
            return CANDIDATE_COLOUR
        others = [name for name in self.methods if name not in self.featured]
        return OTHER_COLOURS[others.index(method) % len(OTHER_COLOURS)]

    def marker(self, method: str) -> str:
        """The marker of a method, so that colour is never the only difference."""
        return MARKERS[self.order.index(method) % len(MARKERS)]

    def metric(self, name: str) -> str:
        """A metric in words: `proxy reward`, `attribute diversity`, `FID (CLIP)`."""
        if name in self.rewards:
            return f"{words(name)} reward"
        head, _, tail = name.partition("_")
        if tail and head in ("fid", "kid", "precision", "recall", "vendi"):
            return f"{words(head)} ({words(tail)})"
        return words(name)

    def role(self, reward: str) -> str:
        """What a reward is to the study."""
        return "trained on" if reward == self.reward else "never trained on"

    def axis(self, reward: str) -> str:
        """A reward as the label of an axis."""
        return f"{self.metric(reward)} ({self.role(reward)})"


def method_name(method: str) -> str:
    """A method as the field writes it; unknown names as they stand in the study file."""
    return METHOD_NAMES.get(method, method)


def words(name: str) -> str:
    """`patch_diversity` as `patch diversity`, abbreviations as they are written."""
    return " ".join(WORDS.get(part, part) for part in name.split("_"))


def strategy_name(strategy: str) -> str:
    """A strategy in words."""
    known = {"tuned": "tuned only", "combined": "combined generation", "aig_guided": "AIG, guided base"}
    return known.get(strategy, words(strategy))


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
