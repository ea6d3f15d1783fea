"""Who judges: what identifies every model, without the model itself."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass


@dataclass(frozen=True)
class Panel:
    """The models that judge, by name."""

    identities: Mapping[str, Mapping[str, object]]
    """Digest and preprocessing of every model, as they stand in the evaluation's specification."""
    ids: Mapping[str, str]
    """What every model is called in full (`stages.measure.identity.model_id`)."""
