"""Draw a figure again from the results that a study keeps (`stages.report.results`): one that needs nothing but
training logs, or nothing but scores and costs.
"""

from __future__ import annotations

import argparse
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from stages import plugins, tables
from stages.errors import InputError
from stages.report import figure, kept, settings
from stages.report.look import Look
from stages.report.measurements import Log, Series
from stages.runtime import run_and_leave

if TYPE_CHECKING:
    from stages.report.settings import ReportStudy


@dataclass(frozen=True)
class Kept:
    """What a figure of training logs draws from (`stages.report.data.Logged`)."""

    study: ReportStudy
    look: Look
    log: Log

    @classmethod
    def read(cls, study: ReportStudy, results: Path) -> Kept:
        """The logs in `results/training.parquet`. Raises InputError where that is no table of training logs."""
        rows = tables.read(results / "training.parquet", tables.TRAINING).to_pylist()
        found: dict[str, dict[str, list[tuple[int, float]]]] = {}
        for row in rows:
            found.setdefault(row["run"], {}).setdefault(row["term"], []).append((row["step"], row["value"]))
        log = {
            run: {term: Series(*map(np.array, zip(*points, strict=True))) for term, points in terms.items()}
            for run, terms in found.items()
        }
        return cls(study, Look.of(study), log)


def main() -> None:
    """Command line."""
    parser = argparse.ArgumentParser(prog="python -m stages.report.redraw", description=__doc__)
    parser.add_argument("--params", type=Path, required=True, help="study file")
    parser.add_argument("--results", type=Path, required=True, help="folder of the kept results")
    parser.add_argument("--figure", required=True, help="kind of the figure")
    parser.add_argument("--out", type=Path, required=True, help="file to write; its ending names the format")
    args = parser.parse_args()
    chosen, study = figure.load(args.figure), settings.read(args.params)
    if chosen.redraw is not None:
        drawn = chosen.redraw(Kept.read(study, args.results))
    elif chosen.about.kept:
        drawn = chosen.draw(kept.read(study, args.results))
    else:
        every = map(figure.load, plugins.every("stages.report.figures"))
        known = [one.kind for one in every if one.redraw or one.about.kept]
        raise InputError(
            f"--figure {args.figure}: needs more than scores, costs and training logs, which is all that results keep; "
            f"expected {' or '.join(known)}"
        )
    figure.save(drawn, [args.out])


if __name__ == "__main__":
    run_and_leave(main)
