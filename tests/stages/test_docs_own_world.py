"""docs/own-world.md: its scripts write tables that curate and the oracle read, and its study is one."""

from __future__ import annotations

import csv
import json
import os
import re
import subprocess
import sys
import textwrap
from pathlib import Path

import numpy as np
import pyarrow.parquet as pq
import pytest

from stages import tables
from stages.captioned import library
from stages.captioned.oracle import Oracle
from stages.emoji.taste import utility
from stages.params import read_study
from stages.pictures import decode, encode
from stages.study import load
from workflow.doctor import captioned
from workflow.files import Files
from workflow.layout import Layout

ROOT = Path(__file__).resolve().parents[2]
PAGE = (ROOT / "docs" / "own-world.md").read_text()
DRAW, TABLES, PAIRS = re.findall(r"```python\n(.*?)```", PAGE, re.DOTALL)
STUDY = re.findall(r"```yaml\n(.*?)```", PAGE, re.DOTALL)[-1]
STYLES, TONES = {"red": (220, 30, 30), "blue": (30, 60, 220)}, {"light": 250, "dark": 20}
TONE_NAMES = ["light", "medium-light", "medium", "medium-dark", "dark"]


def attempt(folder: Path, *command: str) -> subprocess.CompletedProcess[str]:
    """A command of this Python in a folder."""
    environment = os.environ | {"PYTHONPATH": str(ROOT), "LINEAGE": "off", "OMP_NUM_THREADS": "1"}
    return subprocess.run([sys.executable, *command], cwd=folder, env=environment, capture_output=True, text=True)


def run(folder: Path, *command: str) -> str:
    """What a command says; its errors are shown where it fails."""
    done = attempt(folder, *command)
    assert not done.returncode, done.stderr[-3000:]
    return done.stdout


