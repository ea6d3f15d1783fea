"""docs/preference.md: its table says what the methods declare, and its example runs from the Parquet to the report."""

from __future__ import annotations

import csv
import json
import os
import re
import subprocess
import sys
from collections.abc import Iterator
from importlib import import_module
from pathlib import Path
from typing import Any

import pyarrow.parquet as pq
import pytest
import yaml

from stages import tables
from stages.finetune import method
from stages.params import read_study
from stages.study import load

ROOT = Path(__file__).resolve().parents[2]
PAGE = (ROOT / "docs" / "preference.md").read_text()
STARTS_FROM = {
    "frozen": "the base",
    "hard": "an earlier policy",
    "ema": "an average of the policy",
    "none": "none",
}


def block(language: str, start: str = "") -> str:
    """The page's one block of code in a language, or the one that begins with `start`."""
    blocks = re.findall(rf"```{language}\n(.*?)```", PAGE, re.DOTALL)
    (found,) = [text for text in blocks if text.startswith(start)]
    return found


def declared() -> Iterator[str]:
    """The rows of the table, from what the methods of the family declare with their default settings."""
    for kind in method.kinds():
        settings = method.load(kind, kind)[0].settings.model_validate({"kind": kind})
        reference, needs = getattr(settings, "reference", None), settings.needs
        if reference is None or needs.data not in ("pairs", "images"):
            continue
        ties = "" if needs.data == "images" else "learnt from" if needs.ties else "left out"
        reward = "" if needs.reward == "none" else "its number"
        several = "yes" if needs.several_processes else "no"
        yield f"| `{kind}` | {needs.data} | {STARTS_FROM[reference.kind]} | {reward} | {ties} | {several} |"


def test_the_table_says_what_the_methods_declare() -> None:
    assert len(list(declared())) >= 17
    shown = PAGE.split("<!-- table of needs -->\n")[1].split("\n\n")[0].splitlines()[2:]
    assert shown == list(declared())


def put(folder: Path, count: int | None = None) -> Path:
    """The page's table of pairs, of `count` pairs, and its study, in a folder with the shipped models."""
    (folder / "data").mkdir()
    (folder / "shipped").symlink_to(ROOT / "shipped")
    code = block("python")
    assert "COUNT, RATERS = 800, 5" in code
    if count is not None:
        code = code.replace("COUNT, RATERS = 800, 5", f"COUNT, RATERS = {count}, 5")
    run(folder, "-c", code)
    path = folder / "data" / "pairs.yaml"
    path.write_text(block("yaml", "study:"))
    return path


def run(folder: Path, *command: str) -> None:
    """A command of this Python in a folder; its output is shown where it fails."""
    environment = os.environ | {"PYTHONPATH": str(ROOT), "LINEAGE": "off", "OMP_NUM_THREADS": "1"}
    done = subprocess.run([sys.executable, *command], cwd=folder, env=environment, capture_output=True, text=True)
    assert not done.returncode, done.stderr[-3000:]


def run_here(stage: str, *words: str) -> None:
    """`run` of a stage, in this process and folder: it has imported most of what the stage does already."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(sys, "argv", [stage, *words])
        import_module(f"stages.{stage}.__main__").main()


def test_the_page_s_table_is_curated(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Every judgement and annotator arrives; pairs with an evaluation prompt and no others are left out."""
    path = put(tmp_path, 40)
    path.write_text(path.read_text().replace("curate:\n", "curate:\n  val_share: 0\n"))  # all pairs are for training
    monkeypatch.chdir(tmp_path)
    load(path)
    out = [f"--{name}={tmp_path / name}.parquet" for name in ("prompts", "images", "pairs")]
    run(tmp_path, "-m", "stages.curate", "--params", str(path), *out, f"--manifest={tmp_path / 'manifest.json'}")
    raw = pq.read_table(tmp_path / "data" / "pairs.parquet").to_pylist()
    made = tables.read(tmp_path / "pairs.parquet", tables.JUDGED_PAIRS).to_pylist()
    prompts = tables.read(tmp_path / "prompts.parquet", tables.PROMPTS).to_pylist()
    evaluated = {row["prompt"] for row in prompts if row["split"] == "eval"}
    expected = [row for row in raw if row["caption"] not in evaluated]
    given = {(row["caption"], round(row["p_left"], 6), row["rater"]) for row in expected}
    got = {(row["prompt"], round(row["preference"], 6), row["annotator"]) for row in made}
    assert got == given and 0 < len(expected) < len(raw)
    assert {row["prompt"] for row in prompts} & {row["caption"] for row in raw}


