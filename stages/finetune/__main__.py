"""Fine-tune a policy on a reward with one method of the study: `--run` names an entry of `runs`."""

from __future__ import annotations

import argparse
import sys
from pathlib import Path

from stages import lineage, processes
from stages.decided.auto import Resolved
from stages.errors import InputError
from stages.finetune.paths import Paths
from stages.finetune.resolve import training_plan
from stages.runtime import run_and_leave


def main() -> None:
    """Command line of the stage."""
    parser = argparse.ArgumentParser(prog="python -m stages.finetune", description=__doc__)
    parser.add_argument("--params", type=Path, required=True, help="study file")
    parser.add_argument("--run", required=True, help="entry of `runs`: a method and a training seed")
    parser.add_argument("--base", type=Path, required=True, help="model record of the base (JSON)")
    parser.add_argument("--reward", type=Path, required=True, help="model record of the training reward (JSON)")
    parser.add_argument("--heldout", type=Path, required=True, help="model record of the held-out reward, only probed")
    parser.add_argument("--tensors", type=Path, required=True, help="encodings.safetensors of encode")
    parser.add_argument("--index", type=Path, required=True, help="index.parquet of encode")
    parser.add_argument("--predictors", type=Path, help="folder of distilled models, for methods that name one")
    parser.add_argument("--auto", type=Path, help="auto.json of decided, for methods with `auto`")
    parser.add_argument("--oracle", type=Path, help="model record of the oracle that probes ask, where they ask one")
    parser.add_argument("--weights", type=Path, required=True, help="written: the trained part of the policy")
    parser.add_argument("--log", type=Path, required=True, help="written: train_log.parquet")
    parser.add_argument("--probes", type=Path, help="written where it is named: small pictures of what was probed")
    args = parser.parse_args()
    plan = training_plan(args.params, args.run, found=None if args.auto is None else Resolved.read(args.auto))
    if plan.method_settings.auto:
        raise InputError(f"--auto: method {plan.method!r} has auto; expected auto.json of `decided`")
    paths = Paths(
        args.base, args.reward, args.heldout, args.tensors, args.index,
        predictors=args.predictors, auto=args.auto, oracle=args.oracle,
    )  # fmt: skip
    inputs, outputs = paths.inputs(plan.method_settings.needs), [args.weights, args.log]
    outputs += [args.probes] if args.probes else []
    processes.spread("stages.finetune", sys.argv[1:])

    with lineage.job(params=args.params, stage="finetune", name=args.run, inputs=inputs, outputs=outputs) as job:
        from stages import resume
        from stages.finetune.run import finetune

        job.parameters(plan.parameters())
        with (
            processes.joined() as several,
            resume.keep(args.params, "finetune", args.run, args.weights, plan.identity(), inputs, several) as state,
        ):
            finetune(plan, paths, args.weights, args.log, job, state, several, args.probes)
        job.model(args.run, args.weights, data=[args.tensors, args.index])


if __name__ == "__main__":
    run_and_leave(main)
