"""From a record to MLflow: what is new in the record since last time goes to the record's run."""

from __future__ import annotations

import json
import re
import time
from collections.abc import Iterable, Iterator
from functools import partial
from itertools import islice
from pathlib import Path
from typing import TYPE_CHECKING, TypeVar

from stages.lineage import runs, views
from stages.lineage.record import RUNNING, File, Logged, Model, Record, read_record, record_path
from stages.lineage.store import Connection

if TYPE_CHECKING:
    from mlflow.entities import Dataset, LoggedModel, Metric

T = TypeVar("T")

BATCH = 90
"""Entries per request: MLflow takes 100 parameters or tags and 1000 metrics, and 1 MB in all."""
MEGABYTE = 2**20


class Mirror:
    """The MLflow run of one record. Everything in here raises what MLflow raises."""

    def __init__(self, connection: Connection, record: Record) -> None:
        self._to = connection
        run = runs.open_run(connection, record)
        self._run = run.info.run_id
        self._parameters = set(run.data.params)
        self._before = dict(run.data.metrics)
        """Latest values that an earlier execution left in this run."""
        self._sent: dict[str, int] = {}
        self._log_inputs(record)

    def update(self, record: Record) -> None:
        """Send what is new; once the record is closed also outputs, models, artifacts and measures of other runs."""
        self._log_parameters(record)
        self._log_metrics(record)
        if record.status == RUNNING:
            return
        problems: list[Exception] = []
        for step in (self._log_end, self._log_models, self._log_artifacts, self._log_evaluations, self._save_views):
            try:
                step(record)
            except Exception as error:  # a figure that cannot be copied must not leave the run open
                problems.append(error)
        runs.close_run(self._to, record, self._run)
        if problems:
            raise problems[0]

    def _log_parameters(self, record: Record) -> None:
        from mlflow.entities import Param

        named = {legal(name): value for name, value in record.parameters.items()}
        new = {name: value for name, value in named.items() if name not in self._parameters}
        for batch in _batches(Param(name, value) for name, value in new.items()):
            self._to.client.log_batch(self._run, params=batch)
        self._parameters.update(new)

    def _log_metrics(self, record: Record) -> None:
        new: list[Metric] = []
        for name, points in record.metrics.items():
            if name not in self._sent:
                self._sent[name] = 0
                points = self._unknown(legal(name), points)
            new += [_metric(legal(name), p, record.started) for p in points[self._sent[name] :]]
            self._sent[name] = len(record.metrics[name])
        for batch in _batches(new, 500):
            self._to.client.log_batch(self._run, metrics=batch)

    def _unknown(self, name: str, points: list[Logged]) -> list[Logged]:
        """Points that the earlier execution, whose run this one has taken up, did not log already."""
        if name not in self._before:
            return points
        steps = {metric.step for metric in self._to.client.get_metric_history(self._run, name)}
        return [p for p in points if (p.value != self._before[name] if p.step is None else p.step not in steps)]

    def _log_inputs(self, record: Record) -> None:
        """Log data as datasets, and checkpoints that MLflow knows as models, as models."""
        from mlflow.entities import DatasetInput, InputTag, LoggedModelInput

        models = {model.tags.get("sha256"): model.model_id for model in self._models()}
        used = [LoggedModelInput(models[f.sha256]) for f in record.inputs if f.sha256 in models]
        tag = InputTag("mlflow.data.context", record.stage)
        data = [DatasetInput(_dataset(file), [tag]) for file in record.inputs if file.sha256 not in models]
        if data or used:
            self._to.alone(lambda: self._to.client.log_inputs(self._run, datasets=data, models=used))

    def _log_end(self, record: Record) -> None:
        from mlflow.entities import Metric, RunTag

        tags = {_output(file, record.name): f"{file.path} sha256:{file.sha256}" for file in record.outputs}
        if record.error:
            tags["error"] = record.error
        for batch in _batches(RunTag(name, value) for name, value in tags.items()):
            self._to.client.log_batch(self._run, tags=batch)
        cost = {"job/seconds": round(record.seconds, 2), "job/peak_memory_mb": round(record.peak_memory / MEGABYTE)}
        if record.peak_gpu_memory:
            cost["job/peak_gpu_memory_mb"] = round(record.peak_gpu_memory / MEGABYTE)
        end = int((record.started + record.seconds) * 1000)
        self._to.client.log_batch(self._run, metrics=[Metric(name, value, end, 0) for name, value in cost.items()])

    def _log_models(self, record: Record) -> None:
        """Checkpoints by path and digest; MLflow gets a page about each, not the weights."""
        import mlflow
        from mlflow.entities import LoggedModelOutput

        there = {model.name for model in self._models(self._run)}
        for model in record.models:
            if (name := _model_name(model.name)) in there:
                continue
            made = mlflow.create_external_model(
                name=name,
                source_run_id=self._run,
                model_type=record.method,
                params={legal(k): v for k, v in record.parameters.items()},
                tags=_model_tags(record, model),
                experiment_id=self._to.experiment,
            )
            self._to.client.log_outputs(self._run, [LoggedModelOutput(made.model_id, 0)])
            self._link_data(record, model, made.model_id)

    def _link_data(self, record: Record, model: Model, model_id: str) -> None:
        """Give the model its last training metrics as computed on its data, which is how MLflow links the two."""
        from mlflow.entities import Metric

        data = list(model.data.items()) or [(None, None)]
        linked = []
        for index, (name, points) in enumerate(sorted(record.metrics.items())):
            source, digest = data[index % len(data)]  # a metric takes one dataset, and every dataset is to be linked
            last = _metric(legal(name), points[-1], record.started)
            linked.append(
                Metric(
                    *(last.key, last.value, last.timestamp, last.step),
                    model_id=model_id,
                    run_id=self._run,
                    dataset_name=source,
                    dataset_digest=_short(digest) if source else None,
                )
            )
        for batch in _batches(linked, 500):
            self._to.client.log_batch(self._run, metrics=batch)

    def _log_artifacts(self, record: Record) -> None:
        for path in record.artifacts:
            self._to.client.log_artifact(self._run, path)

    def _log_evaluations(self, record: Record) -> None:
        for name, metrics in record.evaluations.items():
            self._recover_training(record, name)
            run = runs.evaluated_run(self._to, record.study, name)
            models = [model.model_id for model in self._models(run.info.run_id)]
            final = {legal(metric): float(f"{value:.6g}") for metric, value in metrics.items()}
            new = {metric: value for metric, value in final.items() if run.data.metrics.get(metric) != value}
            now = int(time.time() * 1000)
            for tag, value in views.EVALUATED.items():
                self._to.client.set_tag(run.info.run_id, tag, value)
            for batch in _batches((_final(k, v, now, run.info.run_id, models) for k, v in new.items()), 500):
                self._to.client.log_batch(run.info.run_id, metrics=batch)

    def _save_views(self, record: Record) -> None:
        self._to.alone(lambda: views.describe(self._to, record.description))
        for metrics in record.evaluations.values():
            names = [legal(name) for name in metrics]
            self._to.alone(partial(views.compare, self._to, names, record.reward, record.heldout))

    def _recover_training(self, record: Record, name: str) -> None:
        """Mirror the training, or the import, of `name` first where it was recorded but never reached this store."""
        for stage in ("finetune", "import_policy"):
            path = record_path(Path(record.folder), stage, name)
            if path.exists() and runs.find(self._to, runs.key(self._to, record.study, stage, name)) is None:
                made = read_record(path)
                Mirror(self._to, made).update(made)

    def _models(self, run: str | None = None) -> list[LoggedModel]:
        made_by = f"source_run_id = '{run}'" if run else None
        return list(self._to.client.search_logged_models([self._to.experiment], filter_string=made_by))


