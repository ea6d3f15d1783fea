"""The mirror process: MLflow runs beside the job, never in it.

Importing MLflow costs a second and 200 MB, and a server may hang; neither is the job's business. The job writes its
record and sends one byte when it has; this process reads the record and brings MLflow up to date. The job waits for it
at the end, for a limited time. When the job is killed the pipe closes, and record and run say `killed`.
"""

from __future__ import annotations

import gc
import os
import signal
import subprocess
import sys
from contextlib import redirect_stdout
from pathlib import Path

from stages.lineage.record import KILLED, RUNNING, Record, read_record, write_record

PACKAGES = Path(__file__).resolve().parents[2]
"""Folder that `stages` is imported from."""


class MirrorProcess:
    """The job's side."""

    def __init__(self, record: Record) -> None:
        """Start the process. Raises OSError when there can be none."""
        path = os.pathsep.join(filter(None, (str(PACKAGES), os.environ.get("PYTHONPATH"))))
        self._process = subprocess.Popen(
            [sys.executable, "-m", "stages.lineage", "--watch", str(record.path)],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.DEVNULL,
            bufsize=0,
            text=False,
            env={**os.environ, "PYTHONPATH": path, "OMP_NUM_THREADS": "1", "CUDA_VISIBLE_DEVICES": ""},
        )

    def tell(self) -> str | None:
        """Say that the record has changed. Returns what went wrong when the process has given up."""
        if self._process.poll() is None:
            try:
                assert self._process.stdin is not None
                self._process.stdin.write(b"\n")
                return None
            except OSError:
                pass
        return self.close(1.0)

    def close(self, patience: float) -> str | None:
        """Let the process finish, for at most `patience` seconds. Returns what went wrong, None if nothing did."""
        try:
            said, _ = self._process.communicate(timeout=patience)
        except subprocess.TimeoutExpired:
            self._process.kill()
            said, _ = self._process.communicate()
            said = said or f"MLflow took longer than {patience:.0f} s".encode()
        message = said.decode(errors="replace").strip()
        if not message and self._process.returncode:
            message = f"the mirror process ended with exit code {self._process.returncode}"
        return message or None


def watch(path: Path) -> None:
    """The process's side: mirror the record at `path` whenever a line comes in, until the record or the pipe is closed.

    What goes wrong is printed in one line, and ends the process with exit code 1.
    """
    # The job decides when to end; a Ctrl-C or a scheduler's signal reaches both.
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    signal.signal(signal.SIGTERM, signal.SIG_IGN)
    answer = sys.stdout
    try:
        with open(os.devnull, "w") as nowhere, redirect_stdout(nowhere):  # MLflow likes to print links
            _watch(path)
    except Exception as error:
        print(f"{type(error).__name__}: {' '.join(str(error).split())}"[:200], file=answer, flush=True)
        raise SystemExit(1) from None


def _watch(path: Path) -> None:
    from stages.lineage.mirror import Mirror
    from stages.lineage.store import Store, connect

    record = read_record(path)
    execution = record.execution
    # Importing makes no garbage, and looking for it costs a fifth of the time.
    gc.disable()
    mirror = Mirror(connect(Store.configured(Path(record.folder)), record.study), record)
    gc.freeze()
    gc.enable()
    mirror.update(record)
    while record.status == RUNNING:
        alive = bool(sys.stdin.buffer.readline())
        record = read_record(path)
        if record.execution != execution:
            return  # the job was killed and another one has begun, which has a mirror of its own
        if not alive and record.status == RUNNING:
            record.status = KILLED
            write_record(record)
        mirror.update(record)
