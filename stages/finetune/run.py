"""One fine-tuning run, from records and encodings to a saved policy and its log."""

from __future__ import annotations

from collections.abc import Mapping
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, cast

import torch

from stages import tables
from stages.encode.store import Encodings
from stages.errors import InputError
from stages.finetune.budget import Cost, within_budget
from stages.finetune.course import Course
from stages.finetune.data import Data
from stages.finetune.judge import Counted, require_enough
from stages.finetune.learner import Learner, RewardFunction
from stages.finetune.probe import Probe
from stages.finetune.resolve import Plan, require_even
from stages.finetune.tools import Tools
from stages.finetune.trainer import Trainer
from stages.finetune.trajectory.settings import TrajectorySettings
from stages.finetune.trajectory.trainer import TrajectoryTrainer
from stages.models import record
from stages.models.consistency import load_student
from stages.models.diffusion import Denoiser, DiffusionModel, load_diffusion
from stages.models.noise import KeyedNoise
from stages.models.policy import Policy, make_policy
from stages.processes import ALONE, Processes
from stages.resume import State
from stages.rewards.base import load_reward, require_embedding
from stages.runtime import device, progress

if TYPE_CHECKING:
    from stages.lineage import Job
    from stages.rewards.base import Reward

LOG_EVERY = 10  # optimizer steps between two points of the tracked curves; the Parquet log has every step


def finetune(
    plan: Plan, base: Path, reward: Path, heldout: Path, tensors: Path, index: Path, weights: Path, log: Path, job: Job,
    state: State | None = None, processes: Processes = ALONE, predictors: Path | None = None,
) -> None:  # fmt: skip
    """Train the policy of `plan` and write `weights` (the trained part only), then `log`.

    Goes on from `state` where it holds a run. Of several `processes` the first one probes and writes. Raises NonFinite
    for a step that has no finite loss, unless skipped, and InputError for a batch that cannot be shared out evenly.
    """
    require_even(plan, processes.count)
    where = device()
    model = load_diffusion(record.load(base), where, parts=("unet", "vae"))
    plan = within_budget(plan, model.process)
    judges = {plan.study.reward: require_enough(plan, load_reward(record.load(reward), where))}
    counted = Counted(judges[plan.study.reward])
    judges[plan.study.heldout] = load_reward(record.load(heldout), where)
    if plan.train.probe.oracle:
        oracle = record.ModelRecord(name="oracle", kind=plan.train.probe.oracle)
        judges["oracle"] = load_reward(oracle, where)
    encodings = Encodings(tensors, index, where)
    policy = make_policy(model.unet, plan.train.trainable, plan.seed, plan.train.lora.rank, plan.train.lora.alpha,
                         plan.train.lora.targets)  # fmt: skip
    trainer = start(plan, model, policy, encodings, counted, predictors)
    trainer.processes = processes
    data = training_data(plan, model, encodings, where, processes)
    probe = fixed_probe(plan, encodings, judges, where)

    course = Course(trainer, state or State(), plan.train.nonfinite == "skip", f"finetune {plan.name}")
    for step, terms in course.resume():
        _track(job, plan, step, terms)
    left = range(course.step, plan.train.steps + 1)
    for step in progress(left, len(left), course.name):
        terms: dict[str, float] = {}
        # once in a while, and before the first and after the last step: judge a few fixed prompts
        if processes.first and (step % plan.train.probe.every == 0 or step == plan.train.steps):
            judged = Denoiser(policy.network, model.process)
            terms |= probe.measure(judged, trainer.tools.grid, model.vae.decode, plan.train.sampler)
        # a single optimizer step
        if step < plan.train.steps:
            before, asked = Cost.of(trainer.tools), counted.queries
            terms |= course.take([data.batch(step, micro) for micro in range(plan.train.accumulate)])
            spent = Cost.of(trainer.tools)
            cost = {"nfe": (spent - before).forward, "forward": spent.forward, "backward": spent.backward}
            cost["queries"] = counted.queries - asked
            terms |= {name: value * processes.count for name, value in cost.items()}
        _track(job, plan, step, terms)
        course.end_step(terms)

    course.require_finite()
    if processes.first:
        policy.save(weights, model.record.digest, trainer.average)
        rows: list[dict[str, object]] = [{"step": n, "term": term, "value": value} for n, term, value in course.rows]
        tables.write(log, tables.table(tables.TRAIN_LOG, rows), tables.TRAIN_LOG)
    processes.wait()


