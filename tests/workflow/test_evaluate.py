"""`imagerefl evaluate`: a protocol, a base and checkpoints become a study, whose report shows them beside the base."""

from __future__ import annotations

import json
import os
import shlex
import shutil
import sys
from dataclasses import replace
from pathlib import Path
from typing import Any

import pyarrow.parquet as pq
import pytest
import torch
import yaml
from project import ROOT
from safetensors.torch import load_file, save_file

from stages.errors import InputError
from stages.study import load as check
from tests import original_layout, tiny
from tests.wiring.mini import call
from workflow.evaluate import __main__ as command
from workflow.evaluate import pages, protocol
from workflow.evaluate.study import study
from workflow.files import Files, fill
from workflow.plan import Plan

LAYER = "mid_block.attentions.0.transformer_blocks.0.attn2.to_q"
TINY = ("side=16", "steps=4", "limit=3", "images=2")


@pytest.fixture(scope="module")
def place(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A root of the project with a tiny base, a network tuned from it in two forms, and a LoRA."""
    root = tmp_path_factory.mktemp("evaluate")
    (root / "shipped").symlink_to(ROOT / "shipped")
    tiny.diffusion_folder(root / "base")
    shutil.copytree(root / "base", root / "merged")
    file = root / "merged/unet/diffusion_pytorch_model.safetensors"
    weights = load_file(file)
    weights["conv_out.bias"] += 0.2
    save_file(weights, file)
    save_file(original_layout.original(root / "merged"), root / "single.safetensors")
    (root / "lora").mkdir()
    out, width = weights[f"{LAYER}.weight"].shape
    draw = torch.Generator().manual_seed(1)
    matrices = {"lora_A": torch.randn(2, width, generator=draw), "lora_B": torch.randn(out, 2, generator=draw)}
    named = {f"unet.{LAYER}.{name}.weight": value for name, value in matrices.items()}
    save_file(named, root / "lora/pytorch_lora_weights.safetensors")
    (root / "prompts.txt").write_text("a red circle\na blue square\na green cross\n")
    (root / "none.jsonl").write_text("\n")
    (root / "questions.csv").write_text("text,question\na cat,1\na cat,2\na cat,3\na dog,1\n")
    (root / "twice.txt").write_text("a cat\na dog\na cat\n")
    (root / "loop").symlink_to("loop")
    return root


def evaluate(monkeypatch: pytest.MonkeyPatch, *words: str) -> None:
    """The command line."""
    monkeypatch.setattr(sys, "argv", ["imagerefl evaluate", *words])
    command.main()


def started(monkeypatch: pytest.MonkeyPatch) -> list[Path]:
    """The studies that the command hands to Snakemake, whose jobs are then run in this process."""
    files: list[Path] = []

    def run(file: Path, cores: str, dry_run: bool) -> None:
        files.append(file)
        plan = Plan.read(file)
        for _, stage, name in plan.jobs():
            words = shlex.split(fill(Files(plan.layout).command(stage), name).replace("{P}", str(file)))
            call(words[2], *words[3:])

    monkeypatch.setattr(command, "_run", run)
    return files


def test_three_forms_of_checkpoints(
    place: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """From a folder without a study of one's own to the report."""
    monkeypatch.chdir(place)
    monkeypatch.setenv("LINEAGE", "off")
    files = started(monkeypatch)
    changes = [word for change in TINY for word in ("--set", change)]
    checkpoints = [word for name in ("lora", "merged", "single.safetensors") for word in ("--checkpoint", name)]
    evaluate(monkeypatch, "--base", "base", *checkpoints, *changes)
    [file] = files
    out = file.parent
    numbers = json.loads((out / "report/metrics.json").read_text())
    assert list(numbers["runs"]) == ["lora", "merged", "single"]
    images = {name: pq.read_table(out / f"samples/{name}.parquet")["image"] for name in ("lora", "merged", "single")}
    assert images["merged"] == images["single"] != images["lora"]
    assert len(images["lora"]) == 3 * 2 * 2  # prompts, images, and the checkpoint alone and combined with the base
    said = f"protocol {protocol.load('shapes', TINY).id}, changed: limit none -> 3, images 6 -> 2, steps 20 -> 4"
    page = (out / "report/index.html").read_text().replace("&gt;", ">")
    assert "proxy reward (judge)" in page and "trained on" not in page.split("<script")[0]
    assert "What lora, merged, single were fine-tuned on is not known here." in page
    assert said in page and f"{said}, side 32 -> 16" in file.read_text()
    told = capsys.readouterr().out
    assert f"study: {file}" in told and f"report: {out / 'report/index.html'}" in told
    call("stages.audit", "--params", file, "--store", "none.db")
    assert " numbers compared, 0 differ" in capsys.readouterr().out


@pytest.mark.parametrize("name", protocol.names())
def test_every_protocol_makes_a_valid_study(place: Path, monkeypatch: pytest.MonkeyPatch, name: str) -> None:
    monkeypatch.chdir(place)
    made = protocol.load(name)
    prompts = None if made.settings.prompts["kind"] == "shapes" else Path("prompts.txt")
    inception = made.settings.judges.get("inception")
    if inception is not None:  # the one file that a protocol takes from this machine
        inception |= {"file": "prompts.txt"}
    real = None if made.settings.real is None else Path("merged")
    content = study(made, Path("base"), [Path("lora")], prompts, real)
    Path("study.yaml").write_text(yaml.safe_dump(content))
    found = check("study.yaml")
    assert found.study.name == f"evaluate-{made.id}-base" and not found.trained
    assert found.sample.samples_per_prompt == made.settings.images and found.sample.steps == made.settings.steps
    page = (ROOT / "docs/evaluate.md").read_text()
    row = f"| [`{name}`](protocols/{name}.md) | `{protocol.load(name).id}` |"
    assert row in page, "the table of protocols has another id"


def test_every_number_of_a_protocol_has_its_place_in_the_study() -> None:
    numbers = (
        "limit=5",
        "images=3",
        "steps=22",
        "sampler=ddim",
        "guidance=2.0",
        "base_guidance=3.0",
        "seed=7",
        "side=24",
    )
    made = study(protocol.load("shapes", numbers), Path("base"), [Path("lora")], None)
    sample = made["sample"]
    assert (sample["steps"], sample["sampler"], sample["samples_per_prompt"]) == (22, "ddim", 3)
    assert sample["guidance"] == [1.0, 3.0] and sample["strategies"]["tuned"] == {"kind": "tuned", "guidance": 2.0}
    combined = {"kind": "combined", "k": [11], "base_guidance": 3.0, "guidance": 2.0}
    assert sample["strategies"]["combined"] == combined
    assert (made["study"]["seed"], made["encode"]["side"], made["curate"]["prompts"]["eval"]["limit"]) == (7, 24, 5)


def test_sets_are_compared_as_the_protocol_says() -> None:
    own = protocol.load("coco-5k")
    for directions in (True, False):
        settings = own.settings.model_copy(update={"directions": directions})
        made = study(replace(own, settings=settings), Path("base"), [Path("lora")], Path("prompts"), Path("real"))
        assert made["measure"]["directions"] is directions
        assert made["curate"]["images"]["path"] == "real" and made["measure"]["set_metrics"] == list(
            own.settings.set_metrics
        )


@pytest.mark.parametrize("change", ["limit=5", "images=3", "steps=21", "sampler=ddim", "guidance=2.0", "seed=1"])
def test_a_changed_setting_changes_the_id_and_is_said(change: str) -> None:
    before, after = protocol.load("shapes"), protocol.load("shapes", [change])
    key, _, value = change.partition("=")
    assert before.id != after.id and after.said.endswith(f" -> {value}") and key in after.said
    assert before.said == f"protocol {before.id}, unchanged"


def test_the_pages_of_the_protocols_are_as_the_protocols_are() -> None:
    """Each says its id, and every value that the id stands for."""
    folder = ROOT / "docs/protocols"
    assert sorted(file.stem for file in folder.iterdir()) == protocol.names()
    for name in protocol.names():
        found, text = protocol.load(name), (folder / f"{name}.md").read_text()
        assert text == pages.page(found), "make protocols writes it anew"
        own = found.settings
        for said in (
            found.id,
            f"| {own.images} |",
            f"| {own.steps}, `{own.sampler}` |",
            f"| {own.seed} |",
            *own.judges,
        ):
            assert said in text, said


def test_a_page_says_what_is_to_be_named() -> None:
    """Prompts, real images and servers, in the command; a changed setting on the page."""
    assert "REWARDS=http://HOST:PORT imagerefl" in pages.page(protocol.load("geneval2"))
    assert "--prompts PLACE --images PLACE" in pages.page(protocol.load("coco-5k"))
    plain = pages.page(protocol.load("shapes"))
    assert "PLACE" not in plain and "REWARDS" not in plain
    other = pages.page(protocol.load("shapes", ["steps=7", "limit=2"]))
    assert "| 7, `ddpm` |" in other and "the first 2 of" in other and "| 20, `ddpm` |" in plain


@pytest.mark.parametrize(
    "name", ["my own (v2)", "a-protocol-of-our-group-for-portraits-and-landscapes-of-2026", "école"]
)
def test_the_id_of_a_protocol_of_ones_own_stands_in_the_name_of_the_study(
    place: Path, monkeypatch: pytest.MonkeyPatch, name: str
) -> None:
    """Whatever its file is called, and in full."""
    monkeypatch.chdir(place)
    shutil.copy(protocol.FOLDER / "shapes.yaml", f"{name}.yaml")
    names = set()
    for steps in ("20", "10"):
        made = protocol.load(f"{name}.yaml", [f"steps={steps}"])
        content = study(made, Path("base"), [Path("lora")], None)
        Path("study.yaml").write_text(yaml.safe_dump(content))
        found = check("study.yaml").study.name
        assert made.id in found and len(made.id.rpartition("-")[2]) == 8
        names.add(found)
    assert len(names) == 2


def test_another_base_of_the_same_name_is_refused(place: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The same one is not, however it is written."""
    monkeypatch.chdir(place)
    monkeypatch.setattr(command, "_run", lambda *given: None)
    shutil.copytree(place / "base", place / "other/base")
    words = ["--checkpoint", "lora", "--set", "steps=5"]
    evaluate(monkeypatch, "--base", "base", *words, "--dry-run")
    evaluate(monkeypatch, "--base", str(place / "base"), *words, "--dry-run")
    with pytest.raises(InputError, match=r"--base other/base: out/evaluate-shapes-\w+-base has the evaluation of"):
        evaluate(monkeypatch, "--base", "other/base", *words)


def test_a_refused_evaluation_leaves_the_former_study_as_it_was(place: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(place)
    monkeypatch.setattr(command, "_run", lambda *given: None)
    evaluate(monkeypatch, "--base", "base", "--checkpoint", "lora", "--set", "seed=7")
    file = place / f"out/evaluate-{protocol.load('shapes', ['seed=7']).id}-base/study.yaml"
    before = file.read_bytes()
    for wrong in ("nowhere", "base/model_index.json"):
        with pytest.raises(InputError, match=r"study\.yaml: runs"):
            evaluate(monkeypatch, "--base", "base", "--checkpoint", wrong, "--set", "seed=7")
        assert file.read_bytes() == before
    file.write_text("prepare: 3\n")
    with pytest.raises(InputError, match="not written by `imagerefl evaluate`"):
        evaluate(monkeypatch, "--base", "base", "--checkpoint", "lora", "--set", "seed=7")
    file.unlink()


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (b"\xff\xfe\x00d", "cannot be read: its text is not UTF-8"),
        (b"", "expected"),
        (b"- a\n- b\n", "expected"),
        (b"description: [", "not valid YAML"),
        (b"description: x\ndescription: y\n", "twice"),
        (b"\0", ""),
        (b"guidance: .inf\n", ""),
        (b"<html><body>Not found</body></html>", ""),
    ],
)
def test_strange_protocol_files_are_refused_in_one_line(tmp_path: Path, content: bytes, message: str) -> None:
    file = tmp_path / "mine.yaml"
    file.write_bytes(content)
    with pytest.raises(InputError, match=message) as refused:
        protocol.load(str(file))
    assert "mine.yaml" in str(refused.value) and "\n" not in str(refused.value)


@pytest.mark.parametrize(
    "change",
    [
        {"guidance": float("inf")}, {"images": 1}, {"images": True}, {"steps": 2.5}, {"side": 4}, {"rewards": []},
        {"sampler": "euler"}, {"judges": []}, {"prompts": "a cat"}, {"seed": -1}, {"features": {"x": 1}}, {"more": 1},
    ],
)  # fmt: skip
def test_strange_settings_of_a_protocol_are_refused_by_key(tmp_path: Path, change: dict[str, Any]) -> None:
    raw = yaml.safe_load((protocol.FOLDER / "shapes.yaml").read_text())
    (tmp_path / "mine.yaml").write_text(yaml.safe_dump(raw | change))
    with pytest.raises(InputError, match=f"mine.yaml: {next(iter(change))}"):
        protocol.load(str(tmp_path / "mine.yaml"))


def test_a_mark_of_byte_order_is_no_part_of_a_protocol(tmp_path: Path) -> None:
    (tmp_path / "shapes.yaml").write_bytes(b"\xef\xbb\xbf" + (protocol.FOLDER / "shapes.yaml").read_bytes())
    assert protocol.load(str(tmp_path / "shapes.yaml")).id == protocol.load("shapes").id


def test_words_do_not_change_the_id(tmp_path: Path) -> None:
    """Nor does a setting that is given as it is."""
    raw: dict[str, Any] = yaml.safe_load((protocol.FOLDER / "shapes.yaml").read_text())
    (tmp_path / "shapes.yaml").write_text(yaml.safe_dump(raw | {"description": "other words", "notes": "more"}))
    assert protocol.load(str(tmp_path / "shapes.yaml"), ["steps=20"]).said == protocol.load("shapes").said


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["--base", "nowhere", "--checkpoint", "lora"], "--base nowhere: no such folder"),
        (["--base", "base", "--checkpoint", "nowhere"], r"study.yaml: runs.nowhere.checkpoint: nowhere: no such file"),
        (["--base", "base", "--checkpoint", "lora", "--protocol", "shape"], "unknown protocol; did you mean 'shapes'"),
        (["--base", "base", "--checkpoint", "lora", "--set", "step=3"], "--set step=3: expected KEY=VALUE; did you me"),
        (["--base", "base", "--checkpoint", "lora", "--set", "steps=x"], "--set: steps: expected a number, found text"),
        (["--base", "base", "--checkpoint", "lora", "--protocol", "drawbench"], "needs its prompts; name their file"),
        (["--base", "base", "--checkpoint", "lora", "--prompts", "prompts.txt"], "has prompts of its own; leave it ou"),
        (
            ["--base", "base", "--checkpoint", "lora", "--images", "merged"],
            "compares with no real images; leave it out",
        ),
        (
            ["--base", "base", "--checkpoint", "lora", "--protocol", "coco-5k", "--prompts", "merged"],
            "--images: protocol coco-5k compares with real images; name their folder",
        ),
        (["--base", "base", "--checkpoint", "lora", "--checkpoint", "x/lora"], "would call it 'lora', as lora; rename"),
        (["--base", "base", "--checkpoint", "loop"], r"runs.loop.checkpoint: loop: no such file or folder"),
        (["--base", "loop", "--checkpoint", "lora"], r"--base loop: no such folder"),
        (["--base", "base", "--checkpoint", "lora", "--set", "side=17"], "encode.side: 17 is no multiple of 2, as"),
        (["--base", "base", "--checkpoint", "lora", "--set", "side=9"], "encode.side: 9 is no multiple of 2, as"),
        (
            ["--base", "base", "--checkpoint", "lora", "--protocol", "drawbench", "--prompts", "prompts.txt"],
            "prompts.txt: has 3 prompts, but protocol drawbench-957b6497 takes 200; `--set limit=3` evaluates with the",
        ),
        (
            ["--base", "base", "--checkpoint", "lora", "--protocol", "drawbench", "--prompts", "prompts.txt", "--set",
             "limit=4"], r"has 3 prompts, but protocol drawbench-\w+ takes 4; `--set limit=3`",
        ),
        (
            ["--base", "base", "--checkpoint", "lora", "--protocol", "geneval2", "--prompts", "none.jsonl"],
            r"none.jsonl: has 0 prompts, but protocol geneval2-\w+ takes 800$",
        ),
        (
            ["--base", "base", "--checkpoint", "lora", "--protocol", "dpg", "--prompts", "questions.csv", "--set",
             "limit=3"], r"questions.csv: has 2 prompts, but protocol dpg-\w+ takes 3; `--set limit=2`",
        ),
        (
            ["--base", "base", "--checkpoint", "lora", "--protocol", "drawbench", "--prompts", "twice.txt", "--set",
             "limit=4"], r"twice.txt: has 2 prompts, but protocol drawbench-\w+ takes 4; `--set limit=2`",
        ),
        (["--base", "base", "--checkpoint", "lora", "--set", "limit=25"], r"shapes: has 24 prompts, but .* takes 25"),
    ],
)  # fmt: skip
def test_refusals(place: Path, monkeypatch: pytest.MonkeyPatch, words: list[str], message: str) -> None:
    monkeypatch.chdir(place)
    monkeypatch.setenv("REWARDS", "http://127.0.0.1:9")
    started(monkeypatch)
    before = sorted(Path("out").rglob("*"))
    with pytest.raises(InputError, match=message):
        evaluate(monkeypatch, *words)
    assert sorted(Path("out").rglob("*")) == before


@pytest.mark.parametrize("prompts", ["prompts.txt", "twice.txt"])
@pytest.mark.parametrize(("limit", "takes"), [([], 3), (["--set", "limit=2"], 2)])
def test_as_many_prompts_as_the_suite_has_are_enough(
    place: Path, monkeypatch: pytest.MonkeyPatch, limit: list[str], takes: int, prompts: str
) -> None:
    """The count is for the check alone: it is no part of the id. A suite may have a prompt twice itself."""
    monkeypatch.chdir(place)
    started(monkeypatch)
    monkeypatch.setattr(command, "_run", lambda *_: None)
    raw = yaml.safe_load((protocol.FOLDER / "drawbench.yaml").read_text())
    Path("drawbench.yaml").write_text(yaml.safe_dump(raw | {"count": 3}))
    words = ["--base", "base", "--checkpoint", "lora", "--protocol", "drawbench.yaml", "--prompts", prompts]
    evaluate(monkeypatch, *words, *limit)
    made = protocol.load("drawbench", limit[1:])
    assert protocol.load("drawbench.yaml", limit[1:]).id == made.id
    content = yaml.safe_load(Path(f"out/evaluate-{made.id}-base/study.yaml").read_text())
    assert content["curate"]["prompts"]["eval"].get("limit", 3) == takes


def test_what_a_failed_job_said_is_said_at_the_end(
    place: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """Of this attempt, refused or raised, and nothing of jobs that ended well."""
    monkeypatch.chdir(place)
    name = f"evaluate-{protocol.load('shapes').id}-base"
    logs = {
        "curate.log": "reading\nerror: no prompts\n",
        "import_policy/lora.log": "error: not this time\nthen it went on\n",
        "measure/base.log": "Traceback (most recent call last):\n  ...\nValueError: raised\n\n",
        "measure/old.log": "error: of yesterday\n", "encode.log": "",
    }  # fmt: skip

    def run(words: list[str], **_: Any) -> Any:
        for file, text in logs.items():
            Path(f"logs/{name}/{file}").parent.mkdir(parents=True, exist_ok=True)
            Path(f"logs/{name}/{file}").write_text(text)
        os.utime(f"logs/{name}/measure/old.log", (1, 1))
        return type("Done", (), {"returncode": 1})

    monkeypatch.setattr(command.subprocess, "run", run)
    with pytest.raises(SystemExit):
        evaluate(monkeypatch, "--base", "base", "--checkpoint", "lora")
    said = capsys.readouterr().err.splitlines()
    assert said == [
        f"logs/{name}/curate.log: error: no prompts", f"logs/{name}/measure/base.log: ValueError: raised",
    ]  # fmt: skip
