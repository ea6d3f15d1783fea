"""Diversity measures of other papers: closed forms, ranges, independence of order, independent formulas."""

from __future__ import annotations

import colorsys
from collections.abc import Sequence

import numpy as np
import pytest

from stages.measure.bootstrap import interval, jackknife
from stages.measure.metrics import pvs, rke, rke_set, sdi
from stages.measure.metrics.vendi import vendi_score
from stages.measure.scored import ScoredImages
from stages.measure.statistics import reference, second_order_number
from stages.world import oracle
from stages.world.render import render
from stages.world.scene import SHAPES, draw_scenes
from stages.world.settings import WorldSettings


def draws(count: int, width: int, seed: int = 0) -> np.ndarray:
    return np.random.default_rng(seed).normal(size=(count, width))


def embedded(features: np.ndarray) -> ScoredImages:
    return ScoredImages(
        prompts=("",) * len(features),
        pixels=np.zeros((len(features), 2, 2, 3), np.uint8),
        embeddings={"clip": features},
    )


def pictures(pixels: Sequence[np.ndarray] | np.ndarray) -> ScoredImages:
    return ScoredImages(prompts=("",) * len(pixels), pixels=np.asarray(pixels, np.uint8))


# --- RKE --------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("count, width", [(2, 8), (5, 8), (8, 8), (40, 8), (3, 1)])
def test_rke_is_that_of_the_eigenvalues(count: int, width: int) -> None:
    features = draws(count, width)
    units = features / np.linalg.norm(features, axis=1, keepdims=True)
    shares = np.linalg.eigvalsh(units @ units.T / count)
    renyi = -np.log(np.square(shares).sum())  # the entropy of order 2
    assert second_order_number(features) == pytest.approx(np.exp(renyi), rel=1e-10)
    assert 1 <= second_order_number(features) <= min(vendi_score(features) + 1e-9, count)


@pytest.mark.parametrize("count", [1, 2, 7, 30])
@pytest.mark.parametrize("width", [1, 5, 64])
def test_rke_of_equal_images_is_1(count: int, width: int) -> None:
    for seed in range(10):
        same = np.repeat(draws(1, width, seed), count, 0) * np.random.default_rng(seed).uniform(0.1, 9, (count, 1))
        assert second_order_number(same) == pytest.approx(1, abs=1e-12)
        assert 1 <= second_order_number(same) <= count


@pytest.mark.parametrize("count", [2, 6, 25])
def test_rke_of_orthogonal_images_is_their_number(count: int) -> None:
    turned = np.linalg.qr(draws(64, 64, count))[0][:count] * 7
    assert second_order_number(turned) == pytest.approx(count)
    assert second_order_number(turned) <= count
    assert second_order_number(np.repeat(turned, 3, axis=0)) == pytest.approx(count)


def test_rke_of_unequal_groups() -> None:
    """Shares .75 and .25 of the images: 1 / (.75^2 + .25^2), less than the 1.755 of the Vendi score."""
    features = np.array([[1.0, 0.0]] * 3 + [[0.0, 1.0]])
    assert second_order_number(features) == pytest.approx(1.6)


def test_rke_knows_no_order_and_needs_an_embedding() -> None:
    features = draws(9, 4)
    turned = features[np.random.default_rng(1).permutation(9)]
    assert rke.metric(embedded(turned))["rke"] == pytest.approx(rke.metric(embedded(features))["rke"], rel=1e-12)
    assert rke.metric(pictures(np.zeros((3, 2, 2, 3)))) == {}


def test_rke_of_the_set_leaves_prompts_out() -> None:
    features = np.concatenate([np.eye(6), np.eye(6)])
    value = rke_set.metric(features, reference(draws(5, 6), 1))
    assert value(np.arange(12)) == pytest.approx(6)
    assert value(np.array([0, 1, 6, 7])) == pytest.approx(2)
    found = jackknife(value, [f"p{row % 6}" for row in range(12)])
    assert found.mean == pytest.approx(6) and found.low is not None and found.high is not None
    assert found.low <= found.mean <= found.high


def test_the_interval_over_prompts_holds_the_mean() -> None:
    by_prompt = {f"p{seed}": [rke.metric(embedded(draws(6, 3, seed)))["rke"]] for seed in range(20)}
    found = interval(by_prompt, 500, 0.95, 0)
    assert found.low is not None and found.high is not None
    assert found.mean == pytest.approx(np.mean(list(by_prompt.values())))
    assert 1 <= found.low < found.mean < found.high <= 6
    same = interval({f"p{seed}": [rke.metric(embedded(np.ones((4, 3))))["rke"]] for seed in range(5)}, 500, 0.95, 0)
    assert (same.low, same.mean, same.high) == pytest.approx((1, 1, 1))


# --- photographic variance --------------------------------------------------------------------------------------------


