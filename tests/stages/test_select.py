"""Labels and choice of pairs: what each step does, whatever the order of the table, and what is refused in one line."""

from __future__ import annotations

import json
import random
import tempfile
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import settings as examples
from hypothesis import strategies as st

from stages import tables
from stages.errors import InputError
from stages.finetune.families.labels import soft_label
from stages.pictures import encode
from stages.select.pairs import Table
from stages.select.run import Selected, select, write
from stages.select.settings import SelectSettings, steps
from stages.select.steps import fifa, hps_v1
from stages.select.texts import log_distances, qualities

Row = dict[str, Any]
Scores = Mapping[str, Mapping[tuple[str, str], float]]
"""By reward, that of an image under a prompt."""
PROMPTS = ("a cat", "a dog that sleeps", "two red birds on a wire", "the sea", "a cat that sleeps by the sea")


@dataclass(frozen=True)
class Left:
    """What one run wrote: rows by their ids, and the manifest."""

    rows: dict[str, Row]
    manifest: dict[str, Any]
    schema: Any

    @property
    def preferences(self) -> dict[str, float]:
        return {name: row["preference"] for name, row in self.rows.items()}


def pair(number: int, prompt: str, a: str, b: str, preference: float = 1.0, split: str = "train", **more: Any) -> Row:
    about = {"pair_id": f"p{number:03}", "prompt": prompt, "image_a": a, "image_b": b, "preference": preference}
    return about | {"split": split, "source": "file"} | more


def images(folder: Path, shown: Mapping[str, np.ndarray]) -> Path:
    path = folder / "images.parquet"
    rows: list[dict[str, object]] = [
        {"image_id": name, "caption": "x", "image": encode(pixels), "width": pixels.shape[1],
         "height": pixels.shape[0], "split": "pairs", "group": name, "source": "file", "attributes": None}
        for name, pixels in shown.items()
    ]  # fmt: skip
    tables.write(path, tables.table(tables.IMAGES, rows), tables.IMAGES)
    return path


def put(folder: Path, rows: Sequence[Row], scores: Scores) -> tuple[Path, dict[str, Path]]:
    """The table of pairs, and the scores as the stage `score` writes them."""
    schema = tables.JUDGED_PAIRS if "weight" in rows[0] else tables.PAIRS
    pairs = folder / "pairs.parquet"
    tables.write(pairs, tables.table(schema, list(rows)), schema)
    found = {}
    for name, values in scores.items():
        found[name] = folder / f"{name}.parquet"
        written: list[dict[str, object]] = [{"kind": "image", "item_id": "i", "side": "", "reward": name, "score": 9.0}]
        written += [
            {"kind": "pair", "item_id": row["pair_id"], "side": side, "reward": name,
             "score": values[row[f"image_{side}"], row["prompt"]]}
            for row in rows for side in ("a", "b")
        ]  # fmt: skip
        tables.write(found[name], tables.table(tables.SCORES, written), tables.SCORES)
    return pairs, found


def chosen(pairs: Path, scores: Mapping[str, Path], *wanted: dict[str, Any], shown: Path = Path()) -> Selected:
    made = steps(SelectSettings(steps=wanted), "study.yaml: select")
    return select(Table(pairs).training(scores, shown), made)


def run(
    folder: Path, rows: Sequence[Row], scores: Scores, *wanted: dict[str, Any],
    shown: Mapping[str, np.ndarray] | None = None,
) -> Left:  # fmt: skip
    """The steps on a table, from files to files."""
    pairs, scored = put(folder, rows, scores)
    selected = chosen(pairs, scored, *wanted, shown=images(folder, shown) if shown else Path())
    out, manifest = folder / "out.parquet", folder / "out.json"
    write(selected, Table(pairs), out, manifest)
    schema = tables.pairs_schema(out)
    return Left(
        {row["pair_id"]: row for row in tables.read(out, schema).to_pylist()}, json.loads(manifest.read_text()), schema
    )


def scored(*values: tuple[str, float], prompt: str = "a cat") -> Scores:
    return {"r": {(image, prompt): score for image, score in values}}


