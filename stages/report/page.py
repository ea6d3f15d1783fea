"""The page: one HTML file that stands alone, figures and style inside."""

from __future__ import annotations

import base64
import io
import os
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from stages.report import (
    agreement,
    cards,
    charts,
    curation,
    display,
    judges,
    passing,
    probes,
    selection,
    students,
    style,
)
from stages.report.claims import POWER, State
from stages.report.data import Background, ReportData
from stages.report.earlier import Since
from stages.report.figure import Figure
from stages.report.findings import Finding
from stages.report.interactive import Block
from stages.report.look import BASE
from stages.report.probe_sheets import Sheet
from stages.report.table import Table
from stages.report.timeline import Timeline
from stages.runtime import whole_file

HERE = Path(__file__).parent
MEDIA = {".svg": "image/svg+xml", ".png": "image/png", ".webp": "image/webp"}
WEBP_SIDE = 16383
"""Pixels of the longest side that WebP can have."""
SECTIONS = (
    "verdict", "frontier", "strategies", "training", "samples", "people", "numbers", "cost", "data", "jobs", "method",
)  # fmt: skip
"""Sections of the page that have words of their own; a figure may name another, which comes after the samples."""


@dataclass(frozen=True)
class Picture:
    """A figure on the page: its heading, the file it links to, its bytes as a data URI, what it shows, its caption."""

    title: str
    file: str
    data: str
    alt: str
    caption: str


def picture(figure: Figure, data: ReportData, folder: Path) -> Picture:
    """A figure whose files stand in the report's `folder`: a link to the first one, and on the page itself the one in
    pixels where there is one. A browser parses all drawings of a page when it opens it, which takes longer than the
    rest of the page.
    """
    files = figure.about.files
    shown = next((file for file in files if Path(file).suffix == ".png"), files[0])
    return Picture(
        figure.about.title, files[0], uri(folder / shown), figure.about.alt or figure.about.title, figure.caption(data)
    )


def uri(path: Path) -> str:
    """The file as a data URI. Pixels become WebP, which holds the same ones in about half the bytes."""
    from PIL import Image

    content, media = path.read_bytes(), MEDIA[path.suffix]
    if path.suffix == ".png":
        pixels, held = Image.open(io.BytesIO(content)), io.BytesIO()
        if max(pixels.size) <= WEBP_SIDE:
            pixels.save(held, "WEBP", lossless=True, quality=50)
            content, media = held.getvalue(), MEDIA[".webp"]
    return f"data:{media};base64,{base64.b64encode(content).decode()}"


def write(
    path: Path, data: ReportData, background: Background, figures: Sequence[Figure], timeline: Timeline | None,
    tables: Iterable[tuple[str, Path]], block: Block, since: Since | None = None,
    probed: Mapping[str, Sheet] | None = None,
) -> None:  # fmt: skip
    """Write the page, whole or not at all. The figures' files stand beside it already; `tables` are what it links to,
    each with what it holds; `block` is what its interactive part knows, `since` what changed since an earlier report,
    and `probed` are pictures of the probes by run.
    """
    from jinja2 import Environment, FileSystemLoader, StrictUndefined

    loader = FileSystemLoader(HERE)
    environment = Environment(
        loader=loader, autoescape=True, undefined=StrictUndefined, trim_blocks=True, lstrip_blocks=True
    )
    pictures: dict[str, list[Picture]] = {name: [] for name in SECTIONS}
    for figure in figures:
        if figure.shown(data):
            pictures.setdefault(figure.about.section, []).append(picture(figure, data, path.parent))
    made = cards.cards(data)
    values = {
        **_about(data),
        "headline": headline(made),
        "pictures": pictures,
        "more": [name for name in pictures if name not in SECTIONS],
        **_tables(data, background),
        "style": "\n".join(_own(name) for name in ("page.css", "interactive.css")),
        "block": block.text(),
        "library": charts.library(),
        "script": _own("page.js"),
        "cards": made,
        "since": since,
        "probed": probed or {},
        "alarm": alarm(data),
        "disagreements": passing.warnings(data),
        "not_independent": judges.warnings(data),
        "timeline": timeline,
        "people": background.people,
        "students": background.students,
        "files": [(name, Path(os.path.relpath(file, path.parent)).as_posix()) for name, file in tables],
    }
    with whole_file(path) as partial:
        partial.write_text(environment.get_template("page.html").render(values), encoding="utf-8")


def _own(name: str) -> str:
    return (HERE / name).read_text(encoding="utf-8")


def headline(made: Sequence[cards.Card]) -> str:
    """The verdict in one line."""
    if not made:
        return "No claim could be put to the data"
    shown = sum(card.state is State.SHOWN for card in made)
    partly = sum(card.state is State.PARTLY for card in made)
    text = f"{shown} of {len(made)} claims shown"
    return f"{text}, {partly} shown in part" if partly else text


