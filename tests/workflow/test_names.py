"""Names of a study are plain, and one that is not is refused before a shell sees it, by both runners."""

from __future__ import annotations

import re
from collections.abc import Iterator
from copy import deepcopy
from pathlib import Path
from typing import Any

import pytest
import yaml
from graphs import CHECK
from project import ROOT, Project, make, small_study

from stages import names, study
from stages.errors import InputError
from stages.params import read_study

HOSTILE = ["x; touch pwned", "$(touch pwned)", "x`touch pwned`", "x\ntouch pwned", "x 'y'", "../up", "-x", ".x", "a/b",
           "a.b", "", "x" * 65, 7, True, ["x"], {"x; touch pwned": 1}]  # fmt: skip
PLAIN = ["x", "7", "Refl-s0", "a_b-c", "x" * 64]
STUDY = small_study()
DVC = yaml.safe_load((ROOT / "dvc.yaml").read_text())["stages"]
OWN_STAGES = [DVC.pop(name) for name in ("plan", "chosen")]


@pytest.mark.parametrize("key", [*names.ONE, *names.SEVERAL, *names.NAMED])
@pytest.mark.parametrize("name", HOSTILE)
def test_what_is_no_name_is_refused_in_one_line(key: str, name: Any) -> None:
    content = deepcopy(STUDY)
    if not put(content, key, name):
        return
    with pytest.raises(InputError, match=r"\Aparams.yaml: [^\n]*\Z") as error:
        names.check(content, "params.yaml: ")
    assert key in str(error.value)
    assert len(str(error.value)) < 250


def put(content: dict[str, Any], key: str, name: Any) -> bool:
    """Put a name where `key` has one; False where no YAML file could have it there."""
    *path, last = key.split(".")
    spot = content
    for part in path:
        spot = spot[part]
    if key in names.ONE:
        spot[last] = name
    elif key in names.SEVERAL:
        spot[last] = [name]
    elif isinstance(name, (str, int)):
        spot[last] = {name: {}}
    else:
        return False
    return True


@pytest.mark.parametrize("name", PLAIN)
def test_plain_names_pass(name: str) -> None:
    content = deepcopy(STUDY)
    for key in (*names.ONE, *names.SEVERAL, *names.NAMED):
        put(content, key, name)
    names.check(content, "")


def test_lists_and_mappings_are_what_they_should_be() -> None:
    """DVC would paste the values of a mapping where it expects a list."""
    for key, value in (("score.rewards", {"a": "x; touch pwned"}), ("runs", ["x; touch pwned"]), ("runs", "x")):
        content = deepcopy(STUDY)
        *path, last = key.split(".")
        (content[path[0]] if path else content)[last] = value
        with pytest.raises(InputError, match=f"{key}: .* is not a (list|mapping) of names"):
            names.check(content, "")


def pasted() -> Iterator[tuple[str, str, str]]:
    """(stage, key or source of `foreach`, the placeholder) of everything that DVC pastes into command lines."""
    for stage, about in DVC.items():
        source = about.get("foreach", "").strip("${}")
        for found in re.findall(r"\$\{([^}]*)\}", " ".join(about.get("do", about)["cmd"])):
            yield stage, source if found in ("key", "item") else found, found


def test_everything_that_dvc_pastes_is_checked_first() -> None:
    assert not any("$" in stage["cmd"] for stage in OWN_STAGES)
    for about in DVC.values():
        assert about.get("do", about)["cmd"][0] == CHECK
    found = list(pasted())
    assert len(found) > 30
    for stage, key, placeholder in found:
        known = {"key": names.NAMED, "item": names.SEVERAL}.get(placeholder, names.ONE)
        assert key in known, f"dvc.yaml: {stage}: {placeholder} is pasted into a command line, but not checked"


@pytest.fixture(scope="module")
def project(tmp_path_factory: pytest.TempPathFactory) -> Project:
    """The project in which nothing is built."""
    return make(tmp_path_factory.mktemp("names") / "clone", small_study())


ATTACKS = {
    "study.name": "x; touch pwned", "study.reward": "$(touch pwned)", "runs": "x; touch pwned #",
    "prepare.import": "`touch pwned`", "score.rewards": "x\ntouch pwned\n",
}  # fmt: skip
"""A hostile name in every place that DVC pastes from; in `study.name` both kinds."""


@pytest.mark.parametrize(
    "key",
    [
        *("study.name", "runs", "score.rewards"),  # of each way of pasting one
        *(pytest.param(key, marks=pytest.mark.slow) for key in ("study.reward", "prepare.import", "study.name again")),
    ],
)
def test_dvc_executes_no_name(project: Project, key: str) -> None:
    name = ATTACKS.get(key, "$(touch pwned)")
    content = hostile(key.split()[0], name)
    (project.root / "params.yaml").write_text(yaml.safe_dump(content))
    refused = project.dvc(check=False)
    assert refused.code != 0
    assert "is not a name; expected" in refused.text, refused.text
    harmless(project, refused.ran)


def hostile(key: str, name: str) -> dict[str, Any]:
    """The small study with a name added, or put in place of the one that stands there."""
    content = deepcopy(STUDY)
    if key in names.NAMED:
        *path, last = key.split(".")
        spot = content[path[0]] if path else content
        spot[last] = {name: next(iter(spot[last].values()))} | spot[last]
    else:
        put(content, key, name)
    return content


def harmless(project: Project, ran: object) -> None:
    assert not ran
    assert not [file for file in project.root.parent.rglob("*") if "pwned" in file.name]


@pytest.mark.parametrize(
    ("key", "name"),
    [("study.name", "x; touch pwned"), ("study.name", "$(touch pwned)"), ("sample.strategies", "$(touch pwned)")],
)
def test_snakemake_executes_no_name(project: Project, key: str, name: str) -> None:
    (project.root / "params.yaml").write_text(yaml.safe_dump(hostile(key, name)))
    refused = project.snakemake(check=False)
    assert refused.code == 2
    said = [line for line in refused.text.splitlines() if line.startswith("error: ")]
    assert said == [f"error: params.yaml: {key}: {name!r} is not a name; expected {names.ALLOWED}"]
    harmless(project, refused.ran)


def test_the_check_reads_as_dvc_does(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """YAML 1.1 and 1.2 differ on what ends a comment, and readers on which of two equal keys counts."""
    text = yaml.safe_dump(small_study())
    path = tmp_path / "params.yaml"
    path.write_text(text.replace("  name: small", "  name: x; touch pwned\n  # \u2028  name: small"))
    monkeypatch.setattr("sys.argv", ["names", str(path)])
    monkeypatch.chdir(ROOT)
    with pytest.raises(InputError, match=r"line \d+: the character U\+2028 ends a line to some readers of YAML"):
        names.main()
    path.write_text(text + "finetune: {}\n")
    with pytest.raises(InputError, match="the key 'finetune' stands twice"):
        names.main()
    path.write_text(text)
    names.main()


@pytest.mark.parametrize("file", sorted(map(str, (ROOT / "studies").glob("*.yaml"))))
def test_ready_studies_have_plain_names(file: str) -> None:
    names.check(read_study(file), file)


def test_the_study_refuses_what_is_no_name(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(ROOT)
    Project(tmp_path).write(hostile("sample.strategies", "a b"))
    with pytest.raises(InputError, match=r"sample\.strategies: 'a b' is not a name; expected 1 to 64 letters"):
        study.load(tmp_path / "params.yaml")
