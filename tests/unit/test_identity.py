"""Metric ids, and feature networks as `measure` uses them."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from stages.errors import InputError
from stages.measure.evaluation import ids_of, with_ids
from stages.measure.identity import metric_ids, model_id
from stages.measure.judges import Judges
from stages.measure.metrics.diversity import metric
from stages.measure.scored import join
from stages.measure.settings import MeasureSettings
from stages.models.record import ModelRecord, describe
from stages.params import validate
from stages.rewards.base import load_reward
from tests import tiny_judges
from tests.tiny import clip_folder

HUB = {"source": "facebook/dino-vits16", "revision": "c2bc4f0"}
IMAGENET = "32 shortest bicubic imagenet"


def settings(**values: Any) -> MeasureSettings:
    return validate(MeasureSettings, {"rewards": ["clip"], **values}, "measure")


@pytest.fixture(scope="module")
def records(tmp_path_factory: pytest.TempPathFactory) -> dict[str, ModelRecord]:
    folder = tmp_path_factory.mktemp("models")
    dino = tiny_judges.dino(folder / "dino")
    clip = clip_folder(folder / "clip")
    return {
        "clip": clip,
        "dino": describe("dino", "dino", dino.path, **HUB),
        "as_released": describe("as_released", "dino", dino.path, **HUB, options={"normalise": "clip"}),
        "lpips": describe("lpips", "lpips", tiny_judges.lpips(folder / "lpips").path, options={"size": 32}),
        "cut": ModelRecord(name="cut", kind="hinge", parts={"clip": clip}, options={"limit": 0.25}),
    }


def judges(records: dict[str, ModelRecord], given: MeasureSettings) -> Judges:
    models = {name: load_reward(records[name]) for name in given.models}
    return Judges(given, records, models, torch.device("cpu"))


def test_every_metric_is_told_by_model_revision_and_preprocessing(records: dict[str, ModelRecord]) -> None:
    given = settings(
        rewards=["clip", "cut"], text_image="clip", set_space="clip",
        set_metrics=["fid", "precision", "recall", "coverage", "vendi", "rke", "pvs", "sdi"],
        features={"dino": "embedding", "as_released": "embedding", "clip": "embedding", "lpips": "distance"},
    )  # fmt: skip
    names = ["clip", "cut", "clipscore", "dino_diversity", "as_released_diversity", *given.set_metrics, "other"]
    found = metric_ids(given, judges(records, given).panel, names)
    clip = f"open_clip@{records['clip'].digest} (16 shortest bicubic clip)"
    dino = f"facebook/dino-vits16@c2bc4f0 ({IMAGENET})"
    assert found == {
        "clip": f"clip: {clip}",
        "cut": f"cut: hinge@{records['cut'].digest} (clip={clip}, limit=0.25)",
        "clipscore": f"clipscore: {clip}",
        "dino_diversity": f"dino_diversity: {dino}",
        "as_released_diversity": "as_released_diversity: facebook/dino-vits16@c2bc4f0 (32 shortest bicubic clip)",
        "fid": f"fid: directions of {clip}",
        "precision": f"precision: directions of {clip}, k=3",
        "recall": f"recall: directions of {clip}, k=3",
        "coverage": f"coverage: directions of {clip}, k=3",
        "vendi": f"vendi: {dino}",
        "rke": f"rke: {dino}",
        "pvs": "pvs",
        "sdi": "sdi",
        "other": "other",
    }


def test_other_scalings_are_spelt_out() -> None:
    about = {
        "preprocess": {
            "size": 8,
            "resize_mode": "squash",
            "interpolation": "bicubic",
            "mean": (0.1,) * 3,
            "std": (1.0,) * 3,
        }
    }
    record = ModelRecord(name="x", kind="inception", files={})
    assert model_id(record, {**about, "resize": "clean"}) == (
        f"inception@{record.digest} (8 squash bicubic mean 0.1/0.1/0.1 std 1/1/1, resize=clean)"
    )


def test_ids_stand_in_the_table(tmp_path: Path) -> None:
    import pyarrow as pa
    import pyarrow.parquet as pq

    schema = pa.schema({"x": pa.int64()}, metadata={b"kept": b"1"})
    pq.write_table(pa.table({"x": [1]}, schema=with_ids(schema, {"fid": "fid: a"})), tmp_path / "x.parquet")
    assert ids_of(tmp_path / "x.parquet") == {"fid": "fid: a"}
    assert (pq.read_schema(tmp_path / "x.parquet").metadata or {})[b"kept"] == b"1"


def test_distances_are_features_too(records: dict[str, ModelRecord]) -> None:
    given = settings(features={"lpips": "distance", "dino": "embedding"}, set_space="dino")
    assert given.space == "dino"
    all_of_them = judges(records, given)
    pixels = np.random.default_rng(0).integers(0, 256, (4, 40, 40, 3), np.uint8)
    scored = all_of_them.score(pixels, ["a"] * 4)
    model: Any = all_of_them.models["lpips"]
    vectors = model.embed(torch.from_numpy(pixels).permute(0, 3, 1, 2) / 255)
    np.testing.assert_array_equal(scored.distances["lpips"], vectors.numpy())
    pairs = [float((vectors[i] - vectors[j]).square().sum()) for i in range(4) for j in range(i)]
    found = metric(join([scored.take([0, 2]), scored.take([1, 3])]))
    assert found["lpips_diversity"] == pytest.approx(np.mean(pairs), rel=1e-5)
    assert set(found) == {"lpips_diversity", "dino_diversity"}


def test_the_space_of_set_metrics_is_an_embedding() -> None:
    assert settings(features={"a": "patches", "b": "embedding", "c": "embedding"}).space == "b"
    with pytest.raises(InputError, match="set_space 'lpips' is no embedding in features; known: dino"):
        settings(features={"lpips": "distance", "dino": "embedding"}, set_space="lpips")
