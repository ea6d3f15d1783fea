"""A process that has imported Snakemake and DVC and forks a child for each command: importing them is most of the work
of a short one.

Nothing of the project is imported before the fork, since a command takes it from the folder that it runs in. Children
have the hash seed of their parent: where the order of sets could matter, run the command itself.

Read by line on stdin: `{"argv": ["snakemake", ...], "cwd": ..., "env": {...}, "log": ...}`; written by line on stdout:
the exit status (-9 for kill -9). What a command says goes to `log`.
"""

from __future__ import annotations

import atexit
import gc
import json
import os
import subprocess
import sys
from collections.abc import Mapping, Sequence
from contextlib import suppress
from functools import cache
from importlib import import_module
from pathlib import Path
from runpy import run_module
from typing import Any

BIN = Path(sys.executable).parent
MAIN = {"snakemake": "snakemake.cli", "dvc": "dvc.cli"}
"""The module whose `main` each program runs."""
IMPORTED = (
    *MAIN.values(), "dvc._debug", "dvc.analytics", "dvc.cachemgr", "dvc.cli.parser", "dvc.commands.checkout",
    "dvc.commands.commit", "dvc.commands.repro", "dvc.data_cloud", "dvc.dirs", "dvc.lock", "dvc.render.convert",
    "dvc.repo", "dvc.repo.artifacts", "dvc.repo.commit", "dvc.repo.datasets", "dvc.repo.graph", "dvc.repo.index",
    "dvc.repo.metrics", "dvc.repo.open_repo", "dvc.repo.params", "dvc.repo.plots", "dvc.repo.reproduce",
    "dvc.repo.stage", "dvc.repo.status", "dvc.repo.trie", "dvc.rwlock", "dvc.scm", "dvc.stage.cache",
    "dvc.stage.serialize", "dvc.utils.serialize", "dvc.utils.strictyaml", "dvc_data.hashfile.db.local",
    "dvc_data.hashfile.status", "dvc_data.index", "fsspec.implementations.local", "fsspec.implementations.memory",
    "graphlib", "jinja2", "networkx", "numpy", "pyarrow.parquet", "pydantic", "ruamel.yaml", "smart_open",
    "snakemake.api", "snakemake.executors.local", "snakemake.profiles", "snakemake.report.html_reporter",
    "snakemake_executor_plugin_slurm", "yaml", "yte",
)  # fmt: skip
"""What is imported before any command; what else it needs, a command imports itself."""


def run(argv: Sequence[str], cwd: Path, env: Mapping[str, str], log: Path) -> int:
    """Run a `known` command to its end; returns its exit status."""
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


def warm() -> None:
    """Import what commands need of Snakemake and DVC, and find Snakemake's plug-ins, for which each registry looks
    through all that is installed. Garbage is not looked for among what was imported.
    """
    gc.disable()
    for module in IMPORTED:
        import_module(module)
    import_module(MAIN["snakemake"]).get_argument_parser()
    gc.freeze()
    gc.enable()


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
    if program == "python":
        _, module, *words = words
        sys.path[0] = order["cwd"]
        sys.argv = ["-m", *words]
        run_module(module, run_name="__main__", alter_sys=True)
        return None
    sys.argv = [str(BIN / program), *words]
    return import_module(MAIN[program]).main()


def known(argv: Sequence[str]) -> bool:
    """Whether a command can be run so: one of the programs in `MAIN`, or `python -m` with a module."""
    return argv[0] in MAIN or tuple(argv[:2]) == ("python", "-m")


def _leave(status: Sequence[int]) -> None:
    """End with the status of a command, where there was one: taking apart what was imported is half of the work of a
    short one.
    """
    if status:
        sys.stdout.flush()
        sys.stderr.flush()
        os._exit(status[0])


def _main() -> None:
    status: list[int] = []
    atexit.register(_leave, status)  # the first to be registered is the last to be called
    warm()
    if (order := _serve()) is None:
        return
    try:
        code = _command(order)
    except SystemExit as ended:
        code = ended.code
    except BaseException:
        status.append(1)
        raise
    status.append(code if isinstance(code, int) else int(code is not None))
    sys.exit(code)


if __name__ == "__main__":
    sys.path[0] = str(BIN)  # as for the programs themselves
    _main()
