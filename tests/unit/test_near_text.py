"""Near-duplicate texts against all pairs compared one by one."""

from __future__ import annotations

import random
from functools import cache
from itertools import pairwise

import numpy as np
import pytest

from stages.curate import filters
from stages.curate.near_text import HASHES, MISS, NONE, NearTexts, jaccard, near_earlier, rows_of_band, signatures
from stages.curate.rows import PromptRow
from stages.curate.text import normalised, spaced


@cache
def steps(text: str) -> frozenset[tuple[str, str]]:
    """The pairs of neighbouring words of a text."""
    return frozenset(pairwise(["<", *spaced(normalised(text)).split(), ">"]))


def overlap(a: str, b: str) -> float:
    """The Jaccard index of neighbouring words, by sets."""
    return len(steps(a) & steps(b)) / len(steps(a) | steps(b))


def corpus(count: int, seed: int = 0) -> list[str]:
    """Random prompts, some of which are earlier ones with one or two words changed."""
    rng = random.Random(seed)
    words = ["".join(rng.choices("abcdefghijklmnopqrstuvwxyzäß猫", k=rng.randint(1, 9))) for _ in range(900)]
    texts: list[str] = []
    for _ in range(count):
        made = rng.choices(words, k=rng.randint(1, 25))
        if texts and rng.random() < 0.3:
            made = rng.choice(texts).split()
            for _ in range(rng.randint(1, 2)):
                made[rng.randrange(len(made))] = rng.choice(words)
        texts.append(" ".join(made))
    return texts


TEXTS = corpus(500)


@cache
def likeness() -> np.ndarray:
    """The index of every pair of `TEXTS`."""
    return np.array([[overlap(a, b) for b in TEXTS] for a in TEXTS])


def test_jaccard_is_that_of_the_sets() -> None:
    rng = np.random.default_rng(0)
    a, b = rng.integers(len(TEXTS), size=(2, 4000))
    alike = np.nonzero(likeness() > 0.3)
    a, b = np.concatenate([a, alike[0]]), np.concatenate([b, alike[1]])
    found = jaccard([TEXTS[i] for i in a], [TEXTS[i] for i in b])
    np.testing.assert_allclose(found, likeness()[a, b], atol=1e-12)


@pytest.mark.parametrize(
    ("a", "b", "expected"),
    [
        ("A dog chases a cat", "a DOG chases a cat!", 1.0),
        ("a dog chases a cat", "a cat chases a dog", overlap("a dog chases a cat", "a cat chases a dog")),
        ("cat", "dog", 0.0),
        ("ab c", "a bc", 0.0),
        ("the the the", "the the", 1.0),  # sets, not counts
        ("猫が座っている", "犬が座っている", 6 / 10),  # a character is a word: one of seven differs
        ("a red 🍎", "a red 🍌", 2 / 6),
    ],
)
def test_pairs_of_texts(a: str, b: str, expected: float) -> None:
    assert jaccard([a], [b])[0] == pytest.approx(expected)


@pytest.mark.parametrize("threshold", [0.4, 0.6, 0.8])
def test_near_earlier(threshold: float) -> None:
    expected = (np.tril(likeness(), -1) >= threshold - 1e-9).any(1)
    first = near_earlier(TEXTS, threshold)
    found = first >= 0
    assert not (found & ~expected).any()  # nothing is called near that is not
    assert (likeness()[found, first[found]] >= threshold - 1e-9).all() and (first < np.arange(len(TEXTS))).all()
    assert (expected & ~found).sum() <= 1  # each one is missed with probability below `MISS`
    assert expected.any()


@pytest.mark.parametrize("threshold", [0.5, 0.8])
def test_near_texts(threshold: float) -> None:
    listed, asked = TEXTS[:100], TEXTS[100:]
    expected = (likeness()[100:, :100] >= threshold - 1e-9).any(1)
    place = NearTexts(listed, threshold).near(asked)
    found = place >= 0
    assert (likeness()[100:][found, place[found]] >= threshold - 1e-9).all()
    assert not (found & ~expected).any() and (expected & ~found).sum() <= 1 and expected.any()
    one_by_one = [NearTexts(listed, threshold).near([text])[0] for text in asked[:40]]
    assert one_by_one == place[:40].tolist()


def test_signatures_agree_as_often_as_sets_overlap() -> None:
    marks = signatures(TEXTS)
    a, b = np.nonzero(np.tril(likeness(), -1) > 0.2)
    difference = (marks[a] == marks[b]).mean(1) - likeness()[a, b]
    assert abs(difference.mean()) < 4 * 0.5 / (HASHES * len(a)) ** 0.5 + 0.02
    assert difference.std() < 1.3 * 0.5 / HASHES**0.5


@pytest.mark.parametrize("threshold", [0.3, 0.5, 0.7, 0.8, 0.9, 0.99, 1.0])
def test_bands_miss_few(threshold: float) -> None:
    rows = rows_of_band(threshold)
    assert (1 - threshold**rows) ** (HASHES // rows) <= MISS
    assert rows == HASHES or (1 - threshold ** (rows + 1)) ** (HASHES // (rows + 1)) > MISS


def test_a_large_cluster_costs_no_square() -> None:
    """Many texts that differ in one word at the same place: all but the first go, compared with a few each."""
    texts = [
        f"a very long prompt about the sea at dawn with boats and birds and clouds number {n}" for n in range(1000)
    ]
    near = near_earlier(texts, 0.7)
    assert near[0] == NONE and (near[1:] >= 0).all()


def test_filters() -> None:
    def row(text: str, split: str = "train") -> PromptRow:
        return PromptRow(text, text, "test", split=split)

    rows = [row(text) for text in ("one two three four five six", "one two three four five seven", "another text")]
    step = filters.near_duplicate_prompts(rows, 0.5)
    assert [step.fault(each) for each in rows] == ["", "nearly one two three four five six", ""]
    leak = filters.near_leakage(NearTexts(["one two three four five six seven"], 0.5), ["line 7"], rows[:1])
    said = "its text is nearly an evaluation prompt, line 7"
    assert [leak.fault(each) for each in rows] == [said, said, ""]
    assert not leak.fault(row("one two three four five six", "val"))
