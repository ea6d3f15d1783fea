"""Protocols with a server that answers questions about images, or with real images, on miniatures of the true files.

The judges of a hub are replaced by small ones of the shapes world; prompts, server, settings and metrics stay.
"""

from __future__ import annotations

import base64
import csv
import json
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import yaml
from project import ROOT
from test_evaluate import evaluate, started

from stages.errors import InputError
from stages.pictures import decode
from tests import tiny
from tests.scorers import Answer, Scorer, scorer, sent
from tests.unit.picture_rows import picture, saved
from workflow.evaluate import protocol

SMALL = {
    "hps": {"kind": "open_clip", "folder": "shipped/shapes/proxy"},
    "pickscore": {"kind": "open_clip", "folder": "shipped/shapes/heldout"},
    "clip": {"kind": "open_clip", "folder": "shipped/shapes/clip"},
    "dino": {"kind": "open_clip", "folder": "shipped/shapes/patch"},
    "inception": {"kind": "open_clip", "folder": "shipped/shapes/clip"},
}
LONG = "a red circle " + "beside a blue square " * 30
QUESTIONS = {
    "a red circle": ["How many circles are there?", "What colour is the circle?"],
    "two blue squares": ["How many squares are there?"],
    LONG.strip(): ["Is there a circle?", "Is there a square?", "Is the square blue?"],
}


