"""The table of versions: the shipped one, and what it does to files that are another version."""

from __future__ import annotations

import hashlib
import re
from pathlib import Path
from typing import Any

import pytest
import yaml

from stages.curate import versions
from stages.errors import InputError
from stages.prepare.import_settings import ImportSettings
from tests.stages import published
from tests.stages.curating import ROOT, SHAPES_PROMPTS, curate

HEADER = "name,kind,source,file,revision,licence,sha256,bytes,note\n"


def table(folder: Path, *rows: str) -> str:
    (folder / "versions.csv").write_text(HEADER + "".join(f"{row}\n" for row in rows))
    return str(folder / "versions.csv")


def pinned(file: Path, **other: object) -> str:
    """A row with the digest and size of a file, or with other ones."""
    data = file.read_bytes()
    about: dict[str, Any] = {"sha256": hashlib.sha256(data).hexdigest(), "bytes": len(data)} | other
    return f"HPDv2,hpdv2,a mirror,{file.name},rev1,Apache-2.0,{about['sha256']},{about['bytes']},"


def section(root: Path, own: str | None) -> dict[str, Any]:
    train = {"kind": "hpdv2", "path": str(root), "split": "train"}
    return {"prompts": {"train": train, "eval": SHAPES_PROMPTS["eval"]}, "versions": own}


def test_the_shipped_table() -> None:
    rows = versions.read()
    kinds = {
        "coco",
        "draw_bench",
        "emoji",
        "hpdv2",
        "hpsv2_benchmark",
        "image_reward_db",
        "laion",
        "parti_prompts",
        "pick_a_pic",
    }
    assert {row.kind for row in rows} == kinds | {"model"}
    order = [(row.name.lower(), row.file) for row in rows]
    assert order == sorted(order)
    assert all(row.source.startswith("https://") for row in rows)


def test_digests_that_studies_and_loaders_pin_are_in_the_table() -> None:
    known = {row.sha256 for row in versions.read() if row.sha256}
    used = {
        found for path in (ROOT / "studies").glob("*.yaml") for found in re.findall(r"[0-9a-f]{64}", path.read_text())
    }
    used |= set(re.findall(r"[0-9a-f]{64}", (ROOT / "stages/rewards/hps.py").read_text()))
    assert used and used <= known


def test_revisions_that_studies_pin_are_those_of_the_table() -> None:
    """Of every hub that a study takes a model from, at the very commit."""
    known = {(row.source, row.revision) for row in versions.read() if row.kind == "model"}
    pinned = set()
    for path in (ROOT / "studies").glob("*.yaml"):
        for name, values in yaml.safe_load(path.read_text())["prepare"]["import"].items():
            for _, part in ImportSettings.model_validate(values).everything(name):
                if part.hub is not None:
                    pinned.add((f"https://huggingface.co/{part.hub}", part.revision))
    assert len(pinned) >= 7 and pinned <= known


def test_files_of_a_source_are_held_against_it(tmp_path: Path) -> None:
    root = published.hpdv2(tmp_path / "HPDv2")
    plain = curate(tmp_path / "a", section(root, None)).manifest
    assert [(e["name"], e["files"], e["checked"]) for e in plain["versions"]] == [("HPDv2", 1, 0), ("HPDv2", 1, 0)]
    own = table(tmp_path, pinned(root / "train.json"))
    entries = curate(tmp_path / "b", section(root, own)).manifest["versions"]
    assert {
        "name": "HPDv2",
        "source": "a mirror",
        "revision": "rev1",
        "licence": "Apache-2.0",
        "files": 1,
        "checked": 1,
    } in entries


@pytest.mark.parametrize(
    ("other", "message"),
    [
        ({"bytes": 7}, r"train.json: is not HPDv2 of the table of versions: expected 7 bytes, found \d+$"),
        ({"sha256": "0" * 64}, r"train.json: is not HPDv2 .*: expected sha256 0{64}, found sha256 [0-9a-f]{64}$"),
        ({"sha256": "0" * 64, "bytes": ""}, "expected sha256 0{64}"),
    ],
)
def test_another_version_is_refused(other: dict[str, object], message: str, tmp_path: Path) -> None:
    root = published.hpdv2(tmp_path / "HPDv2")
    own = table(tmp_path, pinned(root / "train.json", **other))
    with pytest.raises(InputError, match=message):
        curate(tmp_path / "out", section(root, own))
    assert not list((tmp_path / "out").glob("*"))


def test_one_of_two_releases_fits(tmp_path: Path) -> None:
    root = published.hpdv2(tmp_path / "HPDv2")
    newer = pinned(root / "train.json", sha256="0" * 64).replace("a mirror", "another").replace("rev1", "rev2")
    found = list(versions.check("hpdv2", str(root), versions.read(table(tmp_path, newer, pinned(root / "train.json")))))
    assert [(each.versions[0].revision, each.checked) for each in found] == [("rev1", True)]


def test_releases_that_nothing_tells_apart(tmp_path: Path) -> None:
    root = published.pick_a_pic(tmp_path / "pick")
    found = versions.check("pick_a_pic", str(root), versions.read())
    assert [(e["name"], e["files"]) for e in versions.summary(found)] == [("Pick-a-Pic v1 or Pick-a-Pic v2", 2)]


def test_a_source_that_is_one_file(tmp_path: Path) -> None:
    root = published.suites(tmp_path / "suites")
    found = list(versions.check("parti_prompts", str(root / "PartiPrompts.tsv"), versions.read()))
    assert [each.versions[0].name for each in found] == ["PartiPrompts"]
    assert not list(versions.check("parti_prompts", str(root / "DrawBench.csv"), versions.read()))


@pytest.mark.parametrize(
    ("rows", "message"),
    [
        (["HPDv2,hpdv2,a,train.json,,Apache-2.0,abc,,"], "versions.csv, row 2: sha256: string should match"),
        (["HPDv2,hpdv2,a,train.json,,Apache-2.0,,-1,"], "row 2: bytes: input should be greater"),
        (["HPDv2,hpdv2,a,train.json,,,,,"], "row 2: licence: field required"),
        (["HPDv2,hpdv2,a,train.json,,x,,,,more"], "row 2: "),
        (
            ["HPDv2,hpdv2,a,train.json,,x,,,", "HPDv2,hpdv2,a,train.json,,y,,,"],
            "row 3: a second row of 'train.json' of a",
        ),
        (["HPDv2,hpdv2,a,*.json,,x,,7,"], "row 2: '\\*.json' names several files"),
    ],
)
def test_tables_that_are_refused(rows: list[str], message: str, tmp_path: Path) -> None:
    with pytest.raises(InputError, match=message) as caught:
        versions.read(table(tmp_path, *rows))
    assert "\n" not in str(caught.value)
    with pytest.raises(InputError, match=r"none\.csv: cannot be read as a table of versions"):
        versions.read(tmp_path / "none.csv")


def test_a_row_for_a_file(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    (tmp_path / "a.json").write_bytes(b"[]")
    monkeypatch.setattr("sys.argv", ["versions", str(tmp_path / "a.json")])
    versions.main()
    assert capsys.readouterr().out == f"a.json,{hashlib.sha256(b'[]').hexdigest()},2\n"
