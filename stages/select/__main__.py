"""Label and choose the curated training pairs by the steps of the study, with the scores that rewards gave them."""

from __future__ import annotations

import argparse
from pathlib import Path

from stages import lineage
from stages.params import section
from stages.runtime import run_and_leave
from stages.select.settings import SelectSettings, steps


def main() -> None:
    """Command line of the stage."""
    parser = argparse.ArgumentParser(prog="python -m stages.select", description=__doc__)
    parser.add_argument("--params", type=Path, required=True, help="study file")
    parser.add_argument("--pairs", type=Path, required=True, help="pairs.parquet of curate")
    parser.add_argument("--images", type=Path, required=True, help="images.parquet of curate")
    parser.add_argument("--scores", type=Path, required=True, help="folder of score: REWARD.parquet")
    parser.add_argument("--selected", type=Path, required=True, help="written: the pairs to learn from")
    parser.add_argument("--manifest", type=Path, required=True, help="written: what each step did (JSON)")
    args = parser.parse_args()
    settings = section(args.params, "select", SelectSettings)
    wanted = steps(settings, f"{args.params}: select")
    rewards = dict.fromkeys(name for step in wanted for name in step.settings.rewards())
    scores = {name: args.scores / f"{name}.parquet" for name in rewards}
    further = [Path(path) for step in wanted for path in step.settings.paths()]

    inputs, outputs = [args.pairs, args.images, *scores.values(), *further], [args.selected, args.manifest]
    with lineage.job(params=args.params, stage="select", name="select", inputs=inputs, outputs=outputs) as job:
        from stages.select.pairs import Table
        from stages.select.run import counts, select, write

        table = Table(args.pairs)
        selected = select(table.training(scores, args.images), wanted)
        job.metrics(counts(selected, write(selected, table, args.selected, args.manifest)))


if __name__ == "__main__":
    run_and_leave(main)
