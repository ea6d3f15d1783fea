"""What every stage needs of the machine: threads, device, whole-or-nothing files, progress, digests, the exit code."""

from __future__ import annotations

import atexit
import errno
import gc
import glob
import hashlib
import io
import os
import platform
import shutil
import signal
import sys
import threading
import time
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, TypeVar

from stages.errors import DiskError, InputError, Stopped
from stages.places import real

if TYPE_CHECKING:
    from types import FrameType

    import torch

T = TypeVar("T")


def run_stage(main: Callable[[], None]) -> None:
    """Run a stage's `main`; an InputError, an OSError that names a file, and a lack of memory become one line on
    stderr and exit code 2, a signal that the job heeded one line and 128 + its number, Ctrl-C the same.
    """
    collect_seldom()
    try:
        main()
    except InputError as error:
        line = " ".join(str(error).split())
        print(f"error: {line.encode(errors='backslashreplace').decode()}", file=sys.stderr)
        raise SystemExit(2) from None
    except Stopped as stop:
        name = signal.Signals(stop.number).name
        print(f"stopped by {name}; the same command goes on from here", file=sys.stderr)
        raise SystemExit(128 + stop.number) from None
    except (MemoryError, RuntimeError) as error:
        if not lacks_memory(error):
            raise
        print(f"error: not enough memory: {memory_wanted(error)}", file=sys.stderr)
        raise SystemExit(2) from None
    except OSError as error:
        if error.filename is None:
            raise  # of a file that cannot be read, or a name that is too long, a traceback explains nothing
        print(f"error: {error.filename!r}: {error.strerror}", file=sys.stderr)
        raise SystemExit(2) from None
    except KeyboardInterrupt:
        print("stopped by SIGINT; the same command goes on from the last saved state", file=sys.stderr)
        raise SystemExit(128 + signal.SIGINT) from None


def run_and_leave(main: Callable[[], None]) -> None:
    """`run_stage` for a process of its own, which then ends without taking apart what it has imported: after torch and
    diffusers that takes longer than a second.

    As at every end, what atexit holds is called, and what was printed or written to files that are still open is
    flushed. Where other threads are still at work, the output cannot be written, or another program called the module
    (a profiler, a notebook, `imagerefl`), Python ends or goes on in its own way.
    """
    run_stage(main)
    if any(not thread.daemon for thread in threading.enumerate() if thread is not threading.main_thread()):
        return
    if not _runs_alone(sys._getframe(1)):
        return
    atexit._run_exitfuncs()
    try:
        _flush_files()
        sys.stdout.flush()
        sys.stderr.flush()
    except (AttributeError, OSError, ValueError):  # None where the process was started without one; closed
        return
    os._exit(0)


def _runs_alone(module: FrameType) -> bool:
    """Whether nothing goes on when this frame has returned; `python -m` runs a module by runpy."""
    frame = module.f_back
    while frame is not None and frame.f_globals.get("__name__") == "runpy":
        frame = frame.f_back
    return frame is None


def _flush_files() -> None:
    """Write what files that nobody has closed hold back, as taking them apart would: a log that a plug-in keeps open,
    say. Raises OSError or ValueError where one cannot be written.
    """
    kinds = {io.TextIOWrapper, io.BufferedWriter, io.BufferedRandom}
    for file in [item for item in gc.get_objects() if type(item) in kinds]:
        if not file.closed:
            file.flush()


def collect_seldom() -> None:
    """Let Python search the oldest generation of objects for unused cycles every 200 collections of the one before it,
    about every 1.4 million objects; by default it does so every 10 collections.

    Importing torch, transformers and diffusers makes a million objects that stay, and the searches among them cost a
    job about a second. Younger objects are searched as ever.
    """
    young, middle, _ = gc.get_threshold()
    gc.set_threshold(young, middle, 200)


def lacks_memory(error: BaseException) -> bool:
    """Whether an error says that there is not enough memory, of the machine or of the GPU."""
    named = type(error).__name__ == "OutOfMemoryError"  # torch's, a RuntimeError as that of its allocator on the CPU
    return isinstance(error, MemoryError) or named or "DefaultCPUAllocator" in str(error)


def memory_wanted(error: BaseException) -> str:
    """What such an error says of it, in one line, and what needs less."""
    said = next(iter(str(error).splitlines()), "") or type(error).__name__
    return f"{said.rpartition('DefaultCPUAllocator: ')[2]}; a smaller batch_size or fewer candidates need less"


@contextmanager
def whole_file(path: str | Path) -> Iterator[Path]:
    """A path to write to, in a folder beside `path`; what is there takes the name `path` only when the block ends
    without an exception.

    Raises DiskError, an InputError, where the disk is full or refuses to be written.
    """
    path = Path(path)
    with beside(path) as folder:
        yield folder / path.name
        (folder / path.name).replace(path)


