"""What is known about one job, and the JSON file that holds it."""

from __future__ import annotations

import json
import math
import uuid
from collections.abc import Iterable, Sequence
from dataclasses import asdict, dataclass, field, fields
from pathlib import Path
from typing import Any

from stages.runtime import whole_file

RUNNING, FINISHED, FAILED, KILLED = "running", "finished", "failed", "killed"
FOLDER = "lineage"


@dataclass
class File:
    """A file, or a folder taken as one, that a job read or wrote."""

    path: str
    """As the job was given it."""
    name: str
    """The path inside the study's folder (`data/images.parquet`), else the path itself."""
    sha256: str | None = None
    """Of the bytes; of a folder, over the names and digests of its files; None when it could not be read."""
    size: int = 0
    """Bytes."""
    modified: int = 0
    """Modification time in nanoseconds since 1970; with `size` it tells whether the digest still holds."""
    producer: str | None = None
    """The job that wrote it (`encode`, `finetune refl-s0`), where its record is known."""


@dataclass
class Logged:
    """One value of a metric; `seconds` counts from the start of the job."""

    value: float
    step: int | None
    seconds: float


@dataclass
class Model:
    """A checkpoint: where it stands, its digest, and the names of the data it was made from."""

    name: str
    path: str
    sha256: str | None
    data: dict[str, str | None]
    """Digest of each piece of data, by its name."""


@dataclass
class Code:
    """The code revision."""

    git: str | None
    """Commit of the repository, None outside of one."""
    dirty: bool
    """Whether `stages/` differs from that commit."""
    digest: str
    """SHA-256 over the names and bytes of every Python file in `stages/`."""


@dataclass
class Record:
    """Everything that is kept about one execution of one job."""

    study: str
    stage: str
    name: str
    folder: str
    """Where the records of this study stand, absolute."""
    started: float
    """Seconds since 1970, UTC."""
    params: File
    """The study file."""
    code: Code
    versions: dict[str, str]
    description: str = ""
    reward: str = ""
    """The reward that the study trains on."""
    heldout: str = ""
    """The reward that no method sees."""
    method: str | None = None
    seed: int | None = None
    host: str = ""
    status: str = RUNNING
    error: str | None = None
    """The exception of a failed job in one line."""
    seconds: float = 0.0
    """Wall time from start to end, or to the latest write while running."""
    peak_memory: int = 0
    """Highest resident set of the process, bytes."""
    peak_gpu_memory: int = 0
    """Highest memory held by torch on the GPU, bytes; 0 without one."""
    parameters: dict[str, str] = field(default_factory=dict)
    metrics: dict[str, list[Logged]] = field(default_factory=dict)
    inputs: list[File] = field(default_factory=list)
    outputs: list[File] = field(default_factory=list)
    artifacts: list[str] = field(default_factory=list)
    models: list[Model] = field(default_factory=list)
    evaluations: dict[str, dict[str, float]] = field(default_factory=dict)
    """Final measures of other runs that this job computed: run -> metric -> value."""
    execution: str = field(default_factory=lambda: uuid.uuid4().hex)
    """Differs between two executions of the same job."""

    @property
    def title(self) -> str:
        """What a person calls the job: `finetune refl-s0`."""
        return title(self.stage, self.name)

    @property
    def path(self) -> Path:
        """The JSON file of this record."""
        return record_path(Path(self.folder), self.stage, self.name)


def title(stage: str, name: str) -> str:
    """`finetune refl-s0`, or the stage alone when it has one job only."""
    return f"{stage} {name}".strip()


def record_path(folder: Path, stage: str, name: str) -> Path:
    """`<folder>/<stage>-<name>.json`; characters that a file name should not hold become `_`."""
    stem = f"{stage}-{name}".strip("-")
    return folder / ("".join(c if c.isalnum() or c in "-_.+" else "_" for c in stem) + ".json")


