"""Scoring through a server when job or server is killed: every row once, none asked twice, the same bytes."""

from __future__ import annotations

import os
import random
import signal
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import yaml

from stages import tables
from stages.models import record
from stages.params import validate
from stages.pictures import encode
from stages.prepare.import_settings import ImportSettings
from stages.prepare.source import import_model
from stages.score import __main__ as score
from tests.scorers import Fault, scorer, sent

ROOT = Path(__file__).parents[2]
TOKEN = "a-secret-of-this-test"


def world(folder: Path, count: int, side: int = 8) -> None:
    """A study of `count` images with captions of their own, and no pairs."""
    draw = np.random.default_rng(0)
    rows = (
        {
            "image_id": f"i{n:05d}", "caption": f"caption {n}", "width": side, "height": side, "split": "train",
            "image": encode(draw.integers(0, 256, (side, side, 3), np.uint8)), "group": f"g{n}", "source": "test",
            "attributes": None,
        }
        for n in range(count)
    )  # fmt: skip
    tables.write(folder / "images.parquet", tables.table(tables.IMAGES, list(rows)), tables.IMAGES)
    tables.write(folder / "pairs.parquet", tables.table(tables.PAIRS, []), tables.PAIRS)
    study = {"study": {"name": "t"}, "score": {"rewards": ["judge"], "batch_size": 32}}
    (folder / "params.yaml").write_text(yaml.safe_dump(study))


def judge(folder: Path, kind: str = "http", name: str = "judge.json", **options: Any) -> None:
    options = {"version": "1", **options} if kind == "http" else options
    made = import_model("judge", validate(ImportSettings, {"kind": kind, "options": options}, "m"), "m")
    record.save(made, folder / name)


def command(folder: Path, out: str = "scores", model: str = "judge.json") -> list[str]:
    return [
        sys.executable, "-m", "stages.score", "--params", f"{folder}/params.yaml", "--reward", "judge",
        "--model", f"{folder}/{model}", "--images", f"{folder}/images.parquet", "--pairs", f"{folder}/pairs.parquet",
        "--scores", f"{folder}/t/{out}.parquet", "--accuracy", f"{folder}/t/{out}.json",
    ]  # fmt: skip


def start(argv: list[str], **more: str) -> subprocess.Popen[str]:
    environment = os.environ | {"LINEAGE": "off", "PYTHONPATH": str(ROOT), "SCORER_TOKEN": TOKEN, **more}
    return subprocess.Popen(argv, cwd=ROOT, env=environment, text=True, stderr=subprocess.PIPE)


def ended(argv: list[str]) -> str:
    """What a command that ends well says on stderr."""
    process = start(argv)
    said = process.communicate(timeout=500)[1]
    assert process.returncode == 0, said
    return said


def ended_here(argv: list[str]) -> None:
    """Run a command in this process, where what it imports is there already; it must end well. Not to go on from
    another process: which code a job has executed is then another.
    """
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(ROOT)
        patch.setenv("SCORER_TOKEN", TOKEN)
        patch.setattr(sys, "argv", argv[2:])
        score.main()


def scores(folder: Path, out: str = "scores") -> dict[str, float]:
    rows = tables.read(folder / "t" / f"{out}.parquet", tables.SCORES).to_pylist()
    assert len({row["item_id"] for row in rows}) == len(rows)
    return {row["item_id"]: row["score"] for row in rows}


def files(folder: Path) -> Iterator[Path]:
    return (path for path in folder.rglob("*") if path.is_file())


