"""Sample the evaluation prompts: `base` over its guidance scales, or one `run` over the study's strategies; `join`
puts a run together that several jobs sampled.
"""

from __future__ import annotations

import argparse
import sys
from pathlib import Path
from typing import TYPE_CHECKING

from stages import lineage, processes, resume
from stages.params import section
from stages.runtime import device, run_stage
from stages.sample.resolve import Plan, resolve
from stages.sample.settings import RunIdentity
from stages.sample.shards import join
from stages.shards import Shard

if TYPE_CHECKING:
    from stages.models.diffusion import DiffusionModel
    from stages.sample.run import Painter


def main() -> None:
    """Command line of the stage."""
    parser = argparse.ArgumentParser(prog="python -m stages.sample", description=__doc__)
    kinds = parser.add_subparsers(dest="what", required=True)
    base = kinds.add_parser("base", help="the base alone, and its latents at every switch step")
    run = kinds.add_parser("run", help="one fine-tuned run by every strategy")
    for kind in (base, run):
        kind.add_argument("--params", type=Path, required=True, help="study file")
        kind.add_argument("--base", type=Path, required=True, help="model record of the base (JSON)")
        kind.add_argument("--tensors", type=Path, required=True, help="encodings.safetensors of encode")
        kind.add_argument("--index", type=Path, required=True, help="index.parquet of encode")
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
    plan = resolve(args.params)
    if args.what == "join":
        joined_images(args)
        return
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


def base_images(args: argparse.Namespace, plan: Plan) -> None:
    """`sample base`."""
    inputs, outputs = [args.base, args.tensors, args.index], [args.samples, args.latents]
    with lineage.job(params=args.params, stage="sample", name="base", inputs=inputs, outputs=outputs) as job:
        from stages.sample.run import sample_base

        with (
            processes.joined() as several,
            resume.keep(args.params, "sample", "base", args.samples, plan.identity(), inputs, several) as state,
        ):
            _, painter = _painter(args, plan)
            job.metrics({"images": sample_base(painter, args.samples, args.latents, state, several)})


def run_images(args: argparse.Namespace, plan: Plan) -> None:
    """`sample run`."""
    run, shard = section(args.params, f"runs.{args.run}", RunIdentity), Shard.parse(args.shard)
    name = shard.named(args.run)
    inputs, outputs = [args.base, args.policy, args.tensors, args.index, args.latents], [args.samples]
    with lineage.job(params=args.params, stage="sample", name=name, inputs=inputs, outputs=outputs) as job:
        from stages.models.policy import load_policy
        from stages.sample.run import Identity, sample_run

        read = plan.identity() | {"run": run.model_dump()}
        with (
            processes.joined() as several,
            resume.keep(args.params, "sample", name, args.samples, read, inputs, several) as state,
        ):
            model, painter = _painter(args, plan)
            policy = load_policy(model.unet, args.policy, model.record.digest)
            whose = Identity(args.run, run.method, run.seed)
            images = sample_run(painter, policy, whose, args.latents, args.samples, state, several, shard)
            job.metrics({"images": images})


def _painter(args: argparse.Namespace, plan: Plan) -> tuple[DiffusionModel, Painter]:
    from stages.encode.store import Encodings
    from stages.models.diffusion import load_diffusion
    from stages.models.record import load
    from stages.sample.run import Painter
    from stages.sample.suite import Suite

    where, sample = device(), plan.sample
    model = load_diffusion(load(args.base), where, parts=("unet", "vae"))
    encodings = Encodings(args.tensors, args.index, where)
    suite = Suite(encodings, plan.seed, sample.samples_per_prompt, sample.batch_size, where)
    return model, Painter.of(model, plan, suite)


if __name__ == "__main__":
    run_stage(main)
