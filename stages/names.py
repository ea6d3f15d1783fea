"""Names in a study file. They become parts of paths, of keys and of command lines, so they are plain.

Snakemake sees a study only after `stages.study` has checked it. DVC reads params.yaml itself and pastes names into
shell lines; there `python -m stages.names params.yaml` is the first command of every stage, in a shell of its own with
nothing pasted into it, and DVC runs the second only when the first one ends well.
"""

from __future__ import annotations

import re
import sys
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

from stages.errors import InputError

LONGEST = 64
PATTERN = rf"^[A-Za-z0-9][A-Za-z0-9_-]{{0,{LONGEST - 1}}}$"
"""No dot: names are parts of dotted keys, as in `runs.refl-s0`."""
ALLOWED = f"1 to {LONGEST} letters, digits, _ and -, the first a letter or digit"

ONE = (
    "study.name",
    "study.reward",
    "study.heldout",
    "study.reference",
    "measure.text_image",
    "measure.set_space",
    "finetune.probe.oracle",
)
"""Keys whose value is a name; null where a study does without."""
SEVERAL = ("score.rewards", "measure.rewards")
"""Keys whose value is a list of names."""
NAMED = (
    "prepare.import", "prepare.train.vae", "prepare.train.base", "prepare.train.clip", "prepare.train.latent",
    "prepare.train.pal", "prepare.train.consistency",
    "methods", "runs", "sample.strategies", "measure.features",
)  # fmt: skip
"""Keys of mappings whose own keys are names."""


def check(study: Mapping[str, Any], where: str) -> None:
    """Raise InputError, one line that starts with `where`, for the first name in `study` that is not plain.

    What is not there is not looked at.
    """
    for key, name in _names(study, where):
        if not isinstance(name, str) or re.fullmatch(PATTERN[1:-1], name) is None:
            raise InputError(f"{where}{key}: {_shown(name)} is not a name; expected {ALLOWED}")


def _names(study: Mapping[str, Any], where: str) -> Iterator[tuple[str, Any]]:
    for keys, shape, what in ((ONE, object, ""), (SEVERAL, (list, tuple), "a list"), (NAMED, dict, "a mapping")):
        for key in keys:
            value = _at(study, key)
            if value is None:
                continue
            if keys is ONE:
                yield key, value
            elif isinstance(value, (list, tuple, dict)) and isinstance(value, shape):
                yield from ((key, name) for name in value)
            else:
                raise InputError(f"{where}{key}: {_shown(value)} is not {what} of names")


def _at(study: Any, key: str) -> Any:
    for part in key.split("."):
        study = study.get(part) if isinstance(study, Mapping) else None
    return study


def _shown(value: object) -> str:
    text = ascii(value)
    return text if len(text) <= 80 else f"{text[:77]}..."


def main() -> None:
    """Check that DVC reads the study file as this project does, and the names in it."""
    from ruamel.yaml import YAML, YAMLError

    from stages.params import read_study

    path = Path(sys.argv[1])
    study = read_study(path)
    try:
        read_by_dvc = YAML(typ="safe").load(path.read_text(encoding="utf-8"))
    except YAMLError as error:
        raise InputError(f"{path}: DVC cannot read it: {' '.join(str(error).split())[:200]}") from None
    if read_by_dvc != study:
        raise InputError(f"{path}: DVC reads other values here; expected plain YAML 1.2")
    check(study, f"{path}: ")


if __name__ == "__main__":
    try:
        main()
    except InputError as error:
        print(f"error: {error}", file=sys.stderr)
        raise SystemExit(2) from None
