"""Say what a study would take on this machine: hours of training and sampling, memory, disk.

Networks are timed for a moment on the study's own data, so its prompts and images have to be encoded before; `make
estimate STUDY=...` sees to that. Nothing is kept. What measuring takes, scoring and the report is not reckoned.
"""

from __future__ import annotations

import argparse
from collections import Counter
from pathlib import Path

from stages.errors import InputError
from stages.estimate.said import said
from stages.params import read_study
from stages.runtime import run_stage


def main() -> None:
    """Command line."""
    parser = argparse.ArgumentParser(prog="python -m stages.estimate", description=__doc__.splitlines()[0])  # type: ignore[union-attr]
    parser.add_argument("--params", type=Path, required=True, help="study file")
    parser.add_argument("--base", type=Path, required=True, help="model record of the base (JSON)")
    parser.add_argument("--reward", type=Path, required=True, help="model record of the training reward (JSON)")
    parser.add_argument("--tensors", type=Path, required=True, help="encodings.safetensors of encode")
    parser.add_argument("--index", type=Path, required=True, help="index.parquet of encode")
    parser.add_argument("--models", type=Path, help="folder with the model records, for strategies with a reward")
    parser.add_argument("--predictors", type=Path, help="folder of distilled models, for methods that name one")
    args = parser.parse_args()
    runs = read_study(args.params).get("runs") or {}
    counted = Counter(str(run["method"]) for run in runs.values())
    first = {str(run["method"]): name for name, run in reversed(runs.items())}

    from stages.encode.store import Encodings
    from stages.estimate.trial import sampling, training
    from stages.finetune.judge import require_enough
    from stages.finetune.resolve import resolve
    from stages.models import record
    from stages.models.diffusion import load_diffusion
    from stages.rewards.base import load_reward
    from stages.runtime import device, progress
    from stages.sample.resolve import resolve as resolve_sampling

    plans, where = [resolve(args.params, first[method]) for method in counted], device()
    plan = resolve_sampling(args.params)
    model = load_diffusion(record.load(args.base), where, parts=("unet", "vae"))
    encodings = Encodings(args.tensors, args.index, where)
    asked = dict.fromkeys([*plan.rewards("base"), *plan.rewards("tuned")])
    if asked and args.models is None:
        raise InputError(
            f"--models: a strategy asks the reward {next(iter(asked))!r}; expected the folder of the records"
        )
    rewards = {name: load_reward(record.load(args.models / f"{name}.json"), where) for name in asked}
    made = sampling(plan, model, encodings, rewards)
    reward = load_reward(record.load(args.reward), where) if plans else None
    trained = []
    for each in progress(plans, len(plans), "estimate"):
        assert reward is not None
        student = getattr(each.method_settings, "model", None)
        if student and not (args.predictors and (args.predictors / f"{student}.json").exists()):
            print(f"{each.method}: left out, its distilled model {student!r} is not there yet")
            del counted[each.method]
            continue
        trained.append(training(each, model, encodings, require_enough(each, reward), args.predictors))
    print(said(trained, counted, made))


if __name__ == "__main__":
    run_stage(main)
