"""A run sampled in several jobs and joined is the run sampled in one."""

from __future__ import annotations

from pathlib import Path

import pytest
from test_sample import model as model  # a fixture
from test_sample import sampling

from stages import tables
from stages.errors import InputError
from stages.models.diffusion import DiffusionModel
from stages.sample.job import Identity
from stages.sample.made_by import of_policy, policy_of
from stages.sample.run import sample_base, sample_run
from stages.sample.shards import join
from stages.shards import WHOLE, Shard


@pytest.fixture(scope="module")
def parts(model: DiffusionModel, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with the run whole, in three parts, and in more parts than there are batches."""
    folder = tmp_path_factory.mktemp("parts")
    made = sampling(model, folder)
    sample_base(made, folder / "base.parquet", folder / "latents.safetensors")
    for shard in (WHOLE, *(Shard(number, count) for count in (3, 20) for number in range(1, count + 1))):
        path = folder / f"{shard.number}-of-{shard.count}.parquet"
        sample_run(made, Identity("refl-s3", "refl", 3), folder / "latents.safetensors", path, shard=shard)
    return folder


@pytest.mark.parametrize("count", [3, 20])
def test_shards_joined_are_the_run_made_in_one_job(parts: Path, tmp_path: Path, count: int) -> None:
    whole = tables.read(parts / "1-of-1.parquet", tables.SAMPLES)
    joined = tmp_path / "joined.parquet"
    assert join([parts / f"{n}-of-{count}.parquet" for n in range(1, count + 1)], joined) == whole.num_rows
    assert tables.read(joined, tables.SAMPLES).drop_columns("seconds").equals(whole.drop_columns("seconds"))


def test_shards_are_disjoint(parts: Path) -> None:
    rows = [tables.read(parts / f"{n}-of-3.parquet", tables.SAMPLES).num_rows for n in (1, 2, 3)]
    assert sum(rows) == tables.read(parts / "1-of-1.parquet", tables.SAMPLES).num_rows
    assert min(rows) > 0


@pytest.mark.parametrize("numbers", [(1, 2), (2, 1, 3), (1, 1, 2)])
def test_parts_that_are_not_all_shards_in_order_are_refused(
    parts: Path, tmp_path: Path, numbers: tuple[int, ...]
) -> None:
    out = tmp_path / "joined.parquet"
    with pytest.raises(InputError, match=r"-of-3.parquet: is shard [123]/3, expected [123]/[23]"):
        join([parts / f"{n}-of-3.parquet" for n in numbers], out)
    assert not out.exists()


def test_parts_of_different_runs_are_refused(parts: Path, tmp_path: Path) -> None:
    """Of shards of different sizes the counts of batches tell."""
    for number in (1, 2, 3):
        shard, rows = Shard(number, 3), tables.read(parts / f"{number}-of-3.parquet", tables.SAMPLES)
        tables.write(
            tmp_path / f"{number}.parquet", [rows.slice(0, 1)] * (3 if number == 2 else 1), shard.marked(tables.SAMPLES)
        )
    with pytest.raises(InputError, match=r"shards with \[1, 3, 1\] batches are not of one run"):
        join([tmp_path / f"{number}.parquet" for number in (1, 2, 3)], tmp_path / "joined.parquet")


@pytest.mark.parametrize("policies", [("a", "a", "a"), ("a", "b", "a"), ("a", "a", ""), ("", "", "b")])
def test_parts_name_one_policy_and_so_does_what_they_make(
    tmp_path: Path, parts: Path, policies: tuple[str, ...]
) -> None:
    out = tmp_path / "joined.parquet"
    for number, policy in enumerate(policies, 1):
        rows = tables.read(parts / f"{number}-of-3.parquet", tables.SAMPLES)
        schema = Shard(number, 3).marked(of_policy(tables.SAMPLES, policy))
        tables.write(tmp_path / f"{number}.parquet", [rows.slice(0, 1)], schema)
    given = [tmp_path / f"{number}.parquet" for number in (1, 2, 3)]
    if len(set(policies)) == 1:
        join(given, out)
        assert policy_of(out) == policies[0]
        return
    with pytest.raises(InputError, match=r"\d.parquet: made with policy \w+, but .*1.parquet with \w+; run"):
        join(given, out)
    assert not out.exists()


@pytest.mark.parametrize("text", ["0/2", "3/2", "2", "a/b", "1/2/3", "-1/2"])
def test_a_wrong_shard_is_refused(text: str) -> None:
    with pytest.raises(InputError, match=f"--shard {text}: expected a shard and their number"):
        Shard.parse(text)


def test_shards_have_names_of_their_own() -> None:
    assert Shard.parse("2/4") == Shard(2, 4)
    assert (Shard(2, 4).named("refl-s0"), WHOLE.named("refl-s0")) == ("refl-s0.2-of-4", "refl-s0")
