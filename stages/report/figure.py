"""What a figure is: a file in `stages/report/figures`, or an installed module, with `ABOUT`, `caption` and `draw`.

A figure's file declares everything that others need to know: which files the report writes for it (so planning imports
no torch for it), in which section of the page it stands, and its words. It may give the numbers behind it as a table
(`rows`), and say that it has nothing to show in a study (`shown`).
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from stages import about, plugins
from stages.about import About
from stages.errors import InputError
from stages.report.settings import FIGURES, GROUP

if TYPE_CHECKING:
    from matplotlib.figure import Figure as Drawing
    from PIL.Image import Image

    from stages.report.data import Logged, ReportData

PAGE_FILES = ("index.html", "metrics.json")
TABLE_FILES = ("summary.csv", "differences.csv", "judges.csv")
EARLIER_TABLE = "against.csv"
"""Written where a report is compared with an earlier one."""


@dataclass(frozen=True)
class FigureAbout(About):
    """What a figure says: `title` is its heading, `source` may name where its form comes from.

    `files` are written below the report's folder, each in the format of its ending; the first one stands on the page.
    `section` is a section of the page (`frontier`, `strategies`, `training`, `samples`, ...), or the name of a new one.
    `place` orders the figures. `alt` says in words what the figure shows, for readers who cannot see it. `table` is the
    CSV file of the numbers behind it. A `standard` figure is drawn in every study, others where `report.figures` names
    them. `needs` is a section of the study file without which there is nothing to draw. `logged`: `draw` takes a
    `Logged` and no more, so `python -m stages.report.redraw` draws the figure from kept training logs; `kept`: it
    takes no images and no training logs, so that kept scores and costs are enough.
    """

    files: tuple[str, ...] = ()
    section: str = "more"
    place: int = 100
    alt: str = ""
    table: str = ""
    standard: bool = False
    needs: str = ""
    logged: bool = False
    kept: bool = False


@dataclass(frozen=True)
class Figure:
    """A figure: what it says about itself, and its functions; `redraw` is `draw` where training logs are enough."""

    kind: str
    about: FigureAbout
    caption: Callable[[ReportData], str]
    draw: Callable[[ReportData], Drawing | Image]
    rows: Callable[[ReportData], Sequence[dict[str, object]]] | None
    shown: Callable[[ReportData], bool]
    redraw: Callable[[Logged], Drawing | Image] | None = None

    @property
    def files(self) -> tuple[str, ...]:
        """Everything that the report writes for it."""
        return (*self.about.files, *([self.about.table] if self.about.table else ()))


def load(kind: str) -> Figure:
    """The figure of this kind; raises InputError where it is not installed or its module is not a figure."""
    module = plugins.load(FIGURES, GROUP, kind, "report.figures")
    says = about.of(module, kind, FigureAbout)
    for name in ("caption", "draw", *(["rows"] if says.table else ())):
        if not callable(getattr(module, name, None)):
            raise InputError(f"report.figures: {kind!r} has no function {name!r}, expected ABOUT, caption and draw")
    if not says.files:
        raise InputError(f"report.figures: {kind!r} declares no files, expected FigureAbout(files=...) in its ABOUT")
    rows = module.rows if says.table else None
    redraw = module.draw if says.logged else None
    return Figure(kind, says, module.caption, module.draw, rows, getattr(module, "shown", _always), redraw)


def figures(named: Iterable[str]) -> list[Figure]:
    """The standard figures of this project and those `named` in `report.figures`, in their order on the page.

    Raises InputError where two figures write one file.
    """
    found = {kind: load(kind) for kind in (*plugins.every("stages.report.figures"), *named)}
    chosen = [figure for kind, figure in found.items() if kind in set(named) or figure.about.standard]
    owners: dict[str, str] = dict.fromkeys((*PAGE_FILES, *TABLE_FILES, EARLIER_TABLE), "the page")
    for figure in chosen:
        for file in figure.files:
            if file in owners:
                raise InputError(f"report.figures: {file} is written by {figure.kind!r} and by {owners[file]!r}")
            owners[file] = figure.kind
    return sorted(chosen, key=lambda figure: (figure.about.place, figure.kind))


def outputs(named: Iterable[str] = (), earlier: bool = False) -> tuple[str, ...]:
    """Everything that the report of a study with these `report.figures` writes, below its folder; `earlier` where it is
    compared with an earlier one. Torch-free.
    """
    chosen = figures(named)
    pictures = [file for figure in chosen for file in figure.about.files]
    tables = [figure.about.table for figure in chosen if figure.about.table]
    return (*PAGE_FILES, *pictures, *TABLE_FILES, *([EARLIER_TABLE] if earlier else ()), *tables)


def _always(data: ReportData) -> bool:
    return True


def save(drawn: Drawing | Image, paths: Iterable[Path]) -> None:
    """Write what `draw` returned to each path (the ending names the format), whole or not at all."""
    from PIL.Image import Image

    from stages.report import style
    from stages.runtime import whole_file

    if not isinstance(drawn, Image):
        style.save(drawn, list(paths))
        return
    for path in paths:
        with whole_file(path) as partial:
            drawn.save(partial, path.suffix[1:].upper(), optimize=True)
