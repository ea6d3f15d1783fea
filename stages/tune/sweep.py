"""Train every method once at every rate, and judge a fixed set of training prompts before and after."""

from __future__ import annotations

import math
import sys
from collections.abc import Sequence
from dataclasses import replace

from stages.errors import InputError
from stages.finetune.budget import within_budget
from stages.finetune.context import TrainingContext
from stages.finetune.nonfinite import NonFinite
from stages.finetune.paths import Paths
from stages.finetune.probe import Probe
from stages.finetune.resolve import TrainingPlan
from stages.finetune.settings import BudgetSettings, ProbeSettings
from stages.models.diffusion import Denoiser
from stages.runtime import progress
from stages.tune.choice import Trial
from stages.tune.settings import TuneSettings

BASE = "base"


def sweep(plans: Sequence[TrainingPlan], tune: TuneSettings, paths: Paths) -> list[Trial]:
    """The base (rate 0), then every method at every rate; evaluation prompts are never looked at."""
    context = TrainingContext.load(paths, plans)
    size = ProbeSettings(prompts=tune.prompts, samples=tune.samples)
    found: list[Trial] = []
    work = [(plan, rate) for plan in plans for rate in tune.rates_of(plan.method)]
    for plan, rate in progress(work, len(work), "tune"):
        train = plan.train.model_copy(update={"probe": size})
        if tune.steps or tune.compute:
            train = train.model_copy(update={"budget": BudgetSettings(steps=tune.steps, compute=tune.compute)})
        plan = within_budget(replace(plan, seed=tune.seed, train=train), context.model.process)
        probe = context.probe(plan)
        if not found:
            base = Denoiser(context.model.unet, context.model.process)
            found.append(_finite(_scored(plan, 0.0, probe, context, base)))
        found.append(_trial(plan, rate, probe, context))
    return found


def _finite(base: Trial) -> Trial:
    """The base's own trial; raises InputError where it is no number, which no learning rate can mend."""
    if not all(map(math.isfinite, (base.reward, base.heldout_mean, base.diversity))):
        raise InputError(
            f"tune: images of the base have reward {base.reward:g}, held-out reward {base.heldout_mean:g} and "
            f"diversity {base.diversity:g}, expected finite numbers; broken weights or encodings?"
        )
    return base


def _trial(plan: TrainingPlan, rate: float, probe: Probe, context: TrainingContext) -> Trial:
    optimizer = plan.train.optimizer.model_copy(update={"lr": rate})
    plan = replace(plan, train=plan.train.model_copy(update={"optimizer": optimizer}))
    policy, data = context.policy(plan), context.data(plan)
    trainer = context.trainer(plan, policy)
    try:
        for step in range(plan.train.steps):
            trainer.step(data.batches(step))
    except NonFinite as error:
        print(f"tune: {plan.method} at rate {rate:g} broke down: {error}", file=sys.stderr)
        return Trial(plan.method, rate, plan.train.steps, float("nan"), (float("nan"),), float("nan"))
    trial = _scored(plan, rate, probe, context, Denoiser(policy.network, context.model.process))
    return replace(trial, method=plan.method, steps=plan.train.steps)


def _scored(plan: TrainingPlan, rate: float, probe: Probe, context: TrainingContext, policy: Denoiser) -> Trial:
    grid = context.model.process.grid(plan.train.sampling_steps)
    scores, diversity = probe.score(probe.images(policy, grid, context.model.vae.decode, plan.train.sampler))
    reward, heldout = (scores[name].double() for name in (plan.study.reward, plan.study.heldout))
    by_prompt = heldout.reshape(-1, probe.samples).mean(1).tolist()
    return Trial(BASE, rate, 0, float(reward.mean()), tuple(by_prompt), float(diversity.mean()))
