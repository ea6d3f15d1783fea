"""What a study says of a model that exists already. Torch-free."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

from pydantic import Field, model_validator

from stages.params import Settings

BASE_KINDS = ("diffusers",)
"""Kinds that are base models; all others are rewards and feature networks."""


class ImportSettings(Settings):
    """Where a model comes from: one of `folder`, `file` and `hub`, or none for a kind that needs no files."""

    kind: str = Field(description="diffusers for a base model, else a kind of reward (module of stages/rewards)")
    folder: str | None = Field(default=None, description="a local folder")
    file: str | None = Field(default=None, description="a local file")
    hub: str | None = Field(default=None, description="a hub id, `owner/name`; needs `revision`")
    revision: str | None = Field(default=None, description="commit on the hub, so that the model cannot change unseen")
    only: tuple[str, ...] = Field(
        default=(), description="patterns of files to take of a hub or folder, such as `HPS_v2.1*.pt`; empty takes all"
    )
    sha256: str | None = Field(
        default=None, pattern="^[0-9a-f]{64}$", description="digest that the one file of weights must have"
    )
    of: dict[str, ImportSettings] = Field(
        default_factory=dict, description="models that this one is made of, for kinds such as weighted_sum"
    )
    options: dict[str, Any] = Field(default_factory=dict, description="passed on to the loader of this kind")

    @model_validator(mode="after")
    def _one_place(self) -> ImportSettings:
        given = [name for name in ("folder", "file", "hub") if getattr(self, name) is not None]
        if len(given) > 1:
            raise ValueError(f"{' and '.join(given)} are both given, expected one place")
        if self.hub is not None and self.revision is None:
            raise ValueError(f"hub {self.hub!r} has no revision; name the commit to use")
        if self.kind in BASE_KINDS and (self.only or self.sha256 or self.of):
            raise ValueError("a base model takes none of only, sha256 and of")
        return self

    def everything(self, name: str) -> Iterator[tuple[str, ImportSettings]]:
        """This model and all that it is made of, each with its dotted name."""
        yield name, self
        for inner, settings in self.of.items():
            yield from settings.everything(f"{name}.of.{inner}")
