"""Every sampling strategy in several processes and after interruptions: the same images, byte for byte."""

from __future__ import annotations

import signal
from collections.abc import Iterator, Sequence
from contextlib import suppress
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any

import pyarrow as pa
import pytest
import torch
import yaml
from test_concepts import worded as worded  # a fixture
from test_img import Picky
from test_sample import policy, sampling
from test_search import Counted

from stages import plugins, tables
from stages.errors import Stopped
from stages.models import annotators
from stages.models.diffusion import DiffusionModel
from stages.processes import ALONE, Processes
from stages.resume import State
from stages.sample.job import Identity, RecordedReward, Sampling
from stages.sample.resolve import STRATEGIES, sampling_plan
from stages.sample.run import sample_base, sample_run
from stages.sample.settings import student
from tests import tiny
from tests.together import together

BOTH = ["base", "tuned"]
ENTRIES: dict[str, dict[str, Any]] = {
    "aig": {"p": [2]}, "combined": {"k": [1, 3]}, "fusion": {"k": [2]}, "guidance": {"scales": [2.0], "apply_to": BOTH},
    "rlg": {"w": [0.5]}, "tuned": {}, "npo": {"s": [2.0], "negative": "other", "merge": 0.5},
    "chats": {"s": [2.0], "lose": "other", "apply_to": BOTH}, "density": {"q": [0.3], "apply_to": BOTH},
    "condition_noise": {"k": [2], "apply_to": BOTH}, "ebama": {"a": [30.0], "apply_to": BOTH},
    "for_annotator": {"names": ["ann", "bob"]}, "few_steps": {"steps": [1, 3], "model": "map"},
    "sgt": {"c": [5.5], "window": [0.0, 1.0], "apply_to": BOTH},
    "img": {"n": [2], "critic": "critic", "apply_to": BOTH},
    "best_of_n": {"n": [3], "stop": -1.0}, "fk": {"n": [3], "every": 1, "strength": 30.0},
    "code": {"n": [2], "block": 2}, "svdd": {"m": [2]}, "dlbs": {"b": [2], "lookahead": 2},
    "dsearch": {"m": [2], "search": "uniform", "oversample": 2, "replace": 0.5},
    "das": {"n": [2], "strength": 30.0, "gamma": 0.5, "threshold": 1.0},
    "fmtt": {"n": [2], "strength": 30.0, "threshold": 1.0, "flow_map": "map"},
    "dts": {"m": [3], "children": 2}, "dts_star": {"m": [3], "children": None},
    "reno": {"n": [2], "weights": {"proxy": 1.0}, "apply_to": BOTH},
    "carinox": {"n": [2], "starts": 2, "weights": {"proxy": 1.0}, "apply_to": BOTH},
}  # fmt: skip
"""Every kind with something to do."""
LAST = ("sgt", "img", "fmtt", "reno", "carinox", "ebama", "npo", "chats", "condition_noise", "dts", "dts_star", "fk")
PARTS = {
    f"{kind} {part}": ENTRIES[kind] | {"kind": kind, "part": part, "prediction": {"kind": "combined", "k": [2]}}
    for kind in ("svdd", "dts") for part in ("base", "tuned")
}  # fmt: skip
COLUMNS = ("strategy", "setting", "prompt_id", "sample", "image", "nfe", "nfe_backward", "queries", "decodes")
WHOSE = Identity("refl-s3", "refl", 3)


def entries(names: Sequence[str] = tuple(ENTRIES)) -> dict[str, dict[str, Any]]:
    """Strategies of these kinds as a study has them; searches are applied to both too, and some in parts."""
    found = {}
    for name in names:
        entry = {"kind": name, **ENTRIES[name]}
        module = plugins.load(STRATEGIES, "", name, "test")
        if "reward" in module.Settings.model_fields:
            entry |= {"reward": "proxy", "apply_to": BOTH}
        found[f"{name}_"] = entry
    within = {name: {**entry, "reward": "proxy", "apply_to": ["tuned"]} for name, entry in PARTS.items()}
    return found | {name: entry for name, entry in within.items() if entry["kind"] in names}


def job(model: DiffusionModel, folder: Path, names: Sequence[str] = tuple(ENTRIES)) -> Sampling:
    """A tiny base and run with two more networks, a reward and a critic; three images a batch."""
    work, file = sampling(model, folder, strategies={}, guidance=[1.0]), folder / "params.yaml"
    other = policy(model).network
    study = yaml.safe_load(file.read_text())
    study["sample"]["strategies"] = entries(names)
    file.write_text(yaml.safe_dump(study))
    further = {"other": other, student("map"): other}
    if work.tuned is not None and annotators.of(work.tuned) is None:
        with torch.no_grad():
            annotators.attach(work.tuned, tiny.WIDTH, 4).weight.fill_(0.05)
    made = Sampling.of(model, sampling_plan(file), work.suite, work.tuned, further)
    return replace(made, rewards={"proxy": RecordedReward(Counted(), "p"), "critic": RecordedReward(Picky(-1.0), "c")})