def study_folder(study: str, outputs: Sequence[str | Path]) -> Path:
    """The study's folder, seen from the outputs of a job.

    The nearest parent of an output named as the study (`out/shapes`), preferably one inside `out`; else the folder that
    all outputs share; without outputs `out/<study>` in the working directory. Absolute.
    """
    parents = [parent for output in outputs for parent in Path(output).absolute().parents if parent.name == study]
    if parents:
        return next((p for p in parents if p.parent.name == "out"), parents[0])
    if not outputs:
        return Path("out", study).absolute()
    first, *others = [Path(output).absolute().parent for output in outputs]
    return next(p for p in (first, *first.parents) if all(other.is_relative_to(p) for other in others))


def write_record(record: Record) -> None:
    """Write the record to its JSON file, whole or not at all. Raises OSError."""
    values = {key: value for key, value in _strict(asdict(record)).items() if key != "folder"}
    lines = ",\n".join(f" {json.dumps(key)}: {_lines(value)}" for key, value in values.items())
    with whole_file(record.path) as partial:
        partial.write_text(f"{{\n{lines}\n}}\n", encoding="utf-8")


def read_record(path: str | Path) -> Record:
    """The record in a JSON file. Raises OSError, or ValueError when the file is not a record."""
    values = json.loads(Path(path).read_text(encoding="utf-8"))
    try:
        known = {f.name for f in fields(Record)}
        values["folder"] = str(Path(path).absolute().parent)
        made = Record(**{key: value for key, value in values.items() if key in known})
        made.params, made.code = File(**values["params"]), Code(**values["code"])
        made.inputs, made.outputs = [File(**f) for f in values["inputs"]], [File(**f) for f in values["outputs"]]
        made.models = [Model(**m) for m in values["models"]]
        made.metrics = {name: [_point(p) for p in points] for name, points in values["metrics"].items()}
        made.evaluations = {r: {m: float(v) for m, v in of.items()} for r, of in values["evaluations"].items()}
    except (TypeError, KeyError, AttributeError) as error:
        raise ValueError(f"{path}: not a lineage record: {error}") from None
    return made


def read_records(folder: str | Path) -> list[Record]:
    """Every readable record in `out/<study>/lineage`, by start; files that are not records are passed over."""
    found: list[Record] = []
    for path in sorted(Path(folder).glob("*.json")):
        try:
            found.append(read_record(path))
        except (OSError, ValueError):
            continue
    return sorted(found, key=lambda record: record.started)


def flat(values: dict[str, Any], prefix: str = "") -> Iterable[tuple[str, str]]:
    """Nested settings as dotted names and short texts: `optimizer.lr`, `5e-05`."""
    for key, value in values.items():
        if isinstance(value, dict):
            yield from flat(value, f"{prefix}{key}.")
        else:
            yield f"{prefix}{key}", str(value)


def _lines(value: Any) -> str:
    """JSON with one line per entry of a table, so that a record with thousands of points still reads well."""
    if value and isinstance(value, dict) and any(isinstance(entry, (dict, list)) for entry in value.values()):
        entries = [f"{json.dumps(key)}: {json.dumps(entry)}" for key, entry in value.items()]
        return "{\n  " + ",\n  ".join(entries) + "\n }"
    if value and isinstance(value, list):
        return "[\n  " + ",\n  ".join(json.dumps(entry) for entry in value) + "\n ]"
    return json.dumps(value)


def _point(values: dict[str, Any]) -> Logged:
    return Logged(value=float(values["value"]), step=values["step"], seconds=float(values["seconds"]))


def _strict(value: Any) -> Any:
    """`value` with what JSON has no number for (nan, inf) as text that `float` reads back."""
    if isinstance(value, float) and not math.isfinite(value):
        return str(value)
    if isinstance(value, dict):
        return {str(k): _strict(v) for k, v in value.items()}
    if isinstance(value, list):
        return [_strict(v) for v in value]
    return value
