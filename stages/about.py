"""What a method, a strategy or a metric says about itself: its `ABOUT`. Torch-free.

The report takes every label, axis letter, line style, end point and caption from here, so that it knows no plug-in by
its name. A module without `ABOUT` is shown by the name of its file.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from fnmatch import fnmatchcase
from types import ModuleType
from typing import Literal, TypeAlias, TypeVar

from pydantic import BaseModel

from stages.errors import InputError

Family = Literal["reward gradient", "policy gradient", "preference", "matching", "soft Q", "online", ""]
"""Families of fine-tuning methods; empty where a method does not say."""

LineStyle: TypeAlias = Literal["-", "--", "-.", ":"] | tuple[float, tuple[float, ...]]
"""A line style of matplotlib: `"--"`, or (offset, lengths of dashes and gaps in points)."""


@dataclass(frozen=True)
class About:
    """What every plug-in says.

    `title` is the name that the field uses (`ImageReFL`), `source` the paper or repository: authors, year, arXiv id.
    """

    title: str
    source: str = ""


@dataclass(frozen=True)
class MethodAbout(About):
    """A fine-tuning method.

    `label` is the title with settings filled in, as a format string: `DRaFT-{k}`; empty for the title itself.
    """

    family: Family = ""
    label: str = ""

    def labelled(self, settings: BaseModel | Mapping[str, object]) -> str:
        """The label of a method with these settings."""
        values = settings.model_dump() if isinstance(settings, BaseModel) else settings
        return (self.label or self.title).format_map(values)


@dataclass(frozen=True)
class End:
    """A known end of a strategy's curve: the value of the free setting at which it is reached (`math.inf` for a limit),
    and the same in words (`k = T`).
    """

    at: float
    text: str


@dataclass(frozen=True)
class StrategyAbout(About):
    """A sampling strategy.

    `letter` names its one free setting (`k`); figures write it before the value. `plain` is the end at which the
    strategy is the run's own network alone, `base` that at which it is the base alone; None where its curve does not
    reach them. `role` is `curve` for a strategy that figures draw as a curve over its settings, `tuned` for the tuned
    network alone, `base` for the base alone: those two are the ends of the curves of others. `leading` says that
    methods are compared by this strategy's curve, `yardstick` that what others buy is read against it. `short` is the
    title where there is little room. `lines` and `markers` are for the first, second, ... strategy of this kind in a
    study. `caption` is a sentence of plain text for the captions of figures.
    """

    letter: str = ""
    plain: End | None = None
    base: End | None = None
    role: Literal["curve", "tuned", "base"] = "curve"
    leading: bool = False
    yardstick: bool = False
    short: str = ""
    lines: tuple[LineStyle, ...] = ()
    markers: tuple[str, ...] = ()
    caption: str = ""

    @property
    def short_title(self) -> str:
        """The title where there is little room."""
        return self.short or self.title


@dataclass(frozen=True)
class MetricAbout(About):
    """A metric.

    `labels` names every value that the metric gives; a key may have one `*` (`*_diversity`), whose text stands for
    `{}` in the label (`{} diversity`). `rising` says what a larger value means, for the label of an axis.
    """

    labels: Mapping[str, str] = field(default_factory=dict)
    rising: str = ""

    def label(self, name: str) -> str | None:
        """The label of the value `name`; None where the metric gives no such value."""
        for pattern, text in self.labels.items():
            if fnmatchcase(name, pattern):
                head, _, tail = pattern.partition("*")
                inner = name[len(head) : len(name) - len(tail)]
                return text.replace("{}", spelled(inner))
        return None


A = TypeVar("A", bound=About)


def of(module: ModuleType, kind: str, form: type[A]) -> A:
    """The `ABOUT` of a plug-in's module; where it has none, one whose title is the kind in words.

    Raises InputError where `ABOUT` is something else.
    """
    found = getattr(module, "ABOUT", None)
    if found is None:
        return form(title=spelled(kind))
    if not isinstance(found, form):
        raise InputError(f"{kind}: ABOUT is a {type(found).__name__}, expected a {form.__name__} of stages.about")
    return found


ACRONYMS = {
    "clip": "CLIP", "clipscore": "CLIPScore", "dino": "DINO", "hps": "HPS", "hpsv2": "HPSv2",
    "imagereward": "ImageReward", "pickscore": "PickScore", "heldout": "held-out",
}  # fmt: skip
"""How the words of a name in a study file are spelled: of models, since plug-ins say their own titles."""


def spelled(name: str) -> str:
    """A name of a study file in words: `patch_diversity` as `patch diversity`, acronyms as they are written."""
    return " ".join(ACRONYMS.get(part, part) for part in name.split("_"))
