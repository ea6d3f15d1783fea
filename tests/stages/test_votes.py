"""The user-study kit: blinded forms, votes files, and their analysis."""

from __future__ import annotations

import base64
import html
import json
import re
from collections import Counter
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from stages import tables
from stages.errors import InputError
from stages.pictures import decode, encode
from stages.votes import form
from stages.votes.__main__ import main
from stages.votes.analysis import Answer, alpha, analyse, read_key, read_votes
from stages.votes.sheets import Item, Side, make
from tests.samples import PLAIN

SIDES = [
    Side("imagerefl", "imagerefl-s0", "combined", "k=10"),
    Side("refl", "refl-s0", "tuned", "tuned"),
    Side("base", "base", "guidance", "g=1"),
]  # fmt: skip


def colour(side: str, prompt: int, sample: int) -> np.ndarray:
    """An image that tells what it is of."""
    number = [side.name for side in SIDES].index(side)
    return np.full((8, 8, 3), (40 * number + 10, prompt, sample), np.uint8)


@pytest.fixture(scope="module")
def samples(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("samples")
    for side in SIDES:
        rows = [
            {
                "run": side.run, "method": side.name, "train_seed": 0, "strategy": side.strategy, "setting": setting,
                "value": 0.0, "prompt_id": f"p{prompt}", "prompt": f"</script> a {prompt}", "sample": sample,
                "image": encode(colour(side.name, prompt, sample + extra)), "seconds": 0.1,
                "nfe": 1.0, **PLAIN,
            }
            for setting, extra in ((side.setting, 0), ("other", 100))
            for prompt in range(10)
            for sample in range(4 if (side.name, prompt) != ("base", 3) else 2)
        ]  # fmt: skip
        tables.write(folder / f"{side.run}.parquet", tables.table(tables.SAMPLES, rows), tables.SAMPLES)
    return folder


def test_sheets_hold_every_pair_and_balance_sides(samples: Path) -> None:
    made = make(samples, SIDES, 8, 3, ["?"], seed=1, repeats=2)
    first, again = made.items[:-2], made.items[-2:]
    assert len(first) == 8 * 3 and len({item.id for item in made.items}) == 26
    assert Counter(frozenset((item.left, item.right)) for item in first).most_common()[0][1] == 8
    assert 3 <= sum(item.left < item.right for item in first) <= 21  # either order happens
    assert "p3" not in {item.prompt_id for item in first}  # there the base has too few samples
    known = {item.id: item for item in first}
    for item in again:
        original = known[str(item.repeat_of)]
        assert (item.left, item.right, item.prompt_id) == (original.right, original.left, original.prompt_id)
    for (prompt, side), images in made.images.items():
        shown = [decode(image, "")[0, 0] for image in images]
        wanted = [colour(side, int(prompt[1:]), sample)[0, 0] for sample in range(3)]
        np.testing.assert_array_equal(shown, wanted)
    assert make(samples, SIDES, 8, 3, ["?"], seed=1, repeats=2).id == made.id
    assert make(samples, SIDES, 8, 3, ["?"], seed=2, repeats=2).id != made.id


def test_the_form_is_blind_and_whole(samples: Path, tmp_path: Path) -> None:
    made = make(samples, SIDES, 4, 2, ["Which side is better?", "Which varies more?"], seed=1)
    form.write(made, tmp_path / "form.html", "A <study>", 1)
    page = (tmp_path / "form.html").read_text()
    for word in ("refl", "combined", "guidance", "k=10", "tuned", "p0"):
        assert word not in page
    assert "A &lt;study&gt;" in page and not re.search(r"""(src|href)\s*=\s*["']?https?:""", page)
    data = json.loads(re.findall(r'type="application/json">(.*?)</script>', page, re.DOTALL)[0])
    assert data["study"] == made.id and data["questions"] == list(made.questions)
    assert len(data["images"]) == 4 * 3 * 2
    for item, shown in zip(made.items, data["items"], strict=True):
        assert shown["id"] == item.id and html.unescape(shown["prompt"]) == item.prompt
        for place in ("left", "right"):
            side = getattr(item, place)
            pixels = [decode(base64.b64decode(data["images"][n]), "")[0, 0] for n in shown[place]]
            np.testing.assert_array_equal(pixels, [colour(side, int(item.prompt_id[1:]), s)[0, 0] for s in range(2)])
    order = [int(decode(base64.b64decode(image), "")[0, 0, 0]) for image in data["images"]]
    assert order != sorted(order)  # places of images do not tell sides apart


def test_what_cannot_be_compared_is_refused(samples: Path) -> None:
    def refused(*sides: Side, prompts: int = 2, images: int = 2) -> str:
        with pytest.raises(InputError) as error:
            make(samples, sides, prompts, images, ["?"], 0)
        return str(error.value)

    assert "expected two or more" in refused(SIDES[0])
    assert "did you mean 'refl-s0'" in refused(SIDES[0], Side("x", "refl-s1", "tuned", "tuned"))
    assert "has no images of tuned/k=3; did you mean 'tuned/tuned'" in refused(
        SIDES[0], Side("x", "refl-s0", "tuned", "k=3")
    )
    assert "9 prompts have 3 samples under every side, expected 10 or more" in refused(*SIDES, prompts=10, images=3)
    assert refused(*SIDES, prompts=0) == "--prompts 0: expected 1 or more"
    assert refused(*SIDES, images=-1) == "--images -1: expected 1 or more"
    for questions in (["a?", " "], ["a?", "a?"]):
        with pytest.raises(InputError, match="--questions: expected texts, each of them once"):
            make(samples, SIDES, 2, 2, questions, 0)
    for repeats in (-1, 7):
        with pytest.raises(InputError, match=f"--repeats {repeats}: expected 0 to 6"):
            make(samples, SIDES, 2, 2, ["?"], 0, repeats)
    with pytest.raises(InputError, match="expected NAME=RUN/STRATEGY/SETTING"):
        Side.parse("refl-s0/tuned")
    assert Side.parse("a=r/combined/k=4") == Side("a", "r", "combined", "k=4")


def test_alpha_is_krippendorffs_own_example() -> None:
    """Krippendorff 2011, "Computing Krippendorff's Alpha-Reliability", part C: names with missing values, .743."""
    rows = ["12332141 2...", "12332241 25.3", ".3332342 251.", "12332441 251."]
    rows = [row.replace(" ", "") for row in rows]
    units = [[row[n] for row in rows if row[n] != "."] for n in range(12)]
    assert alpha(units) == pytest.approx(0.743, abs=5e-4)
    assert alpha([[1, 1], [0, 0]]) == 1.0
    assert alpha([[1], [0]]) is None
    assert alpha([[1, 0]] * 50) == pytest.approx(1 - 1 / (2 * 50 * 50 / (100 * 99)))


def test_rates_and_intervals(samples: Path) -> None:
    items = {f"i{n}": Item(f"i{n}", f"p{n}", "", "refl" if n % 2 else "a", "a" if n % 2 else "refl") for n in range(40)}
    rng = np.random.default_rng(0)
    answers = [
        Answer(f"v{v}", f"p{n}", 0, "a", "refl", score, f"i{n}")
        for n in range(40)
        for v, score in enumerate(rng.choice([0, 0.5, 1], p=[0.2, 0.2, 0.6], size=10).tolist())
    ]
    outcome = analyse("s", ["?"], items, answers)
    [rate] = outcome.rates
    assert (rate.first, rate.second, rate.wins + rate.ties + rate.losses) == ("a", "refl", 400)
    assert rate.rate == pytest.approx((rate.wins + rate.ties / 2) / 400)
    assert rate.low is not None and rate.high is not None and 0.6 < rate.low < 0.7 < rate.high < 0.8
    # votes that depend on the prompt alone are no more than one vote a prompt
    same = [Answer(a.voter, a.prompt, 0, "a", "refl", float(int(a.prompt[1:]) < 26), a.item) for a in answers]
    wide = analyse("s", ["?"], items, same)
    [rate] = wide.rates
    assert rate.rate == 26 / 40 and rate.low is not None and rate.high is not None
    error = (26 / 40 * 14 / 40 / 40) ** 0.5
    assert rate.high - rate.low == pytest.approx(2 * 1.96 * error, rel=0.15)
    assert wide.agreement == {"?": 1.0}
    one = analyse("s", ["?"], items, [a for a in same if a.prompt == "p0"])
    assert one.rates[0].low is None


def ballot(key: dict[str, Any], voter: str, prefer: str, **changes: Any) -> dict[str, Any]:
    """Votes for the side `prefer`, ties where it is not shown."""
    votes = [
        {
            "item": item["id"], "question": 0, "seconds": 1.5,
            "choice": next((place for place in ("left", "right") if item[place] == prefer), "tie"),
        }
        for item in key["items"]
    ]  # fmt: skip
    return {"study": key["study"], "voter": voter, "votes": votes} | changes


def test_from_samples_to_an_outcome(
    samples: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    def run(*args: object) -> None:
        monkeypatch.setattr("sys.argv", ["votes", *map(str, args)])
        main()

    sides = [f"{side.name}={side.run}/{side.strategy}/{side.setting}" for side in SIDES]
    run("form", "--samples", samples, "--sides", *sides, "--prompts", 5, "--images", 2, "--repeats", 3, "--form",
        tmp_path / "form.html", "--key", tmp_path / "key.json")  # fmt: skip
    key = json.loads((tmp_path / "key.json").read_text())
    assert f"18 comparisons, study {key['study']}" in capsys.readouterr().out
    for voter in ("ann", "bob"):
        (tmp_path / f"{voter}.json").write_text(json.dumps(ballot(key, voter, "imagerefl")))
    files = [tmp_path / "ann.json", tmp_path / "bob.json"]
    run("analyse", "--key", tmp_path / "key.json", "--votes", *files, "--out", tmp_path / "out.json")
    assert "imagerefl over refl: 100.0%" in capsys.readouterr().out
    found = json.loads((tmp_path / "out.json").read_text())
    rates = {(rate["first"], rate["second"]): (rate["wins"], rate["ties"], rate["losses"]) for rate in found["rates"]}
    assert rates == {
        ("base", "imagerefl"): (0, 0, 10), ("base", "refl"): (0, 10, 0), ("imagerefl", "refl"): (10, 0, 0)
    }  # fmt: skip
    assert (found["voters"], found["votes"], found["consistency"]) == (2, 36, 1.0)
    assert list(found["agreement"].values()) == [1.0]


@pytest.mark.parametrize("words", [["form", "--form", "a", "--key", "./a"], ["analyse", "--key", "a", "--out", "a"]])
def test_nothing_is_written_over(words: list[str], samples: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.chdir(tmp_path)
    given = ["--samples", str(samples), "--sides", "a=b/c/d"] if words[0] == "form" else ["--votes", "v"]
    monkeypatch.setattr("sys.argv", ["votes", *words, *given])
    with pytest.raises(InputError, match=r"two outputs of this job have this name|this job reads it"):
        main()


def test_votes_files_that_do_not_belong_are_refused(samples: Path, tmp_path: Path) -> None:
    made = make(samples, SIDES[:2], 2, 1, ["?"], 0)
    key = made.key()
    (tmp_path / "key.json").write_text(json.dumps(key))
    study, questions, items = read_key(tmp_path / "key.json")
    path = tmp_path / "votes.json"

    def refused(content: Any, *more: Path) -> str:
        path.write_text(content if isinstance(content, str) else json.dumps(content))
        with pytest.raises(InputError) as error:
            read_votes([path, *more], study, len(questions), items)
        assert "\n" not in str(error.value)
        return str(error.value)

    good = ballot(key, "ann", "refl")
    assert "votes of study other, but the key is of" in refused({**good, "study": "other"})
    assert "votes.json: not valid JSON at line 1" in refused("{")
    assert "not in this form" in refused({**good, "votes": [{"item": "x", "question": 0, "choice": "left"}]})
    assert "not in this form" in refused({**good, "votes": [{**good["votes"][0], "choice": "up"}]})
    assert "unknown key" in refused({**good, "name": "Ann"})
    assert "no votes" in refused({**good, "votes": []})
    path.write_text(json.dumps(good))
    (tmp_path / "twice.json").write_text(json.dumps(good))
    assert "answers" in refused(good, tmp_path / "twice.json") and "twice" in refused(good, tmp_path / "twice.json")