def alarm(data: ReportData) -> str:
    """Whether over-optimisation was seen: a reward that nobody trains on fell while the training reward still rose."""
    turns = probes.turns(data.study, data.log)
    if not data.study.trained_runs:
        return "Nothing was trained here, so there are no training logs."
    if not turns:
        return "The training logs hold no probe of a reward that is not trained on."
    rule = f"more than {probes.FALL:.0%} of its gain below its best probe, while the training reward went on rising"
    found = [turn for turn in turns if turn.alarm]
    if not found:
        return f"No over-optimisation at these settings: in no run did a reward that it was not trained on end {rule}."
    named = []
    for run in dict.fromkeys(turn.run for turn in found):
        view, mine = data.study.runs[run], [turn for turn in found if turn.run == run]
        falls = [f"{data.look.metric(t.reward)} {style.number(t.fall)} below that of step {t.best_step}" for t in mine]
        named.append(f"{data.look.method(view.method)} seed {view.seed} ({', '.join(falls)})")
    count = f"{len(named)} of {len(data.study.trained_runs)} runs"
    return f"Over-optimisation: in {count} a reward that the run was not trained on ended {rule}: {'; '.join(named)}."


def _about(data: ReportData) -> dict[str, object]:
    study, look, evaluation, report = data.study, data.look, data.evaluation, data.study.report
    images = sum(cost.images for cost in evaluation.costs.values())
    seeds = {method: len(evaluation.seeds[method]) for method in look.order}
    untrained = [reward for reward in look.rewards if reward != look.reward]
    return {
        "name": study.study.name,
        "description": study.study.description,
        "reward": look.metric(look.reward),
        "trained": bool(study.trained_runs),
        "elsewhere": [look.method(run.method) for run in study.runs.values() if run.checkpoint is not None],
        "untrained": [look.metric(reward) for reward in untrained],
        "diversities": [look.metric(name) for name in report.diversities],
        "methods": [f"{look.method(m)} ({n} seed{'s' * (n > 1)})" for m, n in seeds.items()],
        "reference": look.method(study.study.reference),
        "leading": look.leading.label if look.leading else "",
        "without_tuned": _without_tuned(data),
        "prompts": len(evaluation.prompts),
        "images_per_prompt": round(evaluation.costs[evaluation.base].images / len(evaluation.prompts)),
        "images": f"{images:,}".replace(",", " "),
        "steps": evaluation.steps,
        "identity": evaluation.identity,
        "level": f"{report.interval:.0%}",
        "seeds_drawn": report.resample == "prompts_and_seeds",
        "resamples": report.bootstrap,
        "power": f"{POWER:.0%}",
        "comparisons": next((len(c.parts) for c in data.findings.claims if c.key == "above"), 0),
    }


def _without_tuned(data: ReportData) -> str:
    """The strategies whose curves do not hold both the tuned network and the base as their ends."""
    drawn = (one for one in data.look.strategies.values() if one.about.role == "curve")
    names = ["guidance", *(one.label for one in drawn if not (one.about.plain and one.about.base))]
    return " and ".join([", ".join(names[:-1]), names[-1]] if len(names) > 1 else names)


def _tables(data: ReportData, background: Background) -> dict[str, object]:
    look = data.look
    order = [BASE, *look.order]
    points = {m: [point for point in data.evaluation.points if point.method == m] for m in order}
    against: list[tuple[str, Table]] = []
    for name in (BASE, data.study.study.reference):
        for method in order:
            table = display.differences(data, method, name)
            if table.rows:
                mine = "base at other settings" if method == BASE else look.method(method)
                against.append((f"{mine} minus {look.method(name)}", table))
    leading, others = _rivals(data)
    return {
        "headline_table": display.settings(data, display.headline_points(data)),
        "settings_tables": [(look.method(m), display.settings(data, points[m])) for m in order],
        "difference_tables": against,
        "gap_table": display.gaps(data, leading),
        "other_gap_table": display.gaps(data, others),
        "cost_table": display.cost(data),
        "training_table": display.training_cost(data),
        "selection_table": selection.table(background.selection) if background.selection else None,
        "curation_table": curation.curation_table(background.manifest),
        "accuracy_table": curation.accuracy_table(look, list(background.accuracies)),
        "judge_table": judges.roles(data),
        "agreement_tables": [
            ("mean scores of prompts", judges.agreement(data, agreement.PROMPTS)),
            ("single images", judges.agreement(data, agreement.IMAGES)),
        ],
        "identity_table": display.identities(data, background.metric_ids),
        "student_table": students.table(background.students) if background.students else None,
    }


def _rivals(data: ReportData) -> tuple[Sequence[Sequence[Finding]], Sequence[Sequence[Finding]]]:
    """Curves compared with the reference's: leading ones, those of the base and of featured methods; then the rest."""
    look = data.look
    place: Mapping[str, int] = {method: index for index, method in enumerate((*look.order, BASE))}

    def leads(rival: Sequence[Finding]) -> bool:
        return look.strategy(rival[0].strategy).about.leading

    found = sorted(data.findings.curves("gap"), key=lambda rival: (not leads(rival), place[rival[0].method]))
    first = [rival for rival in found if leads(rival) or rival[0].method in (BASE, *look.featured)]
    return first, [rival for rival in found if rival not in first]
