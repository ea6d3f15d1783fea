"""Keep the results of a study: scores per prompt, costs, findings and training logs as small tables, a page, and its
figures.

The images and models of a long study are too large to keep beside the code; these few files are not, and every
interval of the page can be computed from them again.
"""

from __future__ import annotations

import argparse
import shutil
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING

from stages import tables
from stages.report import figure, kept, settings
from stages.runtime import run_and_leave, whole_file

if TYPE_CHECKING:
    from stages.report.data import ReportData
    from stages.report.findings import Finding, Findings
    from stages.report.measurements import Log
    from stages.report.settings import ComparisonSettings, ReportStudy

TERMS = (
    "reward", "loss_diffusion", "forward", "backward", "queries", "auto_start",
    "accuracy", "margin", "winner_drift", "loser_drift",
)  # fmt: skip
"""Terms of a training log that are kept, beside all probes."""


def main() -> None:
    """Command line."""
    parser = argparse.ArgumentParser(prog="python -m stages.report.results", description=str(__doc__).splitlines()[0])
    parser.add_argument("--params", type=Path, required=True, help="study file")
    parser.add_argument("--study", type=Path, required=True, help="folder of the study's results, with its report")
    parser.add_argument("--out", type=Path, required=True, help="folder to write into")
    args = parser.parse_args()
    study = settings.read(args.params)
    keep(study, args.study, args.out)
    for name, pair in study.report.comparisons.items():
        keep(between(study, pair), args.study, args.out / name, alone=True)


def between(study: ReportStudy, pair: ComparisonSettings) -> ReportStudy:
    """The study with another reference and candidate, without long training and ablations."""
    report = study.report.model_copy(update={"candidate": pair.candidate, "long": None, "ablations": ()})
    about = study.study.model_copy(update={"reference": pair.reference})
    return study.model_copy(update={"study": about, "report": report})


def keep(study: ReportStudy, results: Path, out: Path, alone: bool = False) -> None:
    """Write the tables and copy the figures of the study whose results stand in the folder `results`, and print the
    verdicts; only the page and the findings where `alone`.
    """
    from stages.report import data
    from stages.report.account import account, verdicts

    found = data.read(
        study, results / "measures", results / "samples", results / "runs", results / "decided/shares.parquet"
    )
    written = [("findings", tables.FINDINGS, findings(found.findings))]
    if not alone:
        written.append(("scores", tables.RESULTS, scores(found)))
        written.append(("costs", tables.COSTS, iter(kept.costs(found))))
        written.append(("training", tables.TRAINING, training(found.log)))
    for name, schema, rows in written:
        tables.write(out / f"{name}.parquet", tables.table(schema, list(rows)), schema)
    with whole_file(out / "README.md") as partial:
        partial.write_text(account(found), encoding="utf-8")
    print(f"{verdicts(found)}\n    more in {out / 'README.md'}")
    if alone:
        return
    pictures = (file for file in figure.outputs(study.report.figures) if Path(file).suffix == ".png")
    for name in pictures:
        with whole_file(out / name) as partial:
            shutil.copyfile(results / "report" / name, partial)


def scores(data: ReportData) -> Iterator[dict[str, object]]:
    """The mean score of every prompt at every point, for the rewards and diversities of the report and all judges."""
    evaluation = data.evaluation
    axes = (*data.study.report.rewards, *data.study.report.diversities, *data.study.judges)
    for (point, metric), values in evaluation.arrays.items():
        if metric not in axes:
            continue
        for seed, row in zip(evaluation.seeds[point.method], values, strict=True):
            about = {"method": point.method, "train_seed": seed, "strategy": point.strategy,
                     "setting": evaluation.labels[point], "metric": metric}  # fmt: skip
            for prompt, score in zip(evaluation.prompts, row, strict=True):
                yield about | {"prompt_id": prompt, "score": float(score)}


def findings(found: Findings) -> Iterator[dict[str, object]]:
    """Every finding of the claims (the reference's first), of every curve against the reference, of ablations."""
    for claim in found.claims:
        yield from map(_row, claim.parts)
    yield from (_row(row) for row in found.select("trade") if row.method != found.reference)
    for about in ("gap", "best_gap", "ablation"):
        yield from map(_row, found.select(about))


def _row(finding: Finding) -> dict[str, object]:
    wanted: dict[str, object] = {name: getattr(finding, name) for name in tables.FINDINGS.names}
    nullable = [name for name in wanted if name.startswith(("area", "p_")) or name in ("p", "detectable")]
    known = {name: wanted[name] if wanted[name] == wanted[name] else None for name in nullable}
    return wanted | known | {"per_seed": list(finding.per_seed)}


def training(log: Log) -> Iterator[dict[str, object]]:
    """The probes and a few terms of every run's log."""
    for run, terms in log.items():
        for term, series in terms.items():
            if term in TERMS or term.startswith("probe_"):
                for step, value in zip(series.steps, series.values, strict=True):
                    yield {"run": run, "step": int(step), "term": term, "value": float(value)}


if __name__ == "__main__":
    run_and_leave(main)
