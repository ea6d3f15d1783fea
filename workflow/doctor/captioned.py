"""Oracles of a user's own captioned images: whether they know what a study asks of them, before anything is trained."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from fnmatch import fnmatch
from pathlib import Path
from typing import Any

from stages import walk
from stages.curate.pair_settings import FilePairs
from stages.curate.rows import PromptRow
from stages.curate.settings import CurateSettings, FilePrompts
from stages.curate.sources.records import open_records
from stages.errors import InputError
from stages.params import validate
from stages.prepare.import_settings import ImportSettings
from workflow.doctor.finding import Finding

KIND = "nearest_captioned"


def look(study: Mapping[str, Any]) -> Iterator[Finding]:
    """A finding for each such oracle that is on this machine: how many images and captions it has, or what is wrong
    with them, or which prompt or size of images it does not know. Prompts of published data sets, and lists with a
    limit, are left to `curate`.
    """
    prepare = study.get("prepare")
    models = prepare.get("import") if isinstance(prepare, Mapping) else None
    for name, model in models.items() if isinstance(models, Mapping) else ():
        if isinstance(model, Mapping) and model.get("kind") == KIND and not model.get("hub"):
            try:
                curate = CurateSettings.model_validate(study.get("curate"))
            except ValueError:
                return  # the check of the whole study says what is wrong
            yield _look(str(name), model, curate, study)


def _look(name: str, model: Mapping[str, Any], curate: CurateSettings, study: Mapping[str, Any]) -> Finding:
    what, where = f"oracle {name}", f"prepare.import.{name}"
    try:
        return Finding("ok", what, _found(validate(ImportSettings, dict(model), where), where, curate, study, name))
    except InputError as error:
        return Finding("missing", what, str(error))


def _found(model: ImportSettings, where: str, curate: CurateSettings, study: Mapping[str, Any], name: str) -> str:
    """What a sound oracle is made of. Raises InputError, one line, for what is wrong."""
    from stages.captioned import library  # what reads it imports torch
    from stages.captioned.oracle import Oracle
    from stages.curate import filters
    from stages.rewards.nearest_captioned import NearestCaptionedOptions

    chosen = validate(NearestCaptionedOptions, model.options, f"{where}.options")
    place = Path(model.folder or model.file or "")
    if not place.name or not place.exists():
        raise InputError(f"{where}: {place if place.name else 'no folder or file'}: not there")
    below = [place] if place.is_file() else walk.files(place)
    names = {path: path.name if path == place else path.relative_to(place).as_posix() for path in below}
    files = [path for path, name in names.items() if not model.only or any(fnmatch(name, one) for one in model.only)]
    oracle = Oracle(library.read(sorted(files), chosen.image, chosen.caption, chosen.attributes))
    height, width = oracle.library.images.shape[1:3]
    if curate.side is not None and (height, width) != (curate.side, curate.side):
        raise InputError(
            f"{where}: its images have {width}x{height} pixels, but curate.side makes {curate.side}x{curate.side} of "
            "those that the base learns; scale the images in the table"
        )
    left_out = filters.text(), filters.caption_words(*curate.filters.caption_words)
    for path, key in _judged(curate, study, name):
        for record in open_records(path, (key,)).rows:
            row = PromptRow(record.where, record.text(key), "")
            if not any(one.fault(row) for one in left_out):
                oracle.require([row.text], f"{row.name}: ")
    counted = oracle.captions()
    left_open = ", ".join(f"{name} in {count}" for name, count in oracle.left_open().items())
    return (
        f"{len(oracle.library.images)} images of {width}x{height} pixels, {min(counted.values())} to "
        f"{max(counted.values())} for each of {len(counted)} captions, which leave open: {left_open}"
    )


def _judged(curate: CurateSettings, study: Mapping[str, Any], name: str) -> Iterator[tuple[str, str]]:
    """Files and their keys of prompts that this oracle is asked about: evaluation prompts, those of pairs where it
    scores them, and training prompts where a probe or `decided` samples them. Lists of which `limit` keeps some are
    left out: which, curation decides.
    """
    finetune, score = study.get("finetune"), study.get("score")
    probe = finetune.get("probe") if isinstance(finetune, Mapping) else None
    probed = isinstance(probe, Mapping) and probe.get("oracle") == name
    lists = [*curate.prompts.eval, *(curate.prompts.train if probed or study.get("decided") is not None else ())]
    yield from ((source.path, source.key) for source in lists if isinstance(source, FilePrompts) and not source.limit)
    if isinstance(score, Mapping) and name in (score.get("rewards") or ()):
        yield from ((source.path, source.prompt) for source in curate.pairs if isinstance(source, FilePairs))
