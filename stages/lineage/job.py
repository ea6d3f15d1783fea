"""The record of the job that is running, kept as a file and mirrored to MLflow by a process of its own."""

from __future__ import annotations

import os
import platform
import sys
import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from stages.errors import InputError
from stages.lineage import provenance
from stages.lineage.process import MirrorProcess
from stages.lineage.record import (
    FAILED,
    FINISHED,
    FOLDER,
    KILLED,
    Logged,
    Model,
    Record,
    flat,
    read_records,
    study_folder,
    write_record,
)
from stages.lineage.store import Store
from stages.params import read_study
from stages.runtime import require_apart

INTERVAL = 10.0
"""Seconds between two writes of the record while the job runs."""


class Job:
    """The job that is running. Nothing in here raises because of a store, a disk or a value that cannot be kept."""

    def __init__(self, record: Record, digests: provenance.Digests) -> None:
        self.record = record
        self._digests = digests
        self._start = time.monotonic()
        self._due = 0.0
        self._mirror: MirrorProcess | None = None
        self._warned = False
        self._silent = not _first_process()

    def parameters(self, values: Mapping[str, Any]) -> None:
        """Keep settings of the job, few and readable; nested ones get dotted names (`optimizer.lr`)."""
        self.record.parameters.update(flat(dict(values)))
        self._write_if_due()

    def metric(self, name: str, value: Any, step: int | None = None) -> None:
        """Keep one value of a metric; `value` is anything `float` takes, `step` counts up within the job."""
        self.metrics({name: value}, step)

    def metrics(self, values: Mapping[str, Any], step: int | None = None) -> None:
        """Keep one value of several metrics at the same step."""
        seconds = time.monotonic() - self._start
        for name, value in values.items():
            try:
                point = Logged(float(value), None if step is None else int(step), seconds)
            except Exception:  # a tensor that is no scalar raises an error of its own
                self.warn(f"metric {name!r} is not a number: {value!r:.80}")
                continue
            self.record.metrics.setdefault(name, []).append(point)
        self._write_if_due()

    def artifact(self, path: str | Path) -> None:
        """Keep a small file (a figure, a page) with the run itself; it is copied into the store when the job ends."""
        self.record.artifacts.append(str(path))

    def model(self, name: str, path: str | Path, data: Sequence[str | Path] = ()) -> None:
        """Keep a checkpoint as a model: path and digest, the `data` it was made from, the code revision; no weights."""
        sources = {source.name: source.sha256 for source in map(self._digests.of, data)}
        self.record.models.append(Model(name, str(path), self._digests.of(path).sha256, sources))

    def warn(self, message: str) -> None:
        """One line on stderr, once per job."""
        if not self._warned:
            self._warned = True
            print(f"warning: lineage of {self.record.title}: {' '.join(message.split())[:600]}", file=sys.stderr)

    def begin(self) -> None:
        """Write the record for the first time and start its mirror, unless `LINEAGE=off`."""
        self._write()
        if self._silent or os.environ.get("LINEAGE", "").lower() in ("off", "0", "false"):
            return
        try:
            self._mirror = MirrorProcess(self.record)
        except OSError as error:
            self.warn(f"not in MLflow, only in {self.record.path}: {error}")

    def finish(self, outputs: Sequence[str | Path], status: str, error: str | None = None) -> None:
        """Write the record for the last time and wait for its mirror."""
        self.record.status, self.record.error = status, error
        if self._silent:
            return
        self.record.outputs = [file for file in map(self._digests.of, outputs) if file.sha256]
        for file in self.record.outputs:
            file.producer = self.record.title
        self._write()
        if self._mirror is not None:
            self._heed(self._mirror.tell())
        if self._mirror is not None:
            self._heed(self._mirror.close(Store.configured(Path(self.record.folder)).patience))

    def _write(self) -> None:
        if self._silent:
            return
        begin = time.monotonic()
        self.record.seconds = begin - self._start
        self.record.peak_memory = provenance.peak_memory()
        self.record.peak_gpu_memory = provenance.peak_gpu_memory()
        try:
            write_record(self.record)
        except (OSError, ValueError) as error:
            self.warn(f"{self.record.path} cannot be written: {error}")
        now = time.monotonic()
        self._due = now + max(INTERVAL, 50 * (now - begin))  # a long record costs at most 2 % of the job

    def _write_if_due(self) -> None:
        if time.monotonic() >= self._due:
            self._write()
            if self._mirror is not None:
                self._heed(self._mirror.tell())

    def _heed(self, problem: str | None) -> None:
        if problem:
            self._mirror = None
            self.warn(f"not all in MLflow ({problem}); it stands in {self.record.path}")