@pytest.fixture
def place(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A root of the project with a tiny base, a network tuned from it, and the protocols with small judges."""
    (tmp_path / "shipped").symlink_to(ROOT / "shipped")
    tiny.diffusion_folder(tmp_path / "base")
    tiny.diffusion_folder(tmp_path / "tuned")
    (tmp_path / "small").mkdir()
    for name in ("geneval2", "dpg", "coco-5k"):
        raw = yaml.safe_load((protocol.FOLDER / f"{name}.yaml").read_text())
        raw.pop("count", None)
        raw["judges"] = {judge: SMALL.get(judge, model) for judge, model in raw["judges"].items()}
        (tmp_path / f"small/{name}.yaml").write_text(yaml.safe_dump(raw))
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("LINEAGE", "off")
    return tmp_path


def words(name: str, *more: str) -> list[str]:
    changes = [word for change in ("side=16", "steps=2", "images=2") for word in ("--set", change)]
    return ["--base", "base", "--checkpoint", "tuned", "--protocol", f"small/{name}.yaml", *changes, *more]


def geneval2(file: Path) -> Path:
    """As `geneval2_data.jsonl`: a prompt a line, with questions and answers."""
    rows = [
        {"prompt": prompt, "atom_count": len(asked), "vqa_list": [[question, "yes"] for question in asked],
         "skills": ["object"] * len(asked)}
        for prompt, asked in QUESTIONS.items() if prompt != LONG.strip()
    ]  # fmt: skip
    file.write_text("".join(json.dumps(row) + "\n" for row in rows))
    return file


def dpg(file: Path) -> Path:
    """As `dpg_bench.csv`: a question a line, so that a prompt stands there several times."""
    columns = ("item_id", "text", "keywords", "proposition_id", "dependency", "category_broad", "category_detailed",
               "tuple", "question_natural_language")  # fmt: skip
    with file.open("w", newline="") as out:
        table = csv.writer(out)
        table.writerow(columns)
        for item, (prompt, asked) in enumerate(QUESTIONS.items()):
            for number, question in enumerate(asked, start=1):
                table.writerow([f"item{item}", prompt, "", number, 0, "", "", "", question])
    return file


def share(file: bytes, prompt: str) -> float:
    """The made-up share of a prompt's questions that an image answers."""
    light, asked = decode(file, "image").mean() / 255, QUESTIONS[prompt]
    return float(sum((light * (number + 1)) % 1 for number in range(len(asked))) / len(asked))


def answering(server: Scorer, sub: str) -> None:
    """Let a server answer in the contract, with another score beside the one that is asked for, and with an error for
    a prompt that it has no questions for.
    """

    def post(body: dict[str, Any]) -> Answer:
        results, errors = [], []
        for one in body["requests"]:
            [turn] = one["history"]
            assert one["required_rewards"] == [server.reward]
            known = turn["text"] in QUESTIONS
            found = share(base64.b64decode(turn["image_b64"]), turn["text"]) if known else None
            results.append({server.reward: {sub: found, "questions": 1.0}} if known else {})
            errors.append({} if known else {server.reward: f"no questions for {turn['text']!r}"})
            server.answered.append(turn["text"])
        return sent({"results": results, "errors": errors})

    server.post = post  # type: ignore[method-assign]


@pytest.mark.parametrize(("name", "sub", "file", "write"), [
    ("geneval2", "vqascore", "geneval2_data.jsonl", geneval2), ("dpg", "dsg", "dpg_bench.csv", dpg),
])  # fmt: skip
def test_questions_are_answered_by_the_server(
    place: Path, monkeypatch: pytest.MonkeyPatch, name: str, sub: str, file: str, write: Any
) -> None:
    """From the file of the suite and the address of a server to the report, with the server's own scores."""
    files = started(monkeypatch)
    write(place / file)
    with scorer(version="questions 1") as server:
        server.reward = name
        answering(server, sub)
        monkeypatch.setenv("REWARDS", server.url)
        evaluate(monkeypatch, *words(name, "--prompts", file))
    [study] = files
    for run in ("base", "tuned"):
        samples = pq.read_table(study.parent / f"samples/{run}.parquet").to_pylist()
        wanted = set(QUESTIONS) - ({LONG.strip()} if name == "geneval2" else set())
        assert {row["prompt"] for row in samples} == wanted
        rows = pq.read_table(study.parent / f"measures/{run}.parquet").to_pylist()
        scores = {
            (row["strategy"], row["setting"], row["prompt_id"], row["sample"]): row["score"]
            for row in rows if row["metric"] == name
        }  # fmt: skip
        assert len(scores) == len(samples)
        for row in samples:
            key = row["strategy"], row["setting"], row["prompt_id"], row["sample"]
            assert scores[key] == pytest.approx(share(row["image"], row["prompt"]), abs=1e-6)
    page = (study.parent / "report/index.html").read_text().replace("&gt;", ">")
    made = protocol.load(f"small/{name}.yaml", ["side=16", "steps=2", "images=2"])
    assert f"protocol {made.id}, changed: images 4 -> 2, steps 40 -> 2, side 512 -> 16" in page


def test_a_prompt_without_questions_ends_the_job(place: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    started(monkeypatch)
    (place / "geneval2_data.jsonl").write_text('{"prompt": "a green cross", "vqa_list": []}\n')
    with scorer(version="questions 1") as server:
        server.reward = "geneval2"
        answering(server, "vqascore")
        monkeypatch.setenv("REWARDS", server.url)
        with pytest.raises(InputError, match="no questions for 'a green cross'"):
            evaluate(monkeypatch, *words("geneval2", "--prompts", "geneval2_data.jsonl"))


def test_a_server_that_says_no_version_is_refused(place: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    started(monkeypatch)
    dpg(place / "dpg_bench.csv")
    with scorer() as server:
        monkeypatch.setenv("REWARDS", server.url)
        with pytest.raises(InputError, match="version"):
            evaluate(monkeypatch, *words("dpg", "--prompts", "dpg_bench.csv"))
        assert not server.bodies


def test_coco_is_compared_with_the_real_images(place: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Real images are compared although their captions are evaluation prompts, at the size of the others."""
    files = started(monkeypatch)
    captions = ["a red circle", "a blue square", "a green cross", "a pink ring"]
    images = [saved(picture(number, 24 + 8 * number, 40)) for number in range(4)]
    rows = [
        {"image": {"bytes": image, "path": None}, "filename": f"{number}.jpg", "cocoid": number,
         "caption": caption + more}
        for number, (image, caption) in enumerate(zip(images, captions, strict=True)) for more in ("", " on the ground")
    ]  # fmt: skip
    (place / "coco").mkdir()
    pq.write_table(pa.Table.from_pylist(rows), place / "coco/test-00000-of-00001.parquet")
    evaluate(monkeypatch, *words("coco-5k", "--prompts", "coco", "--images", "coco", "--set", "limit=3"))
    [study] = files
    real = pq.read_table(study.parent / "data/images.parquet").to_pylist()
    assert [(row["caption"], row["width"], row["height"]) for row in real] == [(name, 16, 16) for name in captions]
    summary = pq.read_table(study.parent / "measures/tuned.summary.parquet").to_pylist()
    found = {row["metric"]: row["mean"] for row in summary if row["strategy"] == "tuned"}
    assert {"fid", "kid", "clipscore", "hps", "pickscore", "dino_diversity"} <= found.keys()
    assert found["fid"] > 0
    assert len(pq.read_table(study.parent / "samples/tuned.parquet")) == 3 * 2 * 2
