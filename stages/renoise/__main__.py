"""Make pairs of real images: each is noised to two levels and denoised again by the base."""

from __future__ import annotations

import argparse
from pathlib import Path

from stages import lineage, resume
from stages.curate.settings import StudySeed
from stages.params import read_study, section, validate
from stages.renoise.settings import RenoiseSettings
from stages.runtime import device, run_and_leave


def main() -> None:
    """Command line of the stage."""
    parser = argparse.ArgumentParser(prog="python -m stages.renoise", description=__doc__)
    parser.add_argument("--params", type=Path, required=True, help="study file")
    parser.add_argument("--base", type=Path, required=True, help="model record of the base (JSON)")
    parser.add_argument("--images", type=Path, required=True, help="images.parquet of curate")
    parser.add_argument("--made", type=Path, required=True, help="written: the images of the pairs")
    parser.add_argument("--pairs", type=Path, required=True, help="written: the pairs")
    parser.add_argument("--manifest", type=Path, required=True, help="written: what was counted (JSON)")
    args = parser.parse_args()
    settings = section(args.params, "renoise", RenoiseSettings)
    study = read_study(args.params).get("study") or {}
    seed = validate(StudySeed, study, f"{args.params}: study").seed

    from stages.models.diffusion import load_diffusion
    from stages.models.record import load
    from stages.renoise.run import renoise

    inputs, outputs = [args.base, args.images], [args.made, args.pairs, args.manifest]
    read = settings.model_dump(exclude={"batch_size"}) | {"study_seed": seed}
    with (
        lineage.job(params=args.params, stage="renoise", name="renoise", inputs=inputs, outputs=outputs) as job,
        resume.keep(args.params, "renoise", "renoise", args.made, read | {"batch_size": settings.batch_size}, inputs)
        as state,
    ):  # fmt: skip
        model = load_diffusion(load(args.base), device(), parts=("unet", "vae", "text_encoder"))
        job.metrics(renoise(model, settings, seed, args.images, (args.made, args.pairs, args.manifest), state))


if __name__ == "__main__":
    run_and_leave(main)
