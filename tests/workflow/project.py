"""A copy of the project in which every stage is a stand-in that takes milliseconds, for tests of the orchestration.

A stand-in writes the files that its command line names; their content is a digest of everything the real stage may
depend on: its code, its input files and the keys of the study file that it reads.
"""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
from collections import Counter
from contextlib import suppress
from copy import deepcopy
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Any

import programs
import yaml

from stages import imports
from stages.curate.settings import CurateSettings
from stages.errors import InputError
from workflow import dvc_file
from workflow.layout import Layout

ROOT = Path(__file__).resolve().parents[2]
STAGES = (
    "curate", "prepare", "score", "select", "renoise", "encode", "decided", "checkpoints", "finetune",
    "sample", "measure", "report",
)  # fmt: skip

STAND_IN = '''
"""Stand-in of a stage."""
import hashlib, json, sys
from pathlib import Path
import yaml

WRITTEN = {written!r}
READ = {read!r}
stage = Path(__file__).parent.name
words = sys.argv[1:]
kind = words.pop(0) if not words[0].startswith("--") else ""
given = {{}}
for word in words:
    if word.startswith("--"):
        values = given.setdefault(word[2:], [])
    else:
        values.append(word)
parts = given.pop("parts", [])
flags = {{flag: values[0] for flag, values in given.items()}}
study = yaml.load(Path(flags["params"]).read_text(), getattr(yaml, "CSafeLoader", yaml.SafeLoader))
name = flags.get("run") or flags.get("name") or flags.get("reward") or ""
method = study["runs"].get(name, {{}}).get("method", "")

def value(key):
    found = study
    for part in key.format(name=name, method=method, kind=kind).split("."):
        found = found.get(part) if isinstance(found, dict) else None
    return found

def files(path):
    path = Path(path)
    return sorted(file for file in path.rglob("*") if file.is_file()) if path.is_dir() else [path]

digest = hashlib.sha256(Path(__file__).read_bytes())
digest.update(json.dumps([value(key) for key in READ.get(f"{{stage}} {{kind}}".strip(), ())]).encode())
outputs = [flag for flag in WRITTEN[f"{{stage}} {{kind}}".strip()] if flag in flags]
for flag, path in sorted(flags.items()):
    if flag not in outputs and flag not in (
        "params", "run", "name", "shard", "reward" if stage == "score" else "",
        *(("models", "runs") if stage == "sample" else ()),  # of which it would read what strategies name
    ):
        for file in files(path):
            digest.update(file.read_bytes())
for path in parts:
    digest.update(Path(path).read_bytes())
if (stage, kind) == ("prepare", "import"):
    folder = study["prepare"]["import"][name].get("folder")
    for file in files(folder) if folder else []:
        digest.update(file.read_bytes())
if stage == "checkpoints":
    for file in files(study["runs"][name]["checkpoint"]):
        digest.update(file.read_bytes())
with open("ran.txt", "a") as log:
    print(*filter(None, (stage, kind, name, flags.get("shard"))), file=log)
if Path("fail.txt").exists() and Path("fail.txt").read_text().strip() == f"{{stage}} {{name}}".strip():
    sys.exit("told to fail")
for flag in outputs:
    for file in WRITTEN[f"{{stage}} {{kind}}".strip()][flag] or [""]:
        path = Path(flags[flag], file)
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(f"{{digest.hexdigest()}} {{flag}} {{file}}")
'''


STAND_INS = "stand_in.py"
"""The file, in a copy, that every stage executes in place of its own code."""
FUTURE = "from __future__ import annotations\n"
INSTEAD = f"""
exec(open("{STAND_INS}").read())
raise SystemExit
"""
"""What a stage's `__main__` begins with; what it would import stays in it, as that decides what runs again."""


@dataclass(frozen=True)
class Result:
    """What a command said, and which stages it ran (`finetune refl-s0`)."""

    code: int
    text: str
    ran: Counter[str]


