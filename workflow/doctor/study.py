"""What a study needs and lacks: models, data, jobs still to run, and what they cost the last time."""

from __future__ import annotations

import csv
import os
import re
import subprocess
import sys
from collections import Counter
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from stages import walk
from stages.curate.settings import CurateSettings
from stages.errors import InputError
from stages.estimate.said import duration
from stages.models.compiled import compiler
from stages.study import load
from workflow.doctor import captioned, pairs
from workflow.doctor.finding import Finding
from workflow.doctor.machine import gpus
from workflow.layout import Layout

LARGE_SIDE = 128
"""Pixels; models of such images are not trained on a CPU."""


@dataclass(frozen=True)
class Cost:
    """Of the jobs of one rule so far: how many were timed, their mean seconds, the largest memory in MB."""

    jobs: int
    seconds: float
    memory_mb: float


def look(file: Path) -> Iterator[Finding]:
    """Everything about the study at `file`; only its own mistake is found when it does not read."""
    lacking = []
    try:
        layout = Layout.read(file)
        for finding in _files(layout.study):
            yield finding
            lacking += [finding] if finding.mark == "missing" else []
        load(file)
    except InputError as error:
        if not any(finding.found.split(": ")[0] in str(error) for finding in lacking):  # else it was said already
            yield Finding("missing", "study", str(error))
        return
    yield from _jobs(file, layout)


def _files(study: Mapping[str, Any]) -> Iterator[Finding]:
    """Models and data from outside, and whether images are large for this machine."""
    prepare = study.get("prepare")
    models = prepare.get("import") if isinstance(prepare, Mapping) else None
    for name, model in models.items() if isinstance(models, Mapping) else ():
        if isinstance(model, Mapping):
            yield _model(str(name), model)
    yield from _data(study)
    yield from pairs.look(study)
    yield from captioned.look(study)
    yield from _size_of_images(study)
    yield from _compiler(study)


def _compiler(study: Mapping[str, Any]) -> Iterator[Finding]:
    """What `compile: true` wants, where the study says so."""
    sections = [study.get("finetune"), study.get("sample")]
    methods = study.get("methods")
    for method in methods.values() if isinstance(methods, Mapping) else ():
        sections.append(method.get("train") if isinstance(method, Mapping) else None)
    if not any(isinstance(section, Mapping) and section.get("compile") for section in sections):
        return
    name, there = compiler()
    if there:
        yield Finding("ok", "compiler", f"{name}, for compile: true")
    else:  # the machines that run the jobs may have it
        yield Finding("note", "compiler", f"compile: true wants {name}, which is not here")


def _size_of_images(study: Mapping[str, Any]) -> Iterator[Finding]:
    """A word on studies of real images where there is no GPU; the shapes world, of 32 pixels, needs none."""
    curate = study.get("curate")
    side = curate.get("side") if isinstance(curate, Mapping) else None
    if isinstance(side, int) and side >= LARGE_SIDE and not gpus():
        yield Finding("note", "GPU", f"images of {side} pixels want one, and there is none: no study to run here")


def _model(name: str, model: Mapping[str, Any]) -> Finding:
    """Whether an imported model is on this machine, and how large it is."""
    what = f"model {name}"
    place = model.get("folder") or model.get("file")
    if isinstance(place, str):  # the check of the whole study says what else it may not be
        if not Path(place).exists():
            return Finding("missing", what, f"{place}: not there")
        return Finding("ok", what, f"{place}, {_size(Path(place)) / 2**20:.1f} MB")
    if model.get("hub"):
        return _hub(what, str(model["hub"]), str(model.get("revision")))
    if unset := [name for name in _variables(model.get("options")) if not os.environ.get(name)]:
        return Finding("missing", what, f"the environment variable {unset[0]} is not set")
    return Finding("ok", what, f"{model.get('kind')}, needs no files")


def _variables(options: object) -> list[str]:
    """Environment variables by which a model's server is reached (kind `http`)."""
    given = options if isinstance(options, Mapping) else {}
    url, token = str(given.get("url", "")), given.get("token")
    return [*([url[1:]] if url.startswith("$") else []), *([token] if isinstance(token, str) else [])]


