"""Metrics against closed forms, invariants, an independent formula, and the released code's numbers."""

from __future__ import annotations

import json
import re
import sys
from collections.abc import Iterator, Sequence
from pathlib import Path

import numpy as np
import pytest
from scipy.linalg import sqrtm
from scipy.spatial.distance import cdist

import stages.measure.metrics
from stages import plugins
from stages.errors import InputError
from stages.measure.evaluation import Evaluation, prompt_suite
from stages.measure.metrics import attribute_diversity, caption, clipscore, coverage, diversity, fid, kid, precision
from stages.measure.metrics import recall as recall_metric
from stages.measure.metrics.vendi import metric as vendi_metric
from stages.measure.metrics.vendi import vendi_score
from stages.measure.released import bfloat16, mean_of_batches
from stages.measure.samples import load_metrics
from stages.measure.scored import ScoredImages, join
from stages.measure.settings import MeasureSettings
from stages.measure.statistics import Gaussian, Nearest, cubic_kernel, directions, gaussian, neighbour_radii, reference
from stages.world import oracle
from stages.world.render import render
from stages.world.scene import draw_captions, draw_scenes
from stages.world.settings import WorldSettings
from tests.parity_sets import PARITY_SETS, needs_parity

DOCS = Path(__file__).parents[2] / "docs"


def draws(count: int, width: int = 6, seed: int = 0, shift: float = 0.0) -> np.ndarray:
    return np.random.default_rng(seed).normal(size=(count, width)) + shift


def every(features: np.ndarray) -> np.ndarray:
    return np.arange(len(features))


def settings_of(**values: object) -> MeasureSettings:
    return MeasureSettings.model_validate({"rewards": ["proxy"]} | values)


def pictures(features: np.ndarray, patches: np.ndarray | None = None) -> ScoredImages:
    return ScoredImages(
        prompts=("",) * len(features),
        pixels=np.zeros((len(features), 4, 4, 3), np.uint8),
        embeddings={"clip": features.astype(np.float32)},
        patches={} if patches is None else {"patch": patches.astype(np.float32)},
    )


# --- diversity ------------------------------------------------------------------------------------------------------


def test_diversity_is_one_minus_the_mean_cosine_over_pairs() -> None:
    features, patches = draws(7), draws(7 * 5, 3, seed=1).reshape(7, 5, 3)
    found = diversity.metric(pictures(features, patches))

    def naive(values: np.ndarray) -> float:
        units = values / np.linalg.norm(values, axis=-1, keepdims=True)
        return float(np.mean([1 - units[i] @ units[j] for i in range(7) for j in range(i)]))

    assert found["clip_diversity"] == pytest.approx(naive(features), abs=1e-6)
    assert found["patch_diversity"] == pytest.approx(np.mean([naive(patches[:, n]) for n in range(5)]), abs=1e-6)


def test_diversity_of_known_directions() -> None:
    assert diversity.pairwise_diversity(np.eye(4)[:, None]) == pytest.approx(1.0)
    assert diversity.pairwise_diversity(np.ones((4, 1, 3))) == pytest.approx(0.0, abs=1e-12)
    assert diversity.pairwise_diversity(np.array([[[1.0, 0]], [[-3.0, 0]]])) == pytest.approx(2.0)
    assert diversity.metric(pictures(draws(1))) == {}


@needs_parity
@pytest.mark.parametrize("folder", PARITY_SETS, ids=lambda path: path.name)
def test_parity_of_diversity(folder: Path) -> None:
    from safetensors.numpy import load_file

    given, wanted = load_file(folder / "inputs.safetensors"), load_file(folder / "expected.safetensors")
    groups = given["dino_features"].reshape(3, 5, 1, -1)
    found = np.array([diversity.pairwise_diversity(group) for group in groups])
    np.testing.assert_allclose(found, wanted["metrics.dino_diversity_per_prompt"], rtol=0, atol=2e-5 * found.max())
    np.testing.assert_allclose(found, wanted["metrics.clip_diversity_per_prompt"], rtol=0, atol=2e-5 * found.max())
    mean = json.loads((folder / "expected.json").read_text())["metrics"]["dino_diversity_mean"]
    assert found.mean() == pytest.approx(mean, rel=2e-5)


def test_vendi_counts_what_is_different() -> None:
    assert vendi_score(np.eye(5) * 3) == pytest.approx(5.0)
    assert vendi_score(np.ones((5, 3))) == pytest.approx(1.0)
    assert vendi_score(np.repeat(np.eye(3), 4, axis=0)) == pytest.approx(3.0)
    # Two vectors with cosine c: eigenvalues (1 + c) / 2 and (1 - c) / 2.
    shares = np.array([0.8, 0.2])
    two = np.array([[1.0, 0.0], [0.6, 0.8]])
    assert vendi_score(two) == pytest.approx(np.exp(-(shares * np.log(shares)).sum()))
    assert vendi_metric(pictures(np.eye(4))) == {"vendi": pytest.approx(4.0)}


