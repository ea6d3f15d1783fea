"""Several studies on one frontier: what is written, what is refused, and that the example of the documentation runs."""

from __future__ import annotations

import re
import shlex
import shutil
import subprocess
import sys
from dataclasses import replace
from html.parser import HTMLParser
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pyarrow.parquet as pq
import pytest
import yaml
from report_fixture import folders, write_study

from stages.errors import InputError
from stages.measure.evaluation import Evaluation
from stages.report import settings
from stages.report.compare import __main__ as command
from stages.report.compare import points, sameness

ROOT = Path(__file__).parents[3]
PAGE = ROOT / "docs" / "compare-studies.md"


def study(root: Path, name: str, runs: tuple[str, ...]) -> Path:
    """A finished study of that name, as `studies/NAME.yaml` and `out/NAME` below `root`."""
    made = write_study(root / f"made-{name}", runs=runs, prompts=5)
    content = yaml.safe_load(made.read_text())
    content["study"] |= {"name": name, "reference": runs[0].split("-")[0]}
    (root / "studies").mkdir(exist_ok=True)
    params = root / "studies" / f"{name}.yaml"
    params.write_text(yaml.safe_dump(content, sort_keys=False))
    (root / "out").mkdir(exist_ok=True)
    shutil.move(folders(made).measures.parent, root / "out" / name)
    return params