@dataclass(frozen=True)
class Project:
    """A temporary copy of the project with stand-ins for stages."""

    root: Path

    def run(self, *command: str, check: bool = True, literally: bool = False) -> Result:
        """Run a command of the virtual environment in the copy.

        Snakemake, DVC and `python -m` are forked from a process that has imported much (`programs.py`), but for
        `literally`.
        """
        log = self.root / "ran.txt"
        log.unlink(missing_ok=True)
        environment = dict(os.environ, PATH=f"{Path(sys.executable).parent}{os.pathsep}{os.environ['PATH']}")
        environment.update(PYTHONDONTWRITEBYTECODE="1", XDG_CACHE_HOME=str(self.root / ".cache"))
        if programs.known(command) and not literally:
            said = self.root.parent / f"{self.root.name}.said.txt"
            code = programs.run(command, self.root, environment, said)
            text = said.read_text(errors="replace")
            said.unlink()
        else:
            done = subprocess.run(
                [str(programs.BIN / command[0]), *command[1:]], cwd=self.root, env=environment, text=True,
                stdin=subprocess.DEVNULL, stdout=subprocess.PIPE, stderr=subprocess.STDOUT,
            )  # fmt: skip
            code, text = done.returncode, done.stdout
        assert not check or code == 0, text
        ran = Counter(log.read_text().splitlines()) if log.exists() else Counter()
        assert all(count == 1 for count in ran.values()), f"a stage ran twice in one command: {ran}"
        return Result(code, text, ran)

    def snakemake(self, *flags: str, check: bool = True, literally: bool = False) -> Result:
        """`snakemake --cores all`."""
        return self.run("snakemake", "--cores", "all", *flags, check=check, literally=literally)

    def dvc(self, *words: str, check: bool = True, literally: bool = False) -> Result:
        """`dvc ...`, by default `dvc repro`."""
        return self.run("dvc", *(words or ("repro",)), check=check, literally=literally)

    def read(self, file: str = "params.yaml") -> dict[str, Any]:
        """The content of a study file."""
        return parsed((self.root / file).read_text())

    def edit(self, key: str, value: Any, file: str = "params.yaml") -> None:
        """Set one dotted key of a study file; None removes it."""
        study = self.read(file)
        *path, last = key.split(".")
        spot = study
        for part in path:
            spot = spot[part]
        if value is None:
            del spot[last]
        else:
            spot[last] = value
        self.write(study, file)

    def write(self, study: dict[str, Any], file: str = "params.yaml") -> None:
        """Write a study file, and into no other."""
        (self.root / file).parent.mkdir(exist_ok=True)
        dumper = getattr(yaml, "CSafeDumper", yaml.SafeDumper)
        (self.root / file).write_text(yaml.dump(study, Dumper=dumper, sort_keys=False))

    def append(self, file: str, text: str) -> None:
        """Add text to a file, `# a comment` for example."""
        with (self.root / file).open("a") as opened:
            opened.write(text)

    def text(self, file: str) -> str:
        """Content of a file."""
        return (self.root / file).read_text()


def parsed(text: str) -> Any:
    """What YAML says, by its parser in C where it is built so."""
    return yaml.load(text, getattr(yaml, "CSafeLoader", yaml.SafeLoader))


def small_study() -> dict[str, Any]:
    """The shapes study with two methods, three runs and one scored reward."""
    return deepcopy(_small_study())


@cache
def _small_study() -> dict[str, Any]:
    study = parsed((ROOT / "studies/shapes.yaml").read_text())
    study["study"]["name"] = "small"
    study["score"]["rewards"] = ["proxy"]
    methods = {name: study["methods"][name] for name in ("refl", "imagerefl")}
    study["methods"] = methods
    study["runs"] = {
        "refl-s0": {"method": "refl", "seed": 0},
        "refl-s1": {"method": "refl", "seed": 1},
        "imagerefl-s0": {"method": "imagerefl", "seed": 0},
    }
    return study


