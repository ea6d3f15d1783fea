"""Jobs of one study by name, with the files and the command of each: `workflow/jobs.py` with the study filled in.

A *pattern* is a path with `{name}` and `{shard}` left in it, as Snakemake's wildcards.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path, PurePosixPath
from typing import Any

from workflow.jobs import SHARDED, STAGES
from workflow.layout import Layout
from workflow.stage import Chosen, Folder, Needed, Place, Report, Scores, Stage

P = "{P}"
"""Where the study file stands in a command."""


@dataclass(frozen=True)
class Files:
    """Everything about the jobs of a study that depends on the study."""

    layout: Layout

    @cached_property
    def stages(self) -> list[Stage]:
        """Kinds of jobs as Snakemake runs them, those without a job left out."""
        found = [part for stage in STAGES for part in self._parts(stage)]
        return [stage for stage in found if self.names(stage)]

    def _parts(self, stage: Stage) -> tuple[Stage, ...]:
        return SHARDED[stage.name] if stage.name in SHARDED and self.layout.shards(stage.name) else (stage,)

    def names(self, stage: Stage) -> list[str]:
        """Names of the jobs of a stage; the empty name where there is one job, none where the study asks for none."""
        if stage.section and stage.section not in self.layout.needs:
            return []
        if not stage.each:
            return [""]
        if stage.entries != "all":
            return self.layout.trained_runs if stage.entries == "trained" else list(self.layout.checkpoints)
        return [*(["base"] if stage.base else []), *map(str, at(self.layout.study, stage.each) or ())]

    def shards(self, stage: Stage) -> list[str]:
        """Names of the shares of a job, `2-of-4`."""
        return self.layout.shards(stage.part_of)

    def inputs(self, stage: Stage) -> list[str]:
        """Patterns of the files that a job of the stage reads, but for those that the study chooses."""
        return [file for place in stage.reads.values() for file in self._read(stage, place)]

    def chosen(self, stage: Stage, name: str) -> list[str]:
        """Files that a job reads because the study chooses them."""
        found = []
        for place in stage.reads.values():
            if isinstance(place, Chosen):
                found += self._choices(place, name)
        return found

    def _choices(self, place: Chosen, name: str) -> list[str]:
        target = "tuned" if name else "base"
        if place.which == "networks":
            return self.layout.networks(name or "base")
        return self.layout.searched(target) if place.which == "searched" else self.layout.students(target)

    def outputs(self, stage: Stage) -> list[str]:
        """Patterns of the files that a job of the stage writes."""
        return [self._pattern(file) for file in written(stage, self.layout.report_files)]

    def command(self, stage: Stage) -> str:
        """Pattern of the command of a job, with `{P}` for the study file."""
        words = [f"python -m stages.{stage.program} --params {P}"]
        words += [f"--{stage.flag} {{name}}"] if stage.flag else []
        named = [item for item in (stage.reads | stage.writes).items() if self._named(item[1])]
        words += [f"--{flag} {self._argument(stage, place)}" for flag, place in named]
        words += ["--shard {part}"] if stage.sharded else []
        return " ".join(words)

    def job(self, stage: Stage, name: str) -> str:
        """What a job is called (`finetune@refl-s0`, `encode`); shares of a job go by the name of the whole."""
        return "@".join(filter(None, (stage.part_of or stage.name, name)))

    def in_dvc(self, job: str) -> str:
        """What DVC calls a job: of a stage with a job for the base beside those of the runs that one is a stage."""
        stage, _, name = job.partition("@")
        alone = any(one.name == stage and one.base for one in STAGES)
        return f"{stage}_base" if alone and name == "base" else job

    def log(self, stage: Stage, ending: str) -> str:
        """Pattern of a log or benchmark."""
        parts = [stage.name, "{name}.{shard}" if stage.sharded else "{name}" if stage.each else ""]
        return self.layout.logs("/".join(filter(None, parts)) + ending)

    def benchmarks(self, stage: Stage, name: str) -> list[Path]:
        """Benchmarks of what Snakemake runs for a job of DVC's."""
        found = [fill(self.log(part, ".tsv"), name) for part in self._parts(stage)]
        return [
            Path(file.replace("{shard}", shard)) for file in found for shard in self.layout.shards(stage.name) or [""]
        ]

    @cached_property
    def kept(self) -> list[str]:
        """Every file that the jobs of the study leave behind."""
        made = ((stage, name) for stage in self.stages if not stage.sharded for name in self.names(stage))
        return [fill(pattern, name) for stage, name in made for pattern in self.outputs(stage)]

    def _read(self, stage: Stage, place: Place) -> Iterator[str]:
        if isinstance(place, str) and "{shard}" in place:
            yield from (self._pattern(place).replace("{shard}", shard) for shard in self.shards(stage))
        elif isinstance(place, str):
            yield self._pattern(place)
        elif isinstance(place, (Chosen, Report)):
            return
        elif isinstance(place, Needed):
            yield from [self._pattern(place.path)] if self._named(place) else ()
        elif isinstance(place, Scores):
            yield from (self._pattern(f"{place.path}/{name}.parquet") for name in self.layout.selecting)
        elif place.files:
            yield from (self._pattern(f"{place.path}/{file}") for file in place.files)
        else:
            yield from (file for file in self.kept if PurePosixPath(file).is_relative_to(self._pattern(place.path)))

    def _named(self, place: Place) -> bool:
        """Whether the command names a place."""
        needs = self.layout.needs
        if isinstance(place, Chosen):
            return not place.need or place.need in needs
        return not isinstance(place, Needed) or place.data in needs

    def _argument(self, stage: Stage, place: Place) -> str:
        if not isinstance(place, str):
            return self._pattern(place.path)
        joins = "{shard}" in place and not stage.sharded
        return " ".join(self._read(stage, place)) if joins else self._pattern(place)

    def _pattern(self, path: str) -> str:
        layout = self.layout
        named = {"{reward}": layout.reward, "{heldout}": layout.heldout, "{oracle}": layout.oracle}
        named["{features}"] = layout.features
        for placeholder, name in named.items():
            path = path.replace(placeholder, name)
        return self.layout.out(path)


def written(stage: Stage, report: Sequence[str]) -> Iterator[str]:
    """Paths below `out/<study>/` that a job of the stage writes; `report` is what the report consists of."""
    for place in stage.writes.values():
        if isinstance(place, str):
            yield place
        elif isinstance(place, Folder | Report):
            yield from (f"{place.path}/{file}" for file in (place.files if isinstance(place, Folder) else report))


def fill(pattern: str, name: str) -> str:
    """A pattern with the job's name in it."""
    return pattern.replace("{name}", name)


def at(study: Mapping[str, Any], key: str) -> Any:
    """What stands in the study file under a dotted key; None where there is nothing."""
    value: Any = study
    for part in key.split("."):
        value = value.get(part) if isinstance(value, Mapping) else None
    return value
