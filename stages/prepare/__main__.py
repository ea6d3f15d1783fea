"""`python -m stages.prepare`: the models of a study, taken from outside as they are or trained here by a recipe."""

from __future__ import annotations

import argparse
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING

from stages import lineage
from stages.errors import InputError
from stages.lineage import Job
from stages.params import section
from stages.prepare.import_settings import ImportSettings
from stages.prepare.settings import BaseSettings, ClipSettings, Training, VaeSettings
from stages.prepare.source import import_model
from stages.runtime import run_and_leave

if TYPE_CHECKING:
    from stages.models.record import ModelRecord
    from stages.prepare.loop import Log
    from stages.prepare.pictures import Pictures
    from stages.resume import State

LOG = "train_log.parquet"


def main() -> None:
    args = parser().parse_args()
    args.run(args)


def parser() -> argparse.ArgumentParser:
    """The command line of this stage."""
    top = argparse.ArgumentParser(prog="python -m stages.prepare", description=__doc__)
    commands = top.add_subparsers(required=True, metavar="COMMAND")
    taken = _command(commands, "import", "record a model that exists already", _import)
    taken.add_argument("--record", type=Path, required=True, help="model record to write (JSON)")
    for kind, text, run in (
        ("vae", "train an AutoencoderKL", _vae),
        ("base", "train a latent diffusion base on a VAE", _base),
        ("clip", "train a CLIP model, on captions and then on pairs", _clip),
        ("latent", "train a reward of noisy latents on pairs, for a base", _latent),
        ("pal", "train a reward of several tastes on pairs with annotators", _pal),
    ):
        command = _command(commands, kind, text, run)
        command.add_argument("--images", type=Path, required=True, help="images table (Parquet)")
        command.add_argument("--out", type=Path, required=True, help="folder of the model")
        command.add_argument("--record", type=Path, help="model record to write (JSON)")
        if kind == "base":
            command.add_argument("--vae", type=Path, required=True, help="folder of the trained VAE")
        if kind == "pal":
            command.add_argument("--features", type=Path, required=True, help="record of the frozen model (JSON)")
        if kind in ("clip", "latent", "pal"):
            command.add_argument("--pairs", type=Path, required=True, help="pairs table (Parquet)")
        if kind == "latent":
            command.add_argument("--base", type=Path, required=True, help="model record of the base (JSON)")
    distilled = _command(commands, "consistency", "distil a consistency model from a base", _consistency)
    distilled.add_argument("--base", type=Path, required=True, help="model record of the base (JSON)")
    distilled.add_argument("--tensors", type=Path, required=True, help="encodings.safetensors of encode")
    distilled.add_argument("--index", type=Path, required=True, help="index.parquet of encode")
    distilled.add_argument("--out", type=Path, required=True, help="folder of the model")
    distilled.add_argument("--record", type=Path, required=True, help="model record to write (JSON)")
    shipped = _command(
        commands, "ship", "write a study's trained models in half precision, with their scores", _ship, ""
    )
    shipped.add_argument("--images", type=Path, required=True, help="images table (Parquet)")
    shipped.add_argument("--pairs", type=Path, required=True, help="pairs table (Parquet)")
    shipped.add_argument("--oracle", type=Path, help="record of the oracle of a world of real images, shipped too")
    shipped.add_argument("--prompts", type=Path, help="with --oracle: prompts table with the evaluation prompts")
    shipped.add_argument("--distilled", type=Path, help="with --oracle: folder with the consistency models")
    shipped.add_argument("--models", type=Path, required=True, help="folder with a folder for every trained model")
    shipped.add_argument("--out", type=Path, required=True, help="folder to ship")
    return top


def _command(commands, name: str, text: str, run, model: str | None = None) -> argparse.ArgumentParser:
    command = commands.add_parser(name, help=text, description=text)
    command.add_argument("--params", type=Path, required=True, help="study file")
    if model is None:
        command.add_argument("--name", required=True, help="the model's name in the section `prepare`")
    command.set_defaults(run=run)
    return command


def _import(args: argparse.Namespace) -> None:
    from stages.models import record

    where = f"prepare.import.{args.name}"
    settings = section(args.params, where, ImportSettings)
    with lineage.job(params=args.params, stage="prepare", name=args.name, inputs=[], outputs=[args.record]):
        record.save(import_model(args.name, settings, f"{args.params}: {where}"), args.record)


def _vae(args: argparse.Namespace) -> None:
    settings = section(args.params, f"prepare.train.vae.{args.name}", VaeSettings)
    with _job(args, settings, [args.images]) as (job, state):
        from stages.prepare import vae
        from stages.runtime import device

        pictures, held_out = _pictures(args, settings)
        _finish(args, job, vae.train(settings, pictures, held_out, args.out, device(), state), "diffusers")


def _base(args: argparse.Namespace) -> None:
    settings = section(args.params, f"prepare.train.base.{args.name}", BaseSettings)
    codec_files = [args.vae / name for name in ("config.json", "diffusion_pytorch_model.safetensors")]
    with _job(args, settings, [args.images, *codec_files]) as (job, state):
        from stages.prepare import base, vae
        from stages.runtime import device

        codec = vae.load(args.vae)
        pictures, held_out = _pictures(args, settings)
        base.require_words(settings, pictures.captions, f"{args.params}: prepare.train.base.{args.name}")
        log = base.train(settings, pictures, held_out, codec, args.out, device(), state)
        _finish(args, job, log, "diffusers")


