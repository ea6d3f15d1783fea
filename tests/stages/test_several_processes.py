"""Training and sampling in several processes give what one process gives."""

from __future__ import annotations

from functools import partial
from pathlib import Path
from typing import Any, cast

import pytest
import torch
import yaml
from test_finetune import Quiet
from test_sample import both as sample_both
from test_sample import model as model  # a fixture
from test_sample import sampling

from stages import tables
from stages.errors import InputError
from stages.finetune.paths import Paths
from stages.finetune.resolve import training_plan
from stages.finetune.run import finetune
from stages.lineage import Job
from stages.models import record
from stages.models.diffusion import DiffusionModel
from stages.processes import ALONE, Processes
from stages.sample.job import Identity
from stages.sample.run import sample_base, sample_run
from tests import tiny
from tests.together import together

METHODS = {
    "imagerefl": {"kind": "imagerefl", "start": 1, "middle": [1, 4], "diffusion_weight": 0.1},
    "draft": {"kind": "draft_k", "k": 2, "train": {"accumulate": 2, "ema": 0.5, "trainable": "norm_affine"}},
    "ddpo": {
        "kind": "ddpo",
        "images_per_prompt": 2,
        "advantage": "group",
        "updates": 2,
        "clip": 0.1,
        "kl_weight": 0.1,
    },
    "sqdf": {"kind": "sqdf", "buffer": {"size": 12}, "train": {"accumulate": 2}},
    "odd": {"kind": "draft_k", "k": 1, "train": {"batch_size": 3}},
}
STEPS = 3


@pytest.fixture(scope="module")
def place(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A study of tiny models, and all that its runs need."""
    folder = tmp_path_factory.mktemp("study")
    probe = {"every": 2, "prompts": 2, "samples": 2}
    study = {
        "study": {"seed": 1, "reward": "proxy", "heldout": "heldout"},
        "finetune": {"steps": STEPS, "batch_size": 8, "sampling_steps": 4, "probe": probe, "optimizer": {"lr": 1e-3}},
        "methods": METHODS,
        "runs": {f"{name}-s0": {"method": name, "seed": 0} for name in METHODS},
    }
    (folder / "params.yaml").write_text(yaml.safe_dump(study))
    record.save(tiny.diffusion_folder(folder / "base"), folder / "base.json")
    record.save(tiny.clip_folder(folder / "proxy", 1, "proxy"), folder / "proxy.json")
    record.save(tiny.clip_folder(folder / "heldout", 2, "heldout"), folder / "heldout.json")
    tiny.encodings(folder)
    return folder


def train(place: Path, method: str, out: Path, processes: Processes) -> None:
    """One run, written to `out`."""
    names = ("base.json", "proxy.json", "heldout.json", "encodings.safetensors", "index.parquet")
    finetune(
        training_plan(place / "params.yaml", f"{method}-s0"), Paths(*(place / name for name in names)),
        out / "policy.safetensors", out / "log.parquet", cast(Job, Quiet()), processes=processes,
    )  # fmt: skip


def result(out: Path) -> tuple[dict[str, torch.Tensor], dict[tuple[int, str], float]]:
    """Weights of the policy, and the log by step and term."""
    from safetensors.torch import load_file

    rows: list[dict[str, Any]] = tables.read(out / "log.parquet", tables.TRAIN_LOG).to_pylist()
    return load_file(out / "policy.safetensors"), {(row["step"], row["term"]): row["value"] for row in rows}


@pytest.mark.parametrize("method", ["imagerefl", "draft", "ddpo", pytest.param("sqdf", marks=pytest.mark.slow)])
def test_training_in_two_processes_is_training_in_one(place: Path, method: str, tmp_path: Path) -> None:
    """Weights to a thousandth of what training moved them, the log to 1e-4: sums are taken in another order.

    The norm of the difference is compared, not its greatest entry: Adam divides by |g|, and where a gradient is nearly
    zero its rounding alone may decide on the sign of a step.
    """
    for name in ("one", "two"):
        (tmp_path / name).mkdir()
    train(place, method, tmp_path / "one", ALONE)
    together(2, partial(train, place, method, tmp_path / "two"))
    (weights, log), (shared, shared_log) = result(tmp_path / "one"), result(tmp_path / "two")
    start = result_before(place)
    assert weights.keys() == shared.keys()
    assert max(float((weights[name] - start[name]).abs().max()) for name in weights) > 1e-3
    assert distance(weights, shared) < 1e-3 * distance(weights, start)
    assert log.keys() == shared_log.keys()
    for key, value in log.items():
        assert shared_log[key] == pytest.approx(value, rel=1e-4, abs=1e-6), key


def distance(one: dict[str, torch.Tensor], other: dict[str, torch.Tensor]) -> float:
    """Euclidean norm of the difference over all weights."""
    return sum(float((one[name] - other[name]).double().square().sum()) for name in one) ** 0.5


def result_before(place: Path) -> dict[str, torch.Tensor]:
    """Weights of the base, by the names of the policy's."""
    from safetensors.torch import load_file

    return load_file(place / "base/unet/diffusion_pytorch_model.safetensors")


def test_a_micro_batch_that_does_not_divide_is_refused(place: Path, tmp_path: Path) -> None:
    with pytest.raises(InputError, match="a micro-batch: 3 images do not divide evenly among 2 processes"):
        train(place, "odd", tmp_path, Processes(0, 2))


def sample(model: DiffusionModel, folder: Path, out: Path, processes: Processes) -> int:
    """All images of base and run, in batches of three, and the latents."""
    made = sampling(model, folder / str(processes.rank))
    count = sample_base(made, out / "base.parquet", out / "latents.safetensors", processes=processes)
    whose = Identity("refl-s3", "refl", 3)
    return count + sample_run(made, whose, out / "latents.safetensors", out / "run.parquet", processes=processes)


@pytest.mark.parametrize("count", [pytest.param(2, marks=pytest.mark.slow), 3, 5])
def test_images_are_the_same_bytes_for_any_number_of_processes(
    model: DiffusionModel, tmp_path: Path, count: int
) -> None:
    one, several = tmp_path / "one", tmp_path / "several"
    one.mkdir()
    several.mkdir()
    sample_both(model, one)
    folders = tmp_path / "folders"
    folders.mkdir()
    counts = together(count, partial(sample, model, folders, several))
    for name in ("base", "run"):
        expected = tables.read(one / f"{name}.parquet", tables.SAMPLES).drop_columns("seconds")
        found = tables.read(several / f"{name}.parquet", tables.SAMPLES).drop_columns("seconds")
        assert found.equals(expected), name
    assert (several / "latents.safetensors").read_bytes() == (one / "latents.safetensors").read_bytes()
    total = sum(tables.read(one / f"{name}.parquet", tables.SAMPLES).num_rows for name in ("base", "run"))
    assert counts == [total] + [0] * (count - 1)
