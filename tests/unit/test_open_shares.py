"""Open shares and what `auto` stands for: against closed forms and brute force over pairs."""

from __future__ import annotations

import json
from collections.abc import Mapping
from itertools import combinations
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from stages.decided.auto import Resolved, resolve, settled, stand_in
from stages.decided.settings import DecidedSettings
from stages.decided.shares import Seen, between, shares, within
from stages.errors import InputError
from stages.measure.metrics import diversity, vendi
from stages.measure.scored import ScoredImages
from stages.world import oracle


def seen(values: np.ndarray, embeddings: np.ndarray | None = None) -> Seen:
    count = len(values)
    features = {} if embeddings is None else {"clip": embeddings}
    return Seen(
        ScoredImages(("",) * count, np.zeros((count, 8, 8, 3), np.uint8), embeddings=features), {"reward": values}
    )


def test_variances_and_distances_are_those_over_pairs() -> None:
    """Brute force: halved squared differences over pairs, cosines over pairs, and Vendi scores above 1."""
    rng = np.random.default_rng(0)
    first, again = rng.normal(size=5), rng.normal(size=5)
    one, other = rng.normal(size=(2, 5, 3)).astype(np.float32)
    metrics = (diversity.metric, vendi.metric)
    whole = between(seen(first, one), metrics)
    part = within(seen(first, one), seen(again, other), metrics)
    pairs = list(combinations(range(5), 2))
    assert whole["score", "reward"] == pytest.approx(np.mean([(first[a] - first[b]) ** 2 / 2 for a, b in pairs]))
    assert part["score", "reward"] == pytest.approx(np.mean((first - again) ** 2 / 2))

    def cosine(a: np.ndarray, b: np.ndarray) -> float:
        return float(a @ b / np.linalg.norm(a) / np.linalg.norm(b))

    assert whole["diversity", "clip_diversity"] == pytest.approx(
        np.mean([1 - cosine(one[a], one[b]) for a, b in pairs]), abs=1e-6
    )
    assert part["diversity", "clip_diversity"] == pytest.approx(
        np.mean([1 - cosine(a, b) for a, b in zip(one, other, strict=True)]), abs=1e-6
    )
    # of two images with cosine c the eigenvalues are (1 + c) / 2 and (1 - c) / 2; an image with itself scores 1
    shares_of = [np.array([1 + cosine(a, b), 1 - cosine(a, b)]) / 2 for a, b in zip(one, other, strict=True)]
    expected = np.mean([np.exp(-(p * np.log(p)).sum()) - 1 for p in shares_of])
    assert part["diversity", "vendi"] == pytest.approx(expected, abs=1e-6)


def test_nothing_is_open_between_equal_images() -> None:
    values, features = np.arange(4.0), np.eye(4, dtype=np.float32)
    same = seen(values, features)
    assert all(abs(value) < 1e-9 for value in within(same, same, (diversity.metric, vendi.metric)).values())


def test_a_vector_counts_with_all_of_its_numbers() -> None:
    """A word as one-hot: the chance that two images differ in it."""
    words = np.eye(3)[[0, 0, 1, 2]]
    pairs = list(combinations([0, 0, 1, 2], 2))
    assert between(seen(words), ())["score", "reward"] == pytest.approx(np.mean([a != b for a, b in pairs]))


def test_shares_are_ratios_of_sums_with_intervals_over_prompts() -> None:
    rows = [
        {"index": 3, "timestep": 5.0, "kind": "score", "quantity": "r", "prompt_id": f"p{n}", "within": w, "between": b}
        for n, (w, b) in enumerate([(1.0, 2.0), (0.0, 6.0), (3.0, 4.0)])
    ]
    still = [row | {"quantity": "still", "within": 0.0, "between": 0.0} for row in rows]
    (found,) = shares(rows + still, 2000, 0.95, 0)
    assert found.interval.mean == pytest.approx(4 / 12) and found.interval.n_prompts == 3
    assert found.interval.low is not None and found.interval.high is not None
    assert 0 <= found.interval.low < 4 / 12 < found.interval.high <= 0.75  # the ends are those of single prompts


