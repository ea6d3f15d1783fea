"""A process that has imported Snakemake and DVC and forks a child for each command: importing them is most of the work
of a short one.

Nothing of the project is imported before the fork, since a command takes it from the folder that it runs in. Children
have the hash seed of their parent: where the order of sets could matter, run the command itself.

Read by line on stdin: `{"argv": ["snakemake", ...], "cwd": ..., "env": {...}, "log": ...}`; written by line on stdout:
the exit status (-9 for kill -9). What a command says goes to `log`.
"""

from __future__ import annotations

import atexit
import json
import os
import subprocess
import sys
from collections.abc import Mapping, Sequence
from contextlib import suppress
from functools import cache
from importlib import import_module
from pathlib import Path
from typing import Any

BIN = Path(sys.executable).parent
MAIN = {"snakemake": "snakemake.cli", "dvc": "dvc.cli"}
"""The module whose `main` each program runs."""
IMPORTED = (
    *MAIN.values(), "dvc.commands.repro", "dvc.commands.commit", "dvc.commands.checkout", "dvc.repo", "dvc.repo.commit",
    "dvc.repo.reproduce", "dvc.stage.cache", "dvc_data.index", "jinja2", "networkx", "numpy", "pyarrow.parquet",
    "pydantic", "snakemake.api", "snakemake.executors.local", "snakemake_executor_plugin_slurm", "yaml",
)  # fmt: skip
"""What is imported before any command; what else it needs, a command imports itself."""


def run(argv: Sequence[str], cwd: Path, env: Mapping[str, str], log: Path) -> int:
    """Run a command of one of the programs in `MAIN` to its end; returns its exit status."""
    server = _server()
    assert server.stdin and server.stdout
    order = {"argv": list(argv), "cwd": str(cwd), "env": dict(env), "log": str(log)}
    print(json.dumps(order), file=server.stdin, flush=True)
    line = server.stdout.readline()
    assert line, f"the process that runs commands ended with {server.wait()}"
    return int(line)


@cache
def _server() -> subprocess.Popen[str]:
    made = subprocess.Popen([sys.executable, __file__], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True)
    atexit.register(_end, made)
    return made


def _end(server: subprocess.Popen[str]) -> None:
    assert server.stdin
    with suppress(OSError):
        server.stdin.close()
    server.wait(timeout=60)


def _serve() -> dict[str, Any] | None:
    """Fork a child per order until stdin ends; in a child, its order."""
    for line in sys.stdin:
        child = os.fork()
        if not child:
            return json.loads(line)
        print(os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]), flush=True)
    return None


def _command(order: Mapping[str, Any]) -> int | None:
    """What the program's `main` returns, in this process."""
    nothing = os.open(os.devnull, os.O_RDONLY)
    log = os.open(order["log"], os.O_WRONLY | os.O_CREAT | os.O_TRUNC)
    for stream, file in enumerate((nothing, log, log)):
        os.dup2(file, stream)
    sys.stdin = os.fdopen(0, closefd=False)
    os.chdir(order["cwd"])
    os.environ.clear()
    os.environ.update(order["env"])
    sys.dont_write_bytecode = bool(os.environ.get("PYTHONDONTWRITEBYTECODE"))
    program, *words = order["argv"]
    sys.argv = [str(BIN / program), *words]
    return import_module(MAIN[program]).main()


if __name__ == "__main__":
    sys.path[0] = str(BIN)  # as for the programs themselves
    for module in IMPORTED:
        import_module(module)
    given = _serve()
    sys.exit(None if given is None else _command(given))