@contextmanager
def whole_files(path: Path) -> Iterator[Path]:
    """A folder to write to; what is there is moved into the folder `path`, each file whole, when the block ends without
    an exception. Other files of `path` stay.

    Raises DiskError as `whole_file` does.
    """
    with beside(path) as folder:
        yield folder
        for made in sorted(file for file in folder.rglob("*") if file.is_file()):
            place = path / made.relative_to(folder)
            place.parent.mkdir(parents=True, exist_ok=True)
            made.replace(place)


@contextmanager
def beside(path: Path) -> Iterator[Path]:
    """A folder of this process beside `path`, gone when the block ends. Raises DiskError as `whole_file` does.

    A folder, since what writes into it may leave files of its own when it is killed: safetensors begins a `.tmp...`
    beside its target.
    """
    folder = path.with_name(f".{path.name}.{platform.node()}.{os.getpid()}.tmp")
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        _sweep(path)
        folder.mkdir(exist_ok=True)
        yield folder
    except Exception as error:
        if problem := _refusal(error, path):
            raise DiskError(f"{path}: cannot be written: {problem}") from None
        raise
    finally:
        shutil.rmtree(folder, ignore_errors=True)


def _sweep(path: Path) -> None:
    """Take away what processes of this machine left beside `path` when they were killed."""
    for left in path.parent.glob(f".{glob.escape(path.name)}.{glob.escape(platform.node())}.*.tmp"):
        number = left.name.split(".")[-2]
        if number.isdigit() and int(number) != os.getpid() and not Path("/proc", number).exists():
            shutil.rmtree(left, ignore_errors=True)


REFUSED = (
    errno.ENOSPC,
    errno.EDQUOT,
    errno.EROFS,
    errno.EACCES,
    errno.EPERM,
    errno.ENOTDIR,
    errno.EISDIR,
    errno.EEXIST,
)
SMALL = 1 << 20  # a disk with less left, in bytes, is full


def _refusal(error: Exception, path: Path) -> str:
    """Why the disk would not take `path`; empty for any other error."""
    if isinstance(error, InputError):
        return ""
    if isinstance(error, OSError) and error.errno in REFUSED:
        named = Path(os.fsdecode(error.filename)) if error.filename else path
        # and not an input that cannot be read
        ours = named in path.parents or path.parent in (named.parent, named.parent.parent)
        return os.strerror(error.errno) if ours else ""
    # safetensors and torch raise errors of their own
    if "No space left" in str(error) or (path.parent.exists() and shutil.disk_usage(path.parent).free < SMALL):
        return os.strerror(errno.ENOSPC)
    return ""


def require_apart(inputs: Iterable[str | Path], outputs: Iterable[str | Path]) -> None:
    """Raise InputError where a job would write over a file that it reads, or write two things to one file."""
    read, written = {real(path) for path in inputs}, set[Path]()
    for path in outputs:
        place = real(path)
        if place in read:
            raise InputError(f"{path}: this job reads it and would write over it; name another place to write to")
        if place in written:
            raise InputError(f"{path}: two outputs of this job have this name; give each its own")
        written.add(place)


def threads() -> int:
    """CPU threads this job may use: what the runner granted, else every core the process may run on."""
    for name in ("OMP_NUM_THREADS", "SLURM_CPUS_PER_TASK"):
        value = os.environ.get(name, "")
        if value.isdigit() and int(value) > 0:
            return int(value)
    return len(os.sched_getaffinity(0))


def device() -> torch.device:
    """The device of this job: CUDA when there is one, else the CPU with torch limited to `threads()`."""
    import torch

    torch.set_num_threads(threads())
    return torch.device("cuda" if torch.cuda.is_available() else "cpu")


def sha256(path: str | Path) -> str:
    """SHA-256 of a file's bytes, in hexadecimal."""
    with open(path, "rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def seed_from(*parts: object) -> int:
    """A 63-bit seed that depends on the parts alone: the same on every machine, rank and batch size."""
    digest = hashlib.blake2b("\x1f".join(map(str, parts)).encode(), digest_size=8).digest()
    return int.from_bytes(digest, "little") >> 1


def progress(items: Iterable[T], total: int, name: str, every: float = 5.0) -> Iterator[T]:
    """Pass `items` through and print `name 12/100, 0.5 s each, 44 s left` on stderr every `every` seconds."""
    start = last = time.monotonic()
    for done, item in enumerate(items, 1):
        yield item
        now = time.monotonic()
        if now - last >= every or (done == total and last > start):
            each = (now - start) / done
            print(f"{name} {done}/{total}, {each:.2g} s each, {each * (total - done):.0f} s left", file=sys.stderr)
            last = now
