"""The page: one HTML file that stands alone, figures and style inside."""

from __future__ import annotations

import base64
import os
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from stages.report import cards, curation, display, queries, students, style
from stages.report.cards import Card
from stages.report.claims import State
from stages.report.display import Table
from stages.report.load import BASE, Evaluation, Log
from stages.report.people import People
from stages.report.rows import Difference, Estimate
from stages.report.settings import ReportStudy
from stages.report.students import Student
from stages.report.style import Look
from stages.report.timeline import Timeline
from stages.report.training import FALL, Turn
from stages.report.verdict import Rival, Verdict
from stages.runtime import whole_file

HERE = Path(__file__).parent
MEDIA = {".svg": "image/svg+xml", ".png": "image/png"}


@dataclass(frozen=True)
class Figure:
    """A figure of the page: the file it is linked to, its bytes as a data URI, and what it shows in words."""

    file: str
    data: str
    text: str

    @classmethod
    def of(cls, path: Path, text: str) -> Figure:
        """The figure at `path`."""
        data = base64.b64encode(path.read_bytes()).decode()
        return cls(path.name, f"data:{MEDIA[path.suffix]};base64,{data}", text)


@dataclass(frozen=True)
class Content:
    """Everything that the page is made from."""

    study: ReportStudy
    evaluation: Evaluation
    look: Look
    verdict: Verdict
    estimates: Sequence[Estimate]
    differences: Sequence[Difference]
    log: Log
    turns: Sequence[Turn]
    manifest: curation.Manifest
    accuracies: list[curation.Accuracy]
    timeline: Timeline | None
    metric_ids: Mapping[str, str]
    people: People | None = None
    students: Sequence[Student] = ()


def write(path: Path, content: Content, figures: Sequence[Path], tables: Sequence[tuple[str, Path]]) -> None:
    """Write the page, whole or not at all.

    `figures` are frontier, strategies, training, queries and grid, written before; `tables` names the files to link to.
    """
    from jinja2 import Environment, FileSystemLoader, StrictUndefined

    loader = FileSystemLoader(HERE)
    environment = Environment(
        loader=loader, autoescape=True, undefined=StrictUndefined, trim_blocks=True, lstrip_blocks=True
    )
    values = {
        **_about(content),
        **_figures(content, figures),
        **_tables(content),
        "style": (HERE / "page.css").read_text(encoding="utf-8"),
        "cards": cards.cards(content.study, content.look, content.verdict),
        "alarm": alarm(content),
        "queries_counted": queries.counted(content.log),
        "timeline": content.timeline,
        "people": content.people,
        "students": content.students,
        "student_table": students.table(content.students) if content.students else None,
        "files": [(name, Path(os.path.relpath(file, path.parent)).as_posix()) for name, file in tables],
    }
    with whole_file(path) as partial:
        partial.write_text(environment.get_template("page.html").render(values), encoding="utf-8")


def title(made: Sequence[Card]) -> str:
    """The verdict in one line."""
    if not made:
        return "No claim could be put to the data"
    shown = sum(card.state is State.SHOWN for card in made)
    partly = sum(card.state is State.PARTLY for card in made)
    text = f"{shown} of {len(made)} claims shown"
    return f"{text}, {partly} shown in part" if partly else text


def alarm(content: Content) -> str:
    """Whether over-optimisation was seen: a reward that nobody trains on fell while the training reward still rose."""
    look, found = content.look, [turn for turn in content.turns if turn.alarm]
    if not content.turns:
        return "The training logs hold no probe of a reward that is not trained on."
    rule = f"more than {FALL:.0%} of its gain below its best probe, while the training reward went on rising"
    if not found:
        return f"No run ended with a reward that it was not trained on {rule}: no over-optimisation at these settings."
    named = []
    for run in dict.fromkeys(turn.run for turn in found):
        view, mine = content.study.runs[run], [turn for turn in found if turn.run == run]
        falls = [f"{look.metric(t.reward)} {style.number(t.fall)} below that of step {t.best_step}" for t in mine]
        named.append(f"{style.method_name(view.method)} seed {view.seed} ({', '.join(falls)})")
    count = f"{len(named)} of {len(content.study.runs)} runs"
    return f"Over-optimisation: {count} ended with a reward that they were not trained on {rule}: {'; '.join(named)}."


