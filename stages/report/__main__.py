"""Write the page of a study: verdict, figures, tables, and the numbers for `dvc metrics` and `dvc plots`."""

from __future__ import annotations

import argparse
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from stages import lineage
from stages.report import settings
from stages.runtime import run_stage, whole_file

if TYPE_CHECKING:
    from stages.lineage import Job
    from stages.report.settings import ReportStudy

FIGURES = (
    "frontier.svg",
    "frontier.png",
    "strategies.svg",
    "strategies.png",
    "training.svg",
    "training.png",
    "queries.svg",
    "queries.png",
    "grid.png",
)
TABLES = ("summary.csv", "differences.csv", "plots/frontier.csv", "plots/training.csv")
OUTPUTS = ("index.html", "metrics.json", *FIGURES, *TABLES)
"""Everything that the report writes into its folder."""


@dataclass(frozen=True)
class Folders:
    """Where the results of the other stages stand, and where the report goes."""

    data: Path
    scores: Path
    runs: Path
    samples: Path
    measures: Path
    out: Path
    predictors: Path | None = None


def main() -> None:
    """Command line of the stage."""
    parser = argparse.ArgumentParser(prog="python -m stages.report", description=__doc__)
    parser.add_argument("--params", type=Path, required=True, help="study file")
    parser.add_argument("--data", type=Path, required=True, help="folder of curate: manifest.json")
    parser.add_argument("--scores", type=Path, required=True, help="folder of score: NAME.json a reward")
    parser.add_argument("--runs", type=Path, required=True, help="folder of finetune: RUN/train_log.parquet")
    parser.add_argument("--samples", type=Path, required=True, help="folder of sample: RUN.parquet and base.parquet")
    parser.add_argument(
        "--measures", type=Path, required=True, help="folder of measure: RUN.parquet, RUN.summary.parquet"
    )
    parser.add_argument("--predictors", type=Path, help="folder of distilled models: NAME/train_log.parquet")
    parser.add_argument("--out", type=Path, required=True, help=f"written: {', '.join(OUTPUTS)}")
    args = parser.parse_args()
    study = settings.read(args.params)
    folders = Folders(args.data, args.scores, args.runs, args.samples, args.measures, args.out, args.predictors)
    inputs = [folders.measures / f"{run}.summary.parquet" for run in ("base", *study.runs)]
    inputs += [Path(study.report.votes)] if study.report.votes else []
    outputs = [folders.out / name for name in OUTPUTS]
    with lineage.job(params=args.params, stage="report", inputs=inputs, outputs=outputs) as job:
        write_report(study, folders, job)
        for name in ("index.html", "metrics.json", *(name for name in FIGURES if name.endswith(".png"))):
            job.artifact(folders.out / name)


def write_report(study: ReportStudy, folders: Folders, job: Job) -> None:
    """Read everything first, then write every output; raises InputError before anything is written."""
    from stages.report import (
        curation,
        frontier,
        grids,
        load,
        metrics,
        page,
        people,
        queries,
        rows,
        students,
        style,
        timeline,
        training,
    )
    from stages.report.verdict import Bootstrap, verdict

    evaluation = load.evaluation(study, folders.measures, folders.samples)
    log = load.training(study, folders.runs)
    manifest = curation.manifest(folders.data / "manifest.json")
    accuracies = curation.accuracies(study, folders.scores)
    voted = people.read(study, folders.samples)
    look, bootstrap = style.Look.of(study), Bootstrap.of(study, evaluation)
    picture = grids.grid(study, evaluation, look, folders.samples)
    found = verdict(study, evaluation, bootstrap)
    estimates, differences = rows.estimates(evaluation, bootstrap), rows.differences(study, evaluation, bootstrap)
    numbers = metrics.headline(study, evaluation, found)

    out = folders.out
    style.use()
    frontier.write_frontier(study, evaluation, bootstrap, look, [out / "frontier.svg", out / "frontier.png"])
    frontier.write_strategies(study, evaluation, bootstrap, look, [out / "strategies.svg", out / "strategies.png"])
    training.write_training(study, log, look, [out / "training.svg", out / "training.png"])
    queries.write_queries(study, log, look, [out / "queries.svg", out / "queries.png"])
    with whole_file(out / "grid.png") as partial:
        picture.save(partial, "PNG", optimize=True)
    metrics.write(out / "metrics.json", numbers)
    rows.write_csv(out / "summary.csv", rows.summary_rows(evaluation, estimates))
    rows.write_csv(out / "differences.csv", rows.difference_rows(evaluation, differences))
    rows.write_csv(out / "plots" / "frontier.csv", frontier.points(study, evaluation))
    rows.write_csv(out / "plots" / "training.csv", training.rows(study, log))
    job.metrics(_flat(numbers))
    content = page.Content(
        study, evaluation, look, found, estimates, differences, log, training.turns(study, log), manifest, accuracies,
        timeline.timeline(Path(job.record.folder), leave_out=job.record.title),
        load.metric_ids(study, folders.measures), voted, students.read(folders.predictors),
    )  # fmt: skip
    figures = [out / name for name in ("frontier.svg", "strategies.svg", "training.svg", "queries.svg", "grid.png")]
    page.write(out / "index.html", content, figures, _linked(study, folders))


def _flat(numbers: dict, prefix: str = "") -> dict[str, float]:
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


def _linked(study: ReportStudy, folders: Folders) -> list[tuple[str, Path]]:
    """The files that the page links to, each with what it holds."""
    found = [
        ("every metric of every setting", folders.out / "summary.csv"),
        ("paired differences", folders.out / "differences.csv"),
        ("points of the frontiers", folders.out / "plots" / "frontier.csv"),
        ("probes during training", folders.out / "plots" / "training.csv"),
        ("headline numbers", folders.out / "metrics.json"),
        ("counts of curation", folders.data / "manifest.json"),
    ]
    for run in ("base", *study.runs):
        found.append((f"scores of {run}", folders.measures / f"{run}.parquet"))
        found.append((f"images of {run}", folders.samples / f"{run}.parquet"))
    found += [(f"training log of {run}", folders.runs / run / "train_log.parquet") for run in study.runs]
    return found


if __name__ == "__main__":
    run_stage(main)
