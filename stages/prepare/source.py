"""Models that exist already: found in a folder, a file or on a hub, and recorded by revision and digest. Torch-free."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from pydantic import Field, model_validator

from stages.errors import InputError
from stages.models import record
from stages.params import Settings, nearest
from stages.plugins import names

BASE_KINDS = ("diffusers",)


class ImportSettings(Settings):
    """Where a model comes from: one of `folder`, `file` and `hub`, or none for a kind that needs no files."""

    kind: str = Field(description="diffusers for a base model, else a kind of reward (module of stages/rewards)")
    folder: str | None = Field(default=None, description="a local folder")
    file: str | None = Field(default=None, description="a local file")
    hub: str | None = Field(default=None, description="a hub id, `owner/name`; needs `revision`")
    revision: str | None = Field(default=None, description="commit on the hub, so that the model cannot change unseen")
    options: dict[str, Any] = Field(default_factory=dict, description="passed on to the loader of this kind")

    @model_validator(mode="after")
    def _one_place(self) -> ImportSettings:
        given = [name for name in ("folder", "file", "hub") if getattr(self, name) is not None]
        if len(given) > 1:
            raise ValueError(f"{' and '.join(given)} are both given, expected one place")
        if self.hub is not None and self.revision is None:
            raise ValueError(f"hub {self.hub!r} has no revision; name the commit to use")
        return self


def import_model(name: str, settings: ImportSettings, where: str) -> record.ModelRecord:
    """The record of an existing model; raises InputError that starts with `where` for an unknown kind or place."""
    known = (*BASE_KINDS, *names("stages.rewards", "imagerefl.rewards", ("base", "preprocess")))
    if settings.kind not in known:
        raise InputError(f"{where}.kind: unknown kind {settings.kind!r}{nearest(settings.kind, known)}")
    if settings.hub is not None:
        return _from_hub(name, settings, where)
    place = settings.folder or settings.file
    if place is None:
        return record.ModelRecord(name=name, kind=settings.kind, options=settings.options)
    if not Path(place).exists():
        raise InputError(f"{where}: {place}: no such {'folder' if settings.folder else 'file'}")
    return record.describe(name, settings.kind, place, source=place, options=settings.options)


def _from_hub(name: str, settings: ImportSettings, where: str) -> record.ModelRecord:
    """A hub model at its pinned revision; HF_HUB_OFFLINE makes the local cache the only place looked at."""
    from huggingface_hub import snapshot_download
    from huggingface_hub.errors import HfHubHTTPError, LocalEntryNotFoundError

    assert settings.hub is not None
    try:
        folder = snapshot_download(settings.hub, revision=settings.revision)
    except (HfHubHTTPError, LocalEntryNotFoundError, OSError) as error:
        first = str(error).strip().split("\n")[0]
        raise InputError(f"{where}: {settings.hub} at {settings.revision}: cannot be fetched: {first}") from None
    return record.describe(
        name, settings.kind, folder, source=settings.hub, revision=str(settings.revision), options=settings.options
    )