def test_tones_are_those_of_a_plain_loop() -> None:
    pixels = np.random.default_rng(0).integers(0, 256, (5, 7, 3)).astype(np.uint8)
    pixels[0, 0] = 0  # black has no saturation
    flat = [tuple(float(level) / 255 for level in pixel) for pixel in pixels.reshape(-1, 3)]
    hsv = np.array([colorsys.rgb_to_hsv(*pixel) for pixel in flat])
    grey = [0.299 * red + 0.587 * green + 0.114 * blue for red, green, blue in flat]
    assert pvs.tones(pixels) == pytest.approx((hsv[:, 1].mean(), hsv[:, 2].mean(), np.std(grey)))


def test_photographic_variance_of_known_images() -> None:
    black, white = np.zeros((4, 4, 3)), np.full((4, 4, 3), 255)
    red = np.stack([white[..., 0], black[..., 0], black[..., 0]], axis=-1)
    half = np.concatenate([black[:2], white[:2]])
    assert pvs.metric(pictures([white, white, white])) == {"pvs": 0.0}
    assert pvs.metric(pictures([black, white])) == {"pvs": pytest.approx(0.5)}  # brightness 0 and 1
    assert pvs.metric(pictures([red, white])) == {"pvs": pytest.approx(0.5)}  # saturation 1 and 0
    # Brightness 0 and .5, contrast 0 and .5.
    assert pvs.metric(pictures([black, half])) == {"pvs": pytest.approx(0.25 + 0.25)}
    assert pvs.metric(pictures([white])) == {}


def test_photographic_variance_knows_no_order_and_keeps_to_its_range() -> None:
    pixels = np.random.default_rng(1).integers(0, 256, (6, 4, 4, 3))
    assert pvs.metric(pictures(pixels[::-1]))["pvs"] == pytest.approx(pvs.metric(pictures(pixels))["pvs"], rel=1e-12)
    assert 0 < pvs.metric(pictures(pixels))["pvs"] <= 1.25


# --- spatial dispersion -----------------------------------------------------------------------------------------------

LEFT, RIGHT, BOTH = [0.0, 0.0, 1.0, 1.0], [2.0, 0.0, 3.0, 1.0], [0.0, 0.0, 2.0, 1.0]


def boxes(*found: list[float]) -> np.ndarray:
    return np.array(found).reshape(-1, 4)


def test_likeness_of_known_layouts() -> None:
    assert sdi.similarity(boxes(LEFT), boxes(LEFT)) == 1
    assert sdi.similarity(boxes(LEFT), boxes(RIGHT)) == 0
    assert sdi.similarity(boxes(LEFT), boxes(BOTH)) == pytest.approx(0.5)
    assert sdi.similarity(boxes(LEFT, RIGHT), boxes(RIGHT, LEFT)) == 1  # paired by what overlaps, not by their order
    assert sdi.similarity(boxes(LEFT, RIGHT), boxes(RIGHT)) == pytest.approx(0.5)  # one box has no partner
    assert sdi.similarity(boxes(LEFT), boxes()) == 0
    assert sdi.similarity(boxes(), boxes()) == 1


def test_boxes_of_the_shapes_world_are_those_of_the_scenes() -> None:
    """Against the rim of shapes drawn large: the oracle's box at 64 pixels is right to about a pixel."""
    scenes = draw_scenes(WorldSettings(), 60, np.random.default_rng(3))
    found, fine = oracle.parse(render(scenes, 64)), oracle.parse(render(scenes, 256))
    assert not found.empty.any() and set(scenes.shape) == set(range(len(SHAPES)))
    assert np.abs(found.box - fine.box).max() <= 2.5 / 32
    centres = (found.box[:, :2] + found.box[:, 2:]) / 2
    square = np.isin(scenes.shape, [SHAPES.index(name) for name in ("circle", "ring")])
    np.testing.assert_allclose(centres[square], np.column_stack([scenes.x, scenes.y])[square], atol=1.5 / 32)


def test_spatial_dispersion_in_the_shapes_world() -> None:
    scenes = draw_scenes(WorldSettings(), 5, np.random.default_rng(0))
    pixels = render(scenes, 32)
    same = np.repeat(pixels[:1], 3, axis=0)

    def found(drawn: np.ndarray) -> float:
        judged = ScoredImages(prompts=("",) * len(drawn), pixels=drawn, seen=oracle.parse(drawn))
        return sdi.metric(judged)["sdi"]

    assert found(same) == 0
    assert 0 < found(pixels) <= 1
    assert found(pixels[::-1]) == pytest.approx(found(pixels), rel=1e-12)
    empty = np.full_like(pixels[:2], 128)
    assert found(empty) == 0 and found(np.concatenate([pixels[:1], empty[:1]])) == 1
    shifted = np.stack([np.roll(same[0], step, axis=1) for step in (0, 1)])
    assert 0 < found(shifted) < 0.3


def test_no_spatial_dispersion_without_places() -> None:
    assert sdi.metric(pictures(np.zeros((3, 8, 8, 3)))) == {}
    one = np.full((1, 8, 8, 3), 128, np.uint8)
    assert sdi.metric(ScoredImages(prompts=("",), pixels=one, seen=oracle.parse(one))) == {}
