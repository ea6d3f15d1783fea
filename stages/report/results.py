"""Keep what a study came to: scores a prompt, findings and training logs as small tables, a page, and its figures.

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
from stages.errors import InputError
from stages.params import nearest
from stages.report import settings
from stages.report.claims import Finding
from stages.runtime import run_stage, whole_file

if TYPE_CHECKING:
    from stages.report.load import Evaluation, Log
    from stages.report.settings import ReportStudy
    from stages.report.verdict import Verdict

FIGURES = ("frontier.png", "strategies.png", "training.png", "queries.png", "grid.png")
TERMS = ("reward", "loss_diffusion", "forward", "backward", "queries")
"""Terms of a training log that are kept, beside all probes."""


def main() -> None:
    """Command line."""
    parser = argparse.ArgumentParser(prog="python -m stages.report.results", description=__doc__.splitlines()[0])  # type: ignore[union-attr]
    parser.add_argument("--params", type=Path, required=True, help="study file")
    parser.add_argument("--study", type=Path, required=True, help="folder of the study's results, with its report")
    parser.add_argument("--out", type=Path, required=True, help="folder to write into")
    parser.add_argument(
        "--between", nargs=2, metavar=("REFERENCE", "CANDIDATE"),
        help="put the claims to these methods instead, and write the page and the findings alone",
    )  # fmt: skip
    args = parser.parse_args()
    study = settings.read(args.params)
    if args.between:
        keep(between(study, *args.between), args.study, args.out, alone=True)
    else:
        keep(study, args.study, args.out)


def between(study: ReportStudy, reference: str, candidate: str) -> ReportStudy:
    """The study with another reference and candidate, without long training and ablations; InputError for a method
    without a run.
    """
    for name in (reference, candidate):
        if name not in study.methods:
            raise InputError(f"--between: {name!r} is no method that has a run{nearest(name, study.methods)}")
    report = study.report.model_copy(update={"candidate": candidate, "long": None, "ablations": ()})
    return study.model_copy(update={"study": study.study.model_copy(update={"reference": reference}), "report": report})


def keep(study: ReportStudy, results: Path, out: Path, alone: bool = False) -> None:
    """Write the tables and copy the figures of the study whose results stand in the folder `results`; only the page
    and the findings where `alone`.
    """
    from stages.report import load
    from stages.report.account import account
    from stages.report.verdict import Bootstrap, verdict

    evaluation = load.evaluation(study, results / "measures", results / "samples")
    log = load.training(study, results / "runs")
    found = verdict(study, evaluation, Bootstrap.of(study, evaluation))
    written = [("findings", tables.FINDINGS, findings(study, found))]
    if not alone:
        written.append(("scores", tables.RESULTS, scores(study, evaluation)))
        written.append(("training", tables.TRAINING, training(log)))
    for name, schema, rows in written:
        tables.write(out / f"{name}.parquet", tables.table(schema, list(rows)), schema)
    with whole_file(out / "README.md") as partial:
        partial.write_text(account(study, evaluation, found), encoding="utf-8")
    if alone:
        return
    for name in FIGURES:
        with whole_file(out / name) as partial:
            shutil.copyfile(results / "report" / name, partial)


def scores(study: ReportStudy, evaluation: Evaluation) -> Iterator[dict[str, object]]:
    """The mean score of every prompt at every point, for the rewards and diversities of the report."""
    axes = (*study.report.rewards, *study.report.diversities)
    for (point, metric), values in evaluation.arrays.items():
        if metric not in axes:
            continue
        for seed, row in zip(evaluation.seeds[point.method], values, strict=True):
            about = {"method": point.method, "train_seed": seed, "strategy": point.strategy,
                     "setting": evaluation.labels[point], "metric": metric}  # fmt: skip
            for prompt, score in zip(evaluation.prompts, row, strict=True):
                yield about | {"prompt_id": prompt, "score": float(score)}


def findings(study: ReportStudy, verdict: Verdict) -> Iterator[dict[str, object]]:
    """Every finding: of the claims, of every curve against the reference's, of every ablation."""
    reference, candidate = study.study.reference, study.report.candidate
    of = {"raises": (reference, "base"), "trade": (reference, reference), "above": (candidate, reference),
          "parts_company": (study.report.long or "", reference)}  # fmt: skip
    for claim in verdict.claims:
        mine, against = of[claim.key]
        strategy = "tuned" if claim.key in ("raises", "parts_company") else "combined"
        for finding in claim.findings:
            yield _row(claim.key, mine, strategy, against, finding)
    for name, claim in verdict.trades.items():
        for finding in claim.findings if name != reference else ():
            yield _row("trade", name, "combined", name, finding)
    for key, against, rivals in (("gap", reference, verdict.rivals), ("ablation", candidate, verdict.ablations)):
        for rival in rivals:
            for finding in rival.findings:
                yield _row(key, rival.method, rival.strategy, against, finding)


def _row(about: str, method: str, strategy: str, against: str, finding: Finding) -> dict[str, object]:
    interval, area = finding.interval, finding.area
    return {
        "about": about, "method": method, "strategy": strategy, "against": against, "metric": finding.axes[0],
        "at_equal": finding.axes[1] if len(finding.axes) > 1 else None, "state": finding.state.value,
        "mean": interval.mean, "low": interval.low, "high": interval.high,
        "area": area.mean if area else None, "area_low": area.low if area else None,
        "area_high": area.high if area else None, "per_seed": list(finding.per_seed), "note": finding.note,
    }  # fmt: skip


def training(log: Log) -> Iterator[dict[str, object]]:
    """The probes and a few terms of every run's log."""
    for run, terms in log.items():
        for term, series in terms.items():
            if term in TERMS or term.startswith("probe_"):
                for step, value in zip(series.steps, series.values, strict=True):
                    yield {"run": run, "step": int(step), "term": term, "value": float(value)}


if __name__ == "__main__":
    run_stage(main)
