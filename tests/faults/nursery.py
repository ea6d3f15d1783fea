"""A process that has imported everything and forks a child for each command, so that a stage starts at once.

Read by line on stdin: `{"argv": ["stages.finetune", "--params", ...], "cwd": ..., "env": {...}, "log": ...}`; written
by line on stdout: the child's number, then its exit status when it ends. Started by `Nursery`.
"""

from __future__ import annotations

import gc
import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]
STAGES = ("curate", "prepare", "score", "encode", "finetune", "sample", "measure", "report")


@dataclass
class Ended:
    """How a command ended: exit code (-9 for kill -9), whether a signal was sent while it ran, seconds, its output."""

    code: int
    hit: bool
    seconds: float
    text: str


@dataclass
class Nursery:
    """Runs command lines of stages in children of one warm process. `every` is SAVE_EVERY of the children."""

    logs: Path
    every: float = 0.0
    _process: subprocess.Popen[str] = field(init=False)
    _count: int = 0

    def __enter__(self) -> Nursery:
        environment = dict(os.environ, OMP_NUM_THREADS="1", LINEAGE="off", SAVE_EVERY=str(self.every))
        self._process = subprocess.Popen(
            [sys.executable, __file__], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True, cwd=ROOT,
            env=environment,
        )  # fmt: skip
        assert self._line() == "ready"
        return self

    def __exit__(self, *_: object) -> None:
        assert self._process.stdin
        self._process.stdin.close()
        self._process.wait(timeout=60)

    def run(
        self, argv: Sequence[str], cwd: Path, after: float | None = None, number: int = signal.SIGKILL, **env: str
    ) -> Ended:
        """Run one command to its end; `after` so many seconds it gets the signal `number`."""
        assert self._process.stdin
        self._count += 1
        log = self.logs / f"{self._count}.log"
        log.touch()  # a child may be killed before it opens it
        order = {"argv": list(argv), "cwd": str(cwd), "env": env, "log": str(log)}
        print(json.dumps(order), file=self._process.stdin, flush=True)
        child, began = int(self._line()), time.monotonic()
        if after is not None:
            time.sleep(after)
            os.kill(child, number)  # the child is not waited for before the next line is read, so its number is its own
        print("wait", file=self._process.stdin, flush=True)
        code = int(self._line())
        text = log.read_text(errors="replace")
        return Ended(code, after is not None and code in (-number, 128 + number), time.monotonic() - began, text)

    def _line(self) -> str:
        assert self._process.stdout
        line = self._process.stdout.readline().strip()
        assert line, f"the nursery ended with {self._process.wait()}"
        return line


def warm() -> None:
    """Import what the stages import while they run. Garbage is not looked for there: a child would copy it all."""
    gc.disable()
    from importlib import import_module

    import torch

    torch.set_num_threads(1)
    for stage in STAGES:
        import_module(f"stages.{stage}.__main__")
    for module in (
        "diffusers.pipelines.stable_diffusion.pipeline_stable_diffusion", "open_clip", "scipy.stats", "transformers",
        "stages.encode.encode", "stages.finetune.run", "stages.measure.samples", "stages.prepare.base",
        "stages.prepare.clip", "stages.prepare.vae", "stages.rewards.open_clip", "stages.sample.run",
        "stages.score.scoring", "torchvision.transforms.v2",
    ):  # fmt: skip
        import_module(module)
    gc.freeze()
    gc.enable()


def child(order: dict[str, object]) -> int:
    """One command in this process."""
    from importlib import import_module

    from stages.runtime import run_stage

    log = os.open(str(order["log"]), os.O_WRONLY | os.O_CREAT | os.O_TRUNC)
    for stream in (1, 2):
        os.dup2(log, stream)
    os.chdir(str(order["cwd"]))
    os.environ.update(order["env"])  # type: ignore[arg-type]
    stage, *sys.argv[1:] = order["argv"]  # type: ignore[misc]
    try:
        run_stage(import_module(f"{stage}.__main__").main)
        return 0
    except SystemExit as ended:
        return ended.code if isinstance(ended.code, int) else 1
    except BaseException:
        import traceback

        traceback.print_exc()
        return 1
    finally:
        sys.stdout.flush()
        sys.stderr.flush()


def serve() -> None:
    """Take orders until stdin ends."""
    warm()
    print("ready", flush=True)
    for line in sys.stdin:
        number = os.fork()
        if not number:
            sys.stdin.close()
            os._exit(child(json.loads(line)))
        print(number, flush=True)
        sys.stdin.readline()
        print(os.waitstatus_to_exitcode(os.waitpid(number, 0)[1]), flush=True)


if __name__ == "__main__":
    sys.path.insert(0, str(ROOT))
    serve()