def make(root: Path, study: dict[str, Any]) -> Project:
    """A copy of the project's orchestration and code at `root`, with stand-ins and `study` as params.yaml."""
    for folder in ("workflow", "stages", "profiles", "slurm", "data", "votes"):
        shutil.copytree(ROOT / folder, root / folder, ignore=shutil.ignore_patterns("__pycache__", ".*", "site.yaml"))
    _link_compiled(root)
    if memory := _memory():
        write_text(root / imports.MEMORY, memory)
    for file in ("Snakefile", ".dvcignore"):
        shutil.copy(ROOT / file, root / file)
    (root / ".dvc").mkdir()
    (root / ".dvc/config").write_text("[core]\n    no_scm = True\n    analytics = false\n    check_update = false\n")
    (root / "shipped").mkdir()
    for place in CurateSettings.model_validate(study["curate"]).paths():
        if place.startswith("shipped/"):
            write_text(root / place, place)
        elif not (root / place).exists():  # a file from outside, which this copy does without
            (root / place).mkdir(parents=True)
    for name, model in study["prepare"]["import"].items():
        if str(model.get("file", "")).startswith("shipped/"):
            write_text(root / model["file"], name)
        if str(model.get("folder", "")).startswith(("shipped/", "data/")):
            write_text(root / model["folder"] / "weights.bin", name)
    for stage in STAGES:
        main = root / "stages" / stage / "__main__.py"
        main.write_text(main.read_text().replace(FUTURE, FUTURE + INSTEAD, 1))
    (root / STAND_INS).write_text(STAND_IN.format(written=written(), read=READ))
    project = Project(root)
    project.write(study)
    with suppress(InputError):  # of a study that is refused there are no jobs
        layout = Layout("params.yaml", study)
        write_text(root / "dvc.yaml", dvc_file.of(layout))
    return project


def _link_compiled(root: Path) -> None:
    """Let the modules of all copies be compiled once: their commands write no compiled modules. One that has another
    time or size than here is compiled anew.
    """
    for folder in ("workflow", "stages"):
        for compiled in (ROOT / folder).rglob("__pycache__"):
            place = root / compiled.relative_to(ROOT)
            if place.parent.is_dir():
                place.symlink_to(compiled)


@cache
def _memory() -> str:
    """What the sources import, read once for all copies: they have the times of the files that they were copied from.

    Empty where it cannot be kept; then each copy reads its own.
    """
    sources = imports.Sources(ROOT)
    for module in sources.files:
        sources.contents(module)
    sources.remember()
    kept = ROOT / imports.MEMORY
    return kept.read_text(encoding="utf-8") if kept.is_file() else ""


def write_text(path: Path, text: str) -> None:
    """Write a stand-in for a shipped file."""
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(text)


def written() -> dict[str, dict[str, list[str]]]:
    """By stage: the flags that name what it writes, and the files in it where the flag names a folder."""
    from stages.report import figure
    from workflow.jobs import MODEL_FILES

    models = {kind: list(files) for kind, files in MODEL_FILES.items()}
    return {
        "curate": {"prompts": [], "images": [], "pairs": [], "manifest": []},
        "prepare import": {"record": []},
        "prepare vae": {"out": models["vae"]},
        "prepare base": {"out": models["base"], "record": []},
        "prepare clip": {"out": models["clip"], "record": []},
        "prepare consistency": {"out": models["consistency"], "record": []},
        "score": {"scores": [], "accuracy": []},
        "select": {"selected": [], "manifest": []},
        "renoise": {"made": [], "pairs": [], "manifest": []},
        "encode": {"tensors": [], "index": []},
        "decided": {"pairs": [], "shares": [], "auto": []},
        "checkpoints": {"policy": [], "record": []},
        "finetune": {"weights": [], "log": [], "probes": []},
        "sample base": {"samples": [], "latents": []},
        "sample run": {"samples": []},
        "sample join": {"samples": []},
        "measure reference": {"features": []},
        "measure samples": {"measures": [], "summary": []},
        "measure judge": {"judged": []},
        "measure join": {"measures": [], "summary": []},
        "report": {"out": list(figure.outputs(earlier=True))},
    }


READ = {
    "curate": ["curate"],
    "prepare import": ["prepare.import.{name}"],
    "prepare vae": ["prepare.train.vae.{name}"],
    "prepare base": ["prepare.train.base.{name}"],
    "prepare clip": ["prepare.train.clip.{name}"],
    "prepare consistency": ["prepare.train.consistency.{name}"],
    "score": ["score.batch_size"],
    "select": ["select"],
    "renoise": ["study.seed", "renoise"],
    "encode": ["encode"],
    "decided": ["study.seed", "decided", "sample.steps", "measure"],
    "finetune": ["study.seed", "study.reward", "finetune", "methods.{method}", "runs.{name}"],
    "checkpoints": ["runs.{name}"],
    "sample base": ["study.seed", "sample"],
    "sample run": ["study.seed", "sample", "runs.{name}"],
    "measure reference": ["measure"],
    "measure samples": ["study.seed", "measure"],
    "measure judge": ["measure"],
    "measure join": ["study.seed", "measure"],
    "report": ["study.reference", "report", "runs"],
}
"""Keys of the study file that the stand-ins read, by stage."""
