"""Snakemake and DVC on the same files: neither repeats what the other has built, neither overlooks a change.

Snakemake decides by file times alone (`profiles/default`), DVC by content against `dvc.lock`; the settings and the code
of a job reach both through the same files (`workflow/plan.py`). Times lie where DVC was at work: `dvc checkout`
restores files in any order. So before Snakemake plans, `ask` asks DVC about every job and sets times to match the
answer; after a complete run `commit` writes what was built into `dvc.lock`.
"""

from __future__ import annotations

import hashlib
import os
import subprocess
from collections.abc import Collection, Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from stages import walk
from stages.errors import InputError

if TYPE_CHECKING:
    from dvc.repo import Repo

LOCK = Path("dvc.lock")
WATCHED = ("data", "shipped", "votes")
"""Folders of files from outside, which dvc.yaml can only name whole; Snakemake looks at the very files a job takes."""


@dataclass(frozen=True)
class Beside:
    """What DVC does not know of a job: its stamps as they will be (file and content), its benchmarks, and the files
    that it takes from outside.
    """

    stamps: Mapping[str, str]
    benchmarks: Collection[Path] = ()
    sources: Collection[str] = ()


@dataclass(frozen=True)
class Word:
    """DVC's word on the jobs of a study, by DVC's names of them."""

    built: Collection[str] = ()
    """Jobs whose outputs are up to date."""
    stale: Collection[str] = ()
    """Jobs whose outputs DVC put there, or would, though something else belongs there by now."""


def ask(beside: Mapping[str, Beside]) -> Word:
    """Ask DVC about jobs, and make the times of outputs that are up to date agree with its answer.

    `beside` has an entry per job. Says nothing outside a DVC repository; raises InputError when DVC cannot answer.
    """
    if not (Path(".dvc").is_dir() and LOCK.exists()):
        return Word()
    try:
        from dvc.exceptions import DvcException
        from dvc.repo import Repo
    except ImportError:
        return Word()
    try:
        with Repo() as repo, repo.lock:
            return _word(repo, beside)
    except DvcException as error:
        reason = " ".join(str(error).split())
        raise InputError(f"dvc status fails: {reason} (is DVC at work here? Without .dvc it is not asked)") from None


def _word(repo: Repo, beside: Mapping[str, Beside]) -> Word:
    import networkx

    built, stale = set(), set()
    # As `dvc status` does, but the graph is read once. Edges lead from a stage to what it needs.
    stages = list(reversed(list(networkx.topological_sort(repo.index.graph))))
    known = [stage for stage in stages if stage.addressing in beside]
    status = {stage.addressing: stage.status().get(stage.addressing, []) for stage in known}
    for stage in known:
        others = beside[stage.addressing]
        reasons = _reasons(stage, status[stage.addressing], others.stamps)
        outputs = [out.def_path for out in stage.outs]
        if [reason for reason in reasons if not _only_watched(reason)]:
            if _made_by_dvc(reasons, outputs):
                stale.add(stage.addressing)
            continue
        # Of a watched folder DVC knows only that something in it is new; the times of the job's own files say more.
        candidates = others.sources if reasons else _unwatched(others.sources)
        if not _newer(candidates, outputs):
            built.add(stage.addressing)
            inputs = _files(dep.def_path for dep in stage.deps)
            # Snakemake counts benchmarks among the outputs, and DVC leaves them as they were.
            _touch_older([*outputs, *others.benchmarks], max(map(_time, inputs), default=0.0))
    return Word(built, stale)


def _reasons(stage: Any, status: list[Any], stamps: Mapping[str, str]) -> list[Any]:
    """Why a stage is out of date, with its stamps as they will be in place of those on the disk."""
    found = []
    for reason in status:
        changed = reason.get("changed deps") if isinstance(reason, dict) else None
        if changed is not None:
            rest = {path: what for path, what in changed.items() if path not in stamps}
            found += [{"changed deps": rest}] if rest else []
        else:
            found.append(reason)
    recorded = {dep.def_path: dep.hash_info.value for dep in stage.deps}
    for path, content in stamps.items():
        if path in recorded and recorded[path] != hashlib.md5(content.encode()).hexdigest():
            found.append({"changed deps": {path: "modified"}})
    return found


def commit(started: float, watched: Iterable[str]) -> None:
    """Write a complete run into `dvc.lock` and DVC's cache.

    Not when one of the `watched` files (study, code) changed after `started` (seconds since 1970): some jobs may have
    run before that and some after, and DVC would take all of them for up to date.
    """
    if not Path(".dvc").is_dir():
        return
    edited = [path for path in watched if _time(path) > started]
    if edited:
        print(f"dvc.lock is left as it is: {edited[0]} was edited during the run; run again to settle what it changes")
        return
    try:
        done = subprocess.run(["dvc", "commit", "--force", "--no-relink", "--quiet"], capture_output=True, text=True)
    except FileNotFoundError:
        return
    if done.returncode:
        print(f"dvc.lock is left as it is: dvc commit failed: {done.stderr.strip().splitlines()[-1:]}")


def _only_watched(reason: Any) -> bool:
    """Whether all that changed are folders of outside files, about which Snakemake knows better."""
    changed = reason.get("changed deps") if isinstance(reason, dict) else None
    return bool(changed) and set(changed) <= set(WATCHED)


def _made_by_dvc(reasons: list[Any], outputs: list[str]) -> bool:
    """Whether the outputs stand as `dvc.lock` has them, though something else of the stage has changed."""
    if any(isinstance(reason, dict) and "changed outs" in reason for reason in reasons):
        return False
    return all(_time(output) <= _time(LOCK) for output in outputs)


def _files(paths: Iterable[str]) -> list[Path]:
    found = []
    for path in map(Path, paths):
        found += [path] if path.is_file() else walk.files(path)
    return [file for file in found if "__pycache__" not in file.parts]


def _unwatched(sources: Iterable[str]) -> list[str]:
    return [source for source in sources if Path(source).parts[0] not in WATCHED]


def _newer(sources: Iterable[str], outputs: Iterable[str]) -> bool:
    return max(map(_time, sources), default=0.0) > min(map(_time, outputs), default=0.0)


def _touch_older(outputs: Iterable[str | Path], newest: float) -> None:
    for output in outputs:
        if 0 < _time(output) < newest:
            os.utime(output)


def _time(path: str | Path) -> float:
    """Modification time; 0 for a file that is not there."""
    try:
        return os.stat(path).st_mtime
    except FileNotFoundError:
        return 0.0
