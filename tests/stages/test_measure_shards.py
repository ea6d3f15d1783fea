"""A run that several jobs judged measures as a run judged in one: the same bytes."""

from __future__ import annotations

import shutil
from pathlib import Path

import numpy as np
import pytest
from test_measure import call, made_images, make_reference, samples_of, write_images, write_samples, write_study
from test_measure import measure as measure_whole
from test_measure import models as models  # a fixture

from stages import tables
from stages.errors import InputError
from stages.models.record import load, save
from tests.tiny import clip_folder

RUN, BATCH = "refl-s0", 7
BATCHES = 5
"""Thirty images of two settings, so that batches cut prompts and settings apart."""


@pytest.fixture(scope="module")
def world(tmp_path_factory: pytest.TempPathFactory, models: Path) -> Path:
    """A folder with the run measured in one job, and judged in 1, 2, 3 and 8 jobs."""
    folder = tmp_path_factory.mktemp("world")
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("LINEAGE", "off")
        write_study(folder, batch_size=BATCH)
        write_images(folder)
        write_samples(folder, made_images(RUN, [("tuned", "tuned", 0.0), ("combined", "k=4", 4.0)], 6), RUN)
        make_reference(folder, models)
        measure_whole(folder, models, RUN)
        for count in (1, 2, 3, 8):
            for number in range(1, count + 1):
                score(folder, models, number, count)
    return folder


def part(folder: Path, number: int, count: int) -> Path:
    return folder / f"{number}-of-{count}.parquet"


def score(folder: Path, models: Path, number: int, count: int) -> None:
    call(
        folder, "judge", "--run", RUN, "--samples", f"{folder}/{RUN}.samples.parquet", "--models", str(models),
        "--shard", f"{number}/{count}", "--judged", str(part(folder, number, count)),
    )  # fmt: skip


def join(folder: Path, models: Path, parts: list[Path], out: str) -> None:
    call(
        folder, "join", "--run", RUN, "--samples", f"{folder}/{RUN}.samples.parquet", "--models", str(models),
        "--reference", f"{folder}/reference.safetensors", "--parts", *map(str, parts),
        "--measures", f"{folder}/{out}.parquet", "--summary", f"{folder}/{out}.summary.parquet",
    )  # fmt: skip


@pytest.fixture(autouse=True)
def quiet(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("LINEAGE", "off")


@pytest.mark.parametrize("count", [1, 2, 3, 8])
def test_the_same_bytes_for_any_number_of_jobs(
    world: Path, models: Path, monkeypatch: pytest.MonkeyPatch, count: int
) -> None:
    """The job that joins runs no model."""
    monkeypatch.setattr("stages.rewards.base.load_reward", None)
    join(world, models, [part(world, number, count) for number in range(1, count + 1)], f"joined{count}")
    for end in (".parquet", ".summary.parquet"):
        assert (world / f"joined{count}{end}").read_bytes() == (world / f"{RUN}{end}").read_bytes()


def test_every_batch_is_judged_once(world: Path) -> None:
    for count in (1, 2, 3, 8):
        parts = [tables.read(part(world, number, count), tables.JUDGED) for number in range(1, count + 1)]
        batches = [sorted(set(each["batch"].to_pylist())) for each in parts]
        assert sorted(place for each in batches for place in each) == list(range(BATCHES))
        assert max(map(len, batches)) - min(map(len, batches)) <= 1


def refused(world: Path, models: Path, parts: list[Path], message: str) -> None:
    with pytest.raises(InputError, match=message):
        join(world, models, parts, "refused")
    assert not list(world.glob("refused*")) and not list(world.glob(".refused*"))


def test_parts_that_are_not_all_of_one_run_are_refused(world: Path, models: Path) -> None:
    two, three = ([part(world, number, count) for number in range(1, count + 1)] for count in (2, 3))
    refused(world, models, two[::-1], "2-of-2.parquet: is shard 2/2, expected 1/2")
    refused(world, models, three[:2], "1-of-3.parquet: is shard 1/3, expected 1/2")
    refused(world, models, [world / "none.parquet"], "none.parquet: no such file")
    refused(world, models, [world / f"{RUN}.samples.parquet"], "holds table 'samples' version 2, expected 'judged'")


def test_parts_of_other_images_settings_or_models_are_refused(world: Path, models: Path, tmp_path: Path) -> None:
    place = tmp_path / "world"
    shutil.copytree(world, place)
    parts = [part(place, number, 2) for number in (1, 2)]
    rows = samples_of(place, RUN).to_dict("records")
    write_samples(place, rows[::-1], RUN)
    refused(place, models, parts, "1-of-2.parquet: judged with other samples")
    write_samples(place, samples_of(world, RUN).to_dict("records"), RUN)
    write_study(place, batch_size=BATCH, rewards=["proxy"])
    refused(place, models, parts, "1-of-2.parquet: judged with other judging")
    write_study(place, batch_size=BATCH)
    other = tmp_path / "models"
    shutil.copytree(models, other)
    record = clip_folder(tmp_path / "proxy", 9, "proxy")
    assert record.digest != load(models / "proxy.json").digest
    save(record, other / "proxy.json")
    refused(place, other, parts, "1-of-2.parquet: judged by another model 'proxy'")


def test_a_part_is_resumed_after_its_finished_batches(
    world: Path, models: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A job that broke in its third batch judges that one and the rest when it is started again."""
    from stages.measure.judges import Judges

    place = tmp_path / "world"
    shutil.copytree(world, place, ignore=shutil.ignore_patterns("1-of-1.parquet"))
    monkeypatch.setenv("SAVE_EVERY", "0")
    whole, seen = Judges.score, []

    def breaking(self: Judges, pixels: np.ndarray, prompts: list[str]) -> object:
        seen.append(len(prompts))
        if len(seen) == 3:
            raise RuntimeError("struck by lightning")
        return whole(self, pixels, prompts)

    monkeypatch.setattr(Judges, "score", breaking)
    with pytest.raises(RuntimeError, match="lightning"):
        score(place, models, 1, 1)
    assert not part(place, 1, 1).exists()
    score(place, models, 1, 1)
    assert len(seen) == 3 + BATCHES - 2
    assert part(place, 1, 1).read_bytes() == part(world, 1, 1).read_bytes()