@pytest.fixture(scope="module")
def world(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder in which the page's two scripts have run, with bars of four names in place of icons."""
    root = tmp_path_factory.mktemp("world")
    people = root / "data" / "people"
    people.mkdir(parents=True)
    rows = [("file", "caption", "style", "tone")]
    for number, name in enumerate(("first", "second", "third", "fourth")):
        for style, rgb in STYLES.items():
            for tone, level in TONES.items():
                image = np.full((32, 32, 3), level, np.uint8)
                image[4 + 6 * number : 8 + 6 * number, 4:28] = rgb
                rows.append((f"{name}-{style}-{tone}.png", f"bar {number}", style, tone))
                (people / rows[-1][0]).write_bytes(encode(image))
    with (people / "people.csv").open("w", newline="", encoding="utf-8-sig") as file:  # as spreadsheets save it
        csv.writer(file).writerows(rows)
    assert 'Path("data/people"), 24' in TABLES and "COUNT, TASTE = 4000" in PAIRS
    said = run(root, "-c", TABLES.replace('Path("data/people"), 24', 'Path("data/people"), 1'))
    assert said.splitlines() == ["evaluation: 4 images", "names: 12 images"]
    run(root, "-c", PAIRS.replace("COUNT, TASTE = 4000", "COUNT, TASTE = 60"))
    (root / "data" / "people.yaml").write_text(STUDY)
    return root


ROW = "flag.png,a  Red flag,red"


@pytest.mark.parametrize(
    ("text", "words"),
    [
        (f"file,name,colour\n{ROW}\n", "people.csv, line 2: needs a caption"),
        (f"file,caption,colour\n{ROW}\nflag.png,,red\n", "people.csv, line 3: needs a caption"),
        (f"file,caption,colour\n{ROW}\ngone.png,flag,red\n", "people.csv, line 3: needs a caption"),
        ("file,caption,colour\nflag.png,red, waving,red\n", "people.csv, line 2: needs a caption"),
        (
            f"file,caption,colour\n{ROW}\nflag.png,A red FLAG,blue\n",
            "people.csv: 1 captions, expected more than the 24",
        ),
        ("file,caption,colour\n", "people.csv: 0 captions, expected more than the 24"),
    ],
)
def test_the_page_s_tables_refuse_a_wrong_list_in_one_line(tmp_path: Path, text: str, words: str) -> None:
    people = tmp_path / "data" / "people"
    people.mkdir(parents=True)
    people.joinpath("flag.png").write_bytes(encode(np.zeros((32, 32, 3), np.uint8)))
    people.joinpath("people.csv").write_text(text)
    done = attempt(tmp_path, "-c", TABLES)
    assert done.returncode == 1 and done.stderr.startswith(words) and done.stderr.count("\n") == 1


def test_the_page_s_study_passes_the_check(world: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(world)
    load("data/people.yaml")
    [found] = captioned.look(read_study("data/people.yaml"))
    assert found.mark == "ok", found
    assert "python -m workflow.doctor data/people.yaml" in PAGE


def test_what_the_page_asks_snakemake_for_are_files_of_the_study(world: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(world)
    asked = re.findall(r"study=data/people.yaml -- (\S+)", PAGE)
    assert asked == [
        "out/people/models/vae/config.json",
        "out/people/decided/shares.parquet",
        "out/people/measures/base.summary.parquet",
    ]
    assert {*asked} <= {*Files(Layout.read("data/people.yaml")).kept}


def test_the_page_s_look_at_the_base_reads_a_summary(tmp_path: Path) -> None:
    """As `measure` writes it; other metrics are left out."""
    (script,) = re.findall(r'    python -c "\n(.*?)\n    "\n', PAGE, re.DOTALL)
    head = {"run": "base", "method": "base", "train_seed": 0, "strategy": "base", "setting": "guidance", "value": 2.0}
    rest = {"low": None, "high": None, "n_prompts": 24}
    rows = [head | rest | {"metric": name, "mean": mean} for name, mean in (("caption_accuracy", 0.75), ("proxy", 0.5))]
    file = tmp_path / "out/people/measures/base.summary.parquet"
    file.parent.mkdir(parents=True)
    tables.write(file, tables.table(tables.SUMMARY, rows), tables.SUMMARY)
    assert run(tmp_path, "-c", textwrap.dedent(script)).splitlines() == ["base guidance 2.0 caption_accuracy 0.75"]


def test_every_image_and_pair_is_curated(world: Path) -> None:
    """The base may see all captions, alignment those of `names` alone: its pairs, prompts and images."""
    out = [f"--{name}=out/{name}.parquet" for name in ("prompts", "images", "pairs")]
    (world / "out").mkdir()
    run(world, "-m", "stages.curate", "--params", "data/people.yaml", *out, "--manifest=out/manifest.json")
    images = [
        row for row in tables.read(world / "out/images.parquet", tables.IMAGES).to_pylist() if row["split"] != "pairs"
    ]
    assert {row["source"] for row in images} == {"names", "evaluation"}
    assert len(images) == 16
    prompts = tables.read(world / "out/prompts.parquet", tables.PROMPTS).to_pylist()
    evaluated = {row["prompt"] for row in prompts if row["split"] == "eval"}
    assert evaluated == {row["caption"] for row in images if row["source"] == "evaluation"}
    pairs = tables.read(world / "out/pairs.parquet", tables.PAIRS).to_pylist()
    assert {row["source"] for row in pairs} == {"a", "b"}
    assert not {row["prompt"] for row in pairs} & evaluated
    assert read_study(world / "data/people.yaml")["methods"]["imagerefl"]["source"] == "names"


def test_annotators_prefer_what_has_the_higher_utility(world: Path) -> None:
    """Judged once more by the page's oracle; the temperature lets about one vote in eight go the other way."""
    oracle = Oracle(library.read([world / "data/people/world/names.parquet"], "image", "caption", ["style", "tone"]))
    groups = [pq.read_table(world / f"data/people/pairs-{group}.parquet").to_pylist() for group in "ab"]
    assert groups[0] != groups[1]
    for pairs in groups:
        prompts = [row["prompt"] for row in pairs]
        a, b = (
            utility(oracle.see(np.stack([decode(row[side], side) for row in pairs]), prompts), "coarse")
            for side in ("image_a", "image_b")
        )
        assert ((a > b) == (np.array([row["preference"] for row in pairs]) > 0.5)).mean() > 0.7


def test_the_page_s_drawings_are_what_all_packages_have_in_all_tones(tmp_path: Path) -> None:
    """With a renderer that fills the left half of an image with the icon's text, a colour."""
    (tmp_path / "resvg_py.py").write_text(
        "import io, re\nfrom PIL import Image\n"
        "def svg_to_bytes(svg_string, width):\n"
        "    image, file = Image.new('RGBA', (width, width)), io.BytesIO()\n"
        "    image.paste(re.search('>(#.*)<', svg_string)[1], (0, 0, width // 2, width))\n"
        "    image.save(file, 'PNG')\n"
        "    return file.getvalue()\n"
    )
    for number, (package, end) in enumerate((("openmoji", ""), ("emojione", ""), ("fluent-emoji-flat", "-skin-tone"))):
        names = [f"{way}-hand-{tone}{end}" for way in ("left", "up") for tone in TONE_NAMES] + ["left-hand", "up-hand"]
        icons = {name: {"body": f"#0000{10 + number}"} for name in names}
        aliases = {name.replace("left", "right"): {"parent": name, "hFlip": True} for name in names if "left" in name}
        aliases["other-hand"] = {"parent": "left-hand"}  # without tones
        if package == "emojione":
            del icons["up-hand-dark"]
        folder = tmp_path / "data/iconify" / package
        folder.mkdir(parents=True)
        (folder / "icons.json").write_text(json.dumps({"icons": icons, "aliases": aliases, "width": 8, "height": 8}))
    assert run(tmp_path, "-c", DRAW) == "36 images\n"
    rows = [*csv.DictReader((tmp_path / "data/people/people.csv").open())]
    assert {row["caption"] for row in rows} == {"left hand", "right hand"}
    assert {row["style"] for row in rows} == {"flat", "outlined", "glossy"}
    assert {row["tone"] for row in rows} == {"yellow", *TONE_NAMES}
    for row in rows:
        image = decode((tmp_path / "data/people" / row["file"]).read_bytes(), row["file"])
        left, right = ((half < 128).any() for half in np.split(image, 2, axis=1))
        assert image.shape == (32, 32, 3) and (left, right) == ("left" in row["file"], "right" in row["file"])
