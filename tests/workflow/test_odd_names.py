"""Texts and paths of a study that look like commands, patterns or paths out of the project stay texts and paths."""

from __future__ import annotations

import io
import shutil
from pathlib import Path

import numpy as np
import pyarrow.parquet as pq
import pytest
from PIL import Image
from project import ROOT, Project, make, small_study

PROMPTS = [
    "a star; rm -rf data out",
    "a ring $(touch pwned) ${HOME} %s",
    "a cross `touch pwned` && touch pwned | tee pwned > pwned",
    "../../../etc/passwd",
    "/var/log/messages",
    "a 'red' \"star\" \\n of {run} {{wildcards.run}} ${study.name}",
    "--params other.yaml # and a comment",
    "<b>a blue ring</b> & co *?[a-z] ~ !",
]
NAME = "$(touch pwned) `touch pwned`; touch pwned 'q' \"q\" {run} <run> [a] &"
"""A name of a file or folder, so without a slash."""


@pytest.fixture(scope="module")
def project(tmp_path_factory: pytest.TempPathFactory) -> Project:
    """The project with the real curate, on files with such names and such content; the study file has such a name."""
    made = make(tmp_path_factory.mktemp("odd") / "clone", study := small_study())
    shutil.copy(ROOT / "stages/curate/__main__.py", made.root / "stages/curate/__main__.py")
    images = made.root / "data" / NAME
    images.mkdir()
    for place, prompt in enumerate(PROMPTS):
        (images / f"{NAME} {place}.png").write_bytes(png(place))
        (images / f"{NAME} {place}.txt").write_text(prompt)
    (made.root / f"data/{NAME}.txt").write_text("\n".join(PROMPTS))
    shutil.copytree(made.root / "shipped/shapes/base", made.root / f"data/{NAME}/base")
    study["study"]["description"] = PROMPTS[1]
    study["runs"] = {"refl-s0": {"method": "refl", "seed": 0}}
    study["curate"]["images"] = {"kind": "folder", "path": f"data/{NAME}"}
    study["curate"]["pairs"]["count"] = 10
    study["curate"]["prompts"]["eval"] = {"kind": "file", "path": f"data/{NAME}.txt"}
    study["curate"]["filters"]["leakage"] = False
    study["prepare"]["import"]["base"]["folder"] = f"data/{NAME}/base"
    made.write(study, f"studies/{NAME}.yaml")
    made.write(study)
    return made


def png(seed: int) -> bytes:
    """A small image of noise."""
    noise = np.random.default_rng(seed).integers(0, 256, (32, 32, 3), dtype=np.uint8)
    buffer = io.BytesIO()
    Image.fromarray(noise).save(buffer, "PNG")
    return buffer.getvalue()


def unharmed(project: Project) -> None:
    """Prompts and captions are in the tables letter by letter, and nothing else happened."""
    data = project.root / "out/small/data"
    prompts = pq.read_table(data / "prompts.parquet").to_pylist()
    assert sorted(row["prompt"] for row in prompts if row["split"] == "eval") == sorted(PROMPTS)
    images = pq.read_table(data / "images.parquet").to_pylist()
    assert {row["caption"] for row in images} >= set(PROMPTS)
    base = project.root.parent
    assert not [file for file in base.rglob("*") if file.name in ("pwned", "passwd")]
    assert len(list((project.root / "data" / NAME).glob("*.png"))) == len(PROMPTS)


@pytest.mark.slow
def test_snakemake(project: Project, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("LINEAGE", "off")
    asked = ("--config", f"study=studies/{NAME}.yaml")
    ran = project.snakemake(*asked).ran
    assert {"prepare import base", "finetune refl-s0", "sample run refl-s0", "report"} <= ran.keys()
    unharmed(project)
    (project.root / f"data/{NAME}/base/weights.bin").write_text("other weights")
    planned = project.snakemake(*asked, "--dry-run").text
    assert "rule prepare_import:" in planned, "a file with such a name is not watched"


def test_dvc(project: Project, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("LINEAGE", "off")
    for folder in ("out", ".dvc/cache", ".dvc/tmp"):
        shutil.rmtree(project.root / folder, ignore_errors=True)
    (project.root / "dvc.lock").unlink(missing_ok=True)
    assert {"prepare import base", "encode"} <= project.dvc("repro", "encode").ran.keys()
    unharmed(project)


@pytest.mark.parametrize("key", ["runs", "methods", "prepare.import"])
@pytest.mark.parametrize("name", ["x; touch pwned", "$(touch pwned)", "../up", "x`touch pwned`", "x 'y'"])
def test_names_that_reach_a_command_line_are_plain(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, key: str, name: str
) -> None:
    """Names of jobs and files are refused before any runner sees them."""
    from stages import study
    from stages.errors import InputError

    content = small_study()
    spot = content
    for part in key.split("."):
        spot = spot[part]
    spot[name] = next(iter(spot.values()))
    monkeypatch.chdir(ROOT)
    Project(tmp_path).write(content)
    with pytest.raises(InputError, match=r"^[^\n]*$") as error:
        study.load(tmp_path / "params.yaml")
    assert key in str(error.value)
