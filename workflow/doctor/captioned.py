"""Oracles of a user's own captioned images: whether they know what a study asks of them, before anything is trained."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

from stages.curate.pair_settings import FilePairs
from stages.curate.settings import CurateSettings, FilePrompts
from stages.curate.sources.records import open_records
from stages.errors import InputError
from stages.params import validate
from stages.prepare.import_settings import ImportSettings
from stages.prepare.source import files_below
from workflow.doctor.finding import Finding

if TYPE_CHECKING:
    from stages.captioned.oracle import Oracle

KIND = "nearest_captioned"


def look(study: Mapping[str, Any]) -> Iterator[Finding]:
    """A finding for each such oracle on this machine: how many images and captions it has, or what is wrong with them,
    or which prompt or size of images it does not know. Prompts of published data sets are left to `curate`.
    """
    prepare = study.get("prepare")
    models = prepare.get("import") if isinstance(prepare, Mapping) else None
    own = {name: model for name, model in models.items() if _is_own(model)} if isinstance(models, Mapping) else {}
    try:
        curate = CurateSettings.model_validate(study.get("curate")) if own else None
    except ValueError:
        return  # the check of the whole study says what is wrong
    for name, model in own.items() if curate is not None else ():
        what, where = f"oracle {name}", f"prepare.import.{name}"
        try:
            yield Finding("ok", what, _found(validate(ImportSettings, dict(model), where), where, curate))
        except InputError as error:
            yield Finding("missing", what, str(error))


def _is_own(model: object) -> bool:
    return isinstance(model, Mapping) and model.get("kind") == KIND


def _found(model: ImportSettings, where: str, curate: CurateSettings) -> str:
    """What a sound oracle is made of. Raises InputError, one line, for what is wrong."""
    from stages.captioned import library  # what reads it imports torch
    from stages.captioned.oracle import Oracle
    from stages.rewards.nearest_captioned import NearestCaptionedOptions

    chosen = validate(NearestCaptionedOptions, model.options, f"{where}.options")
    place = Path(model.folder or model.file or "")
    if not place.name or not place.exists():
        raise InputError(f"{where}: {place if place.name else 'no folder or file'}: not there")
    files = files_below(place, model.only, where)
    oracle = Oracle(library.read(sorted(files), chosen.image, chosen.caption, chosen.attributes))
    height, width = oracle.library.images.shape[1:3]
    if curate.side not in (None, height, width) or (curate.side is not None and height != width):
        raise InputError(
            f"{where}: its images have {width}x{height} pixels, but curate.side makes {curate.side}x{curate.side} of "
            "those that the base learns; scale the images in the table"
        )
    _require_prompts(oracle, curate)
    counted = oracle.captions()
    left_open = ", ".join(f"{name} in {count}" for name, count in oracle.left_open().items())
    return (
        f"{len(oracle.library.images)} images of {width}x{height} pixels, {min(counted.values())} to "
        f"{max(counted.values())} for each of {len(counted)} captions, which leave open: {left_open}"
    )


def _require_prompts(oracle: Oracle, curate: CurateSettings) -> None:
    """Raise InputError that names the row of the first prompt that the oracle cannot judge."""
    lists = [(source.path, source.key) for source in (*curate.prompts.eval, *curate.prompts.train)
             if isinstance(source, FilePrompts)]  # fmt: skip
    lists += [(source.path, source.prompt) for source in curate.pairs if isinstance(source, FilePairs)]
    for path, key in lists:
        for record in open_records(path, (key,)).rows:
            oracle.require([record.text(key)], f"{record.where}: ")
