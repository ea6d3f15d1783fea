"""Noise on the condition: plain in its limits, of the stated size, and of each image's own."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from test_sample import model as model  # a fixture
from test_search import BOTH, STEPS, column, job, made, pixels

from stages.errors import InputError
from stages.models.conditioning import Conditioning
from stages.models.diffusion import DiffusionModel
from stages.models.noise import KeyedNoise
from stages.sample.resolve import strategy
from stages.sample.settings import SampleSettings
from stages.sample.strategies.condition_noise import noisy
from tests import tiny

ENTRY: dict[str, Any] = {"kind": "condition_noise", "k": [0, 2, STEPS], "scale": 2.0, "apply_to": BOTH}


def test_limits_costs_and_independence_of_the_batch_size(model: DiffusionModel, tmp_path: Path):
    entries = {"tuned": {"kind": "tuned"}, "noisy": ENTRY, "quiet": {**ENTRY, "k": [STEPS], "scale": 0.0}}
    large, small = (
        made(job(model, tmp_path / str(size), entries, batch_size=size)[0], tmp_path / str(size)) for size in (64, 3)
    )
    for run, same in (("base", ("guidance", "g=1")), ("run", ("tuned", "tuned"))):
        plain = pixels(large[run, *same])
        assert np.array_equal(pixels(large[run, "noisy", "k=0"]), plain)
        assert np.abs(pixels(large[run, "quiet", f"k={STEPS}"]) - plain).max() <= 1
        few, all_ = (pixels(large[run, "noisy", f"k={k}"]) for k in (2, STEPS))
        assert not np.array_equal(few, plain) and not np.array_equal(few, all_)
    for key, rows in large.items():
        assert np.abs(pixels(rows) - pixels(small[key])).max() <= 1, key
        assert set(column(rows, "nfe")) == {STEPS}


def test_within_combined_generation(model: DiffusionModel, tmp_path: Path):
    combined = {"kind": "combined", "k": [2]}
    entry = {**ENTRY, "k": [0, 2], "apply_to": ["tuned"], "prediction": combined}
    found = made(job(model, tmp_path, {"combined": combined, "noisy": entry})[0], tmp_path)
    plain = pixels(found["run", "combined", "k=2"])
    assert np.abs(pixels(found["run", "noisy", "k=0"]) - plain).max() <= 1
    assert np.abs(pixels(found["run", "noisy", "k=2"]) - plain).max() > 1


def test_noise_has_the_stated_size_and_is_each_row_s_own():
    text = Conditioning(3 * torch.randn(2, 30, 40), pooled=torch.randn(2, 500), size=torch.ones(2, 6))
    noise = KeyedNoise(0, [("p", 0), ("p", 1)], (4, 8, 8), tiny.CPU)
    found = noisy(text, noise, 0.5)
    added, pooled = found.text - text.text, (found.pooled - text.pooled)  # type: ignore[operator]
    for change, given in ((added, text.text), (pooled, text.pooled)):
        assert given is not None
        share = change.flatten(1).std(1) / given.flatten(1).square().mean(1).sqrt()
        torch.testing.assert_close(share, torch.full((2,), 0.5), rtol=0.1, atol=0)
        assert float(change.mean().abs()) < 0.1
    assert not torch.allclose(added[0], added[1]) and torch.equal(found.size, text.size)  # type: ignore[arg-type]
    alone = noisy(text[[1]], noise.rows([1], [0]), 0.5)
    torch.testing.assert_close(alone.text[0], found.text[1])


def test_more_steps_than_there_are_is_refused():
    with pytest.raises(InputError, match=r"k 5 is above sample\.steps 4"):
        strategy("s", {"kind": "condition_noise", "k": [5]}, SampleSettings(steps=STEPS), "test")
