"""Write the page of a study: verdict, figures, tables, and the numbers for `dvc metrics` and `dvc plots`."""

from __future__ import annotations

import argparse
from pathlib import Path
from typing import TYPE_CHECKING, Any

from stages import lineage
from stages.report import figure, settings
from stages.runtime import run_and_leave

if TYPE_CHECKING:
    from stages.lineage import Job
    from stages.report.data import Folders
    from stages.report.settings import ReportStudy


def main() -> None:
    """Command line of the stage."""
    from stages.report import earlier_page
    from stages.report.data import Folders

    parser = argparse.ArgumentParser(prog="python -m stages.report", description=__doc__)
    parser.add_argument("--params", type=Path, required=True, help="study file")
    parser.add_argument("--data", type=Path, required=True, help="folder of curate: manifest.json")
    parser.add_argument("--scores", type=Path, required=True, help="folder of score: NAME.json for every reward")
    parser.add_argument("--runs", type=Path, required=True, help="folder of finetune: RUN/train_log.parquet")
    parser.add_argument("--samples", type=Path, required=True, help="folder of sample: RUN.parquet and base.parquet")
    parser.add_argument(
        "--measures", type=Path, required=True, help="folder of measure: RUN.parquet, RUN.summary.parquet"
    )
    parser.add_argument("--predictors", type=Path, help="folder of distilled models: NAME/train_log.parquet")
    parser.add_argument("--decided", type=Path, help="shares.parquet of decided, where the study has that section")
    parser.add_argument("--select", type=Path, help="manifest.json of select, where the study has that section")
    parser.add_argument(
        "--against",
        type=Path,
        help="folder of an earlier report of this study, in place of report.against of the study file",
    )
    parser.add_argument("--out", type=Path, required=True, help="written: index.html, metrics.json, figures, tables")
    args = parser.parse_args()
    study = settings.read(args.params)
    named = study.report.against if args.against is None else args.against
    against = None if named is None else Path(named)
    folders = Folders(
        data=args.data, scores=args.scores, runs=args.runs, samples=args.samples, measures=args.measures, out=args.out,
        predictors=args.predictors, decided=args.decided, select=args.select, params=args.params, against=against,
    )  # fmt: skip
    inputs = [folders.measures / f"{run}.summary.parquet" for run in ("base", *study.runs)]
    inputs += [Path(study.report.votes)] if study.report.votes else []
    inputs += [path for path in (args.decided, args.select) if path]
    inputs += [against / earlier_page.PAGE] if against else []
    outputs = [folders.out / name for name in figure.outputs(study.report.figures, against is not None)]
    with lineage.job(params=args.params, stage="report", inputs=inputs, outputs=outputs) as job:
        write_report(study, folders, job)
        for path in outputs:
            if path.suffix == ".png" or path.name in figure.PAGE_FILES:
                job.artifact(path)


def write_report(study: ReportStudy, folders: Folders, job: Job) -> None:
    """Read and draw everything first, then write every output; raises InputError before anything is written."""
    from stages.report import data, earlier, files, interactive, judges, page, probe_sheets, provenance, sources
    from stages.report.timeline import timeline

    found = data.read(study, folders.measures, folders.samples, folders.runs, folders.decided)
    background = data.background(study, folders)
    figures = figure.figures(study.report.figures)
    drawn = [one.draw(found) for one in figures]
    numbers = files.headline(found)
    origin = provenance.read(found, folders)
    before = (
        None
        if folders.against is None
        else earlier.read(folders.against, study.study.name, origin, _named(folders, study))
    )
    probed = probe_sheets.sheets(study, folders.runs)
    block = interactive.block(found, origin, before, probed, sources.read(found, background, folders))

    out = folders.out
    for one, picture in zip(figures, drawn, strict=True):
        figure.save(picture, [out / file for file in one.about.files])
        if one.rows:
            files.write_csv(out / one.about.table, files.named(found, one.rows(found)))
    files.write_json(out / "metrics.json", numbers)
    tables = {
        "summary.csv": files.summary(found.findings), "differences.csv": files.differences(found.findings),
        "judges.csv": judges.rows(found), **({figure.EARLIER_TABLE: earlier.rows(found, before)} if before else {}),
    }  # fmt: skip
    for name, rows in tables.items():
        files.write_csv(out / name, files.named(found, rows))
    job.metrics(_flat(numbers))
    jobs = timeline(Path(job.record.folder), leave_out=job.record.title)
    page.write(out / "index.html", found, background, figures, jobs, _linked(study, folders, figures), block,
               earlier.since(found, before) if before else None, probed)  # fmt: skip


def _named(folders: Folders, study: ReportStudy) -> str:
    """Where the earlier report was named: in the study file, or on the command line."""
    of_study = study.report.against is not None and folders.against == Path(study.report.against)
    return f"{folders.params}: report.against" if of_study else "--against"


def _flat(numbers: dict[str, Any], prefix: str = "") -> dict[str, float]:
    """The claims and gaps of `metrics.json` under names like `gap/proxy/attribute_diversity`."""
    found: dict[str, float] = {}
    for key, value in numbers.items():
        if key in ("runs", "base"):
            continue
        if isinstance(value, dict):
            found |= _flat(value, f"{prefix}{key}/")
        elif value is not None:
            found[f"{prefix}{key}"] = float(value)
    return found


def _linked(study: ReportStudy, folders: Folders, figures: list[figure.Figure]) -> list[tuple[str, Path]]:
    """The files that the page links to, each with what it holds."""
    found = [
        ("every metric of every setting", folders.out / "summary.csv"),
        ("paired differences", folders.out / "differences.csv"),
        ("rank correlations of the judges", folders.out / "judges.csv"),
        *(
            (f"numbers of the figure “{one.about.title}”", folders.out / one.about.table)
            for one in figures
            if one.about.table
        ),
        ("headline numbers", folders.out / "metrics.json"),
        ("counts of curation", folders.data / "manifest.json"),
        *([("what the steps over pairs did", folders.select)] if folders.select else []),
    ]
    for run in ("base", *study.runs):
        found.append((f"scores of {run}", folders.measures / f"{run}.parquet"))
        found.append((f"images of {run}", folders.samples / f"{run}.parquet"))
    found += [(f"training log of {run}", folders.runs / run / "train_log.parquet") for run in study.trained_runs]
    return found


if __name__ == "__main__":
    run_and_leave(main)
