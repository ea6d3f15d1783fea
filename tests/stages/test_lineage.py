"""The record of a job and its mirror in MLflow."""

from __future__ import annotations

import json
import shutil
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

from stages import lineage
from stages.lineage.mirror import legal
from stages.lineage.record import read_record, study_folder
from tests.stages.recording import OUT, RECORDS, STUDY, history, mirror, runs, write
from tests.stages.recording import empty_store as empty_store  # a fixture
from tests.stages.recording import store as store  # a fixture
from tests.stages.recording import workspace as workspace  # a fixture

mlflow = pytest.importorskip("mlflow")
if TYPE_CHECKING:
    from mlflow import MlflowClient


def finetune(name: str = "refl-s0", reward: float = 0.6, data: str = "latents") -> None:
    """A job that trains nothing: two logged steps and a checkpoint."""
    encodings, weights = write(OUT / "encodings/encodings.safetensors", data), OUT / f"runs/{name}/policy.safetensors"
    with lineage.job("params.yaml", "finetune", name, inputs=[encodings], outputs=[weights]) as job:
        job.parameters({"kind": name.split("-")[0], "optimizer": {"lr": 5e-5}})
        for step in (1, 2):
            job.metrics({"reward": reward * step / 2, "loss": 1.0 / step}, step=step)
        job.model(name, write(weights, f"{name} {reward} {data}"), data=[encodings])


def measure(name: str, reward: float) -> None:
    """A job that knows how good a run is in the end."""
    table = OUT / f"measures/{name}.parquet"
    with lineage.job("params.yaml", "measure", name, outputs=[table]):
        write(table, str(reward))
        lineage.evaluation("params.yaml", name, {"tuned/proxy": reward, "combined k=10/heldout": reward / 2})


def test_record_holds_inputs_outputs_code_and_metrics() -> None:
    write(OUT / "data/images.parquet", "images")
    with lineage.job(
        "params.yaml", "encode", inputs=[OUT / "data/images.parquet"], outputs=[OUT / "encodings/e"]
    ) as job:
        write(OUT / "encodings/e", "tensors")
        job.metric("rows", 3)
        job.metric("odd", float("nan"), step=1)
    text = (RECORDS / "encode.json").read_text()
    values = json.loads(text, parse_constant=lambda name: pytest.fail(f"{name} is not JSON"))
    # printf images | sha256sum
    assert values["inputs"][0]["sha256"] == "21b2eed1e328a2c62fe4c17d51188bdea73450f29956dc5c8c95429313ddd72c"
    assert values["outputs"][0]["name"] == "encodings/e"
    record = read_record(RECORDS / "encode.json")
    assert (record.status, record.stage, record.study) == ("finished", "encode", "toy")
    assert record.metrics["rows"][0].value == 3.0 and record.metrics["odd"][0].value != record.metrics["odd"][0].value
    assert record.peak_memory > 10 * 2**20 and len(record.code.digest) == 64 and record.versions["torch"]


def test_digest_is_taken_from_the_job_that_wrote_the_file_until_the_file_changes() -> None:
    finetune()
    weights = OUT / "runs/refl-s0/policy.safetensors"
    with lineage.job("params.yaml", "sample", "refl-s0", inputs=[weights]) as job:
        same = job.record.inputs[0]
    assert same.producer == "finetune refl-s0"
    write(weights, "somebody else's weights")
    with lineage.job("params.yaml", "sample", "refl-s0", inputs=[weights]) as job:
        changed = job.record.inputs[0]
    assert changed.producer is None and changed.sha256 != same.sha256


def test_study_folder_is_seen_from_the_outputs(tmp_path: Path) -> None:
    assert study_folder("toy", ["out/toy/runs/a/w", "out/toy/models/b"]) == Path.cwd() / "out/toy"
    assert study_folder("toy", [tmp_path / "x/a", tmp_path / "x/y/b"]) == tmp_path / "x"
    assert study_folder("toy", []) == Path.cwd() / "out/toy"


def test_runs_have_one_parent_tags_data_and_a_model(store: MlflowClient) -> None:
    finetune()
    with lineage.job("params.yaml", "sample", "refl-s0", inputs=[OUT / "runs/refl-s0/policy.safetensors"]):
        pass
    with lineage.job("params.yaml", "report", outputs=[OUT / "report"]) as job:
        job.artifact(write(OUT / "report/frontier.svg", "<svg/>"))
    mirror()
    found = runs()
    parent, child = found["study toy"], found["finetune refl-s0"]
    tags = child.data.tags
    assert {run.data.tags["mlflow.parentRunId"] for n, run in found.items() if n != "study toy"} == {parent.info.run_id}
    assert (tags["stage"], tags["method"], tags["seed"], tags["study"]) == ("finetune", "refl", "0", "toy")
    assert child.data.params == {"kind": "refl", "optimizer.lr": "5e-05"}
    assert history(child, "reward") == [(1, 0.3), (2, 0.6)]
    record = read_record(RECORDS / "finetune-refl-s0.json")
    assert child.inputs is not None
    data = child.inputs.dataset_inputs[0].dataset
    assert data.name == "encodings/encodings.safetensors" and str(record.inputs[0].sha256).startswith(data.digest)
    (model,) = store.search_logged_models([child.info.experiment_id])
    assert model.source_run_id == child.info.run_id and model.tags["git_sha"] == tags["git_sha"]
    assert model.tags["sha256"] == record.outputs[0].sha256
    assert {metric.dataset_name for metric in model.metrics or ()} == {"encodings/encodings.safetensors"}
    sampled = store.get_run(found["sample refl-s0"].info.run_id)
    assert sampled.inputs is not None
    assert [used.model_id for used in sampled.inputs.model_inputs] == [model.model_id]
    assert [a.path for a in store.list_artifacts(found["report"].info.run_id)] == ["frontier.svg"]