@pytest.mark.parametrize(
    "number", [pytest.param(signal.SIGKILL, marks=pytest.mark.slow), signal.SIGTERM], ids=["kill", "term"]
)
def test_what_was_scored_before_a_job_was_ended_is_not_asked_again(tmp_path: Path, number: int) -> None:
    """The state is saved far too seldom to matter here: what is known is known from the answers that were kept."""
    world(tmp_path, 70)
    asked = threading.Event()

    def stuck(body: dict[str, Any]) -> Any:
        asked.set()
        return sent(b"not yet", 503)

    with scorer() as server:
        judge(tmp_path, url=server.url, reward="bright", batch=4, token="SCORER_TOKEN")
        ended_here(command(tmp_path, "quiet"))
        wanted, server.answered[:] = [*server.answered], []
        assert len(wanted) == len({*wanted}) == 70
        server.faults[:] = [None] * 11 + [stuck]
        judge(tmp_path, url=server.url, reward="bright", batch=4, token="SCORER_TOKEN", pause=60)
        job = start(command(tmp_path), SAVE_EVERY="1000")
        assert asked.wait(120)
        before = time.monotonic()
        job.send_signal(number)
        said = job.communicate(timeout=30)[1]
        assert time.monotonic() - before < 20  # it does not sit out its pause of a minute
        assert job.returncode == (143 if number == signal.SIGTERM else -number), said
        assert len(server.answered) == 44
        ended(command(tmp_path))
        assert server.answered == wanted
    assert (tmp_path / "t/scores.parquet").read_bytes() == (tmp_path / "t/quiet.parquet").read_bytes()
    assert not [path for path in files(tmp_path) if TOKEN.encode() in path.read_bytes()]
    assert not [path for path in files(tmp_path) if "answers" in path.name]


def test_a_job_that_an_answer_ended_goes_on_behind_it(tmp_path: Path) -> None:
    world(tmp_path, 20)

    def bad(body: dict[str, Any]) -> Any:
        return sent({"results": [{"bright": {"bright": 1.0}}, {}], "errors": [{}, {"bright": "cannot read it"}]})

    faults: list[Fault | None] = [None] * 3
    with scorer(*faults, bad) as server:
        judge(tmp_path, url=server.url, reward="bright", batch=2)
        job = start(command(tmp_path))
        said = job.communicate(timeout=120)[1]
        assert job.returncode == 2
        assert f"error: image i00007: model 'judge': reward 'bright' of {server.url}: request 2 of 2, " in said
        ended(command(tmp_path))
        assert server.answered == [f"caption {n}" for n in range(20)]


@contextmanager
def failing(port: int, log: Path) -> Iterator[subprocess.Popen[bytes]]:
    process = subprocess.Popen([sys.executable, "-m", "tests.scorers", str(port), str(log)], cwd=ROOT)
    try:
        yield process
    finally:
        process.kill()
        process.wait()


def lines(log: Path) -> list[str]:
    return log.read_text().splitlines() if log.exists() else []


def through_a_bad_server(folder: Path, count: int, batch: int) -> None:
    world(folder, count)
    judge(folder, "jpeg", "inside.json")
    ended_here(command(folder, "inside", "inside.json"))
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = taken.getsockname()[1]
    judge(folder, url=f"http://127.0.0.1:{port}", reward="jpeg", batch=batch, pause=0.2, retries=10, version="1")
    log, requests, draw = folder / "log", -(-count // batch), random.Random(0)
    kills = sorted(draw.sample(range(requests // 10, requests), 2))
    job = start(command(folder), SAVE_EVERY="1")
    try:
        for kill in (*kills, None):
            with failing(port, log):
                while job.poll() is None and (kill is None or lines(log).count("answered") < kill):
                    time.sleep(0.01)
    finally:
        job.kill()
    said = job.communicate(timeout=30)[1]
    assert job.returncode == 0, said
    answered, failed = lines(log).count("answered"), lines(log).count("failed")
    assert requests <= answered <= requests + 2  # an answer may have been lost when its server was killed
    assert 0.02 * requests < failed < 0.1 * requests
    assert said.count("answered 500") == failed
    found, wanted = scores(folder), scores(folder, "inside")
    assert found == wanted
    assert len(found) == count
    print(f"{count} images, {requests} requests, {failed} failed, killed after {kills}")


def test_a_server_that_fails_and_is_killed_twice_gives_every_row_its_number(tmp_path: Path) -> None:
    through_a_bad_server(tmp_path, 400, 4)


@pytest.mark.slow
def test_ten_thousand_images_through_a_server_that_fails_and_is_killed_twice(tmp_path: Path) -> None:
    through_a_bad_server(tmp_path, 10_000, 16)
