from __future__ import annotations

import numpy as np
import torch

from stages.models.noise import KeyedNoise
from tests.tiny import CPU, LATENT

KEYS = [("eval", f"p{n}", s) for n in range(3) for s in range(2)]


def keyed(keys, seed: int = 0) -> KeyedNoise:
    return KeyedNoise(seed, keys, LATENT, CPU)


def test_noise_of_a_row_does_not_depend_on_its_batch():
    whole = keyed(KEYS)
    for what in (KeyedNoise.initial, lambda n: n.step(3), lambda n: n.extra("forward")):
        expected = what(whole)
        for row, key in enumerate(KEYS):
            assert torch.equal(what(keyed([key]))[0], expected[row])
        backwards = what(keyed(KEYS[::-1]))
        assert torch.equal(backwards.flip(0), expected)


def test_noise_does_not_touch_or_read_the_global_generator():
    torch.manual_seed(1)
    first = keyed(KEYS).initial()
    state = torch.get_rng_state()
    torch.manual_seed(2)
    assert torch.equal(keyed(KEYS).initial(), first)
    torch.manual_seed(1)
    assert torch.equal(torch.get_rng_state(), state)


def test_draws_differ_by_seed_key_and_purpose():
    noise, other = keyed(KEYS), keyed(KEYS, seed=1)
    draws = [noise.initial(), noise.step(0), noise.step(1), noise.extra("forward"), other.initial()]
    rows = torch.cat(draws).flatten(1)
    correlation = np.corrcoef(rows.numpy()) - np.eye(len(rows))
    assert np.abs(correlation).max() < 5 / np.sqrt(rows.shape[1])


def test_draws_are_standard_normal():
    draw = keyed([("k", n) for n in range(400)]).initial()
    assert abs(float(draw.mean())) < 4 / np.sqrt(draw.numel())
    assert abs(float(draw.std()) - 1) < 4 / np.sqrt(2 * draw.numel())
