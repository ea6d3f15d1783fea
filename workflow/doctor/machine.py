"""What this machine has: processors, GPU, torch, Slurm, disk, MLflow's store, DVC's remote."""

from __future__ import annotations

import os
import platform
import re
import shutil
import subprocess
import time
from collections.abc import Iterator
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path

from workflow.doctor.finding import Finding

LITTLE_DISK = 5 * 2**30
"""Bytes; below, the default study with DVC's cache may not fit."""
PATIENCE = 30.0
"""Seconds that a program of Slurm, or a tracking server, may take to answer."""


def look() -> Iterator[Finding]:
    """Everything about the machine, cheap things first."""
    yield _processors()
    yield _torch()
    yield _slurm()
    yield _disk(Path())
    yield _tracking()
    yield from _dvc()


def _processors() -> Finding:
    usable, every = len(os.sched_getaffinity(0)), os.cpu_count()
    memory = os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES") / 2**30
    cores = f"{usable} cores" if usable == every else f"{usable} of {every} cores"
    return Finding("ok", "machine", f"{cores}, {memory:.0f} GB memory, Python {platform.python_version()}")


def gpus() -> list[str]:
    """Name and memory of every GPU that torch can use; importing torch takes seconds."""
    try:
        import torch
    except ImportError:
        return []
    if not torch.cuda.is_available():  # devices may count without a driver that torch can use
        return []
    found = [torch.cuda.get_device_properties(number) for number in range(torch.cuda.device_count())]
    return [f"{gpu.name} ({gpu.total_memory / 2**30:.0f} GB)" for gpu in found]


def _torch() -> Finding:
    """The build of torch and the GPUs that it can use; importing it takes seconds."""
    try:
        import torch
    except ImportError as error:
        return Finding("missing", "torch", f"cannot be imported: {error} (make study installs it)")
    build = f"torch {torch.__version__}"
    if found := gpus():
        return Finding("ok", "GPU", f"{', '.join(found)}; {build}, CUDA {torch.version.cuda}")
    if shutil.which("nvidia-smi"):
        reason = (
            "has no CUDA"
            if torch.version.cuda is None
            else f"is for CUDA {torch.version.cuda}, which the driver refuses"
        )
        return Finding("note", "GPU", f"there is one (nvidia-smi), but {build} {reason}")
    return Finding("note", "GPU", f"none; {build} on the CPU, enough for the shapes world")


def _slurm() -> Finding:
    """The version and partitions of a Slurm that answers, and whether Snakemake can submit to it."""
    if shutil.which("sinfo") is None:
        return Finding("note", "Slurm", "none here; --profile slurm works where sbatch does")
    try:
        name = _output("sinfo", "--version")
        partitions = sorted(set(_output("sinfo", "--noheader", "--format=%P %a %D nodes %G").splitlines()))
    except (OSError, subprocess.SubprocessError) as error:
        said = (getattr(error, "stderr", None) or str(error)).strip().splitlines()
        return Finding("note", "Slurm", f"installed, but does not answer: {said[-1] if said else error}")
    try:
        plugin = version("snakemake-executor-plugin-slurm")
    except PackageNotFoundError:
        return Finding("note", "Slurm", f"{name}, but the extra `slurm` is missing: pip install -e '.[slurm]'")
    return Finding("ok", "Slurm", f"{name}, executor {plugin}; partitions {'; '.join(partitions)}")


def _disk(folder: Path) -> Finding:
    usage = shutil.disk_usage(folder)
    free = f"{usage.free / 2**30:.0f} of {usage.total / 2**30:.0f} GB free for out/ and .dvc/cache"
    if not os.access(folder, os.W_OK):
        return Finding("missing", "disk", f"{folder.resolve()} is read-only")
    return Finding("note" if usage.free < LITTLE_DISK else "ok", "disk", free)


def _tracking() -> Finding:
    """Whether MLflow's store answers; it is opened for reading only where it exists."""
    from stages.lineage.store import Store

    if os.environ.get("LINEAGE") == "off":
        return Finding("note", "MLflow", "LINEAGE=off: jobs leave records only")
    uri = Store.configured(Path("out/lineage")).uri
    shown = _without_password(uri)
    if uri.startswith("sqlite:///"):
        file = Path(uri.removeprefix("sqlite:///"))
        if file.exists():
            return Finding("ok", "MLflow", f"{file}, {file.stat().st_size / 2**20:.1f} MB")
        place = next(parent for parent in file.parents if parent.exists())
        if not os.access(place, os.W_OK):
            return Finding("note", "MLflow", f"{file} cannot be made; jobs run without it")
        return Finding("ok", "MLflow", f"{file}, made by the first job")
    began = time.monotonic()
    try:
        _search(uri)
    except Exception as error:  # whatever a store, a proxy or a driver raises
        reason = _without_password(str(error)).strip().splitlines() or [type(error).__name__]
        return Finding("note", "MLflow", f"{shown} does not answer: {reason[0][:120]}; jobs run without it")
    return Finding("ok", "MLflow", f"{shown} answers in {time.monotonic() - began:.1f} s")


def _without_password(text: str) -> str:
    """Addresses in a text without user and password."""
    return re.sub(r"(?<=://)[^/@\s]*@", "", text)


def _search(uri: str) -> None:
    from stages.lineage.store import QUICK

    for name, value in QUICK.items():
        os.environ.setdefault(name, value)
    from mlflow import MlflowClient

    MlflowClient(uri).search_experiments(max_results=1)


def _dvc() -> Iterator[Finding]:
    """DVC's remote and cache; both runners work without."""
    if not Path(".dvc").is_dir():
        yield Finding("note", "DVC", "no .dvc here: Snakemake works, dvc repro does not")
        return
    try:
        from dvc.config import Config

        config = Config(".dvc")
    except Exception as error:  # DVC raises errors of its own and of its parsers
        yield Finding("note", "DVC", f"its configuration cannot be read: {error}")
        return
    name = config["core"].get("remote")
    if not name:
        yield Finding("note", "DVC remote", "none; results stay on this disk (dvc remote add --default NAME URL)")
        return
    url = str(config["remote"].get(name, {}).get("url", ""))
    local = Path(url)
    if "://" not in url and not local.is_dir():
        yield Finding("note", "DVC remote", f"{name}: {url} is not there; dvc push and pull fail")
    else:
        yield Finding("ok", "DVC remote", f"{name}: {url}")


def _output(*command: str) -> str:
    done = subprocess.run(command, check=True, capture_output=True, text=True, timeout=PATIENCE)
    return done.stdout.strip()
