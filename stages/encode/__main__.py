"""Encode prompts, captioned images and, where asked, pairs once: text embeddings and VAE posteriors, with an index."""

from __future__ import annotations

import argparse
from pathlib import Path

from stages import lineage, resume
from stages.encode.settings import EncodeSettings
from stages.errors import InputError
from stages.params import section
from stages.runtime import device, run_and_leave


def main() -> None:
    """Command line of the stage."""
    parser = argparse.ArgumentParser(prog="python -m stages.encode", description=__doc__)
    parser.add_argument("--params", type=Path, required=True, help="study file")
    parser.add_argument("--base", type=Path, required=True, help="model record of the base (JSON)")
    parser.add_argument("--prompts", type=Path, required=True, help="prompts.parquet of curate")
    parser.add_argument("--images", type=Path, required=True, help="images.parquet of curate")
    parser.add_argument("--pairs", type=Path, help="pairs.parquet of curate, to encode the images of pairs too")
    parser.add_argument("--selected", type=Path, help="pairs.parquet of select, in place of --pairs")
    parser.add_argument("--made", type=Path, help="pairs.parquet of renoise, to learn from beside the others")
    parser.add_argument("--made-images", type=Path, help="images.parquet of renoise, with --made")
    parser.add_argument("--tensors", type=Path, required=True, help="written: encodings.safetensors")
    parser.add_argument("--index", type=Path, required=True, help="written: index.parquet")
    args = parser.parse_args()
    settings = section(args.params, "encode", EncodeSettings)

    from stages.encode.encode import Made, encode
    from stages.models.diffusion import load_diffusion
    from stages.models.record import load

    inputs, outputs = [args.prompts, args.images, args.base], [args.tensors, args.index]
    compared = args.selected or args.pairs
    inputs += [compared] if compared else []
    if (args.made is None) != (args.made_images is None):
        raise InputError("--made and --made-images go together: expected both or neither")
    made = Made(args.made_images, args.made) if args.made else None
    inputs += [made.images, made.pairs] if made else []
    with (
        lineage.job(params=args.params, stage="encode", name="encode", inputs=inputs, outputs=outputs) as job,
        resume.keep(args.params, "encode", "encode", args.tensors, settings.model_dump(), inputs) as state,
    ):
        model = load_diffusion(load(args.base), device(), parts=("vae", "text_encoder"))
        counts = encode(model, args.prompts, args.images, args.tensors, args.index, settings, state, compared, made)
        job.metrics(counts)


if __name__ == "__main__":
    run_and_leave(main)