# --- distances between sets -----------------------------------------------------------------------------------------


def test_frechet_distance_of_known_gaussians() -> None:
    a = Gaussian(np.array([0.0, 0.0, 0.0]), np.diag([1.0, 4.0, 9.0]))
    b = Gaussian(np.array([1.0, 0.0, -2.0]), np.diag([4.0, 4.0, 1.0]))
    # Commuting covariances: the distance is that of means and of standard deviations.
    assert fid.frechet_distance(a, b) == pytest.approx(5.0 + (1 - 2) ** 2 + 0 + (3 - 1) ** 2)
    assert fid.frechet_distance(a, a) == pytest.approx(0.0, abs=1e-9)


def test_frechet_distance_is_that_of_the_matrix_root() -> None:
    x, y = draws(40, 8, 1) @ draws(8, 8, 2), draws(50, 8, 3, 0.5) @ draws(8, 8, 4)
    a, b = gaussian(x), gaussian(y)
    root = np.real(sqrtm(a.covariance @ b.covariance))
    wanted = np.square(a.mean - b.mean).sum() + np.trace(a.covariance + b.covariance - 2 * root)
    assert fid.frechet_distance(a, b) == pytest.approx(wanted, rel=1e-8)
    assert fid.frechet_distance(b, a) == pytest.approx(wanted, rel=1e-8)


def test_fid_with_fewer_images_than_features() -> None:
    real, made = draws(60, 20), draws(9, 20, 5)
    found = fid.metric(made, reference(real, 3))(every(made))
    root = np.real(sqrtm(np.cov(real.T) @ np.cov(made.T)))
    wanted = np.square(real.mean(0) - made.mean(0)).sum() + np.trace(np.cov(real.T) + np.cov(made.T) - 2 * root)
    assert found == pytest.approx(wanted, rel=1e-5)


def test_kid_is_the_unbiased_estimator() -> None:
    real, made = draws(12, 4), draws(7, 4, 1, 0.7)

    def kernel(a: np.ndarray, b: np.ndarray) -> float:
        return float((a @ b / 4 + 1) ** 3)

    own = np.mean([kernel(a, b) for i, a in enumerate(made) for j, b in enumerate(made) if i != j])
    others = np.mean([kernel(a, b) for i, a in enumerate(real) for j, b in enumerate(real) if i != j])
    across = np.mean([kernel(a, b) for a in made for b in real])
    found = kid.metric(made, reference(real, 3))
    assert found(every(made)) == pytest.approx(own + others - 2 * across, rel=1e-10)
    assert found(np.arange(5)) == pytest.approx(kid.metric(made[:5], reference(real, 3))(np.arange(5)), rel=1e-10)


def test_kid_of_images_like_the_real_ones_is_around_zero() -> None:
    same = [kid.metric(draws(80, seed=s), reference(draws(80, seed=s + 50), 3))(np.arange(80)) for s in range(30)]
    error = np.std(same) / np.sqrt(len(same))
    assert abs(np.mean(same)) < 3 * error
    apart = kid.metric(draws(80, shift=1.0), reference(draws(80, seed=1), 3))(np.arange(80))
    assert apart > 10 * np.std(same)


def test_equal_and_disjoint_sets() -> None:
    real = draws(50)
    for metric, equal in ((precision, 1.0), (recall_metric, 1.0), (coverage, 1.0)):
        assert metric.metric(real, reference(real, 3))(every(real)) == equal
        assert metric.metric(real + 100, reference(real, 3))(every(real)) == 0.0


def test_neighbourhoods_are_those_of_plain_loops() -> None:
    real, made = draws(30, 3), draws(20, 3, 1, 0.6)

    def radii(points: np.ndarray) -> np.ndarray:
        return np.sort(cdist(points, points), axis=1)[:, 2]  # column 0 is the point itself

    across, rows = cdist(made, real), np.arange(2, 15)
    statistics = reference(real, 2)
    np.testing.assert_allclose(statistics.radii, radii(real) ** 2, rtol=1e-9)
    found = {m.__name__: m.metric(made, statistics)(rows) for m in (precision, recall_metric, coverage)}
    near = across[rows] <= radii(real)
    assert found[precision.__name__] == near.any(1).mean()
    assert found[coverage.__name__] == near.any(0).mean()
    assert found[recall_metric.__name__] == (across[rows] <= radii(made[rows])[:, None]).any(0).mean()
    assert 0 < found[precision.__name__] < 1 and 0 < found[recall_metric.__name__] < 1