@st.composite
def studies(draw: st.DrawFn) -> tuple[list[Row], Scores]:
    """Pairs of few images and prompts, so that images come back and scores are equal now and then."""
    count = draw(st.integers(2, 24))
    names = [f"i{n}" for n in range(5)]
    whole = st.integers(-2, 2)
    rows = []
    for number in range(count):
        a, b = draw(st.lists(st.sampled_from(names), min_size=2, max_size=2, unique=True))
        share = draw(st.sampled_from([0.0, 0.25, 0.5, 0.75, 1.0]))
        split = "val" if number and draw(st.integers(0, 5)) == 0 else "train"
        rows.append(pair(number, draw(st.sampled_from(PROMPTS)), a, b, share, split))
    scores = {r: {(i, p): float(draw(whole)) for i in names for p in PROMPTS} for r in ("r", "s", "t")}
    return rows, scores


SHOWN = {f"i{n}": np.random.default_rng(n).integers(0, 256, (16, 16, 3), dtype=np.uint8) for n in range(5)}
SHOWN["i1"] = SHOWN["i0"].copy()
EVERY: tuple[dict[str, Any], ...] = (
    {"kind": "majority", "by": ["r", "s"]},
    {"kind": "majority", "by": ["r", "s", "t"], "label": "share", "even": "as_judged"},
    {"kind": "soft", "reward": "r", "range": 0.7},
    {"kind": "margin", "reward": "r"},
    {"kind": "margin_band", "reward": "s", "low": 1.0},
    {"kind": "margin_band", "reward": "s", "shares": (0.25, 0.75)},
    {"kind": "fifa", "reward": "r", "share": 0.5, "neighbour": 2},
    {"kind": "fifa", "reward": "r", "top": 1, "alpha": 0.0, "gamma": 0.0},
    {"kind": "absolute_winners"},
    {"kind": "hps_v1", "reward": "r", "fewest": 2, "scale": 1.0, "times": 1.2},
    {"kind": "hps_v1", "reward": "r", "fewest": 2, "scale": 1.0, "times": 1.2, "side": "worst"},
    {"kind": "too_similar"},
    {"kind": "swap"},
)


@pytest.mark.parametrize("wanted", EVERY, ids=lambda one: "-".join(str(v) for v in one.values()))
@examples(max_examples=8, deadline=None)
@given(made=studies(), seed=st.integers(0, 99))
def test_the_order_of_the_table_decides_nothing_and_counts_add_up(
    wanted: dict[str, Any], made: tuple[list[Row], Scores], seed: int
) -> None:
    rows, scores = made
    other = random.Random(seed).sample(rows, len(rows))
    with tempfile.TemporaryDirectory() as folder:
        try:
            first = run(Path(folder), rows, scores, wanted, shown=SHOWN)
        except InputError as error:
            with pytest.raises(InputError) as again:
                run(Path(folder), other, scores, wanted, shown=SHOWN)
            assert str(again.value) == str(error) and "\n" not in str(error)
            return
        second = run(Path(folder), other, scores, wanted, shown=SHOWN)
    assert first.rows == second.rows
    assert list(second.rows) == [row["pair_id"] for row in other if row["pair_id"] in second.rows]
    (step,) = first.manifest["steps"]
    training = [row for row in rows if row["split"] == "train"]
    left = [row for row in first.rows.values() if row["split"] == "train"]
    assert first.manifest["in"] == len(training) == step["removed"] + step["left"]
    assert step["left"] == first.manifest["out"] == first.manifest["splits"].get("train", 0) == len(left)
    assert step["ties"] == sum(row["preference"] == 0.5 for row in left)
    before = {row["pair_id"]: row["preference"] for row in rows}
    assert step["relabelled"] == sum(row["preference"] != before[row["pair_id"]] for row in left)
    turned = sum((row["preference"] - 0.5) * (before[row["pair_id"]] - 0.5) < 0 for row in left)
    assert step["exchanged"] == turned
    assert step["reweighted"] == sum(row.get("weight", 1.0) != 1 for row in left)
    assert first.manifest["splits"].get("val", 0) == len(rows) - len(training)
    assert all(first.preferences[row["pair_id"]] == row["preference"] for row in rows if row["split"] == "val")


