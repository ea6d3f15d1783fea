"""Sample the evaluation prompts, of the base or of one run, by every strategy that is applied to it."""

from __future__ import annotations

import hashlib
import json
import time
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path

import pyarrow as pa
import torch
from torch import Tensor, nn

from stages import pictures, tables
from stages.errors import InputError
from stages.models.conditioning import Conditioning
from stages.models.diffusion import Denoiser, DiffusionModel, Predict
from stages.models.merging import merged
from stages.models.policy import unchanged
from stages.models.process import Grid
from stages.models.sampler import Seen, walk
from stages.processes import ALONE, Processes
from stages.resume import State, Unit, packed, unpacked
from stages.rewards.base import Reward
from stages.runtime import progress
from stages.sample import latents
from stages.sample.attention import CrossAttention
from stages.sample.context import Context
from stages.sample.made_by import of_policy
from stages.sample.meter import Cost
from stages.sample.networks import Networks, Rows
from stages.sample.resolve import SamplingPlan, Strategy
from stages.sample.settings import Point
from stages.sample.suite import Group, Suite
from stages.shards import WHOLE, Shard


@dataclass(frozen=True)
class Identity:
    """Whose images: a run of the study with its method and training seed, or the base."""

    run: str
    method: str
    train_seed: int


BASE = Identity("base", "base", 0)
IMAGES = "images"
"""Name of the rows of a group among what is kept of it; the other names are those of latents."""


@dataclass(frozen=True)
class Judge:
    """A reward that strategies may ask, and the digest of its record."""

    reward: Reward
    digest: str


@dataclass(frozen=True)
class Images:
    """The images of one group, as PNG, with the cost of each and the seconds that all of them took."""

    png: list[bytes]
    costs: list[Cost]
    seconds: float

    def rows(self) -> Iterator[dict[str, object]]:
        """Columns of the samples table; the seconds are shared out by network evaluations."""
        total = sum(cost.nfe for cost in self.costs)
        for png, cost in zip(self.png, self.costs, strict=True):
            share = cost.nfe / total if total else 1 / len(self.costs)
            yield {"image": png, "seconds": self.seconds * share, **cost._asdict()}


@dataclass(frozen=True)
class Task:
    """Images of one group at one point of a strategy."""

    group: Group
    strategy: Strategy
    point: Point


@dataclass(frozen=True)
class BaseTask:
    """What is made of the base in one pass over a group: images (`shown`), or only its latents entering the steps
    `keep` at the guidance scale `scale`, or both.
    """

    group: Group
    shown: Task | None
    scale: float
    keep: Sequence[int]


