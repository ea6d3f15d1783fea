"""The stamps of a study as Snakemake needs them: written while it plans, with times that DVC has agreed to."""

from __future__ import annotations

import os
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path

from workflow.chosen import contents as contents_of_chosen
from workflow.chosen import place
from workflow.dvc_sync import Beside, Word, ask
from workflow.files import Files
from workflow.plan import Plan, folder, text
from workflow.stage import Stage

PLANNED = Path(".snakemake/planned")
"""Where stamps are written that only a dry run asks for."""


@dataclass(frozen=True)
class Stamps:
    """Stamps of every job of a plan, and DVC's word on the outputs that go with them."""

    plan: Plan
    files: Files
    contents: Mapping[str, Mapping[str, str]]
    """By job and name of the stamp."""
    word: Word = field(default_factory=Word)

    @classmethod
    def of(cls, plan: Plan, shared: bool) -> Stamps:
        """The stamps of the jobs of a plan; DVC is asked about them where it builds the very same files (`shared`).

        Raises InputError when DVC cannot answer.
        """
        files = Files(plan.layout)
        contents = {
            job: {name: text(content) for name, content in plan.stamps(stage, entry).items()}
            for job, stage, entry in plan.jobs()
        }
        stamps = cls(plan, files, contents)
        if not shared:
            return stamps
        chosen = dict(contents_of_chosen(plan))
        beside = {
            files.in_dvc(job): Beside(
                {str(stamps._place(job, name)): content for name, content in contents[job].items()}
                | ({str(place(plan.layout.name, job)): chosen[job]} if job in chosen else {}),
                files.benchmarks(stage, entry),
                plan.layout.sources(job),
            )
            for job, stage, entry in plan.jobs()
        }
        return cls(plan, files, contents, ask(beside))

    def shared(self, stage: Stage, name: str, planning: bool) -> list[str]:
        """Paths of the stamps of a job that DVC knows too; with `planning`, nothing is changed in `out`."""
        job = self.files.job(stage, name)
        return [self._written(job, self._place(job, stamp), content, planning)
                for stamp, content in self.contents[job].items()]  # fmt: skip

    def own(self, stage: Stage, wildcards: Mapping[str, str], name: str, content: Mapping[str, object],
            planning: bool) -> str:  # fmt: skip
        """Path of a stamp of Snakemake alone; DVC sees by itself what is in it, or need not."""
        place = self._place("@".join([stage.name, *wildcards.values()]), name)
        return self._written(self.files.job(stage, wildcards.get("name", "")), place, text(content), planning)

    def _place(self, job: str, name: str) -> Path:
        return folder(self.plan.layout.name, job) / f"{name}.json"

    def _written(self, job: str, path: Path, content: str, planning: bool) -> str:
        """The stamp that says `content`. It is newer than the job's outputs where those were made with another content,
        and older where they are known to be made with this one.
        """
        known = self.files.in_dvc(job)
        same = path.is_file() and path.read_text(encoding="utf-8") == content
        if same and known not in self.word.stale:
            return str(path)
        if planning:
            path = PLANNED / path
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(content, encoding="utf-8")
        if known in self.word.built:
            os.utime(path, (1, 1))
        return str(path)
