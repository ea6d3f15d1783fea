"""What every job asks of Slurm: `slurm/resources.yaml` with the site's own file laid over it.

`slurm/profile.yaml` runs this file by its path, before Snakemake has read the Snakefile, so it imports nothing of the
project. Of several layers the last one that names a key wins: `all`, `gpu` (for jobs that ask for a GPU) and `rules` of
`slurm/resources.yaml`, partitions and account from the environment, then the same three sections of the site's file.
"""

from __future__ import annotations

import difflib
import os
import sys
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NoReturn

import yaml

FOLDER = Path(__file__).resolve().parents[1] / "slurm"
KEYS = (
    "slurm_partition", "slurm_account", "qos", "constraint", "clusters", "nodes", "slurm_extra",
    "gpu", "gpu_model", "gres", "cpus_per_task", "cpus_per_gpu", "mem_mb", "mem_mb_per_cpu", "runtime",
)  # fmt: skip
"""Resources that the executor turns into options of sbatch; it says nothing about others."""
NAMES = ("slurm_partition", "slurm_account", "qos", "constraint", "clusters", "slurm_extra", "gpu_model", "gres")
"""Resources that are text; text under other keys is an expression to Snakemake, `4000 * attempt` say."""
SECTIONS = ("all", "gpu", "rules", "snakemake")
RUNNER = ("jobs", "retries", "status_command", "status_seconds")

Resources = dict[str, Any]


@dataclass(frozen=True)
class Cluster:
    """Resources of a rule that is not named, of every named rule, and how Snakemake deals with the queue."""

    default: Resources
    rules: dict[str, Resources]
    snakemake: dict[str, Any]


def cluster(folder: Path = FOLDER, environment: Mapping[str, str] = os.environ) -> Cluster:
    """The resources of this site; ends the process with one line where a file is wrong."""
    own = _read(folder / "resources.yaml", None)
    site = _read(_site_file(folder, environment), list(own["rules"]))
    named = _from_environment(environment)
    rules = {}
    for rule in own["rules"]:
        wants_gpu = _merged(own, rule, gpu=False) | _merged(site, rule, gpu=False)
        gpu = bool(wants_gpu.get("gpu") or wants_gpu.get("gres"))
        layers = (_merged(own, rule, gpu), named["all"] | (named["gpu"] if gpu else {}), _merged(site, rule, gpu))
        rules[rule] = {"gpu": 0} | _laid_over(*layers)  # the rule itself may ask for one, which `gpu: null` is to undo
    return Cluster(_laid_over(own["all"], named["all"], site["all"]), rules, own["snakemake"] | site["snakemake"])


def _laid_over(*layers: Resources) -> Resources:
    """The last word on every key, names quoted; null takes a key out."""
    found = {key: value for layer in layers for key, value in layer.items()}
    return {key: repr(str(value)) if key in NAMES else value for key, value in found.items() if value is not None}


def _merged(file: Mapping[str, Resources], rule: str, gpu: bool) -> Resources:
    return file["all"] | (file["gpu"] if gpu else {}) | file["rules"].get(rule, {})


def _from_environment(environment: Mapping[str, str]) -> dict[str, Resources]:
    """Names of a site may come from the environment alone: SLURM_CPU_PARTITION, SLURM_GPU_PARTITION, SBATCH_ACCOUNT."""
    cpu, gpu, account = map(environment.get, ("SLURM_CPU_PARTITION", "SLURM_GPU_PARTITION", "SBATCH_ACCOUNT"))
    everywhere = {"slurm_partition": cpu, "slurm_account": account}
    return {
        "all": {key: value for key, value in everywhere.items() if value},
        "gpu": {"slurm_partition": gpu} if gpu else {},
    }


def _site_file(folder: Path, environment: Mapping[str, str]) -> Path | None:
    named = environment.get("IMAGEREFL_SITE")
    if named:
        return Path(named)
    own = folder / "site.yaml"
    return own if own.exists() else None


def _read(path: Path | None, rules: list[str] | None) -> dict[str, dict[str, Any]]:
    """The four sections of a file, empty where it has none; `rules` are those it may name, None for any."""
    empty: dict[str, dict[str, Any]] = {section: {} for section in SECTIONS}
    if path is None:
        return empty
    try:
        content = yaml.safe_load(path.read_text(encoding="utf-8")) or {}
    except (OSError, UnicodeDecodeError, yaml.YAMLError) as error:
        _refuse(path, f"cannot be read: {' '.join(str(error).split())}")
    _expect(path, "", content, SECTIONS)
    sections = empty | {name: value for name, value in content.items() if value is not None}
    _expect(path, "all", sections["all"], KEYS)
    _expect(path, "gpu", sections["gpu"], KEYS)
    _expect(path, "snakemake", sections["snakemake"], RUNNER)
    _expect(path, "rules", sections["rules"], rules)
    for rule, resources in sections["rules"].items():
        _expect(path, f"rules.{rule}", resources, KEYS)
    return sections


def _expect(path: Path, where: str, values: Any, known: Iterable[str] | None) -> None:
    """A mapping with known keys only: Snakemake passes over unknown rules and resources without a word."""
    if not isinstance(values, dict):
        _refuse(path, f"{where or 'the file'}: expected a mapping, found {values!r}"[:200])
    for key in values if known is not None else ():
        if key not in (names := list(known or ())):
            near = difflib.get_close_matches(str(key), names, n=1, cutoff=0.5)
            hint = f"did you mean {near[0]!r}?" if near else f"known: {', '.join(sorted(names))}"
            _refuse(path, f"{'.'.join(filter(None, [where, str(key)]))}: unknown key; {hint}")


def _refuse(path: Path, message: str) -> NoReturn:
    print(f"error: {path}: {message}", file=sys.stderr)
    raise SystemExit(2)
