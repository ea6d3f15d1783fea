"""Write a fine-tuned model in a form that other programs load: merged weights, or a combined-generation pipeline."""

from __future__ import annotations

import argparse
import math
from pathlib import Path
from typing import TYPE_CHECKING

from stages.errors import InputError
from stages.runtime import run_and_leave

if TYPE_CHECKING:
    from torch import nn

    from stages.models.diffusion import DiffusionModel

DTYPES = ("float32", "float16", "bfloat16")


def main() -> None:
    """Command line."""
    parser = argparse.ArgumentParser(prog="python -m stages.export", description=__doc__)
    kinds = parser.add_subparsers(dest="what", required=True)
    merged = kinds.add_parser("merged", help="a folder like the base's, with the fine-tuned network in it")
    combined = kinds.add_parser("combined", help="both networks and a pipeline with switch_step")
    for kind in (merged, combined):
        kind.add_argument("--base", type=Path, required=True, help="model record of the base (JSON)")
        kind.add_argument("--policy", type=Path, required=True, help="policy.safetensors of finetune")
        kind.add_argument("--out", type=Path, required=True, help="written: the folder")
        kind.add_argument("--dtype", choices=DTYPES, default=DTYPES[0], help="type of the networks' weights")
    combined.add_argument("--switch-step", type=int, default=30, help="first steps that the base makes")
    combined.add_argument("--steps", type=int, default=40, help="sampling steps")
    combined.add_argument("--base-guidance", type=float, default=7.5, help="guidance scale of the base; 1 is none")
    combined.add_argument("--guidance", type=float, default=1.0, help="guidance scale of the fine-tuned network")
    combined.add_argument(
        "--sampler", choices=("ddpm", "ddim"), default="ddpm", help="ancestral or deterministic steps"
    )
    args = parser.parse_args()
    if args.what == "combined":
        _check(args)

    import torch

    from stages.export.folder import Defaults, write_combined, write_merged

    model, network = _networks(args.base, args.policy)
    dtype = getattr(torch, args.dtype)
    if args.what == "merged":
        write_merged(model, network, args.out, dtype)
    else:
        given = Defaults(args.sampler, args.steps, args.switch_step, args.base_guidance, args.guidance)
        write_combined(model, network, args.out, dtype, given, args.policy.parent.name)
    print(f"{args.out}: written")


def _check(args: argparse.Namespace) -> None:
    """Raise InputError for defaults with which no pipeline could sample."""
    if args.steps < 1:
        raise InputError(f"--steps {args.steps}: expected at least 1")
    for flag, scale in (("--base-guidance", args.base_guidance), ("--guidance", args.guidance)):
        if not 0 <= scale < math.inf:
            raise InputError(f"{flag} {scale:g}: expected a guidance scale of 0 or more")


def _networks(base: Path, policy: Path) -> tuple[DiffusionModel, nn.Module]:
    """The base, and its network with the policy merged into it."""
    import torch

    from stages.export.merge import merged
    from stages.models.diffusion import load_diffusion
    from stages.models.policy import load_policy
    from stages.models.record import load

    model = load_diffusion(load(base), torch.device("cpu"), ("unet",))
    return model, merged(model.unet, load_policy(model.unet, policy, model.record.digest))


if __name__ == "__main__":
    run_and_leave(main)