def _about(content: Content) -> dict[str, object]:
    study, look, evaluation = content.study, content.look, content.evaluation
    images = sum(cost.images for cost in evaluation.costs.values())
    seeds = {method: len(evaluation.seeds[method]) for method in look.order}
    untrained = [reward for reward in look.rewards if reward != look.reward]
    made = cards.cards(study, look, content.verdict)
    comparisons = len(content.verdict.above.findings) if content.verdict.above else 0
    return {
        "about": study.study,
        "headline": title(made),
        "fusion": bool(study.strategies_of_kind("fusion")),
        "reward": look.metric(look.reward),
        "untrained": [look.metric(reward) for reward in untrained],
        "diversities": [look.metric(name) for name in study.report.diversities],
        "methods": [f"{style.method_name(m)} ({n} seed{'s' * (n > 1)})" for m, n in seeds.items()],
        "reference": style.method_name(study.study.reference),
        "candidate": style.method_name(study.report.candidate) if look.candidate else "",
        "prompts": len(evaluation.prompts),
        "images_a_prompt": round(evaluation.costs[evaluation.base].images / len(evaluation.prompts)),
        "images": f"{images:,}".replace(",", " "),
        "steps": evaluation.steps,
        "base_guidance": f"{evaluation.base.value:g}",
        "identity": evaluation.identity,
        "level": f"{study.report.interval:.0%}",
        "seeds_drawn": study.report.resample == "prompts_and_seeds",
        "resamples": study.report.bootstrap,
        "comparisons": comparisons,
    }


def _figures(content: Content, figures: Sequence[Path]) -> dict[str, Figure]:
    texts = {
        "frontier": "Reward against diversity, one panel a pair, one curve a method under combined generation.",
        "strategies": "Reward against diversity for every strategy of the reference method and of the compared one.",
        "training": "Rewards and diversity of a fixed probe over optimizer steps, one line a run.",
        "queries": "Rewards and diversity of the same probe over queries of the training reward, one line a method.",
        "grid": "Images of the same prompts from the same noise, one row a way of making them.",
    }
    return {path.stem: Figure.of(path, texts[path.stem]) for path in figures}


def _tables(content: Content) -> dict[str, object]:
    study, evaluation, look = content.study, content.evaluation, content.look
    order = [BASE, *look.order]
    points = {m: [point for point in evaluation.points if point.method == m] for m in order}
    every = {m: display.settings(study, evaluation, look, content.estimates, points[m]) for m in order}
    against: list[tuple[str, Table]] = []
    for name in (BASE, study.study.reference):
        for method in order:
            table = display.differences(study, evaluation, look, content.differences, method, name)
            if table.rows:
                mine = "base at other guidance" if method == BASE else style.method_name(method)
                against.append((f"{mine} minus {style.method_name(name)}", table))
    headline = display.headline_points(study, evaluation, look)
    leading, others = _rivals(content)
    return {
        "headline_table": display.settings(study, evaluation, look, content.estimates, headline),
        "settings_tables": [(style.method_name(method), table) for method, table in every.items()],
        "difference_tables": against,
        "gap_table": display.gaps(study, look, leading),
        "other_gap_table": display.gaps(study, look, others),
        "cost_table": display.cost(study, evaluation),
        "training_table": display.training_cost(study, content.log, look),
        "curation_table": curation.curation_table(content.manifest),
        "accuracy_table": curation.accuracy_table(look, content.accuracies),
        "identity_table": display.identities(study, evaluation, look, content.metric_ids),
    }


def _rivals(content: Content) -> tuple[list[Rival], list[Rival]]:
    """Curves to compare with the reference's: combined generation, guidance and the featured methods; then the rest."""
    study, look = content.study, content.look
    place = {method: index for index, method in enumerate((*look.order, BASE))}
    kinds = {name: view.kind for name, view in study.sample.strategies.items()}
    ordered = sorted(content.verdict.rivals, key=lambda r: (kinds.get(r.strategy) != "combined", place[r.method]))
    leading = [r for r in ordered if kinds.get(r.strategy) in ("combined", None) or r.method in look.featured]
    return leading, [rival for rival in ordered if rival not in leading]
