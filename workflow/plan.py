"""What makes a job run again besides its data: the settings that it reads and the code that it executes.

Both stand in two small files per job, `out/<study>/plan/<job>/settings.json` and `code.json`, its *stamps*, which both
runners count among its inputs. They are written anew when their content changes: settings as they are after validation,
so that another spelling of a value changes nothing, and digests of the very files that the job executes, so that a
plug-in concerns the jobs that name it. Snakemake writes them while it plans, DVC by its first stage:

    python -m workflow.plan params.yaml
"""

from __future__ import annotations

import argparse
import json
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

from stages import code, own_code
from stages.errors import InputError
from stages.finetune import resolve as methods
from stages.runtime import run_and_leave, sha256
from stages.sample import resolve as strategies
from stages.select import settings as selection
from stages.study import Study, load
from workflow import dvc_file
from workflow.files import Files, at, fill
from workflow.jobs import STAGES
from workflow.layout import Layout
from workflow.stage import Stage

ACTIVE = "params.yaml"
"""The study that DVC runs."""
IMPORTED = "prepare.import"
MODELS = {"clip": "open_clip", "base": "diffusers", "latent": "latent", "pal": "pal"}
"""The kind in the record of a model trained here, by its recipe."""


@dataclass(frozen=True)
class Plan:
    """A checked study and the stamps of its jobs."""

    layout: Layout
    study: Study

    @classmethod
    def read(cls, file: str | Path) -> Plan:
        """The plan of the study at `file`; raises InputError where the study is wrong."""
        layout = Layout.read(file)
        return cls(layout, load(file, layout.study))

    @cached_property
    def values(self) -> dict[str, Any]:
        """The study after validation, with every default; of a method, `train` is all that its runs train with."""
        found = self.study.model_dump(mode="json", by_alias=True)
        sampled = strategies.sampling_plan(self.layout.file, self.layout.study).strategies
        if self.study.select is not None:
            steps = selection.steps(self.study.select, f"{self.layout.file}: select")
            found["select"]["steps"] = [step.settings.model_dump(mode="json") for step in steps]
        found["sample"]["strategies"] = {one.name: one.settings.model_dump(mode="json") for one in sampled}
        for name, settings in self.layout.study["methods"].items():
            found["methods"][name] = methods.method(settings, name)[-1].model_dump(mode="json")
        for name, run in {self.layout.method(run): run for run in self.layout.trained_runs}.items():
            train = methods.training_plan(self.layout.file, run, self.layout.study).train
            found["methods"][name]["train"] = train.model_dump(mode="json")
        return found

    def jobs(self) -> Iterator[tuple[str, Stage, str]]:
        """Every job as DVC has them, one for all images of a run: its name, stage and entry of the study."""
        files = Files(self.layout)
        for stage in STAGES:
            for name in files.names(stage):
                yield files.job(stage, name), stage, name

    def code(self) -> list[str]:
        """Every file of the project that any job executes."""
        every = {file for _, stage, name in self.jobs() for file in self.stamps(stage, name)["code"]}
        return sorted(file for file in every if Path(file).is_file())

    def settings(self, stage: Stage, name: str) -> dict[str, Any]:
        """The keys of the study that one job depends on, with their values."""
        method = self.layout.method(name) if stage.entries == "trained" else ""
        keys = [fill(key, name).replace("{method}", method) for key in stage.keys]
        return {key: at(self.values, key) for key in keys}

    def stamps(self, stage: Stage, name: str) -> dict[str, Mapping[str, Any]]:
        """The stamps of one job: what each holds, by its name (`settings`, `code`)."""
        settings = self.settings(stage, name)
        return {"settings": settings, "code": self._code(stage, name, settings)}

    def _code(self, stage: Stage, name: str, settings: Mapping[str, Any]) -> Mapping[str, str]:
        reads = [fill(place, name) for place in stage.reads.values() if isinstance(place, str)]
        reads = [place.replace("{features}", self.layout.features) for place in reads]
        records = {Path(path).stem for path in reads if path.startswith("models/")}
        texts = code.texts_of(settings) | self._kinds(code.texts_of(settings) | records | {name})
        executed = code.digests(stage.module, stage.functions, texts, Path.cwd())  # which is what `python -m` runs
        return {**executed, **self._own_code(stage, name)}

    def _own_code(self, stage: Stage, name: str) -> Mapping[str, str]:
        """Digests of the functions of one's own that an imported model, or a source of `curate`, calls."""
        found: list[own_code.Files | None] = []
        if stage.each == IMPORTED:
            for dotted, model in self.study.prepare.import_[name].everything(name):
                where = f"{self.layout.file}: {IMPORTED}.{dotted}"
                found.append(own_code.of_model(model.kind, model.options, where))
        elif "curate" in stage.keys:
            for key, place in self.study.curate.functions.items():
                found.append(own_code.of_function(place, f"{self.layout.file}: curate.{key}"))
        return {file: sha256(own.folder / file)[:16] for own in found if own for file in own.names}

    def _kinds(self, names: frozenset[str]) -> frozenset[str]:
        """Texts of what is said of the models among `names`: their kinds, and those that they are made of."""
        trained = {name: kind for recipe, kind in MODELS.items() for name in self.layout.trained(recipe)}
        imported = at(self.values, IMPORTED)
        if not names.isdisjoint(self.layout.trained("pal")):
            names = names | {self.layout.features}
        found = [imported[name] for name in names if name in imported]
        return code.texts_of([*found, *(trained[name] for name in names if name in trained)])


def folder(study: str, job: str) -> Path:
    """The folder of a job's stamps.

    One per job: Snakemake lists a file's folder once while planning, and would not see a stamp written later.
    """
    return Path(f"out/{study}/plan/{job}")


def text(content: Mapping[str, Any]) -> str:
    """What a stamp of this content looks like."""
    return json.dumps(content, sort_keys=True, indent=1) + "\n"


def _check_dvc_file(plan: Plan) -> None:
    """Raise InputError where the dvc.yaml that is being run is not the one of this study and these jobs."""
    wanted = dvc_file.of(plan.layout)
    if dvc_file.FILE.read_text(encoding="utf-8") != wanted:
        dvc_file.FILE.write_text(wanted, encoding="utf-8")
        raise InputError(
            f"{dvc_file.FILE}: was of other jobs than this study has now, and has been written anew; type the same"
            " command once more"
        )


def main() -> None:
    """Command line: what `dvc repro` does first."""
    parser = argparse.ArgumentParser(prog="python -m workflow.plan", description="Check a study, write its stamps.")
    parser.add_argument("study", nargs="?", default="params.yaml", help="study file (default: %(default)s)")
    plan = Plan.read(parser.parse_args().study)
    if plan.layout.file == ACTIVE:
        _check_dvc_file(plan)
    for job, stage, name in plan.jobs():
        for stamp, content in plan.stamps(stage, name).items():
            path = folder(plan.layout.name, job) / f"{stamp}.json"
            if not (path.is_file() and path.read_text(encoding="utf-8") == text(content)):
                path.parent.mkdir(parents=True, exist_ok=True)
                path.write_text(text(content), encoding="utf-8")


if __name__ == "__main__":
    run_and_leave(main)