def _hub(what: str, repository: str, revision: str) -> Finding:
    """Whether a model of the hub is in the local cache; the hub itself is not asked."""
    from huggingface_hub import snapshot_download
    from huggingface_hub.errors import LocalEntryNotFoundError

    named = f"{repository} at {revision[:12]}"
    try:
        folder = snapshot_download(repository, revision=revision, local_files_only=True)
    except (LocalEntryNotFoundError, OSError, ValueError):
        if os.environ.get("HF_HUB_OFFLINE", "") not in ("", "0"):
            return Finding("missing", what, f"{named}: not in the cache, and HF_HUB_OFFLINE forbids to fetch it")
        return Finding("note", what, f"{named}: not in the cache, fetched when the study runs")
    return Finding("ok", what, f"{named}: in the cache, {_size(Path(folder)) / 2**30:.1f} GB")


def _data(study: Mapping[str, Any]) -> Iterator[Finding]:
    """The files from outside that `curate` takes."""
    import glob

    try:
        paths = CurateSettings.model_validate(study.get("curate")).paths()
    except ValueError:
        return  # the check of the whole study says what is wrong
    if not paths:
        yield Finding("ok", "data", "made by the study itself")
    for path in sorted(map(str, set(paths))):
        found = [path] if Path(path).exists() else glob.glob(path, recursive=True)
        if not found:
            yield Finding("missing", "data", f"{path}: no such file or folder")
        else:
            size = sum(_size(Path(each)) for each in found)
            yield Finding("ok", "data", f"{path}, {size / 2**30:.2f} GB")


def _jobs(file: Path, layout: Layout) -> Iterator[Finding]:
    """Jobs that `snakemake` would run now, and what such jobs cost before."""
    planned = _planned(file)
    if isinstance(planned, str):
        yield Finding("missing", "plan", planned)
        return
    total = sum(planned.values())
    if not total:
        yield Finding("ok", "jobs", "none to run: the results are up to date")
        return
    yield Finding("note", "jobs", f"{total} to run: {', '.join(f'{rule} {n}' for rule, n in sorted(planned.items()))}")
    costs = measured(Path(layout.logs("")))
    known = {rule: count for rule, count in planned.items() if rule in costs}
    if not known:
        yield Finding("note", "cost", f"unknown: this study has not run here yet (make estimate STUDY={file})")
        return
    seconds = sum(costs[rule].seconds * count for rule, count in known.items())
    memory = max(costs[rule].memory_mb for rule in known)
    unknown = sorted(planned.keys() - known.keys())
    more = f", without {', '.join(unknown)}" if unknown else ""
    yield Finding(
        "note", "cost", f"about {duration(seconds)} one after another, {memory:.0f} MB in the largest job{more}"
        " (from earlier runs here)",
    )  # fmt: skip


def _planned(file: Path) -> Counter[str] | str:
    """Jobs to run by rule, from a dry run; its last line when that fails."""
    program = [sys.executable, "-m", "snakemake", "--cores", "1", "--dry-run", "--quiet", "rules"]
    chosen = [] if str(file) == "params.yaml" else ["--config", f"study={file}"]
    done = subprocess.run([*program, *chosen], capture_output=True, text=True)
    said = done.stdout + done.stderr
    if done.returncode:
        lines = [line for line in said.splitlines() if line.strip()]
        return lines[-1] if lines else f"snakemake ended with exit code {done.returncode}"
    counted = Counter({rule: int(count) for rule, count in re.findall(r"^(\w+) +(\d+)$", said, re.M)})
    for other in ("total", "all"):
        counted.pop(other, None)
    return counted


def measured(logs: Path) -> dict[str, Cost]:
    """What the jobs of each rule cost, as Snakemake measured them: `<rule>/<job>.tsv` or `<rule>.tsv` below `logs`."""
    found: dict[str, list[tuple[float, float]]] = {}
    for path in sorted(logs.rglob("*.tsv")):
        rule = path.parent.name if path.parent != logs else path.stem
        with path.open(newline="") as file:
            for row in csv.DictReader(file, delimiter="\t"):
                memory = row["max_rss"]
                found.setdefault(rule, []).append(
                    (float(row["s"]), 0.0 if memory in ("-", "NA", "") else float(memory))
                )
    return {
        rule: Cost(len(rows), sum(seconds for seconds, _ in rows) / len(rows), max(memory for _, memory in rows))
        for rule, rows in found.items()
    }


def _size(path: Path) -> int:
    files = [path] if path.is_file() else walk.files(path)
    return sum(file.stat().st_size for file in files)
