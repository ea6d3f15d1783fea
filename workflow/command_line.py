"""The study that Snakemake's command line names: `--config study=FILE`, the only key that it takes there."""

from __future__ import annotations

import os
import shlex
from collections.abc import Mapping, Sequence
from typing import Any

from stages.errors import InputError
from stages.kinds import shown
from stages.params import nearest

KEYS = ("study",)
SECTIONS = (
    "world", "curate", "prepare", "score", "select", "renoise", "encode", "decided", "finetune", "methods", "runs",
    "sample", "measure", "report",
)  # fmt: skip
"""Sections of a study file besides `study`."""


def named_study(config: Mapping[str, Any], configfiles: Sequence[Any], default: str, words: Sequence[str] = ()) -> str:
    """The study file that `--config study=FILE` names, `default` without one.

    `configfiles` are the files given to `--configfile`, `words` the command line, of which Snakemake keeps the last
    study only. Raises InputError, one line that says what to type, for any other key, two studies, and `--configfile`.
    """
    named = [word.removeprefix("--config=") for word in words]
    studies = dict.fromkeys(word.partition("=")[2] for word in named if word.startswith("study="))
    if len(studies) > 1:
        raise InputError(f"--config: {' and '.join(studies)}: Snakemake runs one study at a time; name one")
    if configfiles:
        file = os.path.relpath(configfiles[0])
        raise InputError(f"--configfile {file}: a study file is named by --config {shlex.quote(f'study={file}')}")
    for key in config:
        if key in SECTIONS:
            raise InputError(
                f"--config {key}=...: the command line cannot change a key of the study file; copy the file, change"
                f" {key!r} and study.name there, and type --config study=FILE"
            )
        if key not in KEYS:
            raise InputError(f"--config {key}=...: unknown key{nearest(key, KEYS)}; expected study=FILE")
    study = config.get("study", default)
    if not isinstance(study, (str, int, float)):
        raise InputError(f"--config study: expected the path of a study file, found {shown(study)}")
    return str(study)
