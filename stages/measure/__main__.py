"""Measure images: rewards, agreement with the prompt, diversity, and distance from curated images."""

from __future__ import annotations

import argparse
from collections import Counter
from collections.abc import Sequence
from contextlib import AbstractContextManager
from pathlib import Path
from typing import TYPE_CHECKING, Any

from stages import lineage, resume
from stages.measure.settings import MeasureSettings, SampledSettings, StudySeed
from stages.params import section
from stages.runtime import device, run_and_leave
from stages.sample.made_by import require_policy
from stages.shards import Shard

if TYPE_CHECKING:
    from stages.measure.panel import Panel
    from stages.measure.samples import Metrics
    from stages.measure.scored import Scoring


def main() -> None:
    """Command line of the stage."""
    parser = argparse.ArgumentParser(prog="python -m stages.measure", description=__doc__)
    commands = parser.add_subparsers(dest="command", required=True)
    real = commands.add_parser("reference", help="features of curated images, once per study")
    made = commands.add_parser("samples", help="everything about the images of one run, or of the base")
    judge = commands.add_parser("judge", help="what the models say of a part of the images, for several jobs per run")
    joined = commands.add_parser("join", help="everything about the images of one run, from the parts that were judged")
    for command in (real, made, judge, joined):
        command.add_argument("--params", type=Path, required=True, help="study file")
        command.add_argument("--models", type=Path, required=True, help="folder with the model records (NAME.json)")
    real.add_argument("--images", type=Path, required=True, help="images.parquet of curate")
    real.add_argument("--features", type=Path, required=True, help="written: reference.safetensors")
    for command in (made, judge, joined):
        command.add_argument("--run", required=True, help="name of the run, or base")
        command.add_argument("--samples", type=Path, required=True, help="the run's images, as sample writes them")
        command.add_argument("--policy", type=Path, help="weights of the run: samples of others are refused")
    for command in (made, joined):
        command.add_argument("--reference", type=Path, required=True, help="reference.safetensors of measure reference")
        command.add_argument("--measures", type=Path, required=True, help="written: one row per measured value")
        command.add_argument("--summary", type=Path, required=True, help="written: means with intervals over prompts")
    judge.add_argument("--shard", required=True, help="which part: 2/4 is the second of four")
    judge.add_argument("--judged", type=Path, required=True, help="written: scores and features of its images")
    joined.add_argument("--parts", type=Path, nargs="+", required=True, help="what all shards judged, in order")
    args = parser.parse_args()
    if args.command != "reference" and args.policy is not None:
        require_policy(args.samples, args.policy)
    settings = section(args.params, "measure", MeasureSettings)
    {"reference": _reference, "samples": _samples, "judge": _score, "join": _join}[args.command](args, settings)


def _reference(args: argparse.Namespace, settings: MeasureSettings) -> None:
    from stages.measure.judges import load_judges
    from stages.measure.reference import write_reference

    # all of them, though only one is asked: a model that cannot be loaded is found out before anything is trained
    inputs = [args.images, *_records(args, settings.models)]
    with lineage.job(
        params=args.params, stage="measure", name="reference", inputs=inputs, outputs=[args.features]
    ) as job:
        judges = load_judges(settings, args.models, device())
        read = _read(settings, judges.panel)
        with resume.keep(args.params, "measure", "reference", args.features, read, inputs) as state:
            job.metrics(write_reference(settings, judges, args.images, args.features, state))


def _samples(args: argparse.Namespace, settings: MeasureSettings) -> None:
    from stages.measure.judges import load_judges
    from stages.measure.samples import load_metrics, scoring_by

    with _measuring(args, settings) as job:
        metrics, judges = load_metrics(settings), load_judges(settings, args.models, device())
        _measure(args, settings, metrics, judges.panel, scoring_by(judges, metrics), job)


def _score(args: argparse.Namespace, settings: MeasureSettings) -> None:
    from stages.measure.images import Batches
    from stages.measure.judges import load_judges
    from stages.measure.parts import score_part
    from stages.measure.samples import load_metrics, scoring_by

    shard = Shard.parse(args.shard)
    name, inputs = shard.named(args.run), [args.samples, *_records(args, settings.models)]
    with lineage.job(params=args.params, stage="measure", name=name, inputs=inputs, outputs=[args.judged]) as job:
        metrics, judges = load_metrics(settings), load_judges(settings, args.models, device())
        batches = Batches.open(args.samples, args.run, settings.batch_size)
        scoring = scoring_by(judges, metrics)
        read = _read(settings, judges.panel)
        with resume.keep(args.params, "measure", name, args.judged, read, inputs) as state:
            made = score_part(settings, judges.panel, scoring, batches, args.judged, shard, state)
        job.metrics({"batches": float(made)})


def _join(args: argparse.Namespace, settings: MeasureSettings) -> None:
    from stages.measure.parts import Joined
    from stages.measure.samples import load_metrics

    with _measuring(args, settings, args.parts) as job:
        found = Joined.open(args.parts, settings, args.models, args.samples)
        _measure(args, settings, load_metrics(settings), found.panel, found.score, job, args.parts)


def _records(args: argparse.Namespace, names: Sequence[str]) -> list[Path]:
    """The records of the models that judge."""
    return [args.models / f"{name}.json" for name in names]


def _measuring(
    args: argparse.Namespace, settings: MeasureSettings, parts: Sequence[Path] = ()
) -> AbstractContextManager[lineage.Job]:
    """The record of a job that measures a run."""
    inputs = [args.samples, args.reference, *_records(args, settings.models), *parts]
    outputs = [args.measures, args.summary]
    return lineage.job(params=args.params, stage="measure", name=args.run, inputs=inputs, outputs=outputs)


def _measure(
    args: argparse.Namespace, settings: MeasureSettings, metrics: Metrics, panel: Panel, scoring: Scoring,
    job: lineage.Job, parts: Sequence[Path] = (),
) -> None:  # fmt: skip
    from stages.measure.evaluation import evaluation_of
    from stages.measure.images import Batches
    from stages.measure.samples import measure

    seed, sampling = section(args.params, "study", StudySeed).seed, _sampling(args.params)
    batches = Batches.open(args.samples, args.run, settings.batch_size)
    read = _read(settings, panel) | {"seed": seed, "sampling": sampling}
    inputs = [args.samples, args.reference, *_records(args, settings.models), *parts]
    with resume.keep(args.params, "measure", args.run, args.measures, read, inputs) as state:
        rows = measure(
            settings, metrics, panel, scoring, seed, batches, args.reference, args.measures, args.summary, sampling,
            state,
        )  # fmt: skip
    job.parameters({"evaluation": evaluation_of(args.summary)})
    lineage.evaluation(args.params, run=args.run, metrics=_final(rows))


def _read(settings: MeasureSettings, panel: Panel) -> dict[str, object]:
    """Everything of the study that decides what is measured, and the models that judge."""
    return {"measure": settings.model_dump(exclude={"shards"}), "models": panel.identities}


def _sampling(params: Path) -> dict[str, object]:
    """How images are sampled, to identify the evaluation; the images themselves come from the samples table."""
    return section(params, "sample", SampledSettings).model_dump()


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
    run_and_leave(main)