def make(work: Sampling, out: Path, processes: Processes = ALONE, state: State | None = None, what: str = "") -> None:
    """Base and run, or one of them."""
    if what in ("", "base"):
        sample_base(work, out / "base.parquet", out / "latents.safetensors", state, processes)
    if what in ("", "run"):
        sample_run(work, WHOSE, out / "latents.safetensors", out / "run.parquet", state, processes)


def rows(out: Path) -> dict[str, pa.Table]:
    return {name: tables.read(out / f"{name}.parquet", tables.SAMPLES).select(COLUMNS) for name in ("base", "run")}


@pytest.fixture(scope="module")
def alone(worded: DiffusionModel, tmp_path_factory: pytest.TempPathFactory) -> dict[str, pa.Table]:
    """What one process makes without a pause."""
    out = tmp_path_factory.mktemp("alone")
    make(job(worded, out), out)
    return rows(out)


def test_every_kind_is_here_and_does_something(alone: dict[str, pa.Table]):
    assert set(ENTRIES) == set(plugins.names(STRATEGIES, ""))
    assert set(LAST) <= set(ENTRIES)
    for name, table in alone.items():
        images: dict[str, list[bytes]] = {}
        for row in table.to_pylist():
            images.setdefault(row["strategy"], []).append(row["image"])
        plain = images["guidance" if name == "base" else "tuned_"]
        # a tuned network's own guidance of 1 is itself, as is plain sampling by the kind called tuned
        same = {each for each, found in images.items() if found == plain}
        assert same == {"guidance" if name == "base" else "tuned_"}, name


def differing(found: dict[str, pa.Table], expected: dict[str, pa.Table]) -> set[str]:
    """Strategies with another row."""
    return {
        str(one["strategy"])
        for name in expected
        for one, other in zip(found[name].to_pylist(), expected[name].to_pylist(), strict=True)
        if one != other
    }


def several(model: DiffusionModel, folders: Path, out: Path, processes: Processes) -> None:
    make(job(model, folders / str(processes.rank)), out, processes)


def test_two_processes_make_the_same_bytes(worded: DiffusionModel, tmp_path: Path, alone: dict[str, pa.Table]):
    (tmp_path / "folders").mkdir()
    together(2, partial(several, worded, tmp_path / "folders", tmp_path))
    assert differing(rows(tmp_path), alone) == set()


class Stopping(State):
    """A state whose job is told to stop after every `after` results."""

    def __init__(self, folder: Path, after: int) -> None:
        super().__init__(folder)
        self.after = after

    def results(self, name: str, work: Any, make: Any) -> Iterator[Any]:
        made = 0

        def counted(item: Any) -> Any:
            nonlocal made
            made += 1
            if made == self.after:
                self.told = signal.SIGTERM
            return make(item)

        return super().results(name, work, counted)


@pytest.mark.parametrize("after", [1, 5])
def test_interruptions_change_nothing(worded: DiffusionModel, tmp_path: Path, alone: dict[str, pa.Table], after: int):
    """Of the kinds that came last, told to stop after every result, of the others after every fifth; none is made
    twice.
    """
    names = LAST if after == 1 else tuple(name for name in ENTRIES if name not in LAST)
    work, stops = job(worded, tmp_path, names), 0
    for what in ("base", "run"):
        while True:
            with suppress(Stopped):
                make(work, tmp_path, state=Stopping(tmp_path / f".state-{what}", after), what=what)
                break
            stops += 1
    expected = {
        name: table.filter([str(each) in {"guidance", *entries(names)} for each in table["strategy"].to_pylist()])
        for name, table in alone.items()
    }
    assert differing(rows(tmp_path), expected) == set()
    count = sum(len(table) for table in expected.values()) // 2
    assert stops >= count // after - 2 and stops > 2


def test_a_second_process_goes_on_where_one_was_stopped(
    worded: DiffusionModel, tmp_path: Path, alone: dict[str, pa.Table]
):
    """One process is stopped half way, two go on: the number of processes is no part of what is kept."""
    names, work = ("sgt", "dts"), job(worded, tmp_path / "one", ("sgt", "dts"))
    out = tmp_path / "out"
    out.mkdir()
    with pytest.raises(Stopped):
        make(work, out, state=Stopping(tmp_path / ".state", 3), what="base")
    (tmp_path / "folders").mkdir()
    together(2, partial(went_on, worded, tmp_path, names))
    make(work, out, what="run")
    expected = {
        name: table.filter([str(each) in {"guidance", *entries(names)} for each in table["strategy"].to_pylist()])
        for name, table in alone.items()
    }
    assert differing(rows(out), expected) == set()


def went_on(model: DiffusionModel, place: Path, names: Sequence[str], processes: Processes) -> None:
    work = job(model, place / "folders" / str(processes.rank), names)
    make(work, place / "out", processes, State(place / ".state", processes=processes), "base")
