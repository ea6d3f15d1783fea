"""How the methods, strategies and metrics of one study are named and drawn: the same in every figure and table.

Labels, letters, ends and line styles come from the `ABOUT` of each plug-in (`stages/about.py`).
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace
from functools import cached_property
from typing import Any, TypeVar

from pydantic.fields import FieldInfo

from stages import about, plugins
from stages.about import About, LineStyle, MethodAbout, MetricAbout, StrategyAbout
from stages.measure.settings import ALWAYS, PASSED, PASSED_IMAGES
from stages.report.settings import ReportStudy, StrategyView

A = TypeVar("A", bound=About)
PLACES: dict[type[About], tuple[str, str]] = {
    MethodAbout: ("stages.finetune.methods", "imagerefl.methods"),
    StrategyAbout: ("stages.sample.strategies", "imagerefl.strategies"),
    MetricAbout: ("stages.measure.metrics", "imagerefl.metrics"),
}
"""Where plug-ins that say this stand: a package here, and the group of entry points of installed packages."""
BASE = "base"
"""What stands for a method where images come from the base model."""
GUIDANCE = "guidance"
"""The kind and name of the strategy that `sample.guidance` stands for."""

INK, MUTED, RULE = "#1f2328", "#6b7280", "#d9dde3"
BASE_COLOUR = "#4b5563"
REFERENCE_COLOUR, CANDIDATE_COLOUR = "#0072b2", "#d55e00"
OTHER_COLOURS = ("#009e73", "#cc79a7", "#b58900", "#56b4e9", "#7f3c8d", "#80ba5a", "#a0522d", "#008695")
"""Okabe and Ito's palette, told apart under the common kinds of colour blindness, then darker relatives."""
MARKERS = ("o", "s", "^", "v", "D", "P", "X", "<", ">", "h")
LINES: tuple[LineStyle, ...] = ("-", (0, (4, 1)), (0, (6, 1, 1, 1)), (0, (1, 1)))
"""For strategies that name no line style, and for further ones of a kind that names too few."""
FURTHER = ("D", "v", "<", ">", "^")
"""Markers of further strategies of a kind that names too few."""


@dataclass(frozen=True)
class Strategy:
    """A strategy of the study as the report shows it; `label` is its name in full, `short` where there is little room.

    `marker` is None where its points have the marker of their method. `base_guidance` is the guidance scale of the base
    model at the strategy's `base` end, `guidance` that of the network at its `plain` end.
    """

    name: str
    about: StrategyAbout
    label: str
    short: str
    line: LineStyle
    marker: str | None
    guidance: float = 1.0
    base_guidance: float = 1.0


@dataclass(frozen=True)
class Look:
    """Names, colours, lines and markers of one study.

    `methods` maps the study's names of methods to labels; `strategies` and `metrics` hold what plug-ins say.
    `reference` and `candidate` are the methods that the claims are about; the candidate is None where it has no run.
    """

    methods: Mapping[str, str]
    strategies: Mapping[str, Strategy]
    metrics: tuple[MetricAbout, ...]
    reference: str
    candidate: str | None
    reward: str
    rewards: tuple[str, ...]
    trained: bool = True
    """Whether the study trains a run."""

    @classmethod
    def of(cls, study: ReportStudy) -> Look:
        """The look of a study; raises InputError for a kind that is not installed."""
        candidate = study.report.candidate if study.report.candidate in study.methods else None
        return cls(
            _method_labels(study), _strategies(study.sample.strategies), _metrics(study), study.study.reference,
            candidate, study.study.reward, study.report.rewards, bool(study.trained_runs),
        )  # fmt: skip

    @cached_property
    def featured(self) -> tuple[str, ...]:
        """The reference and the candidate: the methods that the claims are about."""
        return tuple(dict.fromkeys(name for name in (self.reference, self.candidate) if name))

    @cached_property
    def order(self) -> tuple[str, ...]:
        """All methods, featured ones first."""
        return (*self.featured, *(name for name in self.methods if name not in self.featured))

    @cached_property
    def leading(self) -> Strategy | None:
        """The strategy by whose curves methods are compared: the first of a kind that is made for it; None without."""
        return next((one for one in self.strategies.values() if one.about.leading), None)

    def method(self, name: str) -> str:
        """A method by its title or as the field writes it; one of unknown kind, or with a name of its own, as the study
        names it.
        """
        return self.methods.get(name, name)

    def strategy(self, name: str) -> Strategy:
        """A strategy of the study, or the base's guidance scales (`sample.guidance`); one that the study has no more
        is shown by its name.
        """
        found = self.strategies.get(name)
        return found or _shown(
            name, StrategyAbout(about.spelled(name)), about.spelled(name), 0, StrategyView(kind=name)
        )

    def colour(self, method: str) -> str:
        """The colour of a method in every figure, as `#rrggbb`."""
        if method == BASE:
            return BASE_COLOUR
        if method == self.reference:
            return REFERENCE_COLOUR
        if method == self.candidate:
            return CANDIDATE_COLOUR
        others = [name for name in self.methods if name not in self.featured]
        return OTHER_COLOURS[others.index(method) % len(OTHER_COLOURS)]

    def marker(self, method: str) -> str:
        """The marker of a method, so that colour is never the only difference."""
        return "h" if method == BASE else MARKERS[self.order.index(method) % len(MARKERS)]

    def metric(self, name: str) -> str:
        """A metric in words: `proxy reward`, `attribute diversity`, `FID`."""
        if name in self.rewards:
            return f"{about.spelled(name)} reward"
        if name == PASSED_IMAGES:
            return "images that pass"
        if name.endswith(PASSED):
            return f"{self.metric(name.removesuffix(PASSED))} of passing images"
        found = (metric.label(name) for metric in self.metrics)
        return next((label for label in found if label), about.spelled(name))

    def role(self, reward: str) -> str:
        """What a reward is to the study; of checkpoints alone it is not known what they were trained on."""
        if not self.trained:
            return "judge"
        return "trained on" if reward == self.reward else "never trained on"

    def axis(self, metric: str) -> str:
        """A metric as the label of an axis: a reward with its role, others with what a larger value means."""
        if metric in self.rewards:
            return f"{self.metric(metric)} ({self.role(metric)})"
        label = self.metric(metric)
        metric = metric.removesuffix(PASSED)
        rising = next((one.rising for one in self.metrics if one.label(metric)), "")
        return f"{label}  ({rising} →)" if rising else label


