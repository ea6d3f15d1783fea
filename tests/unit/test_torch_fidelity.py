"""FID, KID, precision, recall and Inception's features beside torch-fidelity's, where that package is installed.

The package is none of the tests' own: `pip install --no-deps --target FOLDER torch-fidelity`, delete `FOLDER/tests`,
which would hide these tests from each other, and run pytest with FOLDER on PYTHONPATH.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from stages.measure.metrics import fid, kid, precision, recall
from stages.measure.statistics import reference
from stages.rewards.base import load_reward
from tests import tiny_judges

pytest.importorskip("torch_fidelity", reason="torch-fidelity is not installed, so nothing is compared with it")

K, WIDTH = 3, 24


@pytest.fixture(scope="module")
def sets() -> tuple[np.ndarray, np.ndarray]:
    """Features of generated and of real images, of different means, spreads and numbers; the first 250 of either."""
    random = np.random.default_rng(5)
    mixing = random.normal(size=(WIDTH, WIDTH)) / WIDTH**0.5
    return random.normal(size=(250, WIDTH)) @ mixing + 0.3, random.normal(size=(300, WIDTH)) * 1.1


def test_fid(sets: tuple[np.ndarray, np.ndarray]) -> None:
    theirs = pytest.importorskip("torch_fidelity.metric_fid")

    made, real = sets
    statistics = [theirs.fid_features_to_statistics(torch.from_numpy(features)) for features in (made, real)]
    wanted = theirs.fid_statistics_to_metric(*statistics, verbose=False)[theirs.KEY_METRIC_FID]
    found = fid.metric(made, reference(real, K))(np.arange(len(made)))
    assert wanted > 1
    assert found == pytest.approx(wanted, abs=1e-12)


def test_kid(sets: tuple[np.ndarray, np.ndarray]) -> None:
    """One subset of all rows, so that nothing is drawn."""
    theirs = pytest.importorskip("torch_fidelity.metric_kid")

    made, real = sets[0], sets[1][:250]
    settings = {"kid_subsets": 1, "kid_subset_size": 250, "rng_seed": 0, "verbose": False}
    both = (torch.from_numpy(features) for features in (made, real))
    wanted = theirs.kid_features_to_metric(*both, **settings)[theirs.KEY_METRIC_KID_MEAN]
    found = kid.metric(made, reference(real, K))(np.arange(250))
    assert wanted > 0.01
    assert found == pytest.approx(wanted, abs=1e-13)


def test_precision_and_recall(sets: tuple[np.ndarray, np.ndarray]) -> None:
    theirs = pytest.importorskip("torch_fidelity.metric_prc")

    made, real = sets
    both = (torch.from_numpy(features) for features in (made, real))
    wanted = theirs.prc_features_to_metric(*both, prc_neighborhood=K, verbose=False)
    rows, known = np.arange(len(made)), reference(real, K)
    assert 0 < wanted[theirs.KEY_METRIC_PRECISION] < 1
    assert precision.metric(made, known)(rows) == pytest.approx(wanted[theirs.KEY_METRIC_PRECISION], abs=1e-7)
    assert recall.metric(made, known)(rows) == pytest.approx(wanted[theirs.KEY_METRIC_RECALL], abs=1e-7)


@pytest.mark.parametrize(("height", "width"), [(64, 80), (512, 400)])
def test_inception(height: int, width: int, tmp_path: Path) -> None:
    theirs = pytest.importorskip("torch_fidelity.feature_extractor_inceptionv3")

    file = tmp_path / "weights-inception-2015-12-05-6726825d.pth"
    record = tiny_judges.inception(file)
    extractor = theirs.FeatureExtractorInceptionV3("x", ["2048"], feature_extractor_weights_path=str(file))
    pixels = torch.randint(0, 256, (2, 3, height, width), generator=torch.Generator().manual_seed(1)).to(torch.uint8)
    (wanted,) = extractor(pixels)
    ours: Any = load_reward(record)
    ours.resize = "legacy"
    torch.testing.assert_close(ours.embed(pixels / 255), wanted, rtol=0, atol=1e-6)
