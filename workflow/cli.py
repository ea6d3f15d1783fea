"""The console command `imagerefl`: what people type beside the runners. Every sub-command is also a `python -m` line.

No torch is imported here; a sub-command imports what its module imports.
"""

from __future__ import annotations

import runpy
import shlex
import sys
from collections.abc import Sequence
from dataclasses import dataclass

from stages.errors import InputError
from stages.params import nearest
from stages.runtime import run_stage


@dataclass(frozen=True)
class Command:
    """A sub-command: the module that `python -m` would run, and one line of help."""

    module: str
    help: str


COMMANDS = {
    "check": Command("stages.study", "check study files without running anything"),
    "doctor": Command("workflow.doctor", "say what this machine has, and what a study needs and lacks"),
    "estimate": Command("workflow.estimate", "time the networks of a study: hours, memory and disk of the rest"),
    "report": Command("stages.report", "write the page of a finished study again: imagerefl report [STUDY]"),
    "compare": Command("stages.report.compare", "put finished studies of one evaluation on one frontier"),
    "power": Command("stages.power", "say how many training seeds a comparison of methods needs"),
    "tune": Command("stages.tune", "try learning rates on training prompts"),
    "evaluate": Command("workflow.evaluate", "sample, measure and report on checkpoints that were trained elsewhere"),
    "export": Command("stages.export", "write a fine-tuned model for diffusers and other programs"),
    "votes": Command("stages.votes", "make a blinded form for raters, and analyse their votes"),
    "parity": Command("stages.parity", "compare the stages with a set of reference numbers"),
}


def usage() -> str:
    """What `imagerefl --help` prints."""
    width = max(map(len, COMMANDS))
    lines = [f"  {name:<{width}}  {command.help}" for name, command in COMMANDS.items()]
    return "\n".join(
        [
            "usage: imagerefl COMMAND [ARGUMENT ...]",
            "",
            "Studies are run by `snakemake --cores all` or `dvc repro`; these commands do the rest.",
            "",
            *lines,
            "",
            "imagerefl COMMAND --help lists the arguments of a command. Run it in the root of the project.",
        ]
    )


def report_arguments(study: str) -> list[str]:
    """The command line of the report stage for the study file `study`, as both runners call it.

    Raises InputError for a study that is not right.
    """
    from stages.study import load
    from workflow.files import Files, P
    from workflow.jobs import REPORT
    from workflow.layout import Layout

    load(study)
    _, _, _, *words = shlex.split(Files(Layout.read(study)).command(REPORT))  # after `python -m stages.report`
    return [study if word == P else word for word in words]


def main(arguments: Sequence[str] | None = None) -> None:
    """Hand over to the module of the sub-command; bad input is one line and exit code 2."""
    run_stage(lambda: _run(list(sys.argv[1:] if arguments is None else arguments)))


def _run(arguments: list[str]) -> None:
    name, *rest = arguments or ["--help"]
    if name in ("-h", "--help"):
        print(usage())
        return
    if name not in COMMANDS:
        raise InputError(f"imagerefl: unknown command {name!r}{nearest(name, COMMANDS)}")
    if name == "report" and all(not part.startswith("-") for part in rest) and len(rest) < 2:
        rest = report_arguments(*(rest or ["params.yaml"]))
    sys.path.insert(0, "")  # the checkout that the command is typed in
    sys.argv = [f"imagerefl {name}", *rest]
    runpy.run_module(COMMANDS[name].module, run_name="__main__", alter_sys=True)  # as `python -m` does it
