"""Feature networks: round trips through files as they are released, against the libraries' own computations."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional

from stages.errors import InputError
from stages.measure.metrics.diversity import mean_distance
from stages.models.record import ModelRecord, describe
from stages.rewards import inception
from stages.rewards.base import load_reward, require_gradient
from stages.rewards.preprocess import NORMALISATIONS
from tests import tiny_judges


def images(height: int = 40, width: int = 40, count: int = 3) -> Tensor:
    return torch.rand(count, 3, height, width, generator=torch.Generator().manual_seed(0))


def square(side: int, normalise: str) -> Tensor:
    made = functional.interpolate(images().double(), (side, side), mode="bicubic", antialias=True)
    mean, std = (torch.tensor(v, dtype=torch.float64).view(3, 1, 1) for v in NORMALISATIONS[normalise])
    return (made - mean) / std


def with_options(record: ModelRecord, **options: object) -> ModelRecord:
    return ModelRecord(**{**vars(record), "options": options})


def close(found: Tensor, wanted: Tensor, tolerance: float = 2e-5) -> None:
    assert found.dtype == torch.float32
    torch.testing.assert_close(found.double(), wanted.double(), rtol=tolerance, atol=tolerance)


# --- DINO and DINOv2 --------------------------------------------------------------------------------------------------


def test_dino_is_the_class_token_under_either_normalisation(tmp_path: Path) -> None:
    from transformers import ViTModel

    record = tiny_judges.dino(tmp_path / "dino")
    library = ViTModel.from_pretrained(record.path, add_pooling_layer=False, dtype=torch.float64)
    given, clip = load_reward(record), load_reward(with_options(record, normalise="clip"))
    for made, normalise in ((given, "imagenet"), (clip, "clip")):
        model: Any = made
        with torch.no_grad():
            wanted = library(pixel_values=square(32, normalise)).last_hidden_state
        close(model.embed(images()), wanted[:, 0])
        close(model.patches(images()), wanted[:, 1:])
    assert given.describe() != clip.describe()  # type: ignore[attr-defined]
    with pytest.raises(InputError, match="reward 'dino' gives images no gradient"):
        require_gradient(given)
    with pytest.raises(
        InputError, match=r"'dino' is a feature network and gives no reward; name it in measure\.features"
    ):
        given(images(), ["", "", ""])
    with pytest.raises(InputError, match="model_type is 'vit', expected 'dinov2'"):
        load_reward(describe("x", "dinov2", record.path))


def test_dinov2_is_the_librarys_pooled_output(tmp_path: Path) -> None:
    from transformers import Dinov2Model

    record = tiny_judges.dinov2(tmp_path / "dinov2")
    library = Dinov2Model.from_pretrained(record.path, dtype=torch.float64)
    with torch.no_grad():
        wanted = library(pixel_values=square(28, "imagenet"))
    made: Any = load_reward(record)
    close(made.embed(images()), wanted.pooler_output)
    assert made.patches(images()).shape == (3, 4, 32)
    with pytest.raises(InputError, match=r"options\.size 30 is no multiple of patches of 14"):
        load_reward(with_options(record, size=30))


# --- Inception --------------------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def inception_record(tmp_path_factory: pytest.TempPathFactory) -> ModelRecord:
    return tiny_judges.inception(tmp_path_factory.mktemp("inception") / "weights-inception-2015-12-05-6726825d.pth")


def test_inception_takes_the_files_names_and_gives_what_is_pooled(inception_record: ModelRecord) -> None:
    path = Path(inception_record.path) / "weights-inception-2015-12-05-6726825d.pth"
    assert len(torch.load(path)) == 566
    made: Any = load_reward(inception_record)
    kept: dict[str, Tensor] = {}
    made.model.Mixed_7c.register_forward_hook(lambda m, given, out: kept.update(last=out))
    made.model.Conv2d_1a_3x3.register_forward_pre_hook(lambda m, given: kept.update(pixels=given[0]))
    found = made.embed(images(count=1))
    close(found, kept["last"].mean((2, 3)))
    assert found.shape == (1, 2048) and float(found.min()) >= 0
    wanted = functional.interpolate(255 * images(count=1), (299, 299), mode="bicubic", antialias=True).clamp(0, 255)
    torch.testing.assert_close(kept["pixels"], (wanted - 128) / 128, rtol=1e-5, atol=1e-5)


def test_pooled_branches_average_inside_and_take_maxima_at_last() -> None:
    with torch.device("meta"):
        model = inception.network()
    kinds = {name: type(block).__name__ for name, block in model.named_children() if name.startswith("Mixed")}
    assert [kinds[f"Mixed_5{x}"] for x in "bcd"] == ["AverageInside"] * 3
    assert [kinds[f"Mixed_6{x}"] for x in "bcde"] == ["AverageInsideWide"] * 4
    ones = torch.ones(1, 2048, 3, 3)
    torch.testing.assert_close(inception.average(ones), ones)  # torchvision's own would dim the margin
    last = inception.LastPoolings(2048).eval()
    last.branch_pool = nn.Identity()  # type: ignore[assignment]
    values = torch.randn(1, 2048, 3, 3, generator=torch.Generator().manual_seed(0))
    assert torch.equal(last._forward(values)[-1], functional.max_pool2d(values, 3, 1, 1))
    first = inception.LastPoolings(1280).eval()
    first.branch_pool = nn.Identity()  # type: ignore[assignment]
    torch.testing.assert_close(first._forward(values[:, :1280])[-1][0, :, 0, 0], values[0, :1280, :2, :2].mean((1, 2)))


def test_legacy_resizing_samples_where_tensorflow_did() -> None:
    ramp = torch.arange(8.0).expand(1, 3, 5, 8)
    found = inception.legacy_bilinear(ramp, 16)
    wanted = np.minimum(np.arange(16) / 2, 7.0)  # pixel i at i * 8 / 16, the last one repeated
    np.testing.assert_allclose(found[0, 0, 3], wanted)
    shrunk = inception.legacy_bilinear(torch.arange(12.0).expand(1, 1, 6, 12), 4)
    np.testing.assert_allclose(shrunk[0, 0, 0], [0, 3, 6, 9])


def test_inception_of_another_file_is_refused(inception_record: ModelRecord, tmp_path: Path) -> None:
    path = Path(inception_record.path) / "weights-inception-2015-12-05-6726825d.pth"
    state = torch.load(path)
    state["fc.weight"] = state["fc.weight"][:1000]
    torch.save(state, tmp_path / "inception_v3_google.pth")
    with pytest.raises(InputError, match=r"'fc\.weight' has shape \(1000, 2048\), expected \(1008, 2048\)"):
        load_reward(describe("inception", "inception", tmp_path / "inception_v3_google.pth"))


# --- LPIPS ------------------------------------------------------------------------------------------------------------


def test_squared_distances_are_lpips(tmp_path: Path) -> None:
    from torchvision.models import alexnet

    record = with_options(tiny_judges.lpips(tmp_path / "lpips"), size=64)
    made: Any = load_reward(record)
    trunk = alexnet(weights=None).features.double().eval().requires_grad_(False)
    state = torch.load(tmp_path / "lpips" / "alexnet-owt-7be5be79.pth")
    trunk.load_state_dict({name.removeprefix("features."): value for name, value in state.items()})
    heads = torch.load(tmp_path / "lpips" / "alex.pth")
    shift = torch.tensor([-0.030, -0.088, -0.188], dtype=torch.float64).view(3, 1, 1)
    scale = torch.tensor([0.458, 0.448, 0.450], dtype=torch.float64).view(3, 1, 1)
    x, taps = (2 * images(64, 64).double() - 1 - shift) / scale, []
    for place, layer in enumerate(trunk):
        x = layer(x)
        if place in (1, 4, 7, 9, 11):
            taps.append(x / x.norm(dim=1, keepdim=True).clamp(min=1e-10))
    vectors = made.embed(images(64, 64)).double()
    distances = []
    for i, j in ((0, 1), (0, 2), (1, 2)):
        parts = [
            (heads[f"lin{n}.model.1.weight"].double() * (t[i] - t[j]) ** 2).sum(1).mean() for n, t in enumerate(taps)
        ]
        distances.append(float(sum(parts)))
        assert float((vectors[i] - vectors[j]).square().sum()) == pytest.approx(distances[-1], rel=1e-5)
    assert mean_distance(vectors.numpy()) == pytest.approx(np.mean(distances), rel=1e-5)
    assert min(distances) > 0.01


def test_lpips_without_one_of_its_files_is_refused(tmp_path: Path) -> None:
    tiny_judges.lpips(tmp_path)
    (tmp_path / "alex.pth").unlink()
    with pytest.raises(InputError, match=r"lacks alex\.pth; expected alexnet-owt-7be5be79\.pth"):
        load_reward(describe("lpips", "lpips", tmp_path))