def start(
    plan: Plan, model: DiffusionModel, policy: Policy, encodings: Encodings, reward: RewardFunction,
    predictors: Path | None = None,
) -> Learner:  # fmt: skip
    """The trainer of a plan before its first step; `predictors` is the folder of distilled models."""
    if plan.train.gradient_checkpointing:
        policy.network.enable_gradient_checkpointing()  # type: ignore[operator]
        model.vae.network.enable_gradient_checkpointing()
    tools = Tools(
        policy=Denoiser(policy.network, model.process, quick=plan.train.compile),
        grid=model.process.grid(plan.train.sampling_steps),
        empty=encodings.empty(),
        guidance=plan.train.guidance,
        sampler=plan.train.sampler,
        extra_step=plan.train.as_released.extra_step,
        reference=Denoiser(model.unet, model.process, quick=plan.train.compile),
        student=distilled(plan, model, predictors),
    )
    parameters = dict(policy.parameters())
    if hasattr(plan.module, "start"):
        method = plan.module.start(plan.method_settings, plan.train)
        return TrajectoryTrainer.start(tools, model.vae.decode, reward, method, parameters, plan.train,
                                       cast(TrajectorySettings, plan.method_settings).eta)  # fmt: skip
    step = partial(plan.module.step, settings=plan.method_settings)
    ahead = getattr(plan.module, "ahead", None)
    ahead = ahead and partial(ahead, settings=plan.method_settings)
    return Trainer.start(tools, model.vae.decode, reward, step, parameters, plan.train, ahead)


def distilled(plan: Plan, model: DiffusionModel, predictors: Path | None) -> Denoiser | None:
    """The consistency model that the plan's method names; raises InputError where there is none."""
    name = getattr(plan.method_settings, "model", None)
    if name is None:
        return None
    if predictors is None:
        raise InputError(f"run {plan.name!r}: its method needs the distilled model {name!r}, expected --predictors")
    found = record.load(predictors / f"{name}.json")
    if found.kind != "consistency":
        raise InputError(f"model {found.name!r} is of kind {found.kind!r}, expected a distilled consistency model")
    return Denoiser(load_student(found.folder(), model.device), model.process)


def training_data(
    plan: Plan, model: DiffusionModel, encodings: Encodings, where: torch.device, processes: Processes = ALONE
) -> Data:
    """The prompts, or the captioned images, that the method trains on."""
    needs_images = plan.method_settings.data == "images"
    source = plan.method_settings.source
    items = encodings.images("train", source) if needs_images else encodings.prompts("train")
    return Data(
        encodings=encodings, items=items, seed=plan.seed, batch_size=plan.train.batch_size,
        accumulate=plan.train.accumulate, scale=model.vae.scale, device=where, posterior=needs_images,
        repeat=plan.method_settings.group, processes=processes,
    )  # fmt: skip


def fixed_probe(plan: Plan, encodings: Encodings, judges: Mapping[str, Reward], where: torch.device) -> Probe:
    """The same training prompts and noise for every run of the study, so that their curves compare."""
    size = plan.train.probe
    prompts = encodings.prompts("train")
    chosen = prompts[:: max(1, len(prompts) // size.prompts)][: size.prompts]
    items = [item for item in chosen for _ in range(size.samples)]
    keys = [("probe", item.item_id, n) for item in chosen for n in range(size.samples)]
    noise = KeyedNoise(plan.study.seed, keys, encodings.latent_shape(), where)
    embed = require_embedding(judges[plan.study.heldout]).embed
    return Probe([item.text for item in items], encodings.text(items), noise, size.samples, dict(judges), embed)


def _track(job: Job, plan: Plan, step: int, terms: Mapping[str, float]) -> None:
    """Some steps of the log, for those who watch while training goes on."""
    if step % LOG_EVERY == 0 or any(name.startswith("probe_") for name in terms):
        job.metrics({_tracked(name, plan): value for name, value in terms.items()}, step=step)


def _tracked(name: str, plan: Plan) -> str:
    """`probe_<training reward>` is tracked as `probe/reward`, the held-out one as `probe/heldout`, so that studies
    compare.
    """
    roles = {plan.study.reward: "reward", plan.study.heldout: "heldout"}
    what = name.removeprefix("probe_")
    return f"probe/{roles.get(what, what)}" if what != name else f"train/{name}"