def _method_labels(study: ReportStudy) -> dict[str, str]:
    """The label of every method: its title in `report.titles`, else what its kind says where its name in the study is
    just a spelling of its kind or label (`draft1`: `DRaFT-1`).

    A name of its own (`refl_long`) says something that the label does not, and is kept; so are names of equal labels.
    """
    titles, labels = study.report.titles, {}
    for name in study.methods:
        if name in titles:
            labels[name] = titles[name]
            continue
        view = study.methods_by_name.get(name)
        if view is None:
            labels[name] = name
            continue
        says, settings = _says(MethodAbout, view.kind, f"methods.{name}")
        label = says.labelled(settings | view.model_dump())
        labels[name] = label if _letters(name) in (_letters(view.kind), _letters(label)) else name
    given = list(labels.values())
    return {name: label if name in titles or given.count(label) == 1 else name for name, label in labels.items()}


def _strategies(views: Mapping[str, StrategyView]) -> dict[str, Strategy]:
    """Every strategy of a study, by its name; of one kind the first, second, ... have their own line and marker."""
    scales, _ = _says(StrategyAbout, GUIDANCE, "sample.guidance")
    found = {
        GUIDANCE: _shown(
            GUIDANCE, replace(scales, role="base", plain=None), scales.title, 0, StrategyView(kind=GUIDANCE)
        )
    }
    seen: dict[str, int] = {}
    for name, view in views.items():
        says, _ = _says(StrategyAbout, view.kind, f"sample.strategies.{name}")
        place = seen[view.kind] = seen.get(view.kind, -1) + 1
        found[name] = _shown(name, says, _strategy_label(name, view, says.title), place, view)
    return found


def _shown(name: str, says: StrategyAbout, label: str, place: int, view: StrategyView) -> Strategy:
    spare = LINES[1:] if says.lines else LINES  # the solid line is that of strategies that name none
    lines: list[LineStyle] = [*says.lines, *(line for line in spare if line not in says.lines)]
    markers = [*says.markers, *(marker for marker in FURTHER if marker not in says.markers)]
    if view.prediction is not None:  # a search among the images of another strategy does not end at a network alone
        says = replace(says, plain=None, base=None)
    short = says.short if says.short and label == says.title else label
    marker = markers[place % len(markers)] if says.markers else None
    return Strategy(name, says, label, short, lines[place % len(lines)], marker, view.guidance, view.base_guidance)


def _strategy_label(name: str, view: StrategyView, title: str) -> str:
    """The title where the study calls the strategy like its kind, with the rest of the name where it adds one
    (`aig_guided`: `AIG, guided base`); else the name in words.
    """
    if _letters(name) in (_letters(view.kind), _letters(title)):
        return title
    rest = name.removeprefix(f"{view.kind}_")
    if rest == name:
        return about.spelled(name)
    return f"{title}, {'guided base' if rest == 'guided' and view.base_guidance > 1 else about.spelled(rest)}"


def _metrics(study: ReportStudy) -> tuple[MetricAbout, ...]:
    names = dict.fromkeys([*ALWAYS, *study.measure.set_metrics])
    return tuple(_says(MetricAbout, name, "measure.set_metrics")[0] for name in names)


def _letters(name: str) -> str:
    return "".join(character for character in name.lower() if character.isalnum())


def _says(form: type[A], kind: str, where: str) -> tuple[A, dict[str, Any]]:
    """What the plug-in of this kind says, and the default of every key of its settings."""
    module = plugins.load(*PLACES[form], kind, where)
    fields: dict[str, FieldInfo] = getattr(getattr(module, "Settings", None), "model_fields", {})
    defaults = {name: found.get_default(call_default_factory=True) for name, found in fields.items()}
    return about.of(module, kind, form), defaults
