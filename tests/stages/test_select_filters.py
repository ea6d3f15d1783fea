"""Filters of pairs: which ones each step keeps, and the side that a step takes for the winner."""

from __future__ import annotations

import tempfile
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import settings as examples
from hypothesis import strategies as st

from stages.errors import InputError
from stages.select.settings import SelectSettings, steps
from stages.select.steps import fifa, hps_v1
from stages.select.texts import log_distances, qualities
from tests.stages.selecting import PROMPTS, Row, Scores, pair, run, scored, studies


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


def standard(values: np.ndarray) -> np.ndarray:
    return (values - values.mean()) / values.std()


@pytest.mark.parametrize(("alpha", "gamma"), [(1.0, 0.0), (0.0, 1.0), (1.0, 1.0)])
def test_the_terms_of_fifa_are_scaled_over_pairs_and_not_over_prompts(
    tmp_path: Path, alpha: float, gamma: float
) -> None:
    """By hand, where one prompt has most of the pairs."""
    prompts = [prompt for prompt, count in zip(PROMPTS, (12, 1, 1, 1), strict=False) for _ in range(count)]
    rows = [pair(number, prompt, "x", f"y{number}") for number, prompt in enumerate(prompts)]
    margins = np.random.default_rng(0).random(len(rows))
    scores = {"r": {("x", prompt): 0.0 for prompt in prompts}}
    scores["r"] |= {(f"y{number}", prompt): float(margins[number]) for number, prompt in enumerate(prompts)}
    texts = sorted(set(prompts))
    place = np.array([texts.index(prompt) for prompt in prompts])
    far = log_distances(texts, 1, 99)[place]
    total = standard(margins) + alpha * standard(qualities(texts)[place]) + gamma * standard(far)
    order = [f"p{number:03}" for number in np.argsort(-total)]
    wanted = {"kind": "fifa", "reward": "r", "alpha": alpha, "gamma": gamma, "neighbour": 1}
    for top in range(1, len(rows)):
        assert run(tmp_path, rows, scores, {**wanted, "top": top}).rows.keys() == set(order[:top])


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
