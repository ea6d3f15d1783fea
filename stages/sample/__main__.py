"""Sample the evaluation prompts, of the `base` or of one `run`, by the strategies applied to it; `join` puts a run
together that several jobs sampled.
"""

from __future__ import annotations

import argparse
import sys
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING

from stages import lineage, processes, resume
from stages.decided.auto import Resolved
from stages.errors import InputError
from stages.params import read_study
from stages.runtime import device, run_and_leave
from stages.sample.resolve import SamplingPlan, run_of, sampling_plan
from stages.sample.settings import RunIdentity, Target
from stages.sample.shards import join
from stages.shards import Shard

if TYPE_CHECKING:
    from torch import nn

    from stages.sample.job import Sampling


def main() -> None:
    """Command line of the stage."""
    parser = argparse.ArgumentParser(prog="python -m stages.sample", description=__doc__)
    kinds = parser.add_subparsers(dest="what", required=True)
    base = kinds.add_parser("base", help="the base, and its latents at every switch step")
    run = kinds.add_parser("run", help="one fine-tuned run by every strategy")
    for kind in (base, run):
        kind.add_argument("--params", type=Path, required=True, help="study file")
        kind.add_argument("--base", type=Path, required=True, help="model record of the base (JSON)")
        kind.add_argument("--tensors", type=Path, required=True, help="encodings.safetensors of encode")
        kind.add_argument("--index", type=Path, required=True, help="index.parquet of encode")
        kind.add_argument("--models", type=Path, help="folder with the model records, for strategies with a reward")
        kind.add_argument("--runs", type=Path, help="folder of trained runs, for strategies with a further network")
        kind.add_argument("--predictors", type=Path, help="folder of distilled models, for strategies with one")
        kind.add_argument("--auto", type=Path, help="auto.json of decided, for strategies with `auto`")
        kind.add_argument("--samples", type=Path, required=True, help="written: samples.parquet")
    base.add_argument("--latents", type=Path, required=True, help="written: latents of the base at every switch step")
    run.add_argument("--latents", type=Path, required=True, help="the latents that `base` wrote")
    run.add_argument("--run", required=True, help="entry of `runs`")
    run.add_argument("--policy", type=Path, required=True, help="policy.safetensors of finetune")
    run.add_argument("--shard", type=str, default="1/1", help="make a part only: 2/4 is the second of four")
    parts = kinds.add_parser("join", help="the parts of a run as one file")
    parts.add_argument("--params", type=Path, required=True, help="study file")
    parts.add_argument("--run", required=True, help="entry of `runs`")
    parts.add_argument("--parts", type=Path, nargs="+", required=True, help="the files of all shards, in order")
    parts.add_argument("--samples", type=Path, required=True, help="written: samples.parquet")
    args = parser.parse_args()
    if args.what == "join":
        joined_images(args)
        return
    plan = sampling_plan(args.params, found=None if args.auto is None else Resolved.read(args.auto))
    for strategy in plan.strategies:
        if strategy.settings.auto:
            raise InputError(f"--auto: strategy {strategy.name!r} has auto; expected auto.json of `decided`")
    processes.spread("stages.sample", sys.argv[1:])
    if args.what == "base":
        base_images(args, plan)
    else:
        run_images(args, plan)


def joined_images(args: argparse.Namespace) -> None:
    """`sample join`."""
    with lineage.job(
        params=args.params, stage="sample", name=args.run, inputs=args.parts, outputs=[args.samples]
    ) as job:
        job.metrics({"images": join(args.parts, args.samples)})


def base_images(args: argparse.Namespace, plan: SamplingPlan) -> None:
    """`sample base`."""
    rewards = [_record(args, name) for name in plan.rewards("base")]
    others = _networks(args, plan, "base")
    students = _students(args, plan, "base")
    inputs, outputs = [args.base, args.tensors, args.index, *rewards, *others.values()], [args.samples, args.latents]
    inputs += students.values()
    inputs += [args.auto] if args.auto else []
    with lineage.job(params=args.params, stage="sample", name="base", inputs=inputs, outputs=outputs) as job:
        from stages.sample.run import sample_base

        with (
            processes.joined() as several,
            resume.keep(args.params, "sample", "base", args.samples, plan.identity("base"), inputs, several) as state,
        ):
            work = _sampling(args, plan, "base", others, students)
            job.metrics({"images": sample_base(work, args.samples, args.latents, state, several)})


