"""Put several finished studies of one evaluation on one frontier: a page, a figure, a table of all points."""

from __future__ import annotations

import argparse
from pathlib import Path

from stages.errors import InputError
from stages.report import settings
from stages.runtime import run_and_leave

FILES = ("index.html", "frontier.svg", "frontier.png", "points.csv")


def main() -> None:
    """Command line."""
    parser = argparse.ArgumentParser(prog="python -m stages.report.compare", description=__doc__)
    parser.add_argument("studies", type=Path, nargs="+", metavar="STUDY", help="study file; two or more")
    parser.add_argument(
        "--results",
        type=Path,
        nargs="+",
        default=[],
        help="folders of their results, in that order (default: out/<name>)",
    )
    parser.add_argument("--rewards", nargs="+", default=[], help="measured rewards (default: those in all reports)")
    parser.add_argument(
        "--diversities", nargs="+", default=[], help="measured diversities (default: those in all reports)"
    )
    parser.add_argument("--out", type=Path, default=Path("out/compare"), help=f"written: {', '.join(FILES)}")
    args = parser.parse_args()
    if len(args.studies) < 2:
        raise InputError(f"{args.studies[0]}: the only study; expected two or more to compare")
    if args.results and len(args.results) != len(args.studies):
        raise InputError(
            f"--results: {len(args.results)} folders for {len(args.studies)} studies, expected one for each"
        )
    studies = [settings.read(path) for path in args.studies]
    folders = args.results or [Path("out") / study.study.name for study in studies]

    from stages.report import figure
    from stages.report.compare import frontier, page, points
    from stages.report.files import write_csv

    compared = points.read(studies, folders, args.rewards, args.diversities)
    figure.save(frontier.draw(compared), [args.out / name for name in FILES[1:3]])
    write_csv(args.out / "points.csv", points.rows(compared))
    page.write(args.out / "index.html", compared)
    print(f"{len(studies)} studies of evaluation {compared.identity}: {args.out / 'index.html'}")


if __name__ == "__main__":
    run_and_leave(main)