@examples(max_examples=8, deadline=None)
@given(made=studies())
def test_steps_follow_one_another(made: tuple[list[Row], Scores]) -> None:
    """Two steps in one section are the second on what the first left."""
    rows, scores = made
    label, band = EVERY[0], {"kind": "margin_band", "reward": "r", "agrees": True}
    with tempfile.TemporaryDirectory() as folder:
        one = run(Path(folder), rows, scores, label)
        try:
            both = run(Path(folder), rows, scores, label, band)
        except InputError as error:
            assert "steps.1 (margin_band): nothing left of" in str(error)
            return
        after = run(Path(folder), list(one.rows.values()), scores, band)
    assert both.rows == after.rows
    assert [step["left"] for step in both.manifest["steps"]] == [one.manifest["out"], after.manifest["out"]]


# --- labels ---------------------------------------------------------------------------------------------------------


def test_a_majority_outvotes_the_label_and_even_votes_are_ties(tmp_path: Path) -> None:
    rows = [pair(0, "a cat", "x", "y", 0.0), pair(1, "a cat", "y", "z", 1.0)]
    votes = {"r": (3, 2, 1), "s": (3, 1, 1), "t": (0, 5, 9)}
    scores = {r: dict(zip([(i, "a cat") for i in "xyz"], map(float, v), strict=True)) for r, v in votes.items()}
    by = {"kind": "majority", "by": ["r", "s", "t"]}
    assert run(tmp_path, rows, scores, by).preferences == {"p000": 1.0, "p001": 0.5}
    shared = run(tmp_path, rows, scores, by | {"label": "share", "even": "as_judged"}).preferences
    assert shared == {"p000": pytest.approx(2 / 3), "p001": 1.0}


@examples(max_examples=8, deadline=None)
@given(made=studies())
def test_one_voter_is_a_relabelled_table(made: tuple[list[Row], Scores]) -> None:
    rows, scores = made
    with tempfile.TemporaryDirectory() as folder:
        found = run(Path(folder), rows, scores, {"kind": "majority", "by": ["r"]})
    for row in (row for row in rows if row["split"] == "train"):
        a, b = (scores["r"][row[f"image_{side}"], row["prompt"]] for side in "ab")
        assert found.preferences[row["pair_id"]] == (1.0 if a > b else 0.0 if a < b else 0.5)


@examples(max_examples=12, deadline=None)
@given(a=st.floats(-1, 1), b=st.floats(-1, 1), scale=st.floats(0.01, 10))
def test_a_soft_label_is_that_of_training(a: float, b: float, scale: float) -> None:
    """The same formula as `labels: {kind: reward, range: ...}` of a method, and its complement for exchanged images."""
    with tempfile.TemporaryDirectory() as folder:
        rows = [pair(0, "a cat", "x", "y"), pair(1, "a cat", "y", "x")]
        found = run(Path(folder), rows, scored(("x", a), ("y", b)), {"kind": "soft", "reward": "r", "range": scale})
    high, low = (torch.tensor([value], dtype=torch.float64) for value in (max(a, b), min(a, b)))
    label = float(soft_label(high, low, scale))
    assert max(found.preferences.values()) == pytest.approx(label)
    assert sum(found.preferences.values()) == pytest.approx(1)


def test_a_margin_is_a_weight_beside_the_one_that_a_pair_has(tmp_path: Path) -> None:
    more = {"weight": 2.0, "annotator": "me"}
    rows = [pair(0, "a cat", "x", "y", 0.5, **more), pair(1, "a cat", "z", "x", 1.0, **more)]
    found = run(tmp_path, rows, scored(("x", 4.0), ("y", 3.0), ("z", 1.0)), {"kind": "margin", "reward": "r"})
    assert found.preferences == {"p000": 1.0, "p001": 0.0}
    assert {name: row["weight"] for name, row in found.rows.items()} == {"p000": 1.0, "p001": 3.0}
    assert {row["annotator"] for row in found.rows.values()} == {"me"}


def test_weights_make_a_table_with_weights(tmp_path: Path) -> None:
    rows = [pair(0, "a cat", "x", "y"), pair(1, "a cat", "y", "z", split="val"), pair(2, "a cat", "x", "z")]
    scores = scored(("x", 4.0), ("y", 3.0), ("z", 1.0))
    assert run(tmp_path, rows, scores, {"kind": "swap"}).schema is tables.PAIRS
    found = run(tmp_path, rows, scores, {"kind": "margin", "reward": "r", "most": 1.2})
    assert found.schema is tables.JUDGED_PAIRS
    assert {n: (row["weight"], row["annotator"]) for n, row in found.rows.items()} == {
        "p000": (0.5, ""), "p001": (1.0, ""), "p002": (1.2, "")
    }  # fmt: skip


