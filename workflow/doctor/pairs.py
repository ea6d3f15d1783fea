"""Tables of comparisons that a study learns from: what is in them, and what keeps it from learning."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any

from stages.curate.settings import CurateSettings, FilePairs, source_name
from stages.curate.survey import survey
from stages.errors import InputError
from stages.finetune import resolve
from workflow.doctor.finding import Finding


def look(study: Mapping[str, Any]) -> Iterator[Finding]:
    """A finding for each table, where a method learns from pairs. Images are not read; those of published data sets
    and names of curated images are checked by `curate` alone.
    """
    learners = list(_learners(study))
    try:
        sources = CurateSettings.model_validate(study.get("curate")).pairs
    except ValueError:
        return  # the check of the whole study says what is wrong
    for source in sources if learners else ():
        if isinstance(source, FilePairs):
            yield _table(source, learners)


def _table(source: FilePairs, learners: list[tuple[str, bool, str | None]]) -> Finding:
    what = "pairs"
    try:
        found = survey(source)
    except InputError as error:
        return Finding("missing", what, str(error))
    mine = [(name, ties) for name, ties, wanted in learners if wanted in (None, source_name(source))]
    starved = [name for name, ties in mine if not found.preferred and not (ties and found.ties)]
    said = f"{source.path}: {found}"
    if starved:
        return Finding("missing", what, f"{said}: nothing to learn for {', '.join(starved)}, expected a preference")
    return Finding("note" if found.ties or found.unjudged or found.alone else "ok", what, said)


def _learners(study: Mapping[str, Any]) -> Iterator[tuple[str, bool, str | None]]:
    """Name, whether ties are learnt from, and source of every method that learns from pairs."""
    methods = study.get("methods")
    for name, settings in methods.items() if isinstance(methods, Mapping) else ():
        try:
            _, _, checked = resolve.method(settings, f"methods.{name}")
        except InputError:
            continue  # as above
        if checked.needs.data == "pairs":
            yield str(name), checked.needs.ties, checked.source
