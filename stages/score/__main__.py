"""Score every curated image and both sides of every pair with one reward; say how often it agrees with the pairs."""

from __future__ import annotations

import argparse
import json
from pathlib import Path

from stages import lineage, resume, tables
from stages.errors import InputError
from stages.params import nearest, section
from stages.runtime import device, run_and_leave, whole_file
from stages.score.settings import ScoreSettings


def main() -> None:
    """Command line of the stage."""
    parser = argparse.ArgumentParser(prog="python -m stages.score", description=__doc__)
    parser.add_argument("--params", type=Path, required=True, help="study file")
    parser.add_argument("--reward", required=True, help="name of the reward in the study")
    parser.add_argument("--model", type=Path, required=True, help="its model record (JSON)")
    parser.add_argument("--images", type=Path, required=True, help="images.parquet of curate")
    parser.add_argument("--pairs", type=Path, required=True, help="pairs.parquet of curate")
    parser.add_argument("--scores", type=Path, required=True, help="written: one row per image or side of a pair")
    parser.add_argument("--accuracy", type=Path, required=True, help="written: pair accuracy with its interval (JSON)")
    args = parser.parse_args()
    settings = section(args.params, "score", ScoreSettings)
    if args.reward not in settings.rewards:
        raise InputError(f"--reward: {args.reward!r} is not in score.rewards{nearest(args.reward, settings.rewards)}")

    inputs, outputs = [args.model, args.images, args.pairs], [args.scores, args.accuracy]
    with (
        lineage.job(params=args.params, stage="score", name=args.reward, inputs=inputs, outputs=outputs) as job,
        resume.keep(args.params, "score", args.reward, args.scores, {"batch": settings.batch_size}, inputs) as state,
    ):
        from stages.models.record import load
        from stages.rewards.base import load_reward
        from stages.score.accuracy import pair_accuracy
        from stages.score.scoring import read_pairs, score_rows

        pairs = read_pairs(args.pairs)
        record = load(args.model, args.reward)
        reward = load_reward(record, device())
        rows = score_rows(reward, args.reward, args.images, pairs, settings.batch_size, state)
        tables.write(args.scores, rows, tables.SCORES)
        found = {"reward": args.reward, "model": record.digest, **pair_accuracy(pairs)}
        with whole_file(args.accuracy) as partial:
            partial.write_text(json.dumps(found, indent=1) + "\n")
        job.metrics({name: value for name, value in found.items() if isinstance(value, int | float)})


if __name__ == "__main__":
    run_and_leave(main)
