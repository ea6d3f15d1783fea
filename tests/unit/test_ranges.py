"""Metrics whose true value is an end of their range keep to it, and no value further outside is hidden."""

from __future__ import annotations

import math

import numpy as np
import pytest
import torch

from stages.measure.metrics import clipscore, coverage, fid, precision, recall
from stages.measure.metrics.diversity import mean_distance, pairwise_diversity
from stages.measure.metrics.fid import frechet_distance
from stages.measure.metrics.vendi import vendi_score
from stages.measure.scored import ScoredImages
from stages.measure.statistics import Gaussian, at_bound, gaussian, reference
from stages.models.similarity import pairwise_diversity as probe_diversity

SHAPES = [(300, 512, 22.6), (100, 768, 1.0), (64, 64, 8.0), (2, 32, 1.0), (40, 8, 1e3), (30, 16, 1e-4)]
"""Images, dimensions and scale of features."""


def draws(count: int, width: int, scale: float = 1.0, seed: int = 0) -> np.ndarray:
    return np.random.default_rng(seed).normal(size=(count, width)) * scale


@pytest.mark.parametrize("count, width, scale", SHAPES)
def test_the_frechet_distance_of_equal_sets_is_not_below_0(count: int, width: int, scale: float):
    features = draws(count, width, scale)
    other = features[np.random.default_rng(1).permutation(count)]
    found = frechet_distance(gaussian(features), gaussian(other))
    assert 0 <= found <= 1e-6 * gaussian(features).covariance.trace()
    real = reference(features, 1)
    assert fid.metric(other, real)(np.arange(count)) >= 0


def test_a_small_frechet_distance_stays():
    features = draws(200, 8)
    moved = frechet_distance(gaussian(features), gaussian(features + 1e-3))
    assert moved == pytest.approx(8e-6, rel=1e-6)


def test_a_frechet_distance_that_is_wrong_is_not_hidden():
    plain = gaussian(draws(200, 8))
    found = frechet_distance(plain, Gaussian(plain.mean, -2 * plain.covariance))  # a covariance that is none
    assert found == pytest.approx(-plain.covariance.trace())


@pytest.mark.parametrize("count", [2, 3, 7, 40])
@pytest.mark.parametrize("width", [1, 5, 512])
def test_diversities_of_equal_and_of_opposite_images_are_ends_of_their_range(count: int, width: int):
    for seed in range(20):
        one = draws(1, width, seed=seed)
        same = np.repeat(one, count, 0) * np.random.default_rng(seed).uniform(0.1, 9, (count, 1))
        assert 0 <= pairwise_diversity(same[:, None]) < 1e-13
        assert probe_diversity(torch.from_numpy(same)) >= 0
        assert mean_distance(np.repeat(one, count, 0)) >= 0
        assert vendi_score(same) == pytest.approx(1, abs=1e-9)
        assert 1 <= vendi_score(same) <= count
        assert 0 < pairwise_diversity(np.stack([one, -one])) <= 2


@pytest.mark.parametrize("count", [2, 6, 25])
def test_vendi_of_orthogonal_images_is_their_number(count: int):
    turned = np.linalg.qr(draws(64, 64, seed=count))[0][:count] * 7
    assert vendi_score(turned) == pytest.approx(count)
    assert 1 <= vendi_score(turned) <= count


def test_a_small_diversity_stays():
    features = np.array([[1.0, 0.0], [1.0, 1e-5]])
    assert pairwise_diversity(features[:, None]) == pytest.approx(5e-11, rel=1e-3)
    assert vendi_score(np.array([[1.0, 0.0], [1.0, 1e-2]])) > 1 + 1e-5


def test_clipscore_keeps_to_its_range_and_a_scaled_cosine_stays():
    cosines = np.array([1 + 1e-7, -1 - 1e-7, 0.3, -1.0, 100.0])
    found = clipscore.metric(ScoredImages(("a",) * 5, np.zeros((5, 1, 1, 3), np.uint8), clipscore=cosines))
    assert found["clipscore"].tolist() == [1.0, -1.0, 0.3, -1.0, 100.0]


@pytest.mark.parametrize("module", [precision, recall, coverage])
@pytest.mark.parametrize("count, width, scale", SHAPES)
def test_shares_of_equal_sets_are_1(module, count: int, width: int, scale: float):
    features = draws(count, width, scale)
    assert module.metric(features.copy(), reference(features, 1))(np.arange(count)) == 1


@pytest.mark.parametrize(
    "value, kept", [(-1e-9, 0.0), (-1e-6, -1e-6), (0.0, 0.0), (0.5, 0.5), (1 + 1e-9, 1.0), (1.1, 1.1)]
)
def test_only_what_rounding_explains_is_moved_to_the_bound(value: float, kept: float):
    assert at_bound(value, 0.0, 1.0, 1e-8) == kept
    assert math.isnan(at_bound(math.nan, 0.0, 1.0, 1e-8))
