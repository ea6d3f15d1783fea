"""The key of a job's saved state: everything that decides the job's result. Torch-free."""

from __future__ import annotations

import json
import sys
from collections.abc import Mapping, Sequence
from importlib import metadata
from pathlib import Path
from typing import Any

from stages import code
from stages.errors import InputError
from stages.runtime import device, sha256

PACKAGES = ("torch", "diffusers", "transformers", "open_clip_torch", "numpy", "pillow", "pyarrow")


def job_key(stage: str, name: str, settings: Mapping[str, Any], inputs: Sequence[Path]) -> str:
    """Everything that decides the job's result, as JSON."""
    files = [sha256(path) if path.is_file() else "missing" for path in inputs]
    content = {
        "job": [stage, name], "settings": settings, "inputs": files, "code": _code(stage, settings, inputs),
        "versions": {package: _version(package) for package in PACKAGES}, "device": device().type,
    }  # fmt: skip
    return json.dumps(content, sort_keys=True, indent=1, default=str) + "\n"


def _code(stage: str, settings: Mapping[str, Any], inputs: Sequence[Path]) -> Mapping[str, str]:
    """Digests of the files that the job executes.

    Among them are the plug-ins that its settings or the records of its models name, and those loaded already.
    """
    records = [_record(path) for path in inputs if path.suffix == ".json" and path.is_file()]
    loaded = [name.rpartition(".")[2] for name in sys.modules if name.startswith(f"{code.PROJECT}.")]
    return code.digests(f"stages.{stage}.__main__", texts=code.texts_of([dict(settings), records, loaded]))


def _record(path: Path) -> Any:
    """The content of a model record, not checked any further; raises InputError where it is not JSON."""
    try:
        return json.loads(path.read_bytes())
    except ValueError as error:
        raise InputError(f"{path}: not a model record: {error}") from None


def _version(package: str) -> str:
    try:
        return metadata.version(package)
    except metadata.PackageNotFoundError:
        return ""