# --- filters --------------------------------------------------------------------------------------------------------


@examples(max_examples=12, deadline=None)
@given(made=studies(), share=st.floats(0.05, 1))
def test_fifa_without_its_further_terms_is_the_largest_margins(
    made: tuple[list[Row], Scores], share: float
) -> None:  # fmt: skip
    rows, scores = made
    wanted = {"kind": "fifa", "reward": "r", "share": share, "alpha": 0.0, "gamma": 0.0}
    with tempfile.TemporaryDirectory() as folder:
        found = run(Path(folder), rows, scores, wanted)

    def margin(row: Row) -> float:
        a, b = (scores["r"][row[f"image_{side}"], row["prompt"]] for side in "ab")
        return abs(a - b)

    training = sorted((row for row in rows if row["split"] == "train"), key=lambda row: (-margin(row), row["pair_id"]))
    expected = {row["pair_id"] for row in training[: int(np.ceil(share * len(training)))]}
    assert {name for name, row in found.rows.items() if row["split"] == "train"} == expected


def alike(prompts: Sequence[str]) -> tuple[list[Row], Scores]:
    """One pair a prompt, with one margin."""
    rows = [pair(n, prompt, "x", "y") for n, prompt in enumerate(prompts)]
    return rows, {"r": {(image, p): score for p in prompts for image, score in (("x", 1.0), ("y", 0.0))}}


def test_fifa_prefers_prompts_unlike_others(tmp_path: Path) -> None:
    prompts = ["a red cat sits", "a red cat runs", "a red cat eats", "seven boats under heavy clouds"]
    found = run(tmp_path, *alike(prompts), {"kind": "fifa", "reward": "r", "top": 1, "alpha": 0.0, "neighbour": 1})
    assert list(found.rows) == ["p003"]


def test_fifa_prefers_prompts_of_quality(tmp_path: Path) -> None:
    """By the rule, and by a table of scores that says otherwise."""
    prompts = ["cat cat cat, 8k!!, cat, ###", "a small cat sits on a wooden chair by the window"]
    wanted = {"kind": "fifa", "reward": "r", "top": 1, "gamma": 0.0}
    assert list(run(tmp_path, *alike(prompts), wanted).rows) == ["p001"]
    table = tmp_path / "quality.csv"
    table.write_text(f'prompt,score\n"{prompts[0]}",9\n{prompts[1]},1\n')
    quality = wanted | {"quality": {"path": str(table)}}
    assert list(run(tmp_path, *alike(prompts), quality).rows) == ["p000"]
    assert steps(SelectSettings(steps=(quality,)), "s")[0].settings.paths() == (str(table),)
    table.write_text("prompt,score\nanother,1\n")
    with pytest.raises(InputError, match=r"steps.0 \(fifa\): quality: .* has no score of the prompt 'a small"):
        run(tmp_path, *alike(prompts), quality)


def test_terms_are_brought_to_one_scale_by_exact_sums() -> None:
    values = np.random.default_rng(0).normal(3, 7, 500)
    found = fifa.scaled(values)
    assert found.mean() == pytest.approx(0, abs=1e-12) and found.std() == pytest.approx(1)
    order = np.random.default_rng(1).permutation(500)
    assert np.array_equal(fifa.scaled(values[order]), found[order])
    assert not fifa.scaled(np.full(7, 0.1)).any()


def test_distances_of_texts_are_those_of_their_words() -> None:
    """The k-th nearest by hand; never a text itself; the same in another order; one text alone has none."""
    texts = ["a b", "a c", "d e", "a b!"]
    near = log_distances(texts, 1, 10)
    assert near[0] == near[3] == pytest.approx(np.log(0.01)), "the same words"
    assert near[1] == pytest.approx(np.log(1.0)) and near[2] == pytest.approx(np.log(2**0.5), abs=0.3)
    assert np.array_equal(log_distances(texts[::-1], 1, 10)[::-1], near)
    assert np.array_equal(log_distances(texts[::-1], 2, 3)[::-1], log_distances(texts, 2, 3))
    assert log_distances(texts[:1], 3, 10).tolist() == [0.0]
    assert (log_distances(texts, 3, 10) >= near).all()