def test_executing_again_replaces_and_final_measures_land_on_the_training_run(store: MlflowClient) -> None:
    finetune()
    measure("refl-s0", 0.712346)
    measure("base", 0.5)
    mirror()
    first = runs()["finetune refl-s0"]
    assert first.data.metrics["tuned/proxy"] == 0.712346 and first.data.metrics["combined k10/heldout"] == 0.356173
    assert runs()["base"].data.metrics["tuned/proxy"] == 0.5
    mirror()  # nothing new
    again = runs()["finetune refl-s0"]
    assert again.info.run_id == first.info.run_id
    assert history(again, "tuned/proxy") == [(0, 0.712346)] and history(again, "reward") == [(1, 0.3), (2, 0.6)]

    finetune(reward=0.8)
    measure("refl-s0", 0.9)
    mirror()
    found = runs()
    assert set(found) == {"study toy", "finetune refl-s0", "measure refl-s0", "measure base", "base"}
    new = found["finetune refl-s0"]
    assert new.info.run_id != first.info.run_id and history(new, "reward") == [(1, 0.4), (2, 0.8)]
    assert new.data.metrics["tuned/proxy"] == 0.9
    assert [m.source_run_id for m in store.search_logged_models([new.info.experiment_id])] == [new.info.run_id]
    compared = store.search_runs([new.info.experiment_id], "tags.evaluated = 'yes'")
    assert {run.info.run_name for run in compared} == {"finetune refl-s0", "base"}
    views = {k: v for k, v in store.get_experiment("1").tags.items() if k.startswith("mlflow.sharedViewState.")}
    state = json.loads(json.loads(views["mlflow.sharedViewState.compare"])["state"])
    assert state["searchFilter"] == "tags.evaluated = 'yes'" and "metrics.`tuned/proxy`" in state["selectedColumns"]


def test_failed_job_passes_its_exception_on_and_its_run_is_taken_up_again(store: MlflowClient) -> None:
    weights = OUT / "runs/refl-s0/policy.safetensors"

    def train(steps: int, fail: bool) -> None:
        with lineage.job("params.yaml", "finetune", "refl-s0", outputs=[weights]) as job:
            job.parameters({"lr": 1})
            for step in range(steps):
                job.metric("reward", step / 4, step=step)
            if fail:
                raise ZeroDivisionError("no reward")

    with pytest.raises(ZeroDivisionError):
        train(2, fail=True)
    record = read_record(RECORDS / "finetune-refl-s0.json")
    assert (record.status, record.error) == ("failed", "ZeroDivisionError: no reward")
    mirror()
    failed = runs()["finetune refl-s0"]
    assert failed.info.status == runs()["study toy"].info.status == "FAILED"
    assert failed.data.tags["error"] == "ZeroDivisionError: no reward"

    train(4, fail=False)
    mirror()
    run = runs()["finetune refl-s0"]
    assert run.info.run_id == failed.info.run_id
    assert run.info.status == runs()["study toy"].info.status == "FINISHED"
    assert history(run, "reward") == [(0, 0.0), (1, 0.25), (2, 0.5), (3, 0.75)]


def test_two_people_in_one_store_do_not_replace_each_other(
    empty_store: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    shutil.copy(empty_store, tmp_path / "shared.db")
    monkeypatch.setenv("MLFLOW_TRACKING_URI", f"sqlite:///{tmp_path}/shared.db")
    finetune()
    mirror()
    other = tmp_path / "other"
    other.mkdir()
    write(other / "params.yaml", STUDY)
    monkeypatch.chdir(other)
    finetune()
    mirror()
    store = mlflow.MlflowClient(f"sqlite:///{tmp_path}/shared.db")
    experiment = store.get_experiment_by_name("toy")
    assert experiment is not None
    names = [run.info.run_name for run in store.search_runs([experiment.experiment_id])]
    assert sorted(names) == ["finetune refl-s0"] * 2 + ["study toy"] * 2


def test_processes_other_than_the_first_record_nothing(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("RANK", "1")
    with lineage.job("params.yaml", "finetune", "refl-s0", outputs=[OUT / "w"]) as job:
        job.metric("reward", 1.0, step=1)
    assert not RECORDS.exists()


def test_names_are_legal() -> None:
    from mlflow.utils.validation import _validate_metric_name

    names = ["combined k=10/proxy", "aig p=0.5/heldout reward", "größe", "a//b/../c", "x@1", "k=-2"]
    assert legal(names[0]) == "combined k10/proxy" and legal(names[-1]) == "k-2"
    for name in names:
        _validate_metric_name(legal(name))
