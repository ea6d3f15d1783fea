"""Which models of a study share weights: one is the other, or a sum, wrapper or extension of it. Torch-free."""

from __future__ import annotations

import json
from collections.abc import Mapping
from typing import Any

from stages.prepare.import_settings import ImportSettings


def leaves(prepare: Mapping[str, Any]) -> dict[str, frozenset[str]]:
    """Every imported model to what it is made of at last: the place of the files of models that have no part, however
    deep under `of`, or kind and options of those without files. Models that the study trains are not known here.
    """
    imported = prepare.get("import") or {}
    return {name: _of(ImportSettings.model_validate(settings)) for name, settings in imported.items()}


def _of(settings: ImportSettings) -> frozenset[str]:
    if settings.of:
        return frozenset().union(*map(_of, settings.of.values()))
    place = settings.model_dump(include={"folder", "file", "hub", "revision", "only"}, exclude_defaults=True)
    return frozenset({json.dumps(place or settings.model_dump(include={"kind", "options"}), sort_keys=True)})
