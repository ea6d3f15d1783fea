"""Sample the evaluation prompts, of the base or of one run, by every strategy that is applied to it."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import pyarrow as pa
import torch
from torch import Tensor

from stages import tables
from stages.models.policy import unchanged
from stages.processes import ALONE, Processes
from stages.resume import State, Unit
from stages.runtime import progress
from stages.sample import latents
from stages.sample.job import Identity, Sampling, Task
from stages.sample.made_by import of_policy
from stages.sample.suite import Group
from stages.shards import WHOLE, Shard
from stages.table_tensors import packed, unpacked

BASE = Identity("base", "base", 0)
IMAGES = "images"
"""Name of the rows of a group among what is kept of it; the other names are those of latents."""


@dataclass(frozen=True)
class BaseTask:
    """What is made of the base in one pass over a group: images (`shown`), or only its latents entering the steps
    `keep` at the guidance scale `scale`, or both.
    """

    group: Group
    shown: Task | None
    scale: float
    keep: Sequence[int]


@torch.no_grad()
def sample_base(
    job: Sampling, samples: Path, kept: Path, state: State | None = None, processes: Processes = ALONE
) -> int:
    """Images of the base by every strategy applied to it, and its latents at every switch step of the strategies
    applied to runs; returns the number of images.

    Groups that `state` holds are not made again; the others are shared out among `processes`, of which the first one
    writes.
    """
    job = replace(job, tuned=None)
    work = _base_tasks(job)
    store: dict[str, list[Tensor]] = {}

    def make(task: BaseTask) -> Unit:
        with unchanged(*job.networks):
            return images_and_latents(task)

    def images_and_latents(task: BaseTask) -> Unit:
        unit: Unit = {}

        def keep(i: int, x: Tensor) -> None:
            if i > 0 and i in task.keep:
                unit[latents.key(task.scale, i)] = x.cpu()

        ctx = job.context(task.group, on_step=keep if task.keep else None)
        if task.shown is None:
            job.base_latents(ctx, task.scale, task.keep, keep)
        else:
            unit[IMAGES] = packed(job.table(job.images(ctx, task.shown), task.shown, BASE))
        for k in {0, len(job.grid)}.intersection(task.keep):
            unit[latents.key(task.scale, k)] = job.released(task.group, task.scale, k).cpu()
        return unit

    def parts() -> Iterator[pa.Table]:
        units = (state or State()).results("base", range(len(work)), processes.turns(work, make))
        for unit in progress(units, len(work), "sample base"):
            for name, x in unit.items():
                if name == IMAGES:
                    yield unpacked(x)
                else:
                    store.setdefault(name, []).append(x)

    count = _written(samples, parts(), processes)
    if processes.first:
        latents.save(kept, {name: torch.cat(pieces) for name, pieces in store.items()}, job.identity)
    processes.wait()
    return count


def _base_tasks(job: Sampling) -> list[BaseTask]:
    """Every image of the base. Latents at switch steps come from a pass that is shown anyway, else from one more."""
    switches, tasks, groups = job.plan.switches(), list[BaseTask](), job.suite.groups()
    for strategy in job.plan.of("base"):
        for point in strategy.settings.points():
            scale = strategy.settings.base_pass(point.value)
            keep = switches.pop(scale, []) if scale is not None else []
            tasks += [BaseTask(group, Task(group, strategy, point), scale or 0.0, keep) for group in groups]
    return tasks + [BaseTask(group, None, scale, keep) for scale, keep in switches.items() for group in groups]


@torch.no_grad()
def sample_run(
    job: Sampling, whose: Identity, kept: Path, samples: Path, state: State | None = None,
    processes: Processes = ALONE, shard: Shard = WHOLE, policy: str = "",
) -> int:  # fmt: skip
    """Images of one run by every strategy applied to runs; returns the number of images.

    Groups that `state` holds are not made again; the others are shared out among `processes`, of which the first one
    writes. Groups of other shards are left out. `policy` is the digest of the run's weights, which the table names.
    """
    points = [(strategy, point) for strategy in job.plan.of("tuned") for point in strategy.settings.points()]
    work = shard.of([Task(group, *each) for each in points for group in job.suite.groups()])

    def make(task: Task) -> Unit:
        start = _shared_start(job, task, kept)
        with unchanged(*job.networks):
            images = job.images(job.context(task.group, start), task)
        return {IMAGES: packed(job.table(images, task, whose))}

    def parts() -> Iterator[pa.Table]:
        units = (state or State()).results("run", range(len(work)), processes.turns(work, make))
        for unit in progress(units, len(work), f"sample {whose.run}"):
            if IMAGES in unit:
                yield unpacked(unit[IMAGES])

    count = _written(samples, parts(), processes, shard.marked(of_policy(tables.SAMPLES, policy)))
    processes.wait()
    return count


def _shared_start(job: Sampling, task: Task, kept: Path) -> tuple[int, Tensor] | None:
    """Where a strategy goes on from the base's shared pass, as (index, latents)."""
    prefix = task.strategy.settings.shared_prefix(task.point.value)
    if prefix is None:
        return None
    name, group, suite = latents.key(prefix.guidance, prefix.steps), task.group, job.suite
    rows, shape = slice(group.first, group.first + len(group)), suite.encodings.latent_shape()
    return prefix.steps, latents.load(kept, name, rows, shape, suite.device, job.identity)


def _written(samples: Path, parts: Iterator[pa.Table], processes: Processes, schema: pa.Schema = tables.SAMPLES) -> int:
    """The number of images written: all of them by the first process, which gets the groups of the others."""
    if processes.first:
        return tables.write(samples, parts, schema)
    return sum(part.num_rows for part in parts)
