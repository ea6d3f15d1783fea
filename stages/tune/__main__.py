"""Try learning rates on training prompts, method by method, and say which one the rule chooses.

Not part of the workflow: the study file says the rates that were chosen, and the table says why.
"""

from __future__ import annotations

import argparse
from collections.abc import Sequence
from dataclasses import asdict, replace
from pathlib import Path
from typing import TYPE_CHECKING

from stages import tables
from stages.checkpoints.settings import names_checkpoint
from stages.decided.auto import Resolved
from stages.errors import InputError
from stages.finetune.paths import Paths
from stages.finetune.resolve import TrainingPlan, training_plan
from stages.finetune.settings import RunSettings
from stages.params import nearest, read_study, section
from stages.runtime import require_apart, run_and_leave
from stages.tune.choice import choose
from stages.tune.settings import TunedStudy, require_methods, require_own_seed

if TYPE_CHECKING:
    from stages.tune.choice import Trial


def main() -> None:
    """Command line."""
    parser = argparse.ArgumentParser(prog="python -m stages.tune", description=str(__doc__).splitlines()[0])
    parser.add_argument("--params", type=Path, required=True, help="study file")
    parser.add_argument("--base", type=Path, required=True, help="model record of the base (JSON)")
    parser.add_argument("--reward", type=Path, required=True, help="model record of the training reward (JSON)")
    parser.add_argument("--heldout", type=Path, required=True, help="model record of the held-out reward (JSON)")
    parser.add_argument("--tensors", type=Path, required=True, help="encodings.safetensors of encode")
    parser.add_argument("--index", type=Path, required=True, help="index.parquet of encode")
    parser.add_argument("--predictors", type=Path, help="folder of distilled models, for methods that name one")
    parser.add_argument("--auto", type=Path, help="auto.json of decided, for methods with `auto`")
    parser.add_argument("--methods", nargs="+", help="methods to tune (default: every one that has a run)")
    parser.add_argument("--table", type=Path, required=True, help="written: one row per (method, rate), Parquet")
    args = parser.parse_args()
    tune = section(args.params, "study", TunedStudy).tune
    found = plans(args.params, args.methods, args.auto)
    require_own_seed(tune, run_seeds(args.params), f"{args.params}: study.tune.seed")
    require_methods(tune, read_study(args.params).get("methods") or {}, f"{args.params}: study.tune.own")

    from stages.tune.sweep import sweep

    paths = Paths(args.base, args.reward, args.heldout, args.tensors, args.index, args.predictors)
    require_apart([args.params, args.base, args.reward, args.heldout, args.tensors, args.index], [args.table])
    trials = sweep(found, tune, paths)
    rows = table_rows(trials, tune.min_diversity)
    tables.write(args.table, tables.table(tables.TUNE, rows), tables.TUNE)
    for trial, row in zip(trials, rows, strict=True):
        mark = "  <- chosen" if row["chosen"] else ""
        means = f"{trial.reward:<10.4f}{trial.heldout_mean:<10.4f}{trial.diversity:<10.4f}"
        print(f"{trial.method:<20}{trial.lr:<10g}{trial.steps:<8}{means}{mark}")


def plans(path: Path, wanted: Sequence[str] | None, auto: Path | None = None) -> list[TrainingPlan]:
    """A plan per method, from any of its runs; `auto` is what `decided` wrote, for methods that take a key from it."""
    runs = read_study(path).get("runs") or {}
    if not isinstance(runs, dict) or not runs:
        raise InputError(f"{path}: runs: there is none; a method is tuned where a run trains it")
    trained = {name: run for name, run in runs.items() if isinstance(run, dict) and not names_checkpoint(run)}
    methods = {str(run.get("method")): name for name, run in trained.items()}
    for name in wanted or ():
        if name not in methods:
            raise InputError(f"{path}: --methods: no run of method {name!r}{nearest(name, methods)}")
    known = None if auto is None else Resolved.read(auto)
    chosen = {name: run for name, run in methods.items() if not wanted or name in wanted}
    found = [replace(training_plan(path, run, found=known), name=name) for name, run in chosen.items()]
    for plan in found:
        if plan.method_settings.auto:
            raise InputError(f"--auto: method {plan.method!r} has auto; expected auto.json of `decided`")
    return found


def run_seeds(path: Path) -> dict[str, int]:
    """The training seed of every run of the study that is trained."""
    runs = read_study(path).get("runs") or {}
    trained = [name for name, run in runs.items() if not names_checkpoint(run)]
    return {name: section(path, f"runs.{name}", RunSettings, {"runs": runs}).seed for name in trained}


def table_rows(trials: Sequence[Trial], min_diversity: float) -> list[dict[str, object]]:
    """Rows of the table `tune`, with the chosen rate of every method marked."""
    base, *tried = trials
    chosen = []
    for method in dict.fromkeys(trial.method for trial in tried):
        try:
            chosen.append(choose([t for t in tried if t.method == method], base.diversity, min_diversity))
        except ValueError as error:
            raise InputError(f"{method}: {error}") from None
    return [{**asdict(trial), "chosen": trial in chosen} for trial in trials]


if __name__ == "__main__":
    run_and_leave(main)