_active: list[Job] = []


@contextmanager
def job(
    params: str | Path,
    stage: str,
    name: str = "",
    inputs: Sequence[str | Path] = (),
    outputs: Sequence[str | Path] = (),
) -> Iterator[Job]:
    """Record one job of the study at `params`.

    `name` tells the jobs of one stage apart (`refl-s0`; empty when there is only one); where it is a key of the study's
    `runs`, method and seed are taken from there. `inputs` and `outputs` are files or folders; outputs are digested when
    the block ends. The record stands at `<study folder>/lineage/<stage>-<name>.json` from the start (`running`) to the
    end (`finished`, `failed` with the exception, which passes through, or `killed`). Processes of a distributed job
    other than the first record nothing. Raises InputError where an output is an input, or another output too.
    """
    require_apart([params, *inputs], outputs)
    made = _begin(Path(params), stage, name, inputs, outputs)
    made.begin()
    _active.append(made)
    try:
        yield made
    except BaseException as error:
        ended = isinstance(error, SystemExit) and not error.code
        status = FINISHED if ended else KILLED if isinstance(error, KeyboardInterrupt) else FAILED
        made.finish(outputs, status, None if ended else f"{type(error).__name__}: {error}"[:500])
        raise
    else:
        made.finish(outputs, FINISHED)
    finally:
        _active.remove(made)


def evaluation(params: str | Path, run: str, metrics: Mapping[str, float]) -> None:
    """Keep final measures of `run` (`tuned/proxy`, `combined k=10/heldout`, ...) beside its training.

    In MLflow they land on the run of `finetune <run>`, so that runs can be compared by what became of them; for `base`,
    which nobody trains, on a run of its own. The saved view of a study compares what is called `tuned/<metric>`; give
    the base as it is under these names too. Called inside a job they are part of its record, else they are a job.
    """
    if not _active:
        with job(params, "evaluation", run):
            evaluation(params, run, metrics)
        return
    values = {name: float(value) for name, value in metrics.items() if value is not None}
    _active[-1].record.evaluations.setdefault(run, {}).update(values)


def _begin(params: Path, stage: str, name: str, inputs: Sequence[str | Path], outputs: Sequence[str | Path]) -> Job:
    try:
        study = read_study(params)
    except InputError:
        study = {}  # the stage itself says what is wrong with its study file
    about = _mapping(study.get("study"))
    run = _mapping(_mapping(study.get("runs")).get(name))
    title = str(about.get("name", params.stem))
    folder = study_folder(title, outputs)
    digests = provenance.Digests(folder, read_records(folder / FOLDER))
    record = Record(
        study=title,
        stage=stage,
        name=name,
        folder=str(folder / FOLDER),
        started=time.time(),
        params=digests.of(params),
        code=provenance.code(),
        versions=provenance.versions(),
        description=str(about.get("description", "")),
        reward=str(about.get("reward", "")),
        heldout=str(about.get("heldout", "")),
        method=run.get("method"),
        seed=run.get("seed"),
        host=platform.node(),
        inputs=[digests.of(path) for path in inputs] if _first_process() else [],
    )
    return Job(record, digests)


def _first_process() -> bool:
    """Whether this is the process of a distributed job that writes."""
    return os.environ.get("RANK", "0") in ("", "0")


def _mapping(value: Any) -> dict[str, Any]:
    return value if isinstance(value, dict) else {}