def run_images(args: argparse.Namespace, plan: SamplingPlan) -> None:
    """`sample run`."""
    run, shard = RunIdentity.read(args.params, args.run), Shard.parse(args.shard)
    name = shard.named(args.run)
    rewards = [_record(args, reward) for reward in plan.rewards("tuned")]
    others = _networks(args, plan, args.run)
    students = _students(args, plan, "tuned")
    inputs = [args.base, args.policy, args.tensors, args.index, args.latents, *rewards, *others.values()]
    inputs += students.values()
    inputs += [args.auto] if args.auto else []
    with lineage.job(params=args.params, stage="sample", name=name, inputs=inputs, outputs=[args.samples]) as job:
        from stages.sample.job import Identity
        from stages.sample.made_by import digest_of
        from stages.sample.run import sample_run

        read = plan.identity("tuned") | {"run": run.model_dump()}
        with (
            processes.joined() as several,
            resume.keep(args.params, "sample", name, args.samples, read, inputs, several) as state,
        ):
            work = _sampling(args, plan, "tuned", others, students)
            whose = Identity(args.run, run.method, run.seed)
            images = sample_run(work, whose, args.latents, args.samples, state, several, shard, digest_of(args.policy))
            job.metrics({"images": images})


def _record(args: argparse.Namespace, reward: str) -> Path:
    """The record of a model that a strategy asks."""
    if args.models is None:
        raise InputError(f"--models: a strategy asks the reward {reward!r}; expected the folder with the model records")
    return args.models / f"{reward}.json"


def _networks(args: argparse.Namespace, plan: SamplingPlan, run: str) -> dict[str, Path]:
    """The trained weights of further networks that strategies evaluate."""
    names = plan.networks("base" if run == "base" else "tuned")
    if names and args.runs is None:
        raise InputError(f"--runs: a strategy evaluates {names[0]!r}; expected the folder of the trained runs")
    runs = read_study(args.params).get("runs") or {}
    return {
        name: args.runs / run_of(name, run, runs, f"{args.params}: sample.strategies") / "policy.safetensors"
        for name in names
    }


def _students(args: argparse.Namespace, plan: SamplingPlan, target: Target) -> dict[str, Path]:
    """The records of the distilled models that strategies evaluate."""
    names = plan.students(target)
    if names and args.predictors is None:
        raise InputError(f"--predictors: a strategy evaluates {names[0]!r}; expected the folder of distilled models")
    return {name: args.predictors / f"{name}.json" for name in names}


def _sampling(
    args: argparse.Namespace, plan: SamplingPlan, target: Target, others: Mapping[str, Path],
    students: Mapping[str, Path],
) -> Sampling:  # fmt: skip
    from stages.encode.store import Encodings
    from stages.models.consistency import recorded_student
    from stages.models.diffusion import load_diffusion
    from stages.models.policy import load_policy
    from stages.models.record import load
    from stages.rewards.base import load_reward, require_gradient
    from stages.sample.job import RecordedReward, Sampling
    from stages.sample.settings import student
    from stages.sample.suite import Suite

    where, sample = device(), plan.sample
    texts = ("text_encoder",) if any(strategy.settings.encodes() for strategy in plan.of(target)) else ()
    model = load_diffusion(load(args.base), where, parts=("unet", "vae", *texts))

    def trained(path: Path) -> nn.Module:
        return load_policy(model.unet, path, model.record.digest).network

    tuned = None if target == "base" else trained(args.policy)
    encodings = Encodings(args.tensors, args.index, where, model.record.digest)
    encodings.require_fit(model, args.tensors)
    suite = Suite(encodings, plan.seed, sample.samples_per_prompt, sample.batch_size, where)
    rewards = {}
    for name in plan.rewards(target):
        record = load(_record(args, name), name)
        rewards[name] = RecordedReward(load_reward(record, where), record.digest)
    for strategy in plan.of(target):
        for name in strategy.settings.rewards() if strategy.settings.needs_gradient() else ():
            require_gradient(rewards[name].reward)
    further = {name: trained(path) for name, path in others.items()}
    further |= {student(name): recorded_student(path, name, where) for name, path in students.items()}
    return Sampling.of(model, plan, suite, tuned, further, rewards)


if __name__ == "__main__":
    run_and_leave(main)
