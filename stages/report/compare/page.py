"""The page of several studies: one HTML file that stands alone."""

from __future__ import annotations

import base64
from pathlib import Path

from stages.report import style
from stages.report.compare.points import Compared, Finished, Value
from stages.report.look import BASE
from stages.report.table import Cell, Table
from stages.runtime import whole_file

HERE = Path(__file__).parent


def write(path: Path, compared: Compared) -> None:
    """Write the page, whole or not at all; `frontier.svg` stands beside it already."""
    from jinja2 import Environment, FileSystemLoader, StrictUndefined

    environment = Environment(
        loader=FileSystemLoader(HERE), autoescape=True, undefined=StrictUndefined, trim_blocks=True, lstrip_blocks=True
    )
    first = compared.studies[0]
    content = base64.b64encode((path.parent / "frontier.svg").read_bytes()).decode()
    values = {
        "names": [one.name for one in compared.studies],
        "style": (HERE.parent / "page.css").read_text(encoding="utf-8"),
        "prompts": len(first.evaluation.prompts),
        "samples": round(first.evaluation.costs[first.evaluation.base].images / len(first.evaluation.prompts)),
        "steps": first.evaluation.steps,
        "identity": compared.identity,
        "level": f"{compared.level:.0%}",
        "picture": f"data:image/svg+xml;base64,{content}",
        "pair": [first.look.metric(axis) for axis in compared.pair],
        "tables": [(one.name, table(compared, one)) for one in compared.studies],
    }
    with whole_file(path) as partial:
        partial.write_text(environment.get_template("page.html").render(values), encoding="utf-8")


def table(compared: Compared, one: Finished) -> Table:
    """Every point of a study with its rewards, diversities and network evaluations per image."""
    look, rows = compared.studies[0].look, []
    for point in one.evaluation.points:
        seeds = len(one.evaluation.seeds[point.method])
        method = "base" if point.method == BASE else f"{one.look.method(point.method)}, {seeds} seed{'s' * (seeds > 1)}"
        label = f"{one.look.strategy(point.strategy).label}, {one.evaluation.labels[point]}"
        mark = Cell("●" if (one.name, point) in compared.unbeaten else "")
        cells = [_cell(compared.values[one.name, point, axis]) for axis in compared.axes]
        rows.append([Cell(method, label), mark, *cells, Cell(f"{one.evaluation.costs[point].nfe:.0f}")])
    return Table(["", "unbeaten", *(look.metric(axis) for axis in compared.axes), "NFE"], rows)


def _cell(value: Value) -> Cell:
    found = value.estimate
    places = style.digits((found.high - found.low) / 2, found.mean)
    low, high = (style.number(end, places) for end in (found.low, found.high))
    return Cell(style.number(found.mean, places), f"{low} to {high}")
