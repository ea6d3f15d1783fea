"""Rewards without gradient, and who can train on them."""

from __future__ import annotations

import io
from pathlib import Path
from types import SimpleNamespace
from typing import Any, cast

import numpy as np
import pytest
import torch
from PIL import Image

from stages.errors import InputError
from stages.finetune.methods import ddpo, online, refl
from stages.finetune.requirements import require_enough, without_gradient
from stages.finetune.reward import CountedReward
from stages.models.record import ModelRecord
from stages.rewards.base import TextImage, known_kinds, load_reward
from stages.rewards.with_features import unboxed
from tests import tiny


def pictures(count: int = 3) -> torch.Tensor:
    draw = torch.Generator().manual_seed(0)
    smooth = torch.linspace(0, 1, 32).expand(3, 32, 32)
    return torch.stack([smooth + n * 0.3 * torch.rand(3, 32, 32, generator=draw) for n in range(count)]).clamp(0, 1)


def first_pixels(images: np.ndarray, prompts: list[str]) -> list[float]:
    assert images.dtype == np.uint8
    return [float(image[0, 0, 0]) + len(prompt) for image, prompt in zip(images, prompts, strict=True)]


def too_few(images: np.ndarray, prompts: list[str]) -> list[float]:
    return [1.0]


def test_jpeg_counts_the_bytes_of_the_file():
    images = pictures()
    small, large = (
        load_reward(ModelRecord("j", "jpeg", options={"large": large, "quality": 80})) for large in (0 > 1, 1 > 0)
    )
    found = small(images, ["", "", ""])
    sizes = []
    for image in images:
        file = io.BytesIO()
        Image.fromarray((image.numpy().transpose(1, 2, 0) * 255).round().astype(np.uint8)).save(
            file, "JPEG", quality=80
        )
        sizes.append(len(file.getvalue()) / 1000)
    assert found.tolist() == pytest.approx([-size for size in sizes])
    assert large(images, [""] * 3).tolist() == pytest.approx(sizes)
    assert found[0] > found[1] > found[2]
    assert not small.differentiable


def test_a_function_is_a_reward():
    reward = load_reward(ModelRecord("mine", "python", options={"function": f"{__name__}:first_pixels"}))
    images = pictures(2)
    expected = [round(float(image[0, 0, 0]) * 255) + n for image, n in zip(images, (1, 3), strict=True)]
    assert reward(images, ["a", "abc"]).tolist() == expected
    assert {"python", "jpeg"} <= set(known_kinds())


@pytest.mark.parametrize(
    ("kind", "options", "message"),
    [
        ("python", {"function": "nowhere:f"}, "cannot be imported"),
        ("python", {"function": "math:nothing"}, "cannot be imported"),
        ("python", {"function": "math:pi"}, "expected package.module:function"),
        ("python", {}, "options.function: field required"),
        ("python", {"funktion": "math:pi"}, "did you mean 'function'"),
        ("jpeg", {"qualitty": 3}, "did you mean 'quality'"),
        ("jpeg", {"quality": 100}, "options.quality: input should be less than or equal to 95"),
    ],
)
def test_refuses_options(kind: str, options: dict[str, Any], message: str):
    with pytest.raises(InputError, match=message):
        load_reward(ModelRecord("x", kind, options=options))


def test_refuses_what_is_no_number_an_image():
    reward = load_reward(ModelRecord("mine", "python", options={"function": f"{__name__}:too_few"}))
    with pytest.raises(InputError, match=r"shape \(1,\), expected 2 finite numbers"):
        reward(pictures(2), ["a", "b"])


def plan(settings: Any) -> Any:
    return SimpleNamespace(name="x-s0", method="x", method_settings=settings)


def test_gradient_methods_refuse_it_and_name_those_that_can():
    reward = load_reward(ModelRecord("oracle", "shapes_oracle"))
    assert {"awm", "d3po", "ddpo", "dpok", "diffusion_dpo"} <= set(without_gradient())
    assert not {"refl", "imagerefl", "draft_k", "alignprop", "sqdf"} & set(without_gradient())
    with pytest.raises(InputError, match=rf"'oracle' gives images no gradient.*{', '.join(without_gradient())}"):
        require_enough(plan(refl.Settings(kind="refl")), reward)
    assert require_enough(plan(ddpo.Settings(kind="ddpo")), reward) is reward


def boxed(tmp_path: Path, **parts: ModelRecord) -> ModelRecord:
    features = tiny.clip_folder(tmp_path / "clip", name="clip")
    return ModelRecord("box", "black_box", parts={"reward": ModelRecord("j", "jpeg"), "features": features} | parts)


def test_a_black_box_has_the_numbers_of_one_model_and_the_features_of_another(tmp_path: Path):
    record = boxed(tmp_path)
    box, clip = load_reward(record), load_reward(record.parts["features"])
    images = pictures().requires_grad_(True)
    assert torch.equal(box(images, [""] * 3), load_reward(ModelRecord("j", "jpeg"))(images, [""] * 3))
    assert isinstance(clip, TextImage)
    assert torch.equal(box.embed(images), clip.embed(images))  # type: ignore[attr-defined]
    assert torch.equal(box.encode_text(["a red circle"]), clip.encode_text(["a red circle"]))  # type: ignore[attr-defined]
    box.embed(images).sum().backward()  # type: ignore[attr-defined]
    assert images.grad is not None
    assert float(images.grad.abs().sum()) > 0


def test_a_black_box_hides_the_gradient_of_what_judges(tmp_path: Path):
    box = load_reward(boxed(tmp_path, reward=tiny.clip_folder(tmp_path / "judge", 1, "judge")))
    assert not box.differentiable
    assert not box(pictures().requires_grad_(True), ["red"] * 3).requires_grad
    assert unboxed(box).name == "judge"
    with pytest.raises(InputError, match="gives images no gradient"):
        require_enough(plan(refl.Settings(kind="refl")), box)


def test_a_black_box_refuses_other_parts(tmp_path: Path):
    record = ModelRecord("box", "black_box", parts={"reward": ModelRecord("j", "jpeg")})
    with pytest.raises(InputError, match="found reward, expected reward and features"):
        load_reward(record)
    with pytest.raises(InputError, match="no embedding of an image"):
        load_reward(boxed(tmp_path, features=ModelRecord("j", "jpeg")))


def test_a_method_with_a_proxy_refuses_a_reward_without_features(tmp_path: Path):
    asked = plan(online.Settings(kind="online"))
    with pytest.raises(InputError, match=r"takes image features.* 'oracle' has none; expected .* black_box"):
        require_enough(asked, load_reward(ModelRecord("oracle", "shapes_oracle")))
    box = load_reward(boxed(tmp_path))
    assert require_enough(asked, box) is box


def test_queries_are_counted():
    counted = CountedReward(cast(Any, load_reward(ModelRecord("j", "jpeg"))))
    counted(pictures(3), [""] * 3)
    counted(pictures(2), [""] * 2)
    assert counted.queries == 5
    with pytest.raises(InputError, match="no features of images"):
        counted.embed(pictures(1))
