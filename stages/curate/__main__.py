"""Curate raw prompts, captioned images and preference pairs: one table each, filtered, split and counted."""

from __future__ import annotations

import argparse
import sys
from pathlib import Path

from stages import lineage
from stages.curate.settings import CurateSettings, StudySeed
from stages.params import read_study, section, validate
from stages.runtime import run_and_leave
from stages.world.settings import WorldSettings

ABOUT = """
The sources stand in section `curate` of the study file: the simulated world (shapes), a folder of images, Parquet,
prompt lists and pairs in txt, csv, tsv, json, jsonl or Parquet; docs/bring-your-own-data.md shows each. The same
filters apply to all of them, and the manifest counts what every filter removed, with examples. Paths in the study file
are taken from the current folder. A source that is missing or malformed is refused with exit code 2 and nothing is
written; single images that cannot be read are counted and left out.
"""


def main() -> None:
    """Command line of the stage."""
    parser = argparse.ArgumentParser(prog="python -m stages.curate", description=__doc__, epilog=ABOUT)
    parser.add_argument("--params", type=Path, required=True, help="study file: sections `curate` and `world`")
    parser.add_argument("--prompts", type=Path, required=True, help="written: training and evaluation prompts")
    parser.add_argument("--images", type=Path, required=True, help="written: captioned images, and those of pairs")
    parser.add_argument("--pairs", type=Path, required=True, help="written: preference pairs by image_id")
    parser.add_argument("--manifest", type=Path, required=True, help="written: counts of every filter (JSON)")
    args = parser.parse_args()
    settings = section(args.params, "curate", CurateSettings)
    study = read_study(args.params)
    world = validate(WorldSettings, study.get("world") or {}, f"{args.params}: world")
    seed = validate(StudySeed, study.get("study") or {}, f"{args.params}: study").seed

    from stages.curate.pipeline import Curation, Outputs

    outputs = Outputs(args.prompts, args.images, args.pairs, args.manifest)
    files = [args.prompts, args.images, args.pairs, args.manifest]
    inputs = [path for path in settings.paths() if Path(path).exists()]
    with lineage.job(params=args.params, stage="curate", inputs=inputs, outputs=files) as job:
        curation = Curation(settings, world, seed)
        curation.run(outputs)
        for name, tally in curation.tallies.items():
            print(f"{name}: {tally.left} of {tally.entered} rows kept", file=sys.stderr)
            for source, left_out in tally.left_out.items():
                for reason, step in left_out.counts().items():
                    print(f"{name}: {source}: {step.removed} left out: {reason}", file=sys.stderr)
            job.metrics({f"{name}_in": tally.entered, f"{name}_out": tally.left})


if __name__ == "__main__":
    run_and_leave(main)
