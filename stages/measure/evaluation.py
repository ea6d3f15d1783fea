"""The identity of an evaluation: two numbers may be compared when they were measured under the same one."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterable, Mapping
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq

from stages.errors import InputError

FORMULAS = 1
"""Raised whenever a formula in `metrics` changes what it computes."""
_KEY, _SPECIFICATION, _IDS = b"evaluation", b"evaluation_specification", b"metric_ids"


@dataclass(frozen=True)
class Evaluation:
    """Everything that decides a measured number, save the way of making images that is being measured."""

    prompts: str
    """Digest of the prompt suite."""
    n_prompts: int
    samples: int
    """Images of every prompt under every setting (the least, where they differ)."""
    resolution: tuple[int, int]
    """Width and height in pixels."""
    seed: int
    """The study's seed, which decides the sampling noise."""
    sampling: Mapping[str, object]
    """Steps and sampler."""
    models: Mapping[str, object]
    """Name of every model that judges to its digest and preprocessing."""
    sets: Mapping[str, object]
    """What set metrics compare with and how; empty where there are none."""
    spaces: Mapping[str, object] = field(default_factory=dict)
    """By name of a model, how its features are compared; and the first embedding, which metrics of prompts compare."""
    formulas: int = FORMULAS
    released: Mapping[str, object] = field(default_factory=dict)
    """Habits of the released code that summaries follow."""
    passing: Mapping[str, object] = field(default_factory=dict)
    """Which images pass, where that is not the default."""

    @property
    def id(self) -> str:
        """12 hexadecimal digits."""
        return hashlib.sha256(self._text().encode()).hexdigest()[:12]

    def schema(self, schema: pa.Schema) -> pa.Schema:
        """`schema` with the id and the specification in its metadata, where `evaluation_of` finds them."""
        more = {_KEY: self.id.encode(), _SPECIFICATION: self._text().encode()}
        return schema.with_metadata({**(schema.metadata or {}), **more})

    def _text(self) -> str:
        specification = asdict(self)
        for name in ("released", "passing"):
            if not specification[name]:
                del specification[name]  # so that an evaluation without such habits keeps the id it always had
        return json.dumps(specification, sort_keys=True, default=str)


def prompt_suite(prompts: Iterable[tuple[str, str]]) -> str:
    """Digest of a set of (prompt id, prompt), whatever their order: 16 hexadecimal digits."""
    return hashlib.sha256(json.dumps(sorted(set(prompts))).encode()).hexdigest()[:16]


def evaluation_of(path: str | Path) -> str:
    """The id in the metadata of a measures or summary table; raises InputError where there is none."""
    try:
        metadata = pq.read_schema(path).metadata or {}
    except (OSError, pa.ArrowException) as error:
        raise InputError(
            f"{path}: not a readable Parquet file (expected a table that measure writes): {error}"
        ) from None
    if _KEY not in metadata:
        raise InputError(f"{path}: carries no evaluation id; expected a table that measure writes")
    return metadata[_KEY].decode()


def specification_of(path: str | Path) -> dict[str, Any]:
    """Everything that the id in the metadata of a table stands for, by the fields of `Evaluation`; raises InputError
    where there is none.
    """
    evaluation_of(path)
    return json.loads((pq.read_schema(path).metadata or {})[_SPECIFICATION])


def with_ids(schema: pa.Schema, ids: Mapping[str, str]) -> pa.Schema:
    """`schema` with metric ids (`stages.measure.identity`) in its metadata, where `ids_of` finds them."""
    return schema.with_metadata({**(schema.metadata or {}), _IDS: json.dumps(ids, sort_keys=True).encode()})


def ids_of(path: str | Path) -> dict[str, str]:
    """Name of every metric of a summary table to its id; empty for a table without."""
    metadata = pq.read_schema(path).metadata or {}
    return json.loads(metadata.get(_IDS, b"{}"))
