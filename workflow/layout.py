"""Which jobs a study has and where their files stand: the one place that both the rules and the tests ask."""

from __future__ import annotations

import glob
import re
import sys
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

from stages import walk
from stages.checkpoints.files import find
from stages.checkpoints.settings import names_checkpoint
from stages.curate.settings import CurateSettings
from stages.errors import InputError
from stages.finetune.resolve import method
from stages.params import read_study
from stages.prepare.import_settings import ImportSettings
from stages.report import earlier_page, figure
from stages.sample.resolve import SamplingPlan, run_of, sampling_plan
from stages.sample.settings import Target
from stages.select.settings import read, rewards


@dataclass(frozen=True)
class Layout:
    """Names of a study's jobs, and paths below its folder `out/<name>`.

    `file` is the study file as it stands in command lines, `study` its content. Names come in the order of the file.
    """

    file: str
    study: dict[str, Any]

    @classmethod
    def read(cls, file: str | Path) -> Layout:
        """The layout of the study at `file`; raises InputError when it cannot be read."""
        return cls(str(file), read_study(file))

    @property
    def name(self) -> str:
        """The study's name."""
        return str(self.study["study"]["name"])

    def clashes(self, other: str) -> bool:
        """Whether the study file `other`, where there is one, has this study's name but other content."""
        if not Path(other).exists():
            return False
        study = read_study(other)
        about = study.get("study")
        return study != self.study and isinstance(about, Mapping) and about.get("name") == self.name

    def out(self, path: str) -> str:
        """A result of the study; wildcards in `path` are kept."""
        return f"out/{self.name}/{path}"

    def logs(self, path: str) -> str:
        """A log or benchmark of the study; wildcards in `path` are kept."""
        return f"logs/{self.name}/{path}"

    def model(self, name: str) -> str:
        """The record of a model."""
        return self.out(f"models/{name}.json")

    @property
    def imported(self) -> list[str]:
        """Models taken from a folder, a file or a hub."""
        return list(self.study["prepare"]["import"])

    def trained(self, kind: str) -> list[str]:
        """Models of a kind (`vae`, `base`, ...) that the study trains itself."""
        return list(self.study["prepare"]["train"].get(kind, {}))

    @property
    def models(self) -> list[str]:
        """Every model with a record: what rewards, features and the base may be."""
        return [
            *self.imported,
            *self.trained("base"),
            *self.trained("clip"),
            *self.trained("latent"),
            *self.trained("pal"),
        ]

    @property
    def reward(self) -> str:
        """The reward that every method is trained on."""
        return str(self.study["study"]["reward"])

    @property
    def heldout(self) -> str:
        """The reward that no method sees."""
        return str(self.study["study"]["heldout"])

    @property
    def oracle(self) -> str:
        """The model that probes ask what images show; empty where they ask none."""
        probe = (self.study.get("finetune") or {}).get("probe") or {}
        return str(probe.get("oracle") or "")

    @property
    def features(self) -> str:
        """The model whose features rewards of several tastes are trained on; empty where none is trained."""
        entries = self.study["prepare"]["train"].get("pal") or {}
        return next((str(one.get("features") or "") for one in entries.values()), "")

    @cached_property
    def needs(self) -> frozenset[str]:
        """What the jobs of the study need besides what every study has: what the methods of its runs learn from
        (prompts, images or pairs; `select` in place of pairs where it has that section), `renoise` and
        `decided` where it has these sections, `start` or `k` where a method or a sampling strategy takes that
        from what was decided, `oracle` where probes ask one, `latent` or `pal` where such a reward is trained,
        and `students` where a strategy evaluates a distilled model.
        """
        names = {self.method(run) for run in self.trained_runs}
        trained = [method(self.study["methods"][name], f"{self.file}: methods.{name}")[2] for name in sorted(names)]
        found = {str(each.needs.data) for each in trained}
        found = found - {"pairs"} | {"select"} if self.study.get("select") is not None else found
        found |= {"renoise"} if self.study.get("renoise") is not None else set()
        found |= {kind for kind in ("latent", "pal") if self.trained(kind)}
        found |= {"oracle"} if self.oracle else set()
        found |= {"decided"} if self.study.get("decided") is not None else set()
        found |= {"start"} if any(each.auto for each in trained) else set()
        found |= {"k"} if any(each.settings.auto for each in self._sampling.strategies) else set()
        found |= {"students"} if any(self.students(target) for target in ("base", "tuned")) else set()
        return frozenset(found)

    @cached_property
    def selecting(self) -> list[str]:
        """Rewards whose scores of the curated pairs label or choose them."""
        return rewards(self.study.get("select"), f"{self.file}: select")

    @property
    def crosses(self) -> bool:
        """Whether jobs of a run read what other runs have trained: jobs of DVC then wait for all runs."""
        return any(self._sampling.networks(target) for target in ("base", "tuned"))

    def searched(self, target: Target) -> list[str]:
        """Records of the rewards that sampling strategies ask about images of the base, or of trained runs."""
        return [self.model(name) for name in self._sampling.rewards(target)]

    def networks(self, run: str) -> list[str]:
        """Trained weights of further networks that sampling strategies evaluate for a run, or for the base."""
        names = self._sampling.networks("base" if run == "base" else "tuned")
        return [
            self.out(f"runs/{run_of(name, run, self.study['runs'], self.file)}/policy.safetensors") for name in names
        ]

    def students(self, target: Target) -> list[str]:
        """Records of the distilled models that sampling strategies evaluate for the base, or for trained runs."""
        return [self.out(f"encodings/{name}.json") for name in self._sampling.students(target)]

    @cached_property
    def _sampling(self) -> SamplingPlan:
        return sampling_plan(self.file, self.study)

    @property
    def rewards(self) -> list[str]:
        """Rewards that score the curated rows."""
        return list(self.study["score"]["rewards"])

    @property
    def runs(self) -> list[str]:
        """Every run: a method with a training seed each, or a checkpoint."""
        return list(self.study["runs"])

    @cached_property
    def trained_runs(self) -> list[str]:
        """Runs that are trained here."""
        return [name for name in self.runs if not names_checkpoint(self.study["runs"][name])]

    @cached_property
    def checkpoints(self) -> dict[str, str]:
        """Runs that were trained elsewhere, with the places of their checkpoints."""
        return {name: str(run["checkpoint"]) for name, run in self.study["runs"].items() if names_checkpoint(run)}

    @cached_property
    def report_files(self) -> tuple[str, ...]:
        """What the report consists of: its page, numbers and tables, and the files of every figure of the study."""
        return figure.outputs(self._figures, bool(self.earlier_report))

    @property
    def earlier_report(self) -> str:
        """The page of the earlier report that this study's is compared with; empty where there is none."""
        folder = (self.study.get("report") or {}).get("against")
        return str(Path(str(folder)) / earlier_page.PAGE) if folder else ""

    @cached_property
    def report_captions(self) -> dict[str, str]:
        """What a figure shows in words, by its first file."""
        return {one.about.files[0]: one.about.alt for one in figure.figures(self._figures)}

    @property
    def _figures(self) -> tuple[str, ...]:
        return tuple((self.study.get("report") or {}).get("figures") or ())

    def shards(self, section: str) -> list[str]:
        """The jobs that share out the images of a run, as `2-of-4`, in `sample` or `measure`; none where one job takes
        them all.
        """
        values = self.study.get(section)
        count = int(values.get("shards", 1)) if isinstance(values, dict) else 1
        return [f"{number}-of-{count}" for number in range(1, count + 1)] if count > 1 else []

    def method(self, run: str) -> str:
        """The method of a run that is trained here."""
        return str(self.study["runs"][run]["method"])

    def sources(self, job: str) -> list[str]:
        """Files from outside that a job takes (`curate`, `prepare_import@base`, `import_policy@NAME`, `select`,
        `report`; none for other jobs).
        """
        stage, _, name = job.partition("@")
        if stage == "curate":
            paths = CurateSettings.model_validate(self.study["curate"]).paths()
        elif stage == "prepare_import":
            model = ImportSettings.model_validate(self.study["prepare"]["import"][name])
            every = [part for _, part in model.everything(name)]
            paths = [place for part in every for place in (part.folder, part.file) if place]
        elif stage == "import_policy":
            paths = [str(file) for file in find(self.checkpoints[name], f"{self.file}: runs.{name}.checkpoint").files]
        elif stage == "select":
            steps = read(self.study.get("select"), f"{self.file}: select")
            paths = [path for step in steps for path in step.settings.paths()]
        elif stage == "report":
            votes = self.study["report"].get("votes")
            paths = [str(votes)] if votes else []
            paths += [self.earlier_report] if self.earlier_report else []
        else:
            paths = []
        return sorted({str(file) for path in paths for file in _files(path)})


def one_of(names: Iterable[str]) -> str:
    """A pattern for a wildcard that may be any of `names`, and nothing when there are none."""
    return "|".join(map(re.escape, names)) or "(?!)"


def _files(path: str) -> list[Path]:
    """The files in the folder, the file, or else the files that match the pattern `path`."""
    if Path(path).is_dir():
        return walk.files(Path(path))
    if Path(path).is_file():
        return [Path(path)]
    return [Path(file) for file in glob.glob(path, recursive=True)]


if __name__ == "__main__":
    try:
        print(f"report: {Layout.read(sys.argv[1]).out('report/index.html')}")
    except InputError as error:
        sys.exit(f"error: {error}")
