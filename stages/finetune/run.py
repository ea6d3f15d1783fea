"""One fine-tuning run, from records and encodings to a saved policy and its log."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING

from stages import tables
from stages.finetune.budget import within_budget
from stages.finetune.context import TrainingContext
from stages.finetune.paths import Paths
from stages.finetune.resolve import TrainingPlan, require_even
from stages.finetune.training import Checkpoint, train
from stages.models.diffusion import Denoiser
from stages.processes import ALONE, Processes
from stages.resume import State

if TYPE_CHECKING:
    from stages.lineage import Job

LOG_EVERY = 10  # optimizer steps between two points of the tracked curves; the Parquet log has every step


def finetune(
    plan: TrainingPlan, paths: Paths, weights: Path, log: Path, job: Job, state: State | None = None,
    processes: Processes = ALONE, probes: Path | None = None,
) -> None:  # fmt: skip
    """Train the policy of `plan` and write `weights` (the trained part only), then `log`, then the pictures of its
    `probes`, where they are asked for.

    Goes on from `state` where it holds a run. Of several `processes` the first one probes and writes. Raises InputError
    for a step that has no finite loss, unless skipped, and for a batch that cannot be shared out evenly.
    """
    require_even(plan, processes.count)
    context = TrainingContext.load(paths, [plan])
    plan = within_budget(plan, context.model.process)
    policy = context.policy(plan)
    trainer = context.trainer(plan, policy, processes)
    data, probe = context.data(plan, processes), context.probe(plan)
    shown = Denoiser(policy.network, context.model.process)  # the probe's evaluations are not those of training

    checkpoint = Checkpoint(trainer, state or State(), f"finetune {plan.name}")
    train(
        trainer, checkpoint, data.batches,
        probe=lambda: probe.measure(shown, trainer.run.networks.grid, context.model.vae.decode, plan.train.sampler),
        track=lambda step, terms: track(job, plan, step, terms),
    )  # fmt: skip
    if processes.first:
        policy.save(weights, context.model.record.digest, trainer.averaged())
        every = [*((0, term, value) for term, value in taken(plan).items()), *checkpoint.rows]
        rows: list[dict[str, object]] = [{"step": n, "term": term, "value": value} for n, term, value in every]
        tables.write(log, tables.table(tables.TRAIN_LOG, rows), tables.TRAIN_LOG)
        if probes is not None:
            tables.write(probes, tables.table(tables.PROBES, probe.rows(checkpoint.pictures)), tables.PROBES)
    processes.wait()


def taken(plan: TrainingPlan) -> dict[str, float]:
    """Terms of the log that say what `auto` stood for: `auto_start`; of a range `auto_middle_0` and `auto_middle_1`."""
    found: dict[str, float] = {}
    for key, value in plan.taken.items():
        if isinstance(value, tuple | list):
            found |= {f"auto_{key}_{place}": float(one) for place, one in enumerate(value)}
        else:
            found[f"auto_{key}"] = float(value)
    return found


def track(job: Job, plan: TrainingPlan, step: int, terms: Mapping[str, float]) -> None:
    """Some steps of the log, for those who watch while training goes on."""
    if step % LOG_EVERY == 0 or any(name.startswith("probe_") for name in terms):
        job.metrics({_tracked(name, plan): value for name, value in terms.items()}, step=step)


def _tracked(name: str, plan: TrainingPlan) -> str:
    """`probe_<training reward>` is tracked as `probe/reward`, the held-out one as `probe/heldout`, so that studies
    compare.
    """
    roles = {plan.study.reward: "reward", plan.study.heldout: "heldout"}
    what = name.removeprefix("probe_")
    return f"probe/{roles.get(what, what)}" if what != name else f"train/{name}"