def test_the_page_s_steps_label_and_choose_its_pairs(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The section `select` of the page, on its table: curated, scored and selected by the stages themselves."""
    path = put(tmp_path, 48)
    steps = yaml.safe_load(block("yaml", "select:").replace("top: 200", "top: 20"))
    path.write_text(yaml.safe_dump(read_study(path) | steps))
    monkeypatch.chdir(tmp_path)
    load(path)
    kinds = [step["kind"] for step in steps["select"]["steps"]]
    out = {name: tmp_path / f"{name}.parquet" for name in ("prompts", "images", "pairs")}
    curated = [f"--{name}={file}" for name, file in out.items()]
    run_here("curate", "--params", str(path), *curated, f"--manifest={tmp_path / 'manifest.json'}")
    about = ("--params", str(path), f"--images={out['images']}", f"--pairs={out['pairs']}")
    for name in steps["score"]["rewards"]:
        record = tmp_path / f"{name}.json"
        run_here("prepare", "import", "--params", str(path), "--name", name, "--record", str(record))
        written = (f"--scores={tmp_path / name}.parquet", f"--accuracy={tmp_path / name}.accuracy.json")
        run_here("score", *about, "--reward", name, f"--model={record}", *written)
    selected, counts = tmp_path / "selected.parquet", tmp_path / "counts.json"
    made = (f"--selected={selected}", f"--manifest={counts}")
    run_here("select", *about, f"--scores={tmp_path}", *made)
    rows = tables.read(selected, tables.JUDGED_PAIRS).to_pylist()
    training = [row for row in rows if row["split"] == "train"]
    said = json.loads(counts.read_text())
    assert [step["step"] for step in said["steps"]] == kinds and said["steps"][0]["relabelled"] > 0
    assert len(training) == said["out"] == 20 and {row["preference"] for row in training} <= {0.0, 1.0}


def over(study: dict[str, Any], excerpt: dict[str, Any]) -> dict[str, Any]:
    """A study with an excerpt laid over it: sections are joined, entries with a kind take the place of others."""
    joined = dict(study)
    for name, entry in excerpt.items():
        old = joined.get(name)
        if isinstance(entry, dict) and isinstance(old, dict) and "kind" not in entry:
            joined[name] = over(old, entry)
        else:
            joined[name] = entry
    return joined


def test_every_excerpt_of_the_page_fits_the_page_s_study(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Laid over the page's study, with a run of each method that the excerpt names, it is a study that is accepted."""
    path = put(tmp_path, 40)
    monkeypatch.chdir(tmp_path)
    study = read_study(path)
    excerpts = [yaml.safe_load(text) for text in re.findall(r"```yaml\n(.*?)```", PAGE, re.DOTALL)]
    assert len(excerpts) == 6
    for excerpt in excerpts:
        joined = over(study, excerpt)
        joined["runs"] = joined["runs"] | {
            f"{method}-s0": {"method": method, "seed": 0} for method in excerpt.get("methods", ())
        }
        path.write_text(yaml.safe_dump(joined))
        load(path)


def small(path: Path) -> None:
    """The page's study with two of its methods, at a compute of seconds."""
    study = read_study(path)
    study["curate"]["prompts"]["eval"]["limit"] = 2
    study["curate"]["val_share"] = 0
    study["finetune"] |= {"budget": {"compute": 400}, "batch_size": 4, "sampling_steps": 6}
    study["finetune"]["probe"] |= {"every": 2, "prompts": 2}
    study["methods"] = {name: study["methods"][name] for name in ("dpo", "inpo")}
    study["runs"] = {name: run for name, run in study["runs"].items() if run["method"] in study["methods"]}
    study["sample"] |= {"steps": 6, "samples_per_prompt": 2}
    study["sample"]["strategies"]["combined"]["k"] = [3]
    study["measure"]["bootstrap"] = 100
    study["report"]["grid"] = {"prompts": 2, "samples": 2}
    path.write_text(yaml.safe_dump(study))


@pytest.mark.slow
def test_the_page_s_example_ends_in_a_frontier(tmp_path: Path) -> None:
    path = put(tmp_path, 64)
    small(path)
    for name in ("Snakefile", "workflow", "stages", "profiles", "pyproject.toml", "params.yaml", "slurm"):
        (tmp_path / name).symlink_to(ROOT / name)
    run(tmp_path, "-m", "snakemake", "--cores", "2", "--config", "study=data/pairs.yaml")
    report = tmp_path / "out" / "pairs" / "report"
    assert {"index.html", "frontier.png", "winner_error.png"} <= {file.name for file in report.iterdir()}
    with (report / "plots" / "frontier.csv").open(newline="") as file:
        assert {"dpo", "inpo"} <= {row["method"] for row in csv.DictReader(file)}
    with (report / "plots" / "winner_error.csv").open(newline="") as file:
        assert {row["method"] for row in csv.DictReader(file)} == {"dpo", "inpo"}
