"""Model records: a small JSON file that stands for a model of any size, by path, revision and digest."""

from __future__ import annotations

import json
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from stages import walk
from stages.errors import InputError
from stages.kinds import shown
from stages.runtime import sha256, whole_file


@dataclass(frozen=True)
class ModelRecord:
    """What a later stage needs to load a model and to know that it is the same one.

    `kind` names the loader (`diffusers`, or a module of `stages.rewards`). `path` is the folder, relative to the
    working directory where possible, empty for a model without files. `files` maps each file's path below `path` to its
    SHA-256. `source` and `revision` say where it came from; `options` are passed to the loader. `parts` are the models
    that this one is made of, such as the rewards of a weighted sum. `access` are options that say how the model is
    reached, such as a server's address: they are passed to the loader too, but another address does not make another
    model.
    """

    name: str
    kind: str
    path: str = ""
    source: str = ""
    revision: str = ""
    files: Mapping[str, str] = field(default_factory=dict)
    options: Mapping[str, object] = field(default_factory=dict)
    parts: Mapping[str, ModelRecord] = field(default_factory=dict)
    access: Mapping[str, object] = field(default_factory=dict)

    @property
    def digest(self) -> str:
        """One digest of the whole model: of its kind, options, files and parts (16 hexadecimal digits)."""
        import hashlib

        content = [self.kind, dict(self.options), sorted(self.files.items())]
        if self.parts:
            content.append(sorted((name, part.digest) for name, part in self.parts.items()))
        text = json.dumps(content, sort_keys=True)
        return hashlib.sha256(text.encode()).hexdigest()[:16]

    def file(self, name: str) -> Path:
        """The path of one file of the model, after checking that it is still the recorded one."""
        path = Path(self.path) / name
        if name not in self.files:
            raise InputError(f"model {self.name!r}: its record lists no file {name!r}; listed: {', '.join(self.files)}")
        self._check(path, self.files[name])
        return path

    def folder(self) -> Path:
        """The folder of the model, after checking every recorded file."""
        self.check(self.files)
        return Path(self.path)

    def check(self, names: Iterable[str]) -> None:
        """Raise InputError unless the named files are still the recorded ones."""
        for name in names:
            self._check(Path(self.path) / name, self.files[name])

    def _check(self, path: Path, digest: str) -> None:
        if not path.is_file():
            raise InputError(f"{path}: missing, though the record of model {self.name!r} lists it; run prepare again")
        if sha256(path) != digest:
            raise InputError(f"{path}: changed since model {self.name!r} was recorded; run prepare again")


def describe(name: str, kind: str, path: str | Path, **more: object) -> ModelRecord:
    """The record of a model folder or file as it stands now; all files below `path` but hidden ones are digested."""
    root = Path(path)
    if not root.exists():
        raise InputError(f"{root}: no such folder or file for model {name!r}")
    found = [root] if root.is_file() else walk.files(root)
    base = root.parent if root.is_file() else root
    return describe_files(name, kind, base, [path.relative_to(base).as_posix() for path in found], **more)


def describe_files(name: str, kind: str, base: Path, names: Iterable[str], **more: object) -> ModelRecord:
    """The record of a model that consists of the named files below `base`."""
    files = {n: sha256(base / n) for n in names}
    return ModelRecord(name=name, kind=kind, path=str(base), files=files, **more)  # type: ignore[arg-type]


def save(record: ModelRecord, path: str | Path) -> None:
    """Write a record, whole or not at all."""
    with whole_file(path) as partial:
        partial.write_text(json.dumps(_plain(record) | {"digest": record.digest}, indent=1, sort_keys=True) + "\n")


def load(path: str | Path, name: str | None = None) -> ModelRecord:
    """Read a record, of the model `name` where one is given.

    Raises InputError when the file is missing, is not a record, is not as it was written, or is of another model.
    """
    try:
        values = json.loads(Path(path).read_text(encoding="utf-8"))
        digest = values.pop("digest")
        record = _from_plain(values)
    except FileNotFoundError:
        raise InputError(f"{path}: no such model record (expected the JSON that prepare writes)") from None
    except OSError as error:
        raise InputError(f"{path}: not a model record: {error.strerror}") from None
    except (ValueError, KeyError, TypeError, AttributeError) as error:
        raise InputError(f"{path}: not a model record: {error}") from None
    if digest != record.digest:
        raise InputError(f"{path}: its digest is not that of its content; was it edited by hand? run prepare again")
    if name is not None and record.name != name:
        raise InputError(f"{path}: is the record of model {record.name!r}, expected that of {name!r}")
    return record


def _plain(record: ModelRecord) -> dict[str, Any]:
    """A record as JSON has it; `parts` and `access` stand there only where there are some."""
    values = {name: value for name, value in vars(record).items() if name not in ("parts", "access")}
    values |= {"access": dict(record.access)} if record.access else {}
    return values | ({"parts": {name: _plain(part) for name, part in record.parts.items()}} if record.parts else {})


def _from_plain(values: Mapping[str, Any]) -> ModelRecord:
    parts = {name: _from_plain(part) for name, part in values.get("parts", {}).items()}
    for name in ("name", "kind", "path", "source", "revision"):
        if not isinstance(values.get(name, ""), str):
            raise TypeError(f"{name}: expected text, found {shown(values[name])}")
    for name in ("files", "options", "access"):
        if not isinstance(values.get(name, {}), dict):
            raise TypeError(f"{name}: expected a mapping, found {shown(values[name])}")
    return ModelRecord(**{**values, "parts": parts})
