"""What a study file names on this machine: files, folders, models whole by their headers, checkpoints that fit.

Torch-free. Part of `stages.study.load`, by which every command checks a study before its first job.
"""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING

from stages import own_code
from stages.checkpoints import files as checkpoints
from stages.checkpoints import fit
from stages.curate import survey
from stages.curate.pair_settings import FilePairs, ShapesPairs
from stages.curate.settings import PairSource, source_name
from stages.errors import InputError
from stages.finetune import resolve as methods
from stages.params import require_known
from stages.places import missing, real
from stages.prepare import source
from stages.report import earlier_page

if TYPE_CHECKING:
    from stages.sample.resolve import SamplingPlan
    from stages.study import Study

BASE = "base"
"""The imported model that checkpoints must fit."""
RESULTS = "out"
"""The folder in which every study has one of its own."""


def check(study: Study, sampling: SamplingPlan, where: str) -> None:
    """Raise InputError that starts with `where` for the first file or folder that is missing, not whole or not fit;
    what a hub holds is not asked.
    """
    _check_checkpoints(study, where)
    _check_side(study, where)
    _check_models(study, where)
    if study.report.votes is not None:
        _check_votes(study.report.votes, f"{where}report.votes")
    if study.report.against is not None:
        spot = f"{where}report.against"
        _check_outside(study.report.against, study.study.name, spot)
        earlier_page.read(Path(study.report.against), study.study.name, spot)
    for key, function in study.curate.functions.items():
        own_code.of_function(function, f"{where}curate.{key}")
    _check_annotators(study, sampling, where)
    for place in study.curate.paths():
        _check_outside(place, study.study.name, f"{where}curate")
        if fault := missing(place, "file or folder", pattern=True):
            raise InputError(f"{where}curate: {place}: {fault}")


def _check_checkpoints(study: Study, where: str) -> None:
    base = study.prepare.import_.get(BASE)
    layout = source.layout_of(base) if base is not None else None
    shapes = fit.header_shapes(layout) if layout is not None and base is not None and base.folder else None
    for name, run in study.checkpoints.items():
        spot = f"{where}runs.{name}.checkpoint"
        _check_outside(run.checkpoint, study.study.name, spot)
        found = checkpoints.find(run.checkpoint, spot)
        if layout is not None:
            fit.check(found, layout, shapes, spot)


def _check_side(study: Study, where: str) -> None:
    """The images that are sampled have the side that is asked for, and not one that latents round down."""
    base = study.prepare.import_.get(BASE)
    layout = source.layout_of(base) if base is not None else None
    for key, side in (("encode.side", study.encode.side), ("curate.side", study.curate.side)):
        if layout is not None and side is not None and side % layout.multiple:
            raise InputError(
                f"{where}{key}: {side} is no multiple of {layout.multiple}, as the latents of the base have it"
            )


def _check_models(study: Study, where: str) -> None:
    for name, model in study.prepare.everything:
        spot = f"{where}prepare.import.{name}"
        for key in ("folder", "file"):
            place = getattr(model, key)
            if place is None:
                continue
            _check_outside(place, study.study.name, f"{spot}.{key}")
            if fault := missing(place, key):
                raise InputError(f"{spot}.{key}: {place}: {fault}")
        source.check_place(model, spot)


def _check_annotators(study: Study, sampling: SamplingPlan, where: str) -> None:
    """Where the taste of each annotator is learnt, tables have two pairs or more of each, and strategies draw for
    annotators who are there. Only the names are read, and only in such studies.
    """
    learners = [(f"prepare.train.pal.{name}", one.source, one.lone) for name, one in study.prepare.train.pal.items()]
    for name in sorted({run.method for run in study.trained.values()}):
        settings = methods.method(study.methods[name], "")[2]
        if settings.needs.annotators:
            learners.append((f"methods.{name}", settings.source or "", settings.needs.annotators))
    known: set[str] = set()
    for table in study.curate.pairs if learners else ():
        counts = _annotators(table)
        known |= set(counts)
        lone = [who for who, count in counts.items() if count == 1]
        for key, of, said in learners:
            if lone and said == "refuse" and of in ("", source_name(table)):
                raise InputError(
                    f"{where}{key}: annotator {lone[0]!r} has one pair in source {source_name(table)!r} of curate.pairs"
                    f" ({len(lone)} of {len(counts)} annotators have); expected two or more of each, or `lone: pool`"
                )
    for strategy in sampling.strategies if known else ():
        spot = f"{where}sample.strategies.{strategy.name}"
        require_known(strategy.settings.annotators(), sorted(known), spot, "annotator")


def _annotators(source: PairSource) -> Mapping[str, int]:
    """Pairs of each annotator, where that is known before curation."""
    if isinstance(source, ShapesPairs):
        each = source.count // source.annotators if source.annotators else 0
        return {f"annotator {number}": each for number in range(source.annotators)}
    if isinstance(source, FilePairs) and source.annotator and not missing(source.path, "file or folder"):
        return survey.annotators(source)
    return {}


def _check_votes(place: str, where: str) -> None:
    fault = missing(place, "file")
    if fault or not Path(place).is_file():
        raise InputError(f"{where}: {place}: {fault or 'is a folder, expected a file'}")
    from stages.report.people import read_outcome  # its tables take seconds to import

    read_outcome(place)


def _check_outside(place: str, name: str, where: str) -> None:
    """A file from outside is no result of the study `name` itself, whether it is there already or not: a runner removes
    results before their job begins.
    """
    if real(place).is_relative_to(real(Path(RESULTS, name))):
        raise InputError(
            f"{where}: {place}: lies among the results of this study, which are removed before they are made anew;"
            " copy it to another folder, or name that of another study"
        )
