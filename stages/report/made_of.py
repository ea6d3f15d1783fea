"""Which models of a study share weights: one is the other, or a sum or wrapper of it. Torch-free."""

from __future__ import annotations

import json
from collections.abc import Mapping
from typing import Any

from stages.prepare.import_settings import ImportSettings


def leaves(prepare: Mapping[str, Any]) -> dict[str, frozenset[str]]:
    """Every imported model to what it is made of at last, however deep under `of`: places of files, and kind and
    options of parts without files. Models that the study trains are not known here.
    """
    imported = prepare.get("import") or {}
    return {name: _leaves(ImportSettings.model_validate(settings)) for name, settings in imported.items()}


def _leaves(settings: ImportSettings) -> frozenset[str]:
    found = []
    for _, one in settings.everything(""):
        place = one.model_dump(include={"folder", "file", "hub", "revision", "only"}, exclude_defaults=True)
        if place or not one.of:
            found.append(json.dumps(place or one.model_dump(include={"kind", "options"}), sort_keys=True))
    return frozenset(found)
