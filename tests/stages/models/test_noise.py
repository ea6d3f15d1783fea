from __future__ import annotations

from typing import Any

import numpy as np
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

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


keys = st.tuples(st.sampled_from(["eval", "train"]), st.integers(0, 50), st.integers(0, 3))


def draws_of(noise: KeyedNoise, step: int) -> torch.Tensor:
    """One draw of every kind, [B, ...]."""
    shown = [noise.initial(), noise.step(step), noise.extra("forward")]
    return torch.cat([value.flatten(1).double() for value in shown] + [noise.uniform("choice", 3)], 1)


@settings(max_examples=40, deadline=None)
@given(st.lists(keys, min_size=1, max_size=5), st.integers(1, 4), st.integers(0, 40), st.integers(0, 3), st.data())
def test_noise_of_a_candidate_depends_on_its_number_alone(rows: list, count: int, step: int, seed: int, data: Any):
    """Not on the other rows, their order or how many candidates there are; candidate 0 is the image without others."""
    plain = keyed(rows, seed)
    images = data.draw(st.permutations([n for n in range(len(rows)) for _ in range(count)]))
    numbers = data.draw(st.lists(st.integers(0, 5), min_size=len(images), max_size=len(images)))
    found = draws_of(plain.rows(images, numbers), step)
    for n, (image, number) in enumerate(zip(images, numbers, strict=True)):
        alone = keyed([rows[image]], seed)
        assert torch.equal(found[n], draws_of(alone.rows([0], [number]), step)[0])
        if number == 0:
            assert torch.equal(found[n], draws_of(alone, step)[0])
    distinct = {(rows[image], number) for image, number in zip(images, numbers, strict=True)}
    assert len(torch.unique(found, dim=0)) == len(distinct)


def test_candidates_draw_different_noise():
    draws = keyed(KEYS[:1]).rows([0] * 6, range(6)).initial().flatten(1)
    assert torch.equal(draws[0], keyed(KEYS[:1]).initial()[0].flatten())
    correlation = np.corrcoef(draws.numpy()) - np.eye(6)
    assert np.abs(correlation).max() < 5 / np.sqrt(draws.shape[1])


def test_uniforms_are_uniform_and_of_their_row():
    draws = keyed([("k", n) for n in range(2000)]).uniform("u", 2)
    assert draws.dtype == torch.float64 and float(draws.min()) >= 0 and float(draws.max()) < 1
    assert abs(float(draws.mean()) - 0.5) < 4 / np.sqrt(12 * draws.numel())
    assert torch.equal(keyed([("k", 7)]).uniform("u", 2)[0], draws[7])
