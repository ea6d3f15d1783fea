"""Make a policy of a checkpoint that was trained elsewhere: `--run` names an entry of `runs` with `checkpoint`."""

from __future__ import annotations

import argparse
from pathlib import Path

from stages import lineage
from stages.checkpoints.files import find
from stages.checkpoints.settings import CheckpointSettings
from stages.params import section
from stages.runtime import run_and_leave


def main() -> None:
    """Command line of the stage."""
    parser = argparse.ArgumentParser(prog="python -m stages.checkpoints", description=__doc__)
    parser.add_argument("--params", type=Path, required=True, help="study file")
    parser.add_argument("--run", required=True, help="entry of `runs`: a checkpoint")
    parser.add_argument("--base", type=Path, required=True, help="model record of the base (JSON)")
    parser.add_argument("--policy", type=Path, required=True, help="written: the policy that sample reads")
    parser.add_argument("--record", type=Path, required=True, help="written: the files it was made of (JSON)")
    args = parser.parse_args()
    key = f"runs.{args.run}"
    settings = section(args.params, key, CheckpointSettings)
    where = f"{args.params}: {key}.checkpoint"
    checkpoint = find(settings.checkpoint, where)
    inputs, outputs = [args.base, *checkpoint.files], [args.policy, args.record]
    with lineage.job(params=args.params, stage="import_policy", name=args.run, inputs=inputs, outputs=outputs) as job:
        import torch

        from stages.checkpoints.convert import policy_of
        from stages.models import record
        from stages.models.diffusion import load_diffusion

        model = load_diffusion(record.load(args.base), torch.device("cpu"), parts=("unet",))
        policy = policy_of(model, checkpoint, where)
        policy.save(args.policy, model.record.digest)
        names = [file.relative_to(checkpoint.folder).as_posix() for file in checkpoint.files]
        options = {"form": checkpoint.form, "kept": policy.kind, "base": model.record.digest}
        made = record.describe_files(
            args.run, "checkpoint", checkpoint.folder, names, source=settings.checkpoint, options=options
        )
        record.save(made, args.record)
        job.parameters({"checkpoint": settings.checkpoint, "digest": made.digest, "kept": policy.kind})
        job.model(args.run, args.policy, data=checkpoint.files)


if __name__ == "__main__":
    run_and_leave(main)
