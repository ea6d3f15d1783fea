"""Votes in the report: from a form over made-up samples to the page, escaped; what is refused."""

from __future__ import annotations

import html
import json
import re
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import yaml
from report_fixture import arguments, figures_only, write_study

from stages import tables
from stages.errors import InputError
from stages.report import people, settings
from stages.votes.__main__ import main as votes
from stages.votes.sheets import Side, make

RUNS = ("refl-s0", "imagerefl-s0")
SIDES = ("A<b>=imagerefl-s0/combined/k=10", "refl=refl-s0/tuned/tuned", "base=base/guidance/guidance=1")
QUESTIONS = ("<script>alert(1)</script> better?", "Which varies more?")


@pytest.fixture(scope="module")
def study(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A study with votes: three voters prefer A<b>, and see no difference between the others."""
    params = write_study(tmp_path_factory.mktemp("voted"), runs=RUNS, fusion=True)
    samples, out = params.parent / "out" / "madeup" / "samples", params.parent / "votes"
    made = make(samples, [Side.parse(text) for text in SIDES], 6, 2, QUESTIONS, seed=0, repeats=2)
    out.mkdir()
    (out / "key.json").write_text(json.dumps(made.key()))
    for voter in ("x", "y", "z"):
        sides = {item.id: {item.left: "left", item.right: "right"} for item in made.items}
        answers: list[dict[str, Any]] = [
            {"item": item, "question": q, "choice": sides[item].get("A<b>", "tie")} for item in sides for q in range(2)
        ]
        if voter == "z":  # who sees it otherwise, in the second question
            answers = [a | {"choice": "tie"} if a["question"] else a for a in answers]
        (out / f"{voter}.json").write_text(json.dumps({"study": made.id, "voter": voter, "votes": answers}))
    return params


def analysed(study: Path) -> Path:
    """What `stages.votes analyse` writes, named in the study file."""
    folder = study.parent / "votes"
    with pytest.MonkeyPatch.context() as patch:
        files = [str(folder / f"{voter}.json") for voter in "xyz"]
        words = ["votes", "analyse", "--key", str(folder / "key.json"), "--votes", *files, "--out"]
        patch.setattr("sys.argv", [*words, str(folder / "out.json")])
        votes()
    content = yaml.safe_load(study.read_text())
    content["report"]["votes"] = str(folder / "out.json")
    study.write_text(yaml.safe_dump(content, sort_keys=False))
    return folder / "out.json"


def samples(study: Path) -> Path:
    return study.parent / "out" / "madeup" / "samples"


def test_the_page_shows_what_people_preferred(study: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    from stages.report.__main__ import main

    analysed(study)
    monkeypatch.chdir(study.parent)
    monkeypatch.setenv("MLFLOW_TRACKING_URI", f"sqlite:///{study.parent}/mlflow.db")
    monkeypatch.setattr("sys.argv", ["report", *arguments(study)])
    with figures_only("frontier", "strategies"):
        main()
    page = (study.parent / "out/madeup/report/index.html").read_text()
    part = page[page.index('<section id="people">') : page.index('<section id="numbers">')]
    page = re.sub(r"<script[^>]*>.*?</script>", "", page, flags=re.DOTALL)
    assert "<script" not in page and "A<b>" not in page
    assert html.escape(QUESTIONS[0], quote=False) in html.unescape(part).replace("<", "&lt;").replace(">", "&gt;")
    text = html.unescape(re.sub(r"\s+", " ", re.sub(r"<[^>]+>", " ", part)))
    # first question: 3 voters x 6 prompts, all for A<b>; in the second a third of the votes are even
    assert "A<b> over base 100.0% 100.0% to 100.0% 18 0 0" in text
    assert "base over refl 50.0% 50.0% to 50.0% 0 18 0" in text
    assert re.search(r"A<b> over refl 83\.3% \d+\.\d% to \d+\.\d% 12 6 0", text)
    assert "3 voters, 120 votes. Shown again with sides swapped, 100% of comparisons were answered alike." in text
    assert "A<b> imagerefl-s0 combined k=10" in text and "made anew since" not in text
    assert "Fusion is combined generation" in page


def test_agreement_is_krippendorffs(study: Path) -> None:
    """Second question: of 18 comparisons 12 have votes a, a, tie and 6 have three ties; by Krippendorff's formula."""
    found = json.loads(analysed(study).read_text())
    observed = 12 * (3 * 3 - 4 - 1) / 2
    expected = (54**2 - sum(n * n for n in votes_by_value())) / 53
    assert found["agreement"][QUESTIONS[1]] == pytest.approx(1 - observed / expected)
    assert found["agreement"][QUESTIONS[0]] == 1.0


def votes_by_value() -> tuple[int, int]:
    """A<b> sorts first, so all votes that are no ties are for the first of a pair: 2 of 3 in 12 comparisons."""
    return 24, 30


def test_images_made_anew_are_told(study: Path, tmp_path: Path) -> None:
    analysed(study)
    view = settings.read(study)
    found = people.read(view, samples(study))
    assert found is not None and found.changed == []
    for file in samples(study).glob("*.parquet"):
        (tmp_path / file.name).write_bytes(file.read_bytes())
    rows = tables.read(tmp_path / "refl-s0.parquet", tables.SAMPLES).to_pylist()
    shown = json.loads((study.parent / "votes/out.json").read_text())["prompts"]
    for row in rows:
        if row["strategy"] == "tuned" and row["prompt_id"] == min(shown) and row["sample"] == shown[min(shown)][1]:
            row["image"] = next(r["image"] for r in rows if r["image"] != row["image"])
    tables.write(tmp_path / "refl-s0.parquet", tables.table(tables.SAMPLES, rows), tables.SAMPLES)
    found = people.read(view, tmp_path)
    assert found is not None and found.changed == ["refl"]


def changed(path: str, value: object) -> Callable[[dict[str, Any]], None]:
    def change(outcome: dict[str, Any]) -> None:
        *keys, last = path.split(".")
        spot: Any = outcome
        for key in keys:
            spot = spot[int(key) if key.isdigit() else key]
        spot[last] = value

    return change


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (changed("rates.0.rate", 0.2), "is not that of the counted votes"),
        (changed("rates.0.low", None), "low and high are not an interval"),
        (changed("rates.0.wins", -1), "rates.0.wins"),
        (changed("sides.refl.run", "refl-s7"), "not a run of this study; did you mean 'refl-s0'"),
        (changed("sides.refl.setting", "k=3"), "refl-s0 has no images of tuned/k=3"),
        (changed("voters", "many"), "out.json: voters"),
        (changed("key", 1), "out.json: key: unknown key"),
    ],
)
def test_what_is_no_outcome_is_refused(study: Path, change: Callable[[dict[str, Any]], None], message: str) -> None:
    path = analysed(study)
    outcome = json.loads(path.read_text())
    change(outcome)
    path.write_text(json.dumps(outcome))
    with pytest.raises(InputError) as error:
        people.read(settings.read(study), samples(study))
    assert message in str(error.value) and "\n" not in str(error.value)


def test_without_votes_there_is_no_section(tmp_path: Path) -> None:
    params = write_study(tmp_path, runs=("refl-s0",), prompts=4, samples=2)
    assert people.read(settings.read(params), samples(params)) is None
    content = yaml.safe_load(params.read_text())
    for place, message in (("none.json", "no such file"), (str(params), "not readable as JSON")):
        content["report"]["votes"] = place
        params.write_text(yaml.safe_dump(content))
        with pytest.raises(InputError, match=message):
            people.read(settings.read(params), samples(params))
