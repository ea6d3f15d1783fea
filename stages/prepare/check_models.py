"""Models of a study, by the sections that name them. Torch-free; part of `stages.study.load`."""

from __future__ import annotations

from collections import Counter
from typing import TYPE_CHECKING

from stages.curate.settings import source_name
from stages.errors import InputError
from stages.params import nearest, require_known
from stages.prepare import source
from stages.rewards import base as rewards

if TYPE_CHECKING:
    from stages.study import Study


def check(study: Study, where: str) -> None:
    """Every model that a section names is prepared, once, and is of the right sort."""
    prepare = study.prepare
    kinds = (*source.BASE_KINDS, *rewards.known_kinds())
    for name, model in prepare.everything:
        if model.kind not in kinds:
            spot = f"{where}prepare.import.{name}.kind"
            raise InputError(f"{spot}: unknown kind {model.kind!r}{nearest(model.kind, kinds)}")
    every = Counter([*prepare.names, *prepare.train.vae])
    if twice := [name for name, count in every.items() if count > 1]:
        raise InputError(f"{where}prepare: two models are called {twice[0]!r}, expected different names")
    if "base" not in prepare.names or "base" in prepare.rewards:
        raise InputError(f"{where}prepare: there is no model 'base' to fine-tune, expected one of kind diffusers")
    if prepare.train.base and "vae" not in prepare.train.vae:
        raise InputError(f"{where}prepare.train.vae: there is no 'vae' for the base that is trained here")
    if prepare.train.learns and not study.curate.val_share:
        raise InputError(f"{where}curate.val_share: 0 leaves no images to check models on that are trained here")
    _check_sizes(study, where)
    _check_tastes(study, where)
    named = {"study.reward": [study.study.reward], "study.heldout": [study.study.heldout]}
    named |= {"score.rewards": study.score.rewards, "measure.rewards": study.measure.rewards}
    named |= {"measure.text_image": [study.measure.text_image] if study.measure.text_image else []}
    named |= {"measure.features": study.measure.features}
    named |= {f"prepare.train.pal.{name}.features": [one.features] for name, one in prepare.train.pal.items()}
    named |= {"finetune.probe.oracle": [study.finetune.probe.oracle] if study.finetune.probe.oracle else []}
    lists = {"measure.set_metrics": study.measure.set_metrics, "report.ablations": study.report.ablations}
    lists |= {"report.rewards": study.report.rewards, "report.diversities": study.report.diversities}
    for key, entries in (named | lists).items():
        if twice := [name for name, count in Counter([*entries]).items() if count > 1]:
            raise InputError(f"{where}{key}: {twice[0]!r} stands twice, expected every name once")
    passing = study.measure.passing
    if passing is not None and passing.metric == study.study.reward:
        raise InputError(
            f"{where}measure.passing.metric: {passing.metric!r} is the training reward; expected a judge that nothing"
            " was trained on"
        )
    if study.study.heldout == study.study.reward:
        raise InputError(f"{where}study.heldout: {study.study.heldout!r} is the training reward; expected another one")
    for key, models in named.items():
        require_known(models, prepare.rewards, f"{where}{key}", "model")


def _check_tastes(study: Study, where: str) -> None:
    """Rewards of several tastes are trained on one model's features, which is none of them, and on pairs that say who
    judged.
    """
    tastes, curate = study.prepare.train.pal, study.curate
    for name, one in tastes.items():
        spot, others = f"{where}prepare.train.pal.{name}", {other.features for other in tastes.values()}
        if one.features in tastes:
            raise InputError(f"{spot}.features: {one.features!r} is a reward of several tastes itself")
        if len(others) > 1:
            raise InputError(f"{spot}.features: expected one model in all entries of pal, found {sorted(others)}")
        sources = [source_name(source) for source in curate.pairs if one.source in ("", source_name(source))]
        if sources and not set(sources) & set(curate.personal_pairs):
            raise InputError(
                f"{spot}: learns the tastes of annotators, but source {sources[0]!r} of curate.pairs names none; say"
                " who judged (`annotator`, in the shapes world `annotators`)"
            )


def _check_sizes(study: Study, where: str) -> None:
    """Images, where their side is known, divide into the latents of an autoencoder that is trained here."""
    train, curate = study.prepare.train, study.curate
    drawn = study.world.image_size if all(source.kind == "shapes" for source in curate.images) else None
    side, key = (curate.side, "curate.side") if curate.side else (drawn, "world.image_size")
    if side is None or not curate.images:
        return
    for name, vae in train.vae.items():
        if side % vae.factor:
            spot = f"{where}prepare.train.vae.{name}.widths"
            raise InputError(f"{spot}: make latents of {vae.factor} pixels, which {key} {side} is no multiple of")