@pytest.fixture(scope="module")
def root(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Two studies of one evaluation: the first with ReFL, the second with ImageReFL and DRaFT."""
    where = tmp_path_factory.mktemp("compare")
    study(where, "shapes", ("refl-s0", "refl-s1"))
    study(where, "shapes-online", ("imagerefl-s0", "draft1-s0"))
    return where


def read(root: Path, **axes: Any) -> points.Compared:
    names = ("shapes", "shapes-online")
    return points.read(
        [settings.read(root / "studies" / f"{name}.yaml") for name in names], [root / "out" / n for n in names], **axes
    )


def test_the_example_of_the_documentation_runs(root: Path) -> None:
    """The command of the page, in a folder where studies of these names are finished, writes what the page says."""
    text = PAGE.read_text()
    line = next(line for line in text.splitlines() if line.startswith("    imagerefl compare"))
    words = shlex.split(line)[2:]
    code = "from stages.report.compare.__main__ import main; from stages.runtime import run_stage; run_stage(main); "
    code += "import sys; print('torch' in sys.modules)"
    done = subprocess.run(
        [sys.executable, "-c", code, *words], cwd=root, env={"PYTHONPATH": str(ROOT), "PATH": "/usr/bin:/bin"},
        text=True, capture_output=True, check=False,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    first, last = done.stdout.splitlines()
    assert first.startswith("2 studies of evaluation ") and last == "False"
    for name in command.FILES:
        assert f"`{name}`" in text and (root / "out/compare" / name).stat().st_size > 1000


class _Reads(HTMLParser):
    """What a page loads from elsewhere."""

    def __init__(self) -> None:
        super().__init__()
        self.found: list[str] = []

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        if tag in ("img", "script", "link", "iframe"):
            self.found += [value or "" for name, value in attrs if name in ("src", "href")]


def test_the_page_stands_alone_and_names_every_study(
    root: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(root)
    monkeypatch.setattr(
        sys, "argv", ["compare", "studies/shapes.yaml", "studies/shapes-online.yaml", "--out", str(tmp_path)]
    )
    command.main()
    text = (tmp_path / "index.html").read_text()
    reads = _Reads()
    reads.feed(text)
    assert all(found.startswith("data:") for found in reads.found) and len(reads.found) == 1
    assert "“shapes”" in text and "“shapes-online”" in text and "ReFL, 2 seeds" in text and "ImageReFL, 1 seed" in text
    assert len(re.findall("<tr>", text)) == 2 + len(read(root).values) // 6  # heads; six axes


def test_values_are_those_of_the_measures(root: Path) -> None:
    compared = read(root)
    table: Any = points.rows(compared)
    kept: Any = pd.read_parquet(root / "out/shapes-online/measures/imagerefl-s0.parquet").query("setting == 'k=10'")
    base: Any = pd.read_parquet(root / "out/shapes/measures/base.parquet").query("setting == 'guidance=1'")
    mine, other = (rows.query("metric == 'oracle'").groupby("prompt_id")["score"].mean() for rows in (kept, base))
    row = table.query("study == 'shapes-online' and method == 'imagerefl' and setting == 'k=10' and metric == 'oracle'")
    assert row["mean"].item() == pytest.approx(mine.mean())
    assert row["difference"].item() == pytest.approx((mine - other).mean())
    assert row["low"].item() < row["mean"].item() < row["high"].item()
    assert set(table["evaluation"]) == {compared.identity}
    own = table.query("study == 'shapes' and method == 'base' and setting == 'guidance=1'")
    np.testing.assert_allclose(own[["difference", "difference_low", "difference_high"]], 0, atol=1e-12)
    assert compared.axes == ("proxy", "heldout", "oracle", "attribute_diversity", "patch_diversity", "clip_diversity")


def test_unbeaten_points_are_those_of_a_plain_loop(root: Path) -> None:
    compared = read(root, rewards=["oracle"], diversities=["clip_diversity"])
    rows: Any = points.rows(compared)
    table = rows.pivot(index=["study", "method", "strategy", "setting", "unbeaten"], columns="metric", values="mean")
    for index, (diversity, reward) in zip(table.index, table[["clip_diversity", "oracle"]].to_numpy(), strict=True):
        better = (table["oracle"] >= reward) & (table["clip_diversity"] >= diversity)
        more = (table["oracle"] > reward) | (table["clip_diversity"] > diversity)
        assert index[-1] == int(not (better & more).any())
    assert 1 < sum(index[-1] for index in table.index) < len(table)


# --- refusals ---------------------------------------------------------------------------------------------------------

ONE = Evaluation(
    "suite",
    5,
    3,
    (32, 32),
    0,
    {"steps": 20, "sampler": "ddpm"},
    {"proxy": {"digest": "aa", "preprocess": {"size": 32}}},
    {},
)


@pytest.mark.parametrize(
    ("other", "said"),
    [
        (replace(ONE, samples=4), "sample.samples_per_prompt is 4, but 3"),
        (replace(ONE, sampling={"steps": 50, "sampler": "ddpm"}), "sample.steps is 50, but 20"),
        (replace(ONE, resolution=(64, 32)), "size of the images is 64 x 32, but 32 x 32"),
        (replace(ONE, seed=1), "study.seed is 1, but 0"),
        (replace(ONE, prompts="others"), "evaluation prompts .curate. is others, but suite"),
        (replace(ONE, models={"proxy": {"digest": "bb", "preprocess": {"size": 32}}}), "model 'proxy' .digest. is bb"),
        (
            replace(ONE, models={"proxy": {"digest": "aa", "preprocess": {"size": 64}}}),
            "model 'proxy' .preprocess.size. is 64, but 32",
        ),
        (replace(ONE, models={**ONE.models, "more": {"digest": "cc"}}), "model 'more' is cc, but not there"),
        (replace(ONE, models={}), "model 'proxy' is not there, but aa"),
        (replace(ONE, formulas=2), "version of the metrics is 2, but 1"),
        (replace(ONE, passing={"metric": "proxy", "least": 0.5}), "measure.passing.least is 0.5, but not there"),
    ],
)
def test_another_evaluation_is_refused_by_the_setting(tmp_path: Path, other: Evaluation, said: str) -> None:
    import pyarrow as pa

    for name, evaluation in (("one", ONE), ("other", other)):
        pq.write_table(pa.table({"x": [1]}, schema=evaluation.schema(pa.schema({"x": pa.int64()}))), tmp_path / name)
    same = [tmp_path / "one", tmp_path / "one"]
    assert sameness.require_one_evaluation(same) == ONE.id
    with pytest.raises(InputError, match=f"other: {said}.*expected studies of one evaluation") as refused:
        sameness.require_one_evaluation([*same, tmp_path / "other"])
    assert "\n" not in str(refused.value)


def test_what_cannot_be_compared_is_said_in_one_line(root: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def refused(words: str, *arguments: str) -> None:
        monkeypatch.chdir(root)
        monkeypatch.setattr(sys, "argv", ["compare", *arguments])
        with pytest.raises(InputError, match=words):
            command.main()

    one, other = "studies/shapes.yaml", "studies/shapes-online.yaml"
    refused("the only study; expected two or more", one)
    refused("'shapes' is the name of two of the studies", one, one)
    refused("--results: 1 folders for 2 studies", one, other, "--results", "out/shapes")
    refused("study 'shapes' was not measured by 'oracl'; did you mean 'oracle'", one, other, "--rewards", "oracl")
    refused("out/nowhere/measures/base.parquet", one, other, "--results", "out/shapes", "out/nowhere")
    content = yaml.safe_load((root / other).read_text())
    content["report"] |= {"diversities": ["fid_diversity"]}
    content["report"].pop("main")
    (root / "studies/odd.yaml").write_text(yaml.safe_dump(content | {"study": content["study"] | {"name": "odd"}}))
    refused("report.diversities: the studies have none in common", one, "studies/odd.yaml", "--results", "out/shapes",
            "out/shapes-online")  # fmt: skip
