"""What the table of jobs is made of: a kind of job, and the files and folders that its flags name."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Literal

Resources = dict[str, int]


@dataclass(frozen=True)
class Folder:
    """A folder that a flag names. As an input it stands for `files` in it, for all that jobs write below it where none
    is named; as an output for `files`.
    """

    path: str
    files: tuple[str, ...] = ()


@dataclass(frozen=True)
class Chosen:
    """A folder that a flag names, of which a job reads the files that the study chooses: `searched`, `networks` or
    `students` of `workflow/layout.py`. A flag with a `need` is there only in studies that have it (`Layout.needs`).
    """

    path: str
    which: Literal["searched", "networks", "students"]
    need: str = ""


@dataclass(frozen=True)
class Scores:
    """The folder of the rewards' scores, of which a job reads those that the section `select` names. DVC looks at the
    whole folder.
    """

    path: str


@dataclass(frozen=True)
class Needed:
    """A file that a flag names in studies that need this `data` (`Layout.needs`); in others there is no such flag."""

    path: str
    data: Literal["pairs", "select", "renoise", "decided", "start", "k", "oracle"]


@dataclass(frozen=True)
class Report:
    """The folder that a flag names as an output, for the page, tables and figures that the report of the study has."""

    path: str


Place = str | Folder | Chosen | Scores | Needed | Report


@dataclass(frozen=True)
class Stage:
    """One kind of job."""

    name: str
    """Snakemake's rule, DVC's stage."""
    program: str
    """Package of `stages`, and its subcommand."""
    about: str
    """One sentence, without its full stop."""
    reads: dict[str, Place]
    writes: dict[str, Place]
    keys: tuple[str, ...]
    """Dotted keys of the study file that the job reads, one that ends with `.*` for everything below."""
    each: str = ""
    """Dotted key of the study file whose entries are the jobs; empty where there is one job."""
    entries: Literal["all", "trained", "checkpoints"] = "all"
    """Of `runs`, whose jobs these are: those of all runs, of those that are trained here, or of checkpoints."""
    flag: str = ""
    """Flag that names the job's entry."""
    base: bool = False
    """Whether there is a job called `base` besides those of `each`."""
    part_of: str = ""
    """The stage whose work it does together with others, where several jobs share that out."""
    functions: tuple[str, ...] = ()
    """Functions of the program's `__main__` that are executed, where it has subcommands of different jobs."""
    outside: tuple[str, ...] = ()
    """Folders whose files a job may take from outside, for DVC; the very files are those of `Layout.sources`."""
    section: str = ""
    """Section of the study file that asks for the job; empty where every study has it."""
    sharded: bool = False
    """Whether there are several jobs of an entry, each with its share; what they write is kept until it is joined."""
    resources: Resources = field(default_factory=dict)
    """Snakemake's: `mem_mb`, `runtime` in minutes, `gpu`. Slurm's own stand in slurm/resources.yaml."""
    priority: int = 0
    local: bool = False
    """Whether it runs where Snakemake does, and not on a node of a cluster."""

    @property
    def module(self) -> str:
        """The module that is run."""
        return f"stages.{self.program.split()[0]}.__main__"
