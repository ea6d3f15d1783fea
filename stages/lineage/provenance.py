"""Facts about a job that nobody has to state: digests, code revision, versions, memory."""

from __future__ import annotations

import hashlib
import platform
import resource
import subprocess
import sys
from collections.abc import Iterable
from importlib import metadata
from pathlib import Path

from stages import walk
from stages.lineage.record import Code, File, Record
from stages.runtime import sha256

STAGES = Path(__file__).resolve().parents[1]
PACKAGES = ("torch", "diffusers", "transformers", "open_clip_torch", "numpy", "pyarrow")


class Digests:
    """Digests of files, read from the records of the jobs that wrote them while size and time still agree."""

    def __init__(self, folder: Path, records: Iterable[Record] = ()) -> None:
        self._folder = folder
        self._known = {str(Path(file.path).absolute()): (file, r.title) for r in records for file in r.outputs}

    def of(self, path: str | Path) -> File:
        """The file at `path` with its digest; without one when it cannot be read."""
        path = Path(path)
        file = File(path=str(path), name=self._name(path))
        try:
            stat = path.stat()
            file.size, file.modified = stat.st_size, stat.st_mtime_ns
            known, producer = self._known.get(str(path.absolute()), (None, None))
            if known and known.sha256 and (known.size, known.modified) == (file.size, file.modified):
                file.sha256, file.producer = known.sha256, producer
            elif path.is_dir():
                file.sha256, file.size = folder_digest(path)
            else:
                file.sha256 = sha256(path)
                file.producer = producer if known and known.sha256 == file.sha256 else None
        except OSError:
            file.sha256 = None
        return file

    def _name(self, path: Path) -> str:
        absolute = path.absolute()
        return absolute.relative_to(self._folder).as_posix() if absolute.is_relative_to(self._folder) else str(path)


def folder_digest(folder: Path) -> tuple[str, int]:
    """SHA-256 over the names and digests of the files in a folder (hidden ones left out), and their size in bytes."""
    digest, size = hashlib.sha256(), 0
    for path in walk.files(folder):
        digest.update(f"{path.relative_to(folder).as_posix()}\0{sha256(path)}\n".encode())
        size += path.stat().st_size
    return digest.hexdigest(), size


def code() -> Code:
    """The code revision of the package that is running."""
    digest = hashlib.sha256()
    for path in sorted(STAGES.rglob("*.py")):
        try:
            digest.update(path.relative_to(STAGES).as_posix().encode() + b"\0" + path.read_bytes())
        except OSError:  # an editor may be moving it this very moment
            continue
    commit = _git("rev-parse", "HEAD")
    # Only stages/ counts as code: DVC rewrites dvc.lock while it works, and the study file has a digest of its own.
    dirty = bool(commit) and _git("status", "--porcelain", "--", ".") != ""
    return Code(git=commit, dirty=dirty, digest=digest.hexdigest())


def versions() -> dict[str, str]:
    """Python and the installed packages that decide about numbers; read from their metadata, none is imported."""
    found = {"python": platform.python_version()}
    for package in PACKAGES:
        try:
            found[package] = metadata.version(package)
        except metadata.PackageNotFoundError:
            continue
    return found


def peak_memory() -> int:
    """Highest resident set of this process so far, bytes."""
    try:
        # The kernel's own mark for this program; getrusage's also counts the process it was started from.
        for line in Path("/proc/self/status").read_text(encoding="utf-8").splitlines():
            if line.startswith("VmHWM:"):
                return int(line.split()[1]) * 1024
    except OSError:
        pass
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024


def peak_gpu_memory() -> int:
    """Highest memory that torch held on the GPU, bytes; 0 without a GPU or before torch is imported."""
    torch = sys.modules.get("torch")
    if torch is None or not torch.cuda.is_available():
        return 0
    return int(torch.cuda.max_memory_reserved())


def _git(*arguments: str) -> str | None:
    command = ["git", "--no-optional-locks", *arguments]
    try:
        done = subprocess.run(command, cwd=STAGES, capture_output=True, text=True, timeout=10, check=True)
    except (OSError, subprocess.SubprocessError):
        return None
    return done.stdout.strip()
