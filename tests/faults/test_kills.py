"""Jobs of the smoke study are killed at random moments and started again: the results are those of a quiet run.

`make faults` kills twenty times and tells twenty times to stop, over all the stages; the short test does a few of each.
"""

from __future__ import annotations

import os
import random
import shutil
import signal
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import pytest
import yaml
from nursery import Ended, Nursery
from smoke import OUT, PARAMS, Job, differences, files, jobs, study


@dataclass
class Quiet:
    """A run of every job that nothing disturbed, and how long each took, in seconds."""

    root: Path
    seconds: dict[str, float]
    nursery: Nursery


@pytest.fixture(scope="module")
def quiet(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Quiet]:
    root = tmp_path_factory.mktemp("quiet")
    (root / PARAMS).write_text(yaml.safe_dump(study(), sort_keys=False))
    seconds = {}
    with Nursery(tmp_path_factory.mktemp("logs")) as nursery:
        for job in jobs():
            ended = nursery.run(job.argv, root)
            assert ended.code == 0, f"{job.title}: {ended.text}"
            seconds[job.title] = ended.seconds
        assert not leftovers(root)
        yield Quiet(root, seconds, nursery)


def leftovers(root: Path) -> list[str]:
    """States and half-written files."""
    return sorted(name for name in files(root) if "/." in name)


@dataclass
class Harm:
    """Interruptions so far, and what came of them."""

    sent: int = 0
    resumed: int = 0


def disturb(quiet: Quiet, root: Path, job: Job, times: int, number: int, rng: random.Random, harm: Harm) -> None:
    """Take away what a job wrote, interrupt it `times` times at random moments, then let it end."""
    wipe(root, job)
    left = times
    while left:
        ended = quiet.nursery.run(job.argv, root, rng.uniform(0, quiet.seconds[job.title]), number)
        if ended.hit:
            left -= 1
            harm.sent += 1
        else:  # it was over before the signal came, and starts anew
            assert ended.code == 0, f"{job.title}: {ended.code}: {ended.text}"
            wipe(root, job)
        harm.resumed += went_on(ended)
    ended = quiet.nursery.run(job.argv, root)
    assert ended.code == 0, f"{job.title}: {ended.text}"
    harm.resumed += went_on(ended)


def wipe(root: Path, job: Job) -> None:
    for path in job.outputs():
        if (root / path).is_dir():
            shutil.rmtree(root / path)
        (root / path).unlink(missing_ok=True)


def went_on(ended: Ended) -> bool:
    return "resumed at step" in ended.text or "going on from there" in ended.text


def check(quiet: Quiet, root: Path, titles: list[str], times: int, number: int) -> None:
    """Interrupt the jobs `titles` `times` times in all; every other result is taken from the quiet run."""
    rng = random.Random(f"{number} {times}")
    shutil.copytree(quiet.root, root, dirs_exist_ok=True)
    shares = dict.fromkeys(titles, 0)
    for n in range(times):
        shares[titles[n % len(titles)]] += 1
    harm = Harm()
    for job in jobs():
        if shares.get(job.title):
            disturb(quiet, root, job, shares[job.title], number, rng, harm)
    found = differences(quiet.root, root)
    name = signal.Signals(number).name
    print(f"\n{harm.sent} times {name}, {harm.resumed} resumed; {len(files(root))} files, {len(found)} differ {found}")
    assert harm.sent == times
    assert not leftovers(root)
    assert not found


EVERYTHING = [job.title for job in jobs() if job.tried]
FEW = ["prepare base", "prepare proxy", "encode", "finetune imagerefl-s0", "sample refl-s0", "score proxy"]


@pytest.mark.slow
@pytest.mark.parametrize("number", [signal.SIGKILL, signal.SIGTERM], ids=["kill", "term"])
def test_a_few_interruptions_change_nothing(quiet: Quiet, tmp_path: Path, number: int) -> None:
    check(quiet, tmp_path, FEW, 6, number)


@pytest.mark.slow
@pytest.mark.skipif("FAULTS" not in os.environ, reason="takes minutes: make faults")
@pytest.mark.parametrize("number", [signal.SIGKILL, signal.SIGTERM, signal.SIGUSR1], ids=["kill", "term", "usr1"])
def test_twenty_interruptions_change_nothing(quiet: Quiet, tmp_path: Path, number: int) -> None:
    check(quiet, tmp_path, EVERYTHING, 20, number)


@pytest.mark.slow
def test_states_of_other_settings_are_thrown_away(quiet: Quiet, tmp_path: Path) -> None:
    """A run that was interrupted and got another learning rate ends as one that had it from the start."""
    job = next(job for job in jobs() if job.title == "finetune refl-s0")
    shutil.copytree(quiet.root, tmp_path / "a")
    shutil.rmtree(tmp_path / "a" / OUT / "runs")
    stopped = quiet.nursery.run(job.argv, tmp_path / "a", after=0.7 * quiet.seconds[job.title], number=signal.SIGTERM)
    changed = study()
    changed["finetune"]["optimizer"]["lr"] = 1e-4
    (tmp_path / "a" / PARAMS).write_text(yaml.safe_dump(changed))
    shutil.copytree(tmp_path / "a", tmp_path / "b")
    shutil.rmtree(tmp_path / "b" / OUT / ".state", ignore_errors=True)
    ended = [quiet.nursery.run(job.argv, tmp_path / place) for place in "ab"]
    assert [one.code for one in ended] == [0, 0]
    assert not went_on(ended[0])
    assert stopped.code in (143, -signal.SIGTERM, 0)
    assert not differences(tmp_path / "a", tmp_path / "b")
