"""Train every method once at every rate, and judge a fixed set of training prompts before and after."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path

from stages.encode.store import Encodings
from stages.finetune.budget import within_budget
from stages.finetune.judge import require_enough
from stages.finetune.nonfinite import NonFinite
from stages.finetune.probe import Probe
from stages.finetune.resolve import Plan
from stages.finetune.run import fixed_probe, start, training_data
from stages.finetune.settings import BudgetSettings, ProbeSettings
from stages.models import record
from stages.models.diffusion import Denoiser, DiffusionModel, load_diffusion
from stages.models.policy import make_policy
from stages.rewards.base import Reward, load_reward
from stages.runtime import device, progress
from stages.tune.choice import Trial
from stages.tune.settings import TuneSettings

BASE = "base"


def sweep(
    plans: Sequence[Plan], tune: TuneSettings, base: Path, reward: Path, heldout: Path, tensors: Path, index: Path,
    predictors: Path | None = None,
) -> list[Trial]:  # fmt: skip
    """The base (rate 0), then every method at every rate; evaluation prompts are never looked at.

    `predictors` is the folder of distilled models, for methods that name one.
    """
    where = device()
    model = load_diffusion(record.load(base), where, parts=("unet", "vae"))
    study = plans[0].study
    judges = {study.reward: load_reward(record.load(reward), where)}
    for plan in plans:
        require_enough(plan, judges[study.reward])
    judges[study.heldout] = load_reward(record.load(heldout), where)
    encodings = Encodings(tensors, index, where)
    size = ProbeSettings(prompts=tune.prompts, samples=tune.samples)
    found: list[Trial] = []
    work = [(plan, rate) for plan in plans for rate in tune.rates]
    for plan, rate in progress(work, len(work), "tune"):
        train = plan.train.model_copy(update={"probe": size})
        if tune.steps or tune.compute:
            train = train.model_copy(update={"budget": BudgetSettings(steps=tune.steps, compute=tune.compute)})
        plan = within_budget(replace(plan, seed=tune.seed, train=train), model.process)
        probe = fixed_probe(plan, encodings, judges, where)
        if not found:
            found.append(_judged(plan, 0.0, probe, model, Denoiser(model.unet, model.process)))
        found.append(_trial(plan, rate, probe, model, encodings, judges, predictors))
    return found


def _trial(
    plan: Plan, rate: float, probe: Probe, model: DiffusionModel, encodings: Encodings, judges: Mapping[str, Reward],
    predictors: Path | None,
) -> Trial:  # fmt: skip
    optimizer = plan.train.optimizer.model_copy(update={"lr": rate})
    plan = replace(plan, train=plan.train.model_copy(update={"optimizer": optimizer}))
    lora = plan.train.lora
    policy = make_policy(model.unet, plan.train.trainable, plan.seed, lora.rank, lora.alpha, lora.targets)
    trainer = start(plan, model, policy, encodings, judges[plan.study.reward], predictors)
    data = training_data(plan, model, encodings, model.device)
    try:
        for step in range(plan.train.steps):
            trainer.train_step([data.batch(step, micro) for micro in range(plan.train.accumulate)])
    except NonFinite:
        return Trial(plan.method, rate, plan.train.steps, float("nan"), (float("nan"),), float("nan"))
    trial = _judged(plan, rate, probe, model, Denoiser(policy.network, model.process))
    return replace(trial, method=plan.method, steps=plan.train.steps)


def _judged(plan: Plan, rate: float, probe: Probe, model: DiffusionModel, policy: Denoiser) -> Trial:
    grid = model.process.grid(plan.train.sampling_steps)
    scores, diversity = probe.judge(policy, grid, model.vae.decode, plan.train.sampler)
    reward, heldout = (scores[name].double() for name in (plan.study.reward, plan.study.heldout))
    by_prompt = heldout.reshape(-1, probe.samples).mean(1).tolist()
    return Trial(BASE, rate, 0, float(reward.mean()), tuple(by_prompt), float(diversity.mean()))
