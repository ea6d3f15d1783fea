"""Tests in a copy of the tree, in a process that has imported the large libraries before it was forked.

Importing them takes longer than most of the tests. The project's own modules are imported anew in every process.
"""

from __future__ import annotations

import importlib
import multiprocessing
import os
import sys
import tempfile
from collections.abc import Iterable
from pathlib import Path

OWN = ("stages", "tests", "workflow", "benchmarks")
LIBRARIES = [
    "torch", "numpy", "pandas", "pyarrow.parquet", "scipy.stats", "safetensors.torch", "PIL.Image", "yaml", "pydantic",
    "diffusers.models.unets.unet_2d_condition", "diffusers.models.autoencoders.autoencoder_kl", "transformers",
    "open_clip", "matplotlib.figure", "mlflow",
]  # fmt: skip
PATIENCE = 900.0
"""Seconds after which tests that still run count as having noticed: a fault may make a loop endless."""


def noticed(root: Path, tests: Iterable[str]) -> bool:
    """Whether the tests fail in the copy at `root`; raises RuntimeError where they could not be run at all."""
    context = multiprocessing.get_context("forkserver")
    context.set_forkserver_preload(LIBRARIES)
    with tempfile.NamedTemporaryFile(mode="w+", errors="replace") as said:
        process = context.Process(target=_pytest, args=(str(root), list(tests), said.name))
        process.start()
        process.join(PATIENCE)
        if process.is_alive():
            process.kill()
            process.join()
            return True
        if process.exitcode not in (0, 1):
            end = said.read()[-500:]
            raise RuntimeError(f"{' '.join(tests)}: pytest ended with {process.exitcode}: {end}")
        return process.exitcode == 1


def _pytest(root: str, tests: list[str], said: str) -> None:
    """What the process does; never returns."""
    file = os.open(said, os.O_WRONLY)
    for descriptor in (1, 2):
        os.dup2(file, descriptor)
    os.chdir(root)
    os.environ |= {"PYTHONPATH": root, "OMP_NUM_THREADS": "1"}
    sys.dont_write_bytecode = True
    elsewhere = Path(__file__).parents[2]
    sys.path[:] = [root, *(path for path in sys.path if Path(path).resolve() != elsewhere)]
    for name in [name for name in sys.modules if name.partition(".")[0] in OWN]:
        del sys.modules[name]
    importlib.invalidate_caches()
    import pytest

    sys.exit(int(pytest.main(["-q", "-x", "-p", "no:cacheprovider", *tests])))
