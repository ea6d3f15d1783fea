"""Measure images: rewards, agreement with the prompt, diversity, and distance from curated images."""

from __future__ import annotations

import argparse
from collections import Counter
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from stages import lineage, resume
from stages.measure.settings import MeasureSettings, StudySeed
from stages.params import read_study, section
from stages.runtime import device, run_stage

if TYPE_CHECKING:
    from stages.measure.judges import Judges


def main() -> None:
    """Command line of the stage."""
    parser = argparse.ArgumentParser(prog="python -m stages.measure", description=__doc__)
    commands = parser.add_subparsers(dest="command", required=True)
    real = commands.add_parser("reference", help="features of curated images, once a study")
    made = commands.add_parser("samples", help="everything about the images of one run, or of the base")
    for command in (real, made):
        command.add_argument("--params", type=Path, required=True, help="study file")
        command.add_argument("--models", type=Path, required=True, help="folder with the model records (NAME.json)")
    real.add_argument("--images", type=Path, required=True, help="images.parquet of curate")
    real.add_argument("--features", type=Path, required=True, help="written: reference.safetensors")
    made.add_argument("--run", required=True, help="name of the run, or base")
    made.add_argument("--samples", type=Path, required=True, help="the run's images, as sample writes them")
    made.add_argument("--reference", type=Path, required=True, help="reference.safetensors of measure reference")
    made.add_argument("--measures", type=Path, required=True, help="written: one row a measured value")
    made.add_argument("--summary", type=Path, required=True, help="written: means with intervals over prompts")
    args = parser.parse_args()
    settings = section(args.params, "measure", MeasureSettings)
    if args.command == "reference":
        _reference(args, settings)
    else:
        _samples(args, settings)


def _reference(args: argparse.Namespace, settings: MeasureSettings) -> None:
    from stages.measure.judges import load_judges
    from stages.measure.reference import write_reference

    with lineage.job(
        params=args.params, stage="measure", name="reference", inputs=[args.images], outputs=[args.features]
    ) as job:
        only = [] if settings.space is None else [settings.space]
        judges = load_judges(settings, args.models, device(), only)
        read = _read(settings, judges)
        with resume.keep(args.params, "measure", "reference", args.features, read, [args.images]) as state:
            job.metrics(write_reference(settings, judges, args.images, args.features, state))


def _samples(args: argparse.Namespace, settings: MeasureSettings) -> None:
    from stages.measure.evaluation import evaluation_of
    from stages.measure.judges import load_judges
    from stages.measure.samples import measure

    seed = section(args.params, "study", StudySeed).seed
    with lineage.job(
        params=args.params, stage="measure", name=args.run,
        inputs=[args.samples, args.reference], outputs=[args.measures, args.summary],
    ) as job:  # fmt: skip
        judges = load_judges(settings, args.models, device())
        sampling = _sampling(args.params)
        read = _read(settings, judges) | {"seed": seed, "sampling": sampling}
        inputs = [args.samples, args.reference]
        with resume.keep(args.params, "measure", args.run, args.measures, read, inputs) as state:
            rows = measure(
                settings, judges, seed, args.run, args.samples, args.reference, args.measures, args.summary, sampling,
                state,
            )  # fmt: skip
        job.parameters({"evaluation": evaluation_of(args.summary)})
        lineage.evaluation(args.params, run=args.run, metrics=_final(rows))


def _read(settings: MeasureSettings, judges: Judges) -> dict[str, object]:
    """Everything of the study that decides what is measured, and the models that judge."""
    models = {name: judges.identity(name) for name in judges.models}
    return {"measure": settings.model_dump(), "models": models}


def _sampling(params: Path) -> dict[str, object]:
    """How images are sampled, to identify the evaluation; the images themselves come from the samples table."""
    sample = read_study(params).get("sample") or {}
    return {name: sample.get(name) for name in ("steps", "sampler")}


def _final(rows: Sequence[dict[str, Any]]) -> dict[str, float]:
    """`tuned/proxy`, or `combined k=10/proxy` where a strategy has several settings, to the mean.

    The base without guidance also goes by `tuned/...`: it is what the tuned networks started from.
    """
    settings = {(row["strategy"], row["setting"]) for row in rows}
    several = Counter(strategy for strategy, _ in settings)
    names = {s: s[0] if several[s[0]] == 1 else " ".join(s) for s in settings}
    final = {f"{names[row['strategy'], row['setting']]}/{row['metric']}": row["mean"] for row in rows}
    plain = [row for row in rows if row["strategy"] == "guidance" and row["value"] == 1.0]
    return final | {f"tuned/{row['metric']}": row["mean"] for row in plain}


if __name__ == "__main__":
    run_stage(main)
