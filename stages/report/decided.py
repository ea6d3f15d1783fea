"""What the report reads of `decided`: open shares, and where methods start."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

from stages import plugins
from stages.decided import shares
from stages.decided.shares import Share
from stages.errors import InputError
from stages.report.measurements import Log
from stages.report.settings import ReportStudy


def read(study: ReportStudy, path: Path | None) -> list[Share]:
    """The shares of the study; none where it has no section `decided`. Raises InputError where they are of another
    grid, or no file is given.
    """
    if not study.decided:
        return []
    if path is None:
        raise InputError("--decided: the study has a section `decided`; expected its table of shares")
    found, steps = shares.read(path)
    if found and steps != study.sample.steps:
        raise InputError(f"{path}: decided on a grid of {steps} steps, expected {study.sample.steps}; run it again")
    return found


def starts(study: ReportStudy, log: Log) -> dict[str, int]:
    """The index that every method with a setting `start` begins at, by method; one that is auto stands in the log."""
    found = {}
    for run, view in study.runs.items():
        own = study.methods_by_name.get(view.method)
        if own is None or view.method in found:
            continue
        start = _settings(own.kind, own.model_dump(), view.method).get("start")
        taken = log[run].get("auto_start")
        if start == "auto" and taken is not None:
            start = int(taken.values[0])
        if isinstance(start, int):
            found[view.method] = start
    return found


def _settings(kind: str, own: Mapping[str, object], name: str) -> Mapping[str, object]:
    """All settings of a method, defaults included."""
    module = plugins.load("stages.finetune.methods", "imagerefl.methods", kind, f"methods.{name}")
    fields = getattr(getattr(module, "Settings", None), "model_fields", {})
    return {key: field.get_default(call_default_factory=True) for key, field in fields.items()} | dict(own)
