"""Snakemake and DVC on the same files: neither repeats what the other has built, neither overlooks a change.

Snakemake decides by file times alone (`profiles/default`), DVC by content against `dvc.lock`. Times lie where DVC was
at work: `dvc checkout` restores files in any order, and a rebuild by DVC leaves Snakemake's stamps as they were. So
before Snakemake plans, `Agreement.reach` asks DVC about every job whose outputs are the recorded ones and sets times
to match the answer; after a complete run `commit` writes what was built into `dvc.lock`.
"""

from __future__ import annotations

import os
import subprocess
from collections.abc import Callable, Collection, Iterable
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

from stages import walk
from stages.errors import InputError

if TYPE_CHECKING:
    from dvc.repo import Repo

LOCK = Path("dvc.lock")
WATCHED = ("data", "shipped", "votes")
"""Folders of files from outside, which dvc.yaml can only name whole; Snakemake looks at the very files a job takes."""


def whole(job: str) -> str:
    """DVC's name of what a job makes: of jobs that share out the images of a run (`sample_shard@refl-s0@1-of-4`) DVC
    knows the one that makes all of them (`sample@refl-s0`, `measure_base`).
    """
    stage, _, rest = job.partition("@")
    if not stage.endswith("_shard"):
        return job
    stage, run = stage.removesuffix("_shard"), rest.partition("@")[0]
    return f"{stage}_base" if run == "base" else f"{stage}@{run}"


@dataclass(frozen=True)
class Beside:
    """Files of a job that DVC does not know: the folder of its stamps, its benchmark and those of the jobs that share
    out its work, what it takes from outside.
    """

    stamps: Path
    benchmarks: Collection[Path]
    sources: Collection[str] = ()


@dataclass
class Agreement:
    """What DVC says of the jobs; `built` holds those whose outputs it knows to be up to date, by DVC's stage name."""

    built: set[str] = field(default_factory=set)

    def reach(self, beside: Callable[[str], Beside]) -> None:
        """Ask DVC, then make file times agree with its answer; `beside` gives a job's other files.

        Outputs that are up to date are touched where an input is newer; where DVC itself built outputs that are stale
        by now, their stamps go, so that Snakemake builds them again. Does nothing outside a DVC repository; raises
        InputError when DVC cannot answer.
        """
        if not (Path(".dvc").is_dir() and LOCK.exists()):
            return
        try:
            from dvc.exceptions import DvcException
            from dvc.repo import Repo
        except ImportError:
            return
        try:
            with Repo() as repo, repo.lock:
                self._settle(repo, beside)
        except DvcException as error:
            reason = " ".join(str(error).split())
            raise InputError(
                f"dvc status fails: {reason} (is DVC at work here? Without .dvc it is not asked)"
            ) from None

    def _settle(self, repo: Repo, beside: Callable[[str], Beside]) -> None:
        import networkx

        # As `dvc status` does, but the graph is read once. Edges lead from a stage to what it needs.
        stages = list(reversed(list(networkx.topological_sort(repo.index.graph))))
        status = {name: reasons for stage in stages for name, reasons in stage.status().items()}
        for stage in stages:
            reasons = [reason for reason in status.get(stage.addressing, []) if not _only_watched(reason)]
            outputs = [out.def_path for out in stage.outs]
            others = beside(stage.addressing)
            if reasons and _made_by_dvc(reasons, outputs):
                for stamp in others.stamps.glob("*.json"):
                    stamp.unlink()
                continue
            # Of a watched folder DVC knows only that something in it is new; the times of the job's own files say more.
            asked = others.sources if stage.addressing in status else _unwatched(others.sources)
            if not reasons and not _newer(asked, outputs):
                self.built.add(stage.addressing)
                inputs = _files(dep.def_path for dep in stage.deps if dep not in stage.params)
                # Snakemake counts benchmarks among the outputs, and DVC leaves them as they were.
                _touch_older([*outputs, *others.benchmarks], max(map(_time, inputs), default=0.0))


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