@dataclass(frozen=True)
class Sampling:
    """The networks, prompts and settings of one sampling job.

    `tuned` is the network of the run, None where the base is sampled; `others` are further trained networks and
    `judges` the rewards that strategies may use, by name.
    """

    model: DiffusionModel
    plan: SamplingPlan
    suite: Suite
    grid: Grid
    empty: Conditioning
    tuned: nn.Module | None = None
    others: Mapping[str, nn.Module] = field(default_factory=dict)
    judges: Mapping[str, Judge] = field(default_factory=dict)

    @classmethod
    def of(
        cls,
        model: DiffusionModel,
        plan: SamplingPlan,
        suite: Suite,
        tuned: nn.Module | None = None,
        others: Mapping[str, nn.Module] | None = None,
        judges: Mapping[str, Judge] | None = None,
    ) -> Sampling:
        """A job with a study's sampling settings; freezes trained networks and makes those that strategies merge."""
        others = dict(others or {})
        for network in (tuned, *others.values()):
            if network is not None:  # strategies take gradients by latents, never by weights
                network.eval().requires_grad_(False)
        for merge in {merge for strategy in plan.of("tuned") for merge in strategy.settings.merges()}:
            if tuned is not None:
                others[merge.name] = merged(others[merge.network], tuned, model.unet, merge.weight)
        grid, empty = model.process.grid(plan.sample.steps), suite.encodings.empty()
        return cls(model, plan, suite, grid, empty, tuned, others, judges or {})

    def context(self, group: Group, start: tuple[int, Tensor] | None = None, seen: Seen | None = None) -> Context:
        """What a strategy works with for a group, with counts of its own."""
        networks = Networks(
            self.grid,
            self.suite.encodings.text(group.items),
            self.empty,
            self.denoiser(self.model.unet),
            None if self.tuned is None else self.denoiser(self.tuned),
            Rows.of(len(group), self.plan.sample.batch_size),
            {name: self.denoiser(network) for name, network in self.others.items()},
        )
        return Context(
            networks,
            group.noise,
            [item.text for item in group.items],
            [0] * len(group),
            self.plan.sample.sampler,
            self.model.vae.decode,
            {name: judge.reward for name, judge in self.judges.items()},
            start,
            seen,
            CrossAttention(self.model),
        )

    @property
    def identity(self) -> str:
        """Identifies what decides the base's latents: the base, the prompts, their noise, steps and sampler."""
        items = [(item.item_id, item.text) for item in self.suite.encodings.prompts("eval")]
        sample, each = self.plan.sample, self.suite.samples_per_prompt
        parts = [self.model.record.digest, self.suite.seed, sample.steps, sample.sampler, each, items]
        return hashlib.sha256(json.dumps(parts).encode()).hexdigest()[:16]

    @property
    def networks(self) -> list[nn.Module]:
        """Every network that is evaluated as it is; compiled ones are not."""
        if self.plan.sample.compile:
            return []
        return [self.model.unet, *([] if self.tuned is None else [self.tuned]), *self.others.values()]

    def denoiser(self, network: nn.Module) -> Denoiser:
        """The network, with a count of its own."""
        return Denoiser(network, self.model.process, quick=self.plan.sample.compile)

    def images(self, ctx: Context, task: Task) -> Images:
        """The images of a context, which are charged for a shared prefix as if they had been made alone."""
        began = time.monotonic()
        settings, value = task.strategy.settings, task.point.value
        prefix = settings.shared_prefix(value)
        if ctx.start is not None and prefix is not None:
            # a prefix of no steps is the stray step that the released code makes there
            ctx.rows.meter.add("nfe", ctx.rows.images, max(prefix.steps, 1) * (1 if prefix.guidance == 1.0 else 2))
        made = settings.sample(ctx, value)
        if not bool(torch.isfinite(made).all()):
            first = next(n for n, image in enumerate(made) if not bool(torch.isfinite(image).all()))
            raise InputError(f"sampling: the image of {ctx.prompts[first][:60]!r} is not finite; broken weights?")
        return Images(pictures.png(made), ctx.rows.meter.costs(), time.monotonic() - began)

    def table(self, images: Images, task: Task, whose: Identity) -> pa.Table:
        """Rows of the samples table."""
        asked = task.strategy.settings.rewards()
        shared = {
            "run": whose.run, "method": whose.method, "train_seed": whose.train_seed, "strategy": task.strategy.name,
            "setting": task.point.label, "value": task.point.value, "rewards": list(asked),
            "reward_digests": [self.judges[name].digest for name in asked],
        }  # fmt: skip
        rows = zip(task.group.items, task.group.samples, images.rows(), strict=True)
        return tables.table(
            tables.SAMPLES,
            [shared | {"prompt_id": i.item_id, "prompt": i.text, "sample": n} | columns for i, n, columns in rows],
        )

    def base_latents(self, ctx: Context, scale: float, keep: Sequence[int], seen: Seen) -> None:
        """Latents of the base entering each of the steps `keep` short of T, without the steps after the last."""
        last = max((k for k in keep if k < len(self.grid)), default=0)
        x = walk(self.grid, ctx.networks.base(scale), ctx.noise.initial(), 0, last, ctx.noise, ctx.sampler, seen)
        seen(last, x)

    def released(self, group: Group, scale: float, k: int) -> Tensor:
        """The base's latents for k = 0 or k = T as the released code makes them: a stray step, or every step."""
        ctx = self.context(group)
        predict: Predict = ctx.networks.base(scale)
        return walk(self.grid, predict, ctx.noise.initial(), 0, k, ctx.noise, ctx.sampler, extra_step=True)


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

        ctx = job.context(task.group, seen=keep if task.keep else None)
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