def legal(name: str) -> str:
    """`name` as MLflow takes it: `=` goes (`combined k=10/proxy` reads `combined k10/proxy`), the rest becomes `_`."""
    parts = re.sub(r"[^\w\-. :/]", "_", name.replace("=", ""), flags=re.ASCII).split("/")
    return "/".join(part for part in parts if part.strip("."))[:250] or "_"


def _metric(name: str, point: Logged, started: float) -> Metric:
    from mlflow.entities import Metric

    return Metric(name, point.value, int((started + point.seconds) * 1000), point.step or 0)


def _final(name: str, value: float, now: int, run: str, models: list[str]) -> Metric:
    """A measure of a finished run and, where there is one, of the model it made."""
    from mlflow.entities import Metric

    return Metric(name, value, now, 0, model_id=models[0] if models else None, run_id=run)


def _dataset(file: File) -> Dataset:
    from mlflow.entities import Dataset

    return Dataset(
        name=file.name[:500],
        digest=_short(file.sha256),
        source_type="local",
        source=json.dumps({"uri": file.path}),
        profile=json.dumps({"sha256": file.sha256, "bytes": file.size, "made by": file.producer}),
    )


def _short(digest: str | None) -> str:
    """A digest in the 36 characters that MLflow keeps of it; the whole stands in the dataset's profile."""
    return (digest or "unknown")[:32]


def _output(file: File, name: str) -> str:
    """The tag of an output, called the same in every run of a stage so that runs can be compared."""
    return legal(f"output/{file.name.replace(name, 'NAME') if name else file.name}")


def _model_name(name: str) -> str:
    return re.sub(r"[/:.%\"']", "-", name) or "model"


def _model_tags(record: Record, model: Model) -> dict[str, str]:
    tags = {
        "path": model.path,
        "sha256": model.sha256 or "",
        "study": record.study,
        **runs.source(record),
        "git_sha": record.code.git or "",
        "git_dirty": "yes" if record.code.dirty else "no",
        "code_sha256": record.code.digest,
    }
    return tags | {legal(f"data/{name}"): digest or "" for name, digest in model.data.items()}


def _batches(items: Iterable[T], size: int = BATCH) -> Iterator[list[T]]:
    rest = iter(items)
    while batch := list(islice(rest, size)):
        yield batch
