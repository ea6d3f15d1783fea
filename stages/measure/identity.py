"""What a metric is called in full: the model that it rests on, its revision, and how images are given to it."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import TYPE_CHECKING, Any

from stages import plugins
from stages.measure.panel import Panel
from stages.measure.settings import GROUP, PACKAGE, PASSED, MeasureSettings
from stages.rewards.preprocess import NORMALISATIONS

if TYPE_CHECKING:
    from stages.models.record import ModelRecord


def model_id(record: ModelRecord, about: Mapping[str, Any]) -> str:
    """`source@revision (preprocessing)` of a model; its digest is the revision of what comes from no hub.

    `about` is what the loaded model says of itself (`describe`): preprocessing, and options that change its numbers.
    """
    place = record.source if record.revision else record.kind
    parts = [f"{name}={model_id(part, about.get(name, {}))}" for name, part in record.parts.items()]
    own = {name: value for name, value in about.items() if name not in record.parts and name != "preprocess"}
    if record.parts:
        own |= record.options  # of a wrapper: weights, limits
    how = [*([_preprocessing(about["preprocess"])] if "preprocess" in about else []), *parts]
    how += [f"{name}={_value(value)}" for name, value in sorted(own.items())]
    return f"{place}@{record.revision or record.digest}" + (f" ({', '.join(how)})" if how else "")


def metric_ids(settings: MeasureSettings, panel: Panel, names: Iterable[str]) -> dict[str, str]:
    """Name of every metric in `names` to its id; one that rests on no model is its own id."""
    models = panel.ids
    owners = {name: models[name] for name in settings.rewards}
    owners |= {f"{name}_diversity": models[name] for name in settings.features}
    if settings.text_image:
        owners["clipscore"] = models[settings.text_image]
    first = settings.spaces["first"]
    if first:
        owners |= {name: models[first] for name in settings.set_metrics if _says(name, "SPACE") == "first"}
    found = {}
    for name in names:
        whole = name.removesuffix(PASSED)
        if whole in owners and whole != name and settings.passing is not None:
            check = settings.passing
            found[name] = f"{name}: {owners[whole]}, images with {check.metric} of at least {check.least:g}"
        elif name in owners:
            found[name] = f"{name}: {owners[name]}"
        elif name in settings.set_metrics and settings.space is not None and _says(name, "SCOPE") == "set":
            compared = "directions" if settings.directions else "features"
            found[name] = f"{name}: {compared} of {models[settings.space]}"
            if _says(name, "NEIGHBOURS"):
                found[name] += f", k={settings.neighbours}"
        else:
            found[name] = name
    return found


def _says(metric: str, name: str) -> object:
    """What the module of a metric says under `name`: its `SCOPE`; `SPACE`, `first` for a metric that compares the
    first embedding even where set metrics compare another; `NEIGHBOURS`, whether it depends on `measure.neighbours`.
    """
    return getattr(plugins.load(PACKAGE, GROUP, metric, "measure.set_metrics"), name, None)


def _preprocessing(values: Mapping[str, Any]) -> str:
    """`224 shortest bicubic clip`: side, fit, interpolation, and whose mean and standard deviation."""
    scaling = (tuple(values["mean"]), tuple(values["std"]))
    named = next((name for name, known in NORMALISATIONS.items() if known == scaling), None)
    shown = named or "mean " + "/".join(f"{m:.3g}" for m in scaling[0]) + " std " + "/".join(
        f"{s:.3g}" for s in scaling[1]
    )
    return f"{values['size']} {values['resize_mode']} {values['interpolation']} {shown}"


def _value(value: object) -> str:
    if isinstance(value, Mapping):
        return "{" + ", ".join(f"{name}: {_value(inner)}" for name, inner in sorted(value.items())) + "}"
    return f"{value:.6g}" if isinstance(value, float) else str(value)
