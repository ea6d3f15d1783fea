"""What is settled when: from the base's own states at every index of the grid, the rest is drawn again."""

from __future__ import annotations

import argparse
from pathlib import Path

from stages import lineage, resume
from stages.decided.settings import DecidedSettings, DecidedStudy, GridSettings
from stages.errors import InputError
from stages.measure.settings import MeasureSettings
from stages.params import read_study, section
from stages.runtime import device, run_and_leave


def main() -> None:
    """Command line of the stage."""
    parser = argparse.ArgumentParser(prog="python -m stages.decided", description=__doc__)
    parser.add_argument("--params", type=Path, required=True, help="study file")
    parser.add_argument("--base", type=Path, required=True, help="model record of the base (JSON)")
    parser.add_argument("--tensors", type=Path, required=True, help="encodings.safetensors of encode")
    parser.add_argument("--index", type=Path, required=True, help="index.parquet of encode")
    parser.add_argument("--models", type=Path, required=True, help="folder with the model records (NAME.json)")
    parser.add_argument("--pairs", type=Path, required=True, help="written: variance and diversity of every prompt")
    parser.add_argument("--shares", type=Path, required=True, help="written: open shares with intervals over prompts")
    parser.add_argument("--auto", type=Path, required=True, help="written: what `auto` stands for (JSON)")
    args = parser.parse_args()
    if read_study(args.params).get("decided") is None:
        raise InputError(f"{args.params}: decided: there is no such section; expected `decided: {{diversity: NAME}}`")
    settings = section(args.params, "decided", DecidedSettings)
    measured = section(args.params, "measure", MeasureSettings)
    seed, steps = (
        section(args.params, "study", DecidedStudy).seed, section(args.params, "sample", GridSettings).steps
    )  # fmt: skip
    try:
        settings.grid(steps)
    except ValueError as error:
        raise InputError(f"{args.params}: decided.{error}") from None
    inputs = [args.base, args.tensors, args.index, *(args.models / f"{name}.json" for name in measured.models)]
    outputs = [args.pairs, args.shares, args.auto]
    with lineage.job(params=args.params, stage="decided", inputs=inputs, outputs=outputs) as job:
        from stages.decided.draw import Drawing
        from stages.decided.run import Decision, Outputs, decide
        from stages.encode.store import Encodings
        from stages.measure.judges import load_judges
        from stages.measure.samples import load_metrics
        from stages.models.diffusion import load_diffusion
        from stages.models.record import load

        judges = load_judges(measured, args.models, device())
        read = {
            "decided": settings.model_dump(), "measure": measured.model_dump(exclude={"shards"}), "seed": seed,
            "steps": steps, "models": judges.panel.identities,
        }  # fmt: skip
        with resume.keep(args.params, "decided", "decided", args.shares, read, inputs) as state:
            model = load_diffusion(load(args.base), device(), parts=("unet", "vae"))
            encodings = Encodings(args.tensors, args.index, device(), model.record.digest)
            encodings.require_fit(model, args.tensors)
            drawing = Drawing(model, encodings, settings, steps, seed)
            decision = Decision(drawing, judges, load_metrics(measured))
            found = decide(decision, Outputs(*outputs), measured.bootstrap, measured.interval, state)
        job.metrics({"evaluations": found.evaluations} | ({"start": found.start} if found.start is not None else {}))


if __name__ == "__main__":
    run_and_leave(main)