def _clip(args: argparse.Namespace) -> None:
    settings = section(args.params, f"prepare.train.clip.{args.name}", ClipSettings)
    with _job(args, settings, [args.images, args.pairs]) as (job, state):
        from stages.prepare import clip
        from stages.prepare.pictures import read_pictures
        from stages.runtime import device

        pictures, held_out = (read_pictures(args.images, split, pairs=True) for split in ("train", "val"))
        pictures.of(settings.source, str(args.images))
        log = clip.train(settings, pictures, held_out, args.pairs, args.out, device(), state)
        _finish(args, job, log, "open_clip")


def _latent(args: argparse.Namespace) -> None:
    from stages.prepare.latent_settings import LatentSettings

    settings = section(args.params, f"prepare.train.latent.{args.name}", LatentSettings)
    with _job(args, settings, [args.base, args.images, args.pairs]) as (job, state):
        from stages.models import record
        from stages.models.diffusion import load_diffusion
        from stages.prepare import latent
        from stages.prepare.pictures import read_pictures
        from stages.runtime import device

        base = record.load(args.base)
        model = load_diffusion(base, device(), parts=("unet", "vae", "text_encoder"))
        train, held_out = (read_pictures(args.images, split, pairs=True) for split in ("train", "val"))
        log = latent.train(settings, model, (train, held_out), args.pairs, args.out, state)
        _finish(args, job, log, "latent", {"base": base})


def _pal(args: argparse.Namespace) -> None:
    from stages.prepare.pal_settings import PalSettings

    where = f"prepare.train.pal.{args.name}"
    settings = section(args.params, where, PalSettings)
    with _job(args, settings, [args.features, args.images, args.pairs]) as (job, state):
        from stages.models import record
        from stages.prepare import pal
        from stages.prepare.pictures import read_pictures
        from stages.rewards.base import load_reward, require_text

        frozen = record.load(args.features)
        model = require_text(load_reward(frozen))
        pictures = read_pictures(args.images, "train", pairs=True), read_pictures(args.images, "val", pairs=True)
        log = pal.train(settings, model, pictures, args.pairs, args.out, f"{args.params}: {where}", state)
        _finish(args, job, log, "pal", {"features": frozen})


def _consistency(args: argparse.Namespace) -> None:
    from stages.prepare.consistency_settings import ConsistencySettings

    settings = section(args.params, f"prepare.train.consistency.{args.name}", ConsistencySettings)
    with _job(args, settings, [args.base, args.tensors, args.index]) as (job, state):
        from stages.encode.store import Encodings
        from stages.models import record
        from stages.models.diffusion import load_diffusion
        from stages.prepare import consistency
        from stages.runtime import device

        model = load_diffusion(record.load(args.base), device(), parts=("unet", "vae"))
        encodings = Encodings(args.tensors, args.index, device(), model.record.digest)
        _finish(args, job, consistency.train(settings, model, encodings, args.out, state), "consistency")


def _ship(args: argparse.Namespace) -> None:
    from stages.prepare import ship
    from stages.runtime import device

    given = (args.oracle, args.prompts, args.distilled)
    if any(given) and not all(given):
        raise InputError("--oracle, --prompts and --distilled go together: expected all three or none")
    world = ship.World(*given) if args.oracle else None
    ship.ship(args.params, args.models, args.images, args.pairs, args.out, device(), world)


def _pictures(args: argparse.Namespace, settings: Training) -> tuple[Pictures, Pictures]:
    """Training and validation images of the settings' source."""
    from stages.prepare.pictures import read_pictures, require_side

    train, held_out = (read_pictures(args.images, split) for split in ("train", "val"))
    require_side(train, str(args.images))
    return train.of(settings.source, str(args.images)), held_out.of(settings.source, str(args.images))


@contextmanager
def _job(args: argparse.Namespace, settings: Training, inputs: list[Path]) -> Iterator[tuple[Job, State]]:
    """The record of a training job, with its few first settings, and what it goes on from when it was interrupted."""
    from stages import resume

    outputs = [args.record or args.out / "config.json", args.out / LOG]
    with lineage.job(params=args.params, stage="prepare", name=args.name, inputs=inputs, outputs=outputs) as job:
        job.parameters({name: getattr(settings, name) for name in ("seed", "steps", "batch", "lr", "ema")})
        read = settings.model_dump(exclude={"save_every"})
        with resume.keep(args.params, "prepare", args.name, args.out / LOG, read, inputs) as state:
            yield job, state


def _finish(
    args: argparse.Namespace, job: Job, log: Log, kind: str, parts: Mapping[str, ModelRecord] | None = None
) -> None:
    """Write the log, and last of all the record that says the model is there; `parts` are models that it is made of."""
    from stages.models import record

    log.write(args.out / LOG)
    if args.record:
        record.save(record.describe(args.name, kind, args.out, parts=dict(parts or {})), args.record)
    for step, term, value in log.rows:
        if term.startswith("probe_"):
            job.metric(term, value, step)


if __name__ == "__main__":
    run_and_leave(main)
