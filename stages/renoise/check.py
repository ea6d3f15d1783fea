"""The section `renoise` against the rest of a study. Torch-free; part of `stages.study.load`."""

from __future__ import annotations

from typing import TYPE_CHECKING

from stages.curate.settings import source_name
from stages.errors import InputError
from stages.finetune import resolve as methods
from stages.params import require_known

if TYPE_CHECKING:
    from stages.study import Study


def check(study: Study, where: str) -> None:
    """There are images to renoise, a name of its own, and a trained method that learns from such pairs: from ties, and
    by labels of a reward, where they are ties.
    """
    section = study.renoise
    if section is None:
        return
    spot, images = f"{where}renoise", [source_name(one) for one in study.curate.images]
    if not images:
        raise InputError(f"{spot}: takes the images of the study, but curate.images names none")
    require_known([] if section.of is None else [section.of], images, f"{spot}.of", "source of curate.images")
    if section.name in [source_name(one) for one in study.curate.pairs]:
        raise InputError(f"{spot}.name: {section.name!r} is a source of curate.pairs too; give it another name")
    every = {run.method: methods.method(study.methods[run.method], "")[2] for run in study.trained.values()}
    mine = {
        name: one for name, one in every.items()
        if one.needs.data == "pairs" and one.source in (None, section.name)
    }  # fmt: skip
    if not mine:
        raise InputError(f"{spot}: no trained method learns from its pairs; expected one, or no such section")
    for name, one in mine.items():
        if one.source == section.name and one.needs.captions:
            raise InputError(
                f"{where}methods.{name}.captions: is curated, but source {section.name!r} gives no captions"
            )
        if one.source == section.name and section.tied and not one.needs.ties:
            raise InputError(
                f"{where}methods.{name}: source {section.name!r} has two equal strengths, so all its pairs are ties;"
                " take `labels: {kind: reward}`, or two different strengths"
            )