def test_precision_and_recall_tell_missing_quality_from_missing_diversity() -> None:
    real = draws(300, 2)
    narrow, stray = draws(100, 2, 1) * 0.2, np.concatenate([draws(50, 2, 2), draws(50, 2, 3, 30.0)])
    values = {
        name: [m.metric(made, reference(real, 3))(every(made)) for m in (precision, recall_metric)]
        for name, made in (("narrow", narrow), ("stray", stray))
    }
    assert values["narrow"][0] > 0.95 and values["narrow"][1] < 0.5
    assert values["stray"][0] < 0.6 and values["stray"][1] > 0.6


def test_blocks_do_not_show(monkeypatch: pytest.MonkeyPatch) -> None:
    values = draws(50)
    whole = reference(values, 3)
    monkeypatch.setattr("stages.measure.statistics.BLOCK", 7)
    pieces = reference(values, 3)
    np.testing.assert_allclose(pieces.radii, whole.radii, rtol=1e-9)
    assert pieces.kernel_mean == pytest.approx(whole.kernel_mean, rel=1e-12)
    assert neighbour_radii(np.zeros((5, 2)), 3).tolist() == [0.0] * 5
    made, chosen = draws(40, seed=1), np.arange(3, 37)
    for module in (kid, precision, recall_metric, coverage):
        monkeypatch.undo()
        once = module.metric(made, whole)(chosen)
        for place in ("stages.measure.statistics.BLOCK", f"{module.__name__}.BLOCK"):
            monkeypatch.setattr(place, 7, raising=False)
        assert module.metric(made, whole)(chosen) == pytest.approx(once, rel=1e-12)


@pytest.mark.parametrize("kept", [range(90), range(0, 90, 2), [5, *range(50, 90)], [5, 60], [7]])
def test_radii_of_chosen_rows_are_those_of_the_rows_alone(kept: Sequence[int]) -> None:
    """The first 50 are nearly the same image, so with most of them gone a row has none of its nearest left."""
    values = np.concatenate([draws(1) + 1e-6 * draws(50), draws(40, seed=2)])
    rows = np.array(kept)
    found = Nearest.of(values, 12).radii(rows, 3)
    np.testing.assert_allclose(found, neighbour_radii(values[rows], 3), rtol=1e-6, atol=1e-13)


def test_directions_have_the_cosine_kernel() -> None:
    a, b = draws(5, 9), draws(4, 9, 1) * 7
    cosines = 1 - cdist(a, b, "cosine")
    np.testing.assert_allclose(cubic_kernel(directions(a), directions(b)), (cosines + 1) ** 3, rtol=1e-10)


# --- the shapes world -----------------------------------------------------------------------------------------------


def test_metrics_of_the_shapes_world_are_the_oracles() -> None:
    settings, rng = WorldSettings(), np.random.default_rng(0)
    scenes = draw_scenes(settings, 16, rng)
    pixels, captions = render(scenes, 32, rng), draw_captions(settings, scenes, rng)
    pixels[3] = 128  # nothing there
    images = ScoredImages(prompts=tuple(captions), pixels=pixels, seen=oracle.parse(pixels))
    found = caption.metric(images)
    match = oracle.caption_match(pixels, captions)
    assert found["caption_accuracy"].tolist() == match.both.astype(float).tolist()
    assert found["shape_accuracy"].mean() > 0.8 and found["colour_accuracy"][3] == 0
    assert found["empty_share"][3] == 1.0
    assert attribute_diversity.metric(images)["attribute_diversity"] == oracle.attribute_diversity(pixels)
    elsewhere = pictures(draws(3))
    assert (caption.metric(elsewhere), attribute_diversity.metric(elsewhere), clipscore.metric(elsewhere)) == (
        {},
        {},
        {},
    )


def test_images_are_taken_and_joined_row_by_row() -> None:
    pixels = render(draw_scenes(WorldSettings(), 6, np.random.default_rng(1)), 32)
    whole = ScoredImages(
        prompts=tuple("abcdef"), pixels=pixels, rewards={"r": np.arange(6.0)}, clipscore=np.arange(6.0) / 10,
        embeddings={"clip": draws(6)}, patches={"patch": draws(12).reshape(6, 2, 6)}, seen=oracle.parse(pixels),
    )  # fmt: skip
    turned = join([whole.take([4, 5]), whole.take([0]), whole.take([1, 2, 3])])
    assert turned.prompts == ("e", "f", "a", "b", "c", "d")
    order = [4, 5, 0, 1, 2, 3]
    assert turned.rewards["r"].tolist() == order
    assert turned.clipscore is not None and turned.seen is not None and whole.seen is not None
    assert turned.clipscore.tolist() == [v / 10 for v in order]
    for found, wanted in (
        (turned.pixels, pixels), (turned.embeddings["clip"], whole.embeddings["clip"]),
        (turned.patches["patch"], whole.patches["patch"]), (vars(turned.seen)["x"], vars(whole.seen)["x"]),
    ):  # fmt: skip
        np.testing.assert_array_equal(found, wanted[order])