def test_the_quality_of_a_text_is_a_share() -> None:
    found = qualities(["", "...", "cat", "cat " * 20, "a small cat sits on a wooden chair by the window"])
    assert found[0] == found[1] == 0 and (found <= 1).all()
    assert found[4] > found[3] and found[4] > found[2]


def test_a_band_in_scores_and_in_shares(tmp_path: Path) -> None:
    prompts = [f"p {n}" for n in range(4)]
    rows = [pair(n, prompt, "x", "y", 1.0 if n else 0.0) for n, prompt in enumerate(prompts)]
    margins = [4.0, 1.0, 2.0, 3.0]
    scores = {"r": {(i, p): s for p, m in zip(prompts, margins, strict=True) for i, s in (("x", m), ("y", 0.0))}}

    def left(**keys: Any) -> list[str]:
        return sorted(run(tmp_path, rows, scores, {"kind": "margin_band", "reward": "r", **keys}).rows)

    assert left(low=2.0, high=3.0) == ["p002", "p003"]
    assert left(shares=(0.25, 0.75)) == ["p002", "p003"]
    assert left(shares=(0.75, 1.0)) == ["p000"]
    assert left(least=3.0) == ["p000", "p003"]
    assert left(agrees=True) == ["p001", "p002", "p003"]


def test_pairs_of_near_copies_are_dropped(tmp_path: Path) -> None:
    noise = np.random.default_rng(0).integers(0, 256, (2, 32, 32, 3), dtype=np.uint8)
    shown = {"x": noise[0], "y": np.clip(noise[0].astype(int) + 1, 0, 255).astype(np.uint8), "z": noise[1]}
    rows = [pair(0, "a cat", "x", "y"), pair(1, "a cat", "z", "y"), pair(2, "a cat", "x", "y", split="val")]
    found = run(tmp_path, rows, {}, {"kind": "too_similar"}, shown=shown)
    assert list(found.rows) == ["p001", "p002"]
    with pytest.raises(InputError, match="no image 'z', which a pair names"):
        run(tmp_path, rows, {}, {"kind": "too_similar"}, shown={"x": shown["x"], "y": shown["y"]})


@examples(max_examples=20, deadline=None)
@given(made=studies())
def test_absolute_winners_by_hand(made: tuple[list[Row], Scores]) -> None:
    rows, _ = made
    beaten = set()
    for row in (row for row in rows if row["split"] == "train"):
        beaten |= {(row["prompt"], row["image_a"])} if row["preference"] <= 0.5 else set()
        beaten |= {(row["prompt"], row["image_b"])} if row["preference"] >= 0.5 else set()
    expected = {
        row["pair_id"] for row in rows if row["split"] == "val" or (row["preference"] != 0.5
        and (row["prompt"], row["image_a" if row["preference"] > 0.5 else "image_b"]) not in beaten)
    }  # fmt: skip
    with tempfile.TemporaryDirectory() as folder:
        try:
            assert run(Path(folder), rows, {}, {"kind": "absolute_winners"}).rows.keys() == expected
        except InputError as error:
            assert "nothing left" in str(error)
            assert not [row for row in rows if row["split"] == "train" and row["pair_id"] in expected]


def test_the_best_image_of_a_prompt_wins_and_the_worst_loses(tmp_path: Path) -> None:
    """Of four images, with shares of the softmax above 2 / n; each once, in the pair with the largest margin."""
    names = "wxyz"
    rows = [pair(n, "a cat", a, b, 0.5) for n, (a, b) in enumerate([("w", "z"), ("x", "w"), ("y", "z"), ("x", "y")])]
    scores = scored(*zip(names, (3.0, 0.0, 0.5, -3.0), strict=True))
    step = {"kind": "hps_v1", "reward": "r", "scale": 1.0}
    assert run(tmp_path, rows, scores, step).preferences == {"p000": 1.0}
    assert run(tmp_path, rows, scores, step | {"side": "both"}).preferences == {"p000": 1.0}
    assert run(tmp_path, rows[1:], scores, step).preferences == {"p001": 0.0}
    assert run(tmp_path, rows[1:], scores, step | {"side": "worst"}).preferences == {"p002": 1.0}
    with pytest.raises(InputError, match=r"steps.0 \(hps_v1\): nothing left of 3 training pairs"):
        run(tmp_path, rows[1:], scores, step | {"side": "both"})
    with pytest.raises(InputError, match="nothing left"):
        run(tmp_path, rows, scores, step | {"fewest": 5})


