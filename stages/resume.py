"""What an interrupted job goes on from.

A job saves every `EVERY` seconds, and when it is told to stop, into `out/<study>/.state/<stage>-<name>/`, which no
runner knows and so none deletes. A state belongs to one key, a digest of everything that decides the job's result:
settings, inputs, code, versions, kind of device. A state with another key is thrown away, and so is any state when the
job has ended well. Two shapes of state: a loop that saves the whole of its mutable state (`offer`, `load`), and a
sequence of independent results of which the finished ones are kept (`results`).
"""

from __future__ import annotations

import os
import shutil
import signal
import sys
import threading
import time
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeVar

from stages import in_use
from stages.errors import InputError, Stopped
from stages.job_key import job_key
from stages.params import read_study
from stages.processes import ALONE, Processes
from stages.runtime import whole_file

if TYPE_CHECKING:
    from torch import Tensor

W = TypeVar("W")
Unit = dict[str, "Tensor"]
"""One result of a sequence: named tensors (a table is one too, see `stages/table_tensors.py`)."""

EVERY = 30.0
"""Seconds between two saves; the environment variable SAVE_EVERY overrides it."""
SHARE = 20
"""A save that takes long is followed by a pause of this many times its own duration."""
SIGNALS = (signal.SIGTERM, signal.SIGUSR1)
"""What a job scheduler sends a while before it kills."""
FOLDER, KEY = ".state", "key.json"


class State:
    """The state of one job in `folder`; without a folder nothing is kept, and nothing found. Several `processes` go
    through `offer`, `rest` and `results` in step, and stop together, whichever of them was told to.
    """

    def __init__(
        self, folder: Path | None = None, key: str = "", every: float = EVERY, processes: Processes = ALONE
    ) -> None:
        self.folder, self.key, self.every, self.processes = folder, key, every, processes
        self.told: int | None = None
        """The signal that asked this process to stop."""
        self._due = time.monotonic() + every
        self._pending: dict[str, tuple[int, list[Unit]]] = {}
        self._warned = False
        if folder is not None and folder.exists() and not self._ours(folder):
            _say(f"{folder}: of other settings, inputs or code; starting anew")
            self.clear()

    def load(self, name: str) -> dict[str, Any] | None:
        """What was saved as `name`, on the CPU; None when nothing was, or when it cannot be read."""
        import torch

        if self.folder is None or not (path := self.folder / f"{name}.pt").exists():
            return None
        try:
            return torch.load(path, map_location="cpu", weights_only=True)
        except Exception as error:  # a damaged file raises almost anything
            _say(f"{path}: not readable, starting anew ({' '.join(str(error).split())[:200]})")
            return None

    def offer(self, name: str, content: Callable[[], dict[str, Any]]) -> None:
        """Save `content()` as `name` when it is time to; raises Stopped afterwards if the job was told to stop.

        `content` holds tensors, numbers, texts, and lists and dictionaries of them.
        """
        told = self._agreed()
        if self.folder is not None and (told or self.due()):
            self.save(name, content())
        self._stop(told)

    def save(self, name: str, content: dict[str, Any]) -> None:
        """Save `content` as `name` now, whole or not at all."""
        import torch

        self._write(f"{name}.pt", lambda path: torch.save(content, path))

    def results(self, name: str, work: Iterable[W], make: Callable[[W], Unit]) -> Iterator[Unit]:
        """The results of `make` over `work`, in order; `make` is not called for those that an earlier try kept.

        Every item of `work` is drawn nonetheless. Raises Stopped when the job was told to stop.
        """
        rest, first = iter(work), 0
        for unit in self._kept(name):
            next(rest)
            first += 1
            yield unit
        if first:
            _say(f"{name}: {first} results kept, going on from there")
        waiting: list[Unit] = []
        self._pending[name] = (first, waiting)
        for item in rest:
            try:
                unit = make(item)
            except Stopped:
                self._flush()
                raise
            if self.folder is not None:
                self._pending[name][1].append(unit)
            told = self._agreed()
            if told or self.due():
                self._flush()
            self._stop(told)
            yield unit

    def due(self) -> bool:
        """Whether it is time to save, and this is the process that does."""
        return self.folder is not None and _first_process() and time.monotonic() >= self._due

    def rest(self) -> None:
        """Raise Stopped when the job was told to stop."""
        self._stop(self._agreed())

    def rest_alone(self) -> None:
        """`rest`, for a moment at which not all processes are: several processes go on."""
        if self.processes.count == 1:
            self._stop(self.told or 0)

    def opened(self) -> Path | None:
        """The folder, for files that are appended to and not saved by a State; None where nothing is kept."""
        if self.folder is None or self._ours(self.folder):
            return self.folder
        try:
            _whole(self.folder / KEY, lambda path: path.write_text(self.key))
        except OSError as error:
            _say(f"warning: {self.folder}: cannot be written, so nothing to resume from ({error})")
            return None
        return self.folder

    def _agreed(self) -> int:
        """The signal that any of the processes was told to stop by, the same answer in all of them; 0 for none."""
        return self.processes.largest(self.told or 0)

    def _stop(self, told: int) -> None:
        if told:
            self.processes.wait()  # a process that ends takes the others with it: the first one has to have saved
            raise Stopped(told)

    def clear(self) -> None:
        """Forget everything."""
        self._pending.clear()
        if self.folder is not None:
            shutil.rmtree(self.folder, ignore_errors=True)

    def _flush(self) -> None:
        from safetensors.torch import save_file

        for name, (first, units) in self._pending.items():
            if not units:
                continue
            parts = {f"{place}/{key}": value for place, unit in enumerate(units) for key, value in unit.items()}
            about = {"count": str(len(units))}
            tensors = {key: value.detach().contiguous().cpu() for key, value in parts.items()}
            if self._write(f"{name}-{first:08d}.safetensors", lambda path, t=tensors, a=about: save_file(t, path, a)):
                self._pending[name] = (first + len(units), [])

    def _kept(self, name: str) -> Iterator[Unit]:
        from safetensors import safe_open

        count = 0
        while self.folder is not None and (path := self.folder / f"{name}-{count:08d}.safetensors").exists():
            try:
                with safe_open(path, "pt") as file:
                    size = int((file.metadata() or {})["count"])
                    units: list[Unit] = [{} for _ in range(size)]
                    for part in file.keys():  # noqa: SIM118 (not a mapping)
                        place, _, key = part.partition("/")
                        units[int(place)][key] = file.get_tensor(part)
            except Exception as error:  # safetensors raises its own untyped errors
                _say(f"{path}: not readable, going on before it ({error})")
                return
            count += size
            yield from units

    def _ours(self, folder: Path) -> bool:
        try:
            return (folder / KEY).read_text() == self.key
        except OSError:
            return False

    def _write(self, name: str, write: Callable[[Path], object]) -> bool:
        """Write one file of the state and see that it is on the disk; a disk that refuses costs a warning only."""
        if self.folder is None or not _first_process():
            return False
        begin, done = time.monotonic(), False
        try:
            if not self._ours(self.folder):
                _whole(self.folder / KEY, lambda path: path.write_text(self.key))
            _whole(self.folder / name, write)
            done = True
        except Exception as error:  # a full disk shows itself in as many ways as there are writers
            if not self._warned:
                _say(f"warning: {self.folder / name}: not saved, so nothing to resume from ({error})")
            self._warned = True
        now = time.monotonic()
        self._due = now + max(self.every, SHARE * (now - begin) if self.every else 0.0)
        return done