# --- settings and plug-ins ------------------------------------------------------------------------------------------


def test_models_and_the_space_of_set_metrics() -> None:
    settings = settings_of(
        rewards=["proxy", "clip"], text_image="clip", features={"patch": "patches", "clip": "embedding"}
    )
    assert settings.models == ("proxy", "clip", "patch")
    assert settings.space == "clip"


def test_unknown_metric_names_the_nearest() -> None:
    with pytest.raises(ValueError, match="unknown metric 'recal'; did you mean 'recall'"):
        settings_of(set_metrics=["recal"])


def test_set_metrics_need_an_embedding() -> None:
    with pytest.raises(InputError, match="'fid' compares embeddings, but no model"):
        load_metrics(settings_of(features={"patch": "patches"}, set_metrics=["vendi", "fid"]))


def test_an_evaluation_is_told_by_its_id() -> None:
    suite = prompt_suite([("p1", "a"), ("p0", "b")])
    assert suite == prompt_suite([("p0", "b"), ("p1", "a"), ("p1", "a")]) != prompt_suite([("p0", "a"), ("p1", "b")])
    one = Evaluation(suite, 2, 8, (32, 32), 0, {"steps": 20}, {"clip": {"digest": "x"}}, {})
    same = Evaluation(suite, 2, 8, (32, 32), 0, {"steps": 20}, {"clip": {"digest": "x"}}, {})
    others = [
        Evaluation(suite, 2, 8, (32, 32), 1, {"steps": 20}, {"clip": {"digest": "x"}}, {}),
        Evaluation(suite, 2, 8, (32, 32), 0, {"steps": 40}, {"clip": {"digest": "x"}}, {}),
        Evaluation(suite, 2, 8, (32, 32), 0, {"steps": 20}, {"clip": {"digest": "y"}}, {}),
        Evaluation(suite, 2, 8, (32, 32), 0, {"steps": 20}, {"clip": {"digest": "x"}}, {"neighbours": 3}),
        Evaluation(suite, 2, 4, (32, 32), 0, {"steps": 20}, {"clip": {"digest": "x"}}, {}),
    ]
    assert one.id == same.id and len({one.id, *(other.id for other in others)}) == 6


@pytest.fixture
def documented_metric(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[str]:
    """The example of docs/add-a-metric.md as a file of the package."""
    found = re.search(r"```python\n(.*?)```", (DOCS / "add-a-metric.md").read_text(), re.DOTALL)
    assert found
    (tmp_path / "pixel_spread.py").write_text(found[1])
    monkeypatch.setattr(stages.measure.metrics, "__path__", [*stages.measure.metrics.__path__, str(tmp_path)])
    assert stages.measure.metrics.__spec__ is not None
    monkeypatch.setattr(stages.measure.metrics.__spec__, "submodule_search_locations", stages.measure.metrics.__path__)
    plugins._files.cache_clear()
    yield "pixel_spread"
    plugins._files.cache_clear()
    sys.modules.pop("stages.measure.metrics.pixel_spread", None)


def test_documented_metric_works(documented_metric: str) -> None:
    settings = settings_of(set_metrics=[documented_metric])
    metric = load_metrics(settings).prompt[documented_metric]
    grey, ends = np.full((3, 4, 4, 3), 100, np.uint8), np.zeros((2, 4, 4, 3), np.uint8)
    ends[1] = 255
    assert metric(ScoredImages(prompts=("",) * 3, pixels=grey)) == {"pixel_spread": 0.0}
    assert metric(ScoredImages(prompts=("",) * 2, pixels=ends)) == {"pixel_spread": 0.5}
    assert metric(ScoredImages(prompts=("",), pixels=grey[:1])) == {}


def test_bfloat16_rounds_as_torch_does() -> None:
    import torch

    values = np.random.default_rng(2).normal(size=1000).astype(np.float32) * 20
    expected = torch.from_numpy(values).bfloat16().float().numpy()
    assert (bfloat16(values) == expected).all()


def test_the_released_mean_weighs_batches_and_not_images() -> None:
    # exactly representable: batches [1, 1], [1, 1], [4]; the mean over images is 8/5, the mean of batch means is 2
    assert mean_of_batches([1.0, 1.0, 1.0, 1.0, 4.0], 2) == 2.0
    # near 20 bfloat16 has steps of 1/8: PickScore's means live on that grid
    assert mean_of_batches([20.05] * 30, 30) == 20.0
    assert mean_of_batches([20.07] * 30, 30) == 20.125