def test_a_share_just_at_the_bound_is_not_enough() -> None:
    """Of four images with one clear best the share nears 1; of two equal bests each has 1 / 2, which is 2 / n."""
    group = np.zeros(4, int)
    best, worst = hps_v1.selected(np.array([50.0, 50.0, -50.0, -50.0]), group, 4, 2.0)
    assert not best.any() and not worst.any()
    best, _ = hps_v1.selected(np.array([9.0, 1.0, 0.0, 0.0]), group, 4, 2.0)
    assert best.tolist() == [True, False, False, False]


def test_swapping_twice_changes_nothing(tmp_path: Path) -> None:
    rows = [pair(0, "a cat", "x", "y", 0.25), pair(1, "a cat", "y", "z", 0.5)]
    found = run(tmp_path, rows, {}, {"kind": "swap"}, {"kind": "swap"})
    assert found.preferences == {"p000": 0.25, "p001": 0.5}
    assert [step["exchanged"] for step in found.manifest["steps"]] == [1, 1]


# --- refusals -------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("step", "words"),
    [
        ({"kind": "fifa", "reward": "r", "top": 9}, "steps.0 (fifa): top: is 9, but 2 training pairs are left, expec"),
        ({"kind": "margin_band", "reward": "r", "low": 99}, "steps.0 (margin_band): nothing left of 2 training pairs"),
        ({"kind": "fifa", "reward": "r"}, "study.yaml: select.steps.0: top and share: expected one of them"),
        ({"kind": "fifa", "reward": "r", "top": 1, "share": 0.5}, "top and share: expected one of them"),
        ({"kind": "fifs"}, "steps.0.kind: unknown kind 'fifs'; did you mean 'fifa'?"),
        ({"reward": "r"}, "steps.0: expected a mapping with a 'kind', a text, found ['reward']"),
        ({"kind": "soft", "reward": "r", "range": 0}, "select.steps.0.range: input should be greater than 0"),
        ({"kind": "majority", "by": ["r", "r"]}, "steps.0.by: expected every reward once, found ['r', 'r']"),
        ({"kind": "majority", "by": []}, "steps.0.by: expected at least 1 item"),
        ({"kind": "margin_band", "reward": "r", "low": 2.0, "high": 1.0}, "low 2.0 is above high 1.0, expected a band"),
        ({"kind": "margin_band", "reward": "r", "shares": (0.5, 0.5)}, "expected two from 0 to 1, the first below"),
        ({"kind": "margin", "reward": "s"}, "(margin): reward: 's' scores both images of every pair alike, expected"),
    ],
)
def test_refusals_are_one_line(tmp_path: Path, step: dict[str, Any], words: str) -> None:
    rows = [pair(0, "a cat", "x", "y"), pair(1, "a cat", "y", "z")]
    scores = dict(scored(("x", 4.0), ("y", 3.0), ("z", 1.0)))
    scores["s"] = dict.fromkeys(scores["r"], 1.0)
    with pytest.raises(InputError) as refused:
        run(tmp_path, rows, scores, step)
    assert words in str(refused.value) and "\n" not in str(refused.value)


def test_scores_of_other_pairs_are_refused(tmp_path: Path) -> None:
    """Another order, fewer, more."""
    rows = [pair(0, "a cat", "x", "y"), pair(1, "a cat", "y", "z")]
    scores = scored(("x", 4.0), ("y", 3.0), ("z", 1.0))
    step = {"kind": "margin", "reward": "r"}
    for others in (rows[::-1], rows[:1], [*rows, pair(2, "a cat", "x", "z")]):
        _, scored_by = put(tmp_path, others, scores)
        (tmp_path / "kept").mkdir(exist_ok=True)
        pairs, _ = put(tmp_path / "kept", rows, {})
        with pytest.raises(InputError, match="has not the scores of the pairs of"):
            chosen(pairs, scored_by, step)


def test_a_table_without_training_pairs_is_refused(tmp_path: Path) -> None:
    pairs, _ = put(tmp_path, [pair(0, "a cat", "x", "y", split="val")], {})
    with pytest.raises(InputError, match="no training pair, expected at least one to select"):
        chosen(pairs, {}, {"kind": "swap"})