@given(st.dictionaries(st.integers(0, 30), st.floats(0, 1.5), min_size=1), st.floats(0.01, 0.99))
def test_settled_is_the_first_index_from_which_all_are_low(found: dict[int, float], share: float) -> None:
    tried = [i for i in found if all(found[j] <= share for j in found if j >= i)]
    assert settled(found, share) == (min(tried) if tried else None)


def test_what_auto_stands_for(tmp_path: Path) -> None:
    """A share that rises again does not count before it has fallen for good."""
    found = {0: 0.9, 4: 0.5, 8: 0.08, 12: 0.2, 16: 0.09, 18: 0.01}
    made = resolve(found, 20, "attribute_diversity", 0.1, (0.5, 0.25, 0.1, 0.05))
    assert made.start == 16 and made.k == (4, 8, 16, 18)
    assert made.start_of(20) == 16 and made.start_of(50) == 40 and made.start_of(6) == 5
    made.write(tmp_path / "auto.json")
    assert Resolved.read(tmp_path / "auto.json") == made
    with pytest.raises(ValueError, match="grid of 20 steps, expected one of 50"):
        made.k_of(50)


def test_what_is_settled_from_the_first_step_on() -> None:
    """The base makes one step at least, and k = 0 is no setting of combined generation."""
    made = resolve({0: 0.05, 1: 0.04, 2: 0.0}, 3, "clip_diversity", 0.1, (0.5, 0.02))
    assert made.start == 0 and made.k == (1, 2)
    assert resolve({0: 0.0}, 1, "clip_diversity", 0.1, (0.5,)).k == ()


def test_what_is_never_settled_is_refused(tmp_path: Path) -> None:
    made = resolve({0: 0.9, 10: 0.4}, 20, "clip_diversity", 0.1, (0.2,))
    assert made.start is None and made.k == ()
    with pytest.raises(ValueError, match="more than 10% of clip_diversity is open at every index"):
        made.start_of(20)
    with pytest.raises(ValueError, match="not settled at any index"):
        made.k_of(20)
    for text in ("{}", "[1]", "no"):
        (tmp_path / "auto.json").write_text(text)
        with pytest.raises(InputError, match="not what `decided` writes"):
            Resolved.read(tmp_path / "auto.json")
    made.write(tmp_path / "auto.json")
    content = json.loads((tmp_path / "auto.json").read_text())
    for key, value in (("steps", "20"), ("start", 20), ("start", -1), ("k", [0]), ("k", "12"), ("k", [1.5]), ("x", 1)):
        (tmp_path / "auto.json").write_text(json.dumps(content | {key: value}))
        with pytest.raises(InputError, match="not what `decided` writes"):
            Resolved.read(tmp_path / "auto.json")


def test_the_stand_in_falls_evenly() -> None:
    assert stand_in(20).start == 15 and stand_in(20).k == (5, 10, 15, 18)
    assert all(1 <= k < steps for steps in range(2, 60) for k in stand_in(steps).k)


def test_evaluations_are_stated() -> None:
    """T (T + 3) / 2 for all indices: its own T, and T + (T - 1) + ... + 1 drawn again."""
    made = DecidedSettings(diversity="x")
    assert made.evaluations(20) == 20 * 23 / 2 == 230
    assert made.model_copy(update={"indices": (10, 15)}).evaluations(20) == 20 + 10 + 5
    assert made.model_copy(update={"guidance": 7.5}).evaluations(20) == 460


def test_indices_are_ascending_and_on_the_grid() -> None:
    for indices in ((3, 1), (2, 2), (-1, 2)):
        with pytest.raises(ValueError, match="ascending order"):
            DecidedSettings(diversity="x", indices=indices)
    with pytest.raises(ValueError, match="20 is not below 20"):
        DecidedSettings(diversity="x", indices=(20,)).grid(20)


def test_attributes_of_the_shapes_world() -> None:
    blank = oracle.parse(np.zeros((3, 16, 16, 3), np.uint8))
    found: Mapping[str, np.ndarray] = blank.open_attributes()
    assert {"position", "shape", "colour", "background"} <= set(found)
    assert all(len(values) == 3 for values in found.values())
    assert found["shape"].sum() == 0  # nothing is drawn
