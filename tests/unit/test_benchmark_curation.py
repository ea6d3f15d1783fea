"""The benchmark of curation: what it makes, that it runs the stage, and the exponents it fits."""

from __future__ import annotations

import random
from pathlib import Path

import pytest

from benchmarks.cost import Cost, exponents
from benchmarks.curation import EVALUATION, measure, prompts, sentence, words


def test_rows_are_as_many_as_asked_and_repeat_as_stated() -> None:
    rng = random.Random(1)
    vocabulary = words(rng)
    evaluation = [sentence(vocabulary, rng) for _ in range(50)]
    pieces = list(prompts(60_000, vocabulary, evaluation, rng))
    texts = [text for piece in pieces for text in piece]
    assert len(texts) == 60_000
    plain = [text.replace(",", "").lower() for text in texts]
    assert 0.08 < 1 - len(set(plain)) / len(plain) < 0.12  # a tenth repeats an earlier one
    leaks = {text.replace(",", "").lower() for text in evaluation}
    assert 20 < sum(text in leaks for text in plain) < 120  # one in a thousand


def test_exponents() -> None:
    def cost(rows: int, seconds: float) -> Cost:
        return Cost(seconds=0, cpu_seconds=seconds, memory_mb=0, what="prompts", rows=rows)

    found = exponents([cost(10, 1), cost(100, 10), cost(1000, 1000)])
    assert found == {"CPU seconds": 1.5, "CPU seconds between the two largest sizes": 2.0}
    assert exponents([cost(10, 1)]) == {}


@pytest.mark.slow
@pytest.mark.parametrize("what", ["prompts", "pairs"])
def test_the_stage_runs(what: str, tmp_path: Path) -> None:
    cost = measure(what, 2000, tmp_path)
    assert cost.kept + sum(cost.removed.values()) == 2000 and cost.kept > 1500
    assert cost.memory_mb > 50 and cost.cpu_seconds > 0.1
    assert len(list(tmp_path.glob("*.json"))) == len(EVALUATION)
