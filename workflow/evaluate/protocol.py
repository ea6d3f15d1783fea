"""Protocols: what is fixed when a checkpoint is evaluated, under an id that changes with every setting."""

from __future__ import annotations

import hashlib
import json
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

from pydantic import Field

from stages.errors import InputError
from stages.mappings import read_yaml
from stages.params import Settings, nearest, validate

FOLDER = Path(__file__).with_name("protocols")


class ProtocolSettings(Settings):
    """A file in `protocols/`."""

    description: str = Field(description="a line for people")
    prompts: dict[str, Any] = Field(description="source of the prompts; `path: null` where --prompts names the file")
    limit: int | None = Field(ge=1, description="first prompts that are taken; null: all")
    count: int | None = Field(
        None, ge=1, description="prompts that the suite has, of which a copy may have no fewer; null: not known"
    )
    images: int = Field(ge=2, description="images per prompt")
    steps: int = Field(ge=1, description="sampling steps")
    sampler: Literal["ddpm", "ddim"] = Field(description="ancestral or deterministic steps")
    guidance: float = Field(ge=0, description="guidance scale of the checkpoint; 1 is none")
    base_guidance: float = Field(ge=0, description="guidance scale of the base, alone and in combined generation")
    seed: int = Field(ge=0, description="of the noise, the same for base and checkpoints")
    side: int = Field(ge=8, description="width and height of the images in pixels")
    judges: dict[str, dict[str, Any]] = Field(description="models that judge, as under prepare.import of a study")
    reward: str = Field(description="the judge that the report calls the training reward")
    heldout: str = Field(description="the judge beside it")
    rewards: tuple[str, ...] = Field(min_length=1, description="judges whose score every image gets")
    text_image: str | None = Field(description="judge whose cosine is reported as CLIPScore; null: none")
    features: dict[str, str] = Field(description="judges whose features span a space to be diverse in")
    diversities: tuple[str, ...] = Field(min_length=1, description="diversities that the report shows")
    real: dict[str, Any] | None = Field(
        None,
        description="source of the real images that set metrics compare with; `path: null` where --images names it",
    )
    set_metrics: tuple[str, ...] = Field((), description="metrics of whole sets of images, in the first embedding")
    directions: bool = Field(True, description="set metrics compare features scaled to one length")
    filters: dict[str, Any] = Field({}, description="what is kept of prompts and real images, as in a study")
    notes: str = Field("", description="what its page in the documentation says besides")


LONGEST = 32
"""Characters of a protocol's name in its id, so that the digits behind it fit into the name of a study."""
WORDS = {"description", "notes", "count"}
"""Settings that decide no number, for people and for checks, and are no part of the id."""
LATER = ("real", "set_metrics", "directions", "filters")
"""Settings that are no part of the id where they are as by default: ids are older than they."""
CHANGEABLE = ("limit", "images", "steps", "sampler", "guidance", "base_guidance", "seed", "side")
"""Keys that `--set` may change."""


@dataclass(frozen=True)
class Protocol:
    """A protocol with `settings` in force; `changed` maps a key that `--set` changed to its value in the file."""

    name: str
    settings: ProtocolSettings
    changed: Mapping[str, object]

    @property
    def id(self) -> str:
        """The name and eight hexadecimal digits of all that decides a number: not of words for people."""
        content = self.settings.model_dump(mode="json", exclude=WORDS)
        plain = {key for key in LATER if getattr(self.settings, key) == ProtocolSettings.model_fields[key].default}
        content = {key: value for key, value in content.items() if key not in plain}
        name = re.sub(r"[^A-Za-z0-9_-]", "-", self.name)[:LONGEST]
        return f"{name}-{hashlib.sha256(json.dumps(content, sort_keys=True).encode()).hexdigest()[:8]}"

    @property
    def said(self) -> str:
        """The id and what was changed, in one line."""
        now = self.settings.model_dump(mode="json")
        changes = [f"{key} {_word(before)} -> {_word(now[key])}" for key, before in self.changed.items()]
        return f"protocol {self.id}" + (f", changed: {', '.join(changes)}" if changes else ", unchanged")


def _text(file: Path) -> str:
    try:
        return file.read_text(encoding="utf-8-sig")
    except (OSError, UnicodeDecodeError) as error:
        why = error.strerror if isinstance(error, OSError) else "its text is not UTF-8"
        raise InputError(f"--protocol {file}: cannot be read: {why}") from None


def _word(value: object) -> str:
    return "none" if value is None else str(value)


def names() -> list[str]:
    """The protocols of the project."""
    return sorted(file.stem for file in FOLDER.glob("*.yaml"))


def load(name: str, changes: Sequence[str] = ()) -> Protocol:
    """The protocol `name`, a name or a YAML file, with `changes` (`steps=20`) made.

    Raises InputError for another name, another key, or a value of another kind.
    """
    file = Path(name) if name.endswith((".yaml", ".yml")) else FOLDER / f"{name}.yaml"
    if not file.is_file():
        raise InputError(f"--protocol {name}: unknown protocol{nearest(name, names())}")
    raw = read_yaml(_text(file), str(file))
    before = validate(ProtocolSettings, raw, f"{file}:").model_dump(mode="json")
    given: dict[str, Any] = {}
    for change in changes:
        key, separator, value = change.partition("=")
        if not separator or key not in CHANGEABLE:
            raise InputError(f"--set {change}: expected KEY=VALUE{nearest(key, CHANGEABLE)}")
        given[key] = read_yaml(value, f"--set {key}")
    settings = validate(ProtocolSettings, before | given, "--set:")
    after = settings.model_dump(mode="json")
    return Protocol(file.stem, settings, {key: before[key] for key in CHANGEABLE if before[key] != after[key]})
