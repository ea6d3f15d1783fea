"""Tables of comparisons that a study learns from: what is in them, and what keeps it from learning."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from stages.curate.pair_settings import FilePairs
from stages.curate.settings import CurateSettings, source_name
from stages.curate.survey import Survey, survey
from stages.errors import InputError
from stages.finetune import resolve
from stages.select.settings import Step, read
from workflow.doctor.finding import Finding

WHAT = "pairs"


@dataclass(frozen=True)
class Learner:
    """A method that learns from pairs: its name, whether it learns from ties, and the source that it takes."""

    name: str
    ties: bool
    source: str | None


def look(study: Mapping[str, Any]) -> Iterator[Finding]:
    """A finding for each table, where a method learns from pairs, and for each step over pairs that needs more of them
    than the tables have. Images are not read; those of published data sets and names of curated images are checked by
    `curate` alone.
    """
    learners = list(_learners(study))
    try:
        sources = CurateSettings.model_validate(study.get("curate")).pairs
        steps = read(study.get("select"), "select")
    except (ValueError, InputError):
        return  # the check of the whole study says what is wrong
    relabelled = any(step.settings.LABELS for step in steps)
    surveys = []
    for source in sources if learners else ():
        if isinstance(source, FilePairs):
            finding, counts = _table(source, learners, relabelled)
            surveys.append(counts)
            yield finding
    if learners and len(surveys) == len(sources) and None not in surveys:
        yield from _short(steps, sum(found.pairs - found.unjudged for found in surveys if found))


def _table(source: FilePairs, learners: Sequence[Learner], relabelled: bool) -> tuple[Finding, Survey | None]:
    """What is said of a table, and its counts where it can be read; `relabelled` where rewards label its ties."""
    try:
        found = survey(source)
    except InputError as error:
        return Finding("missing", WHAT, str(error)), None
    mine = [learner for learner in learners if learner.source in (None, source_name(source))]
    starved = [one.name for one in mine if not found.preferred and not ((one.ties or relabelled) and found.ties)]
    said = f"{source.path}: {found}"
    if starved:
        said = f"{said}: nothing to learn for {', '.join(starved)}, expected a preference"
        return Finding("missing", WHAT, said), found
    return Finding("note" if found.ties or found.unjudged or found.alone else "ok", WHAT, said), found


def _short(steps: Sequence[Step], pairs: int) -> Iterator[Finding]:
    for step in steps:
        if step.settings.at_least() > pairs:
            said = f"{step.where} ({step.kind}): keeps {step.settings.at_least()} pairs, but the tables have {pairs}"
            yield Finding("missing", WHAT, said)


def _learners(study: Mapping[str, Any]) -> Iterator[Learner]:
    """Every method that learns from pairs."""
    methods = study.get("methods")
    for name, settings in methods.items() if isinstance(methods, Mapping) else ():
        try:
            _, _, checked = resolve.method(settings, f"methods.{name}")
        except InputError:
            continue  # as above
        if checked.needs.data == "pairs":
            yield Learner(str(name), checked.needs.ties, checked.source)
