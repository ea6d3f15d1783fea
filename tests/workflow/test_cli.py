"""The console command hands over to the modules that `python -m` runs."""

import os
import subprocess
import sys
import tomllib
from importlib.util import find_spec
from pathlib import Path

import pytest

from stages.errors import InputError
from workflow import cli

ROOT = Path(__file__).parents[2]


def typed(*arguments: str, folder: Path = ROOT) -> subprocess.CompletedProcess[str]:
    """The command as it is typed, in `folder`."""
    code = "from workflow.cli import main; main()"
    return subprocess.run(
        [sys.executable, "-c", code, *arguments], cwd=folder, capture_output=True, text=True,
        env=os.environ | {"PYTHONPATH": str(ROOT)},
    )  # fmt: skip


def test_the_declared_entry_point_is_the_command() -> None:
    module, function = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]["scripts"]["imagerefl"].split(
        ":"
    )
    assert getattr(sys.modules[module], function) is cli.main


def test_every_command_names_a_module_and_stands_in_the_help(capsys: pytest.CaptureFixture[str]) -> None:
    cli.main(["--help"])
    shown = capsys.readouterr().out
    for name, command in cli.COMMANDS.items():
        assert find_spec(command.module) is not None
        assert f"  {name} " in shown and command.help in shown


def test_check_says_what_the_module_says_and_passes_its_exit_code_on() -> None:
    good = typed("check", "studies/smoke.yaml")
    assert (good.returncode, good.stdout) == (0, "studies/smoke.yaml: ok\n")
    bad = typed("check", "studies/nowhere.yaml")
    assert bad.returncode == 2 and "no such study file" in bad.stderr


def test_an_unknown_command_is_one_line_with_the_nearest(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as ended:
        cli.main(["chekc"])
    assert ended.value.code == 2
    assert capsys.readouterr().err == "error: imagerefl: unknown command 'chekc'; did you mean 'check'?\n"


@pytest.mark.parametrize(
    ("command", "text"), [("report", "study: x\n"), ("report", "- a\n"), ("estimate", "study: {name: s}\n"),
                          ("doctor", "study: x\nprepare: {import: {a: {folder: 5}}}\n")],
)  # fmt: skip
def test_a_file_that_is_no_study_is_one_line(tmp_path: Path, command: str, text: str) -> None:
    (tmp_path / "odd.yaml").write_text(text)
    done = typed(command, str(tmp_path / "odd.yaml"))
    said = [line for line in done.stderr.splitlines() + done.stdout.splitlines() if "odd.yaml: " in line]
    assert done.returncode == (1 if command == "doctor" else 2) and len(said) == 1
    assert "Traceback" not in done.stderr


def test_report_takes_a_study_and_finds_its_folders(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(ROOT)
    line = cli.report_arguments("studies/smoke.yaml")
    assert line[:4] == ["--params", "studies/smoke.yaml", "--data", "out/smoke/data"]
    assert line[-2:] == ["--out", "out/smoke/report"]
    assert line[line.index("--predictors") + 1] == "out/smoke/encodings"  # as the runners have it
    with pytest.raises(InputError, match="no such study file"):
        cli.report_arguments("studies/nowhere.yaml")
