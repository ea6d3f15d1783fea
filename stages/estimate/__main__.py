"""Say what a study would take on this machine: hours of training and sampling, memory, disk.

Networks are timed for a moment on the study's own data, so its prompts and images have to be encoded before; `make
estimate STUDY=...` sees to that. Nothing is kept. What measuring, scoring, `select`, `decided` and the report take is
left out. For `auto`, the open share is taken to fall evenly from index to index.
"""

from __future__ import annotations

import argparse
from collections import Counter
from pathlib import Path

from stages.checkpoints.settings import names_checkpoint
from stages.decided.auto import stand_in
from stages.decided.settings import GridSettings
from stages.errors import InputError
from stages.estimate.said import said
from stages.params import read_study, section
from stages.runtime import run_and_leave


def main() -> None:
    """Command line."""
    parser = argparse.ArgumentParser(prog="python -m stages.estimate", description=str(__doc__).splitlines()[0])
    parser.add_argument("--params", type=Path, required=True, help="study file")
    parser.add_argument("--base", type=Path, required=True, help="model record of the base (JSON)")
    parser.add_argument("--reward", type=Path, required=True, help="model record of the training reward (JSON)")
    parser.add_argument("--tensors", type=Path, required=True, help="encodings.safetensors of encode")
    parser.add_argument("--index", type=Path, required=True, help="index.parquet of encode")
    parser.add_argument("--models", type=Path, help="folder with the model records, for strategies with a reward")
    parser.add_argument("--predictors", type=Path, help="folder of distilled models, for methods that name one")
    args = parser.parse_args()
    every_run = read_study(args.params).get("runs") or {}
    runs = {name: run for name, run in every_run.items() if not names_checkpoint(run)}
    counted = Counter(str(run["method"]) for run in runs.values())
    first = {str(run["method"]): name for name, run in reversed(runs.items())}
    if not counted:
        raise InputError(f"{args.params}: runs: none is trained here, expected at least one to estimate")

    from stages.estimate.trial import sampling, training
    from stages.finetune.context import TrainingContext
    from stages.finetune.paths import Paths
    from stages.finetune.resolve import training_plan
    from stages.models import record
    from stages.rewards.base import load_reward
    from stages.runtime import device, progress
    from stages.sample.resolve import sampling_plan

    paths = Paths(args.base, args.reward, None, args.tensors, args.index, args.predictors)
    steps = section(args.params, "sample", GridSettings).steps
    guess = stand_in(steps)  # `decided` need not have run
    plans, every = [], [training_plan(args.params, first[method], found=guess) for method in counted]
    for plan in every:
        student = plan.method_settings.needs.student
        distilled = None if student is None else paths.student(student)
        if student is None or (distilled is not None and distilled.exists()):
            plans.append(plan)
            continue
        print(f"{plan.method}: left out, its distilled model {student!r} is not there yet")
        del counted[plan.method]
    wanted = sampling_plan(args.params, found=guess)
    searched = dict.fromkeys([*wanted.rewards("base"), *wanted.rewards("tuned")])
    if searched and args.models is None:
        raise InputError(
            f"--models: a strategy asks the reward {next(iter(searched))!r}; expected the folder of the records"
        )
    context = TrainingContext.load(paths, every)
    rewards = {name: load_reward(record.load(args.models / f"{name}.json", name), device()) for name in searched}
    made = sampling(wanted, context.model, context.encodings, rewards)
    trained = [training(plan, context) for plan in progress(plans, len(plans), "estimate")]
    print(said(trained, counted, made))


if __name__ == "__main__":
    run_and_leave(main)
