"""A moment of training and of sampling on the study's own networks and data, and what all would take at that speed.

Training takes a few optimizer steps of every method; the others are reckoned by their compute, which is counted
(`stages/finetune/budget.py`). Sampling makes one batch of the base's images; the others by their evaluations.
"""

from __future__ import annotations

import math
import resource
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from itertools import islice

import torch

from stages import pictures
from stages.encode.store import Encodings
from stages.estimate import counting
from stages.finetune.budget import costs, within_budget
from stages.finetune.context import TrainingContext
from stages.finetune.resolve import TrainingPlan
from stages.finetune.reward import RewardFunction
from stages.models.diffusion import DiffusionModel
from stages.sample.job import Sampling as SamplingJob
from stages.sample.meter import Cost
from stages.sample.resolve import SamplingPlan
from stages.sample.settings import Target
from stages.sample.suite import Suite

MOMENT = 2
"""Optimizer steps that are timed, after one that is not."""
MB = 2**20


@dataclass(frozen=True)
class Training:
    """One run of a method: optimizer steps, seconds with its probes, the largest memory and what is saved, in MB."""

    method: str
    steps: int
    seconds: float
    memory_mb: float
    weights_mb: float


@dataclass(frozen=True)
class Sampling:
    """Seconds and images of the base's job and of the job of one run, and what all images of the job cost together; MB
    of one image, and of the latents that the base's job keeps. `device` is the type of the one that was timed.
    """

    base_seconds: float
    base_images: int
    base_cost: Cost
    run_seconds: float
    run_images: int
    run_cost: Cost
    image_mb: float
    latents_mb: float
    device: str = "cpu"


def training(plan: TrainingPlan, context: TrainingContext) -> Training:
    """Time a moment of the plan's training; the policy is thrown away."""
    device, process = context.model.device, context.model.process
    if device.type == "cuda":
        torch.cuda.reset_peak_memory_stats(device)  # else the peak of an earlier, larger method would count
    plan = within_budget(plan, process)
    train, policy, data = plan.train, context.policy(plan), context.data(plan)
    trainer = context.trainer(plan, policy)

    def take(steps: Sequence[int]) -> None:
        for step in steps:
            trainer.step(data.batches(step))

    compute = [cost.compute for cost in islice(costs(plan, process), train.steps)]
    timed = range(1, min(1 + MOMENT, train.steps)) or range(1)
    if 0 not in timed:
        take([0])  # warms up
    seconds = clocked(lambda: take(timed), device) / sum(compute[step] for step in timed)
    probe = train.probe
    judged = (math.ceil(train.steps / probe.every) + 1) * probe.prompts * probe.samples * train.sampling_steps
    trained = sum(parameter.nbytes for _, parameter in policy.parameters())
    return Training(plan.method, train.steps, seconds * (sum(compute) + judged), memory_mb(device), trained / MB)


def sampling(
    plan: SamplingPlan, model: DiffusionModel, encodings: Encodings, rewards: Mapping[str, RewardFunction] | None = None
) -> Sampling:
    """Time one group of the base's images without guidance, and one query of each reward that strategies ask."""
    suite = Suite(encodings, plan.seed, plan.sample.samples_per_prompt, plan.sample.batch_size, model.device)
    job, groups = SamplingJob.of(model, plan, suite), suite.groups()
    group, count = groups[0], sum(map(len, groups))
    with torch.no_grad():
        ctx = job.context(group)
        predict = ctx.networks.base(1.0)
        predict(group.noise.initial(), 0)  # warms up
        clean = images = ctx.noise.initial()
        files = [b""]

        def roll() -> None:
            nonlocal clean
            clean = ctx.finish(predict)

        def show() -> None:
            nonlocal images, files
            images = ctx.decode(clean)
            files = pictures.png(images)

        evaluation = clocked(roll, model.device) / (len(group) * len(job.grid))
        picture = clocked(show, model.device) / len(group)
        queries = [clocked(lambda ask=ask: ask(images, ctx.prompts), model.device) for ask in (rewards or {}).values()]
    query = max(queries, default=0.0) / len(group)

    def seconds(cost: Cost, target: Target) -> float:
        back = of_all(counting.with_gradient(plan, model.process, target))  # a backward pass costs two forward ones
        evaluations, decodes, queries = (
            cost.nfe + 2 * cost.nfe_backward, cost.decodes + 2 * back.decodes, cost.queries + 2 * back.queries
        )  # fmt: skip
        return evaluations * evaluation + decodes * picture + queries * query

    def of_all(image: Cost) -> Cost:
        return Cost(*(count * each for each in image))

    def shown(target: Target) -> int:
        return count * sum(len(strategy.settings.points()) for strategy in plan.of(target))

    switches = sum(map(len, plan.switches().values()))
    base = of_all(counting.of_base(plan, model.process))
    run = of_all(counting.total(list(counting.of_run(plan, model.process).values())))
    return Sampling(
        base_seconds=seconds(base, "base"),
        base_images=shown("base"),
        base_cost=base,
        run_seconds=seconds(run, "tuned"),
        run_images=shown("tuned"),
        run_cost=run,
        image_mb=sum(map(len, files)) / len(files) / MB,
        latents_mb=count * switches * clean[0].nbytes / MB,
        device=model.device.type,
    )


def clocked(work: Callable[[], object], device: torch.device) -> float:
    """Seconds that the work takes, to the end of what it has started on the device."""
    _wait(device)
    began = time.perf_counter()
    work()
    _wait(device)
    return time.perf_counter() - began


def memory_mb(device: torch.device) -> float:
    """The largest memory in MB: what torch held of the GPU's since the last reset, else what this process ever had."""
    if device.type == "cuda":
        return torch.cuda.max_memory_allocated(device) / MB
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024


def _wait(device: torch.device) -> None:
    if device.type == "cuda":
        torch.cuda.synchronize(device)