@contextmanager
def keep(
    params: Path, stage: str, name: str, output: Path, settings: Mapping[str, Any], inputs: Sequence[Path],
    processes: Processes = ALONE,
) -> Iterator[State]:  # fmt: skip
    """The state of one job of the study at `params`; it goes away when the block ends without an exception.

    `output` is any file that the job writes, `settings` is what it reads of the study (anything JSON knows), `inputs`
    are the files it reads. Within the block SIGTERM and SIGUSR1 make the job save and stop at its next step, whichever
    of its `processes` they reach: all stop at the same step, and the first one saves. Raises InputError where another
    process is at work on the same job.
    """
    folder = _folder(params, stage, name, output)
    with in_use.only_one(folder.with_name(f"{folder.name}.lock"), f"{stage} {name}", _first_process()):
        yield from _kept(State(folder, job_key(stage, name, settings, inputs), _every(), processes))


def current() -> State:
    """The state of the job that this process is at work on; one that keeps nothing where that is none."""
    return _current[-1] if _current else State()


_current: list[State] = []


def _kept(state: State) -> Iterator[State]:
    before, processes = {}, state.processes
    _current.append(state)
    if threading.current_thread() is threading.main_thread():
        heeded = _first_process() or processes.count > 1
        heed = (lambda found, _: setattr(state, "told", found)) if heeded else signal.SIG_IGN
        before = {number: signal.signal(number, heed) for number in SIGNALS}
    try:
        yield state
        state.clear()
    finally:
        _current.remove(state)
        for number, handler in before.items():
            signal.signal(number, handler)


def _folder(params: Path, stage: str, name: str, output: Path) -> Path:
    """`.state/<stage>-<name>` in the nearest folder above `output` that is called like the study, else beside it."""
    study = (read_study(params).get("study") or {}).get("name")
    above = next((parent for parent in output.absolute().parents if parent.name == study), output.absolute().parent)
    stem = "".join(c if c.isalnum() or c in "-_.+" else "_" for c in f"{stage}-{name}")
    return above / FOLDER / stem


def _every() -> float:
    given = os.environ.get("SAVE_EVERY", "")
    try:
        return max(0.0, float(given)) if given else EVERY
    except ValueError:
        raise InputError(f"SAVE_EVERY: {given!r} is not a number of seconds between two saves") from None


def _whole(path: Path, write: Callable[[Path], object]) -> None:
    with whole_file(path) as partial:
        write(partial)
        with open(partial, "rb+") as file:
            os.fsync(file.fileno())


def _first_process() -> bool:
    """Whether this is the process of a distributed job that writes."""
    return os.environ.get("RANK", "0") in ("", "0")


def _say(message: str) -> None:
    print(f"resume: {message}", file=sys.stderr, flush=True)
