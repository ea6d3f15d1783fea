"""Settings of networks that are trained here are refused where no such network can be built, and nowhere else."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
import torch
from pydantic import ValidationError
from transformers import CLIPTokenizer

from stages.params import Settings
from stages.prepare import base, clip, tokenizer, vae
from stages.prepare.settings import BaseSettings, ClipSettings, TextSettings, VaeSettings


@pytest.fixture(scope="module")
def words() -> CLIPTokenizer:
    return tokenizer.build(["a red circle"], 16)


def build_vae(settings: Any, words: CLIPTokenizer, side: int = 32) -> None:
    images = torch.zeros(1, 3, side, side)
    assert vae.build(settings, side)(images).sample.shape == images.shape


def build_base(settings: Any, words: CLIPTokenizer) -> None:
    parts = base.build(settings, vae.build(VaeSettings(widths=(8, 16)), 16), words)
    parts.unet(torch.zeros(1, 6, 8, 8), 10, torch.zeros(1, 16, settings.text.width))
    parts.text(torch.zeros(1, 8, dtype=torch.long))


def build_clip(settings: Any, words: CLIPTokenizer) -> None:
    size = settings.image_size
    clip.build(settings, len(words))(torch.zeros(2, 3, size, size), torch.zeros(2, settings.context, dtype=torch.long))


Build = Callable[[Any, CLIPTokenizer], None]
TINY = {"widths": (8,), "text": {"width": 8, "layers": 1}}
CASES: list[tuple[type[Settings], Build, dict[str, Any], str]] = [
    (VaeSettings, build_vae, {"widths": (8, 9)}, ""),
    (VaeSettings, build_vae, {"widths": (7, 16)}, "widths: 7 is too narrow"),
    (BaseSettings, build_base, TINY | {"groups": 8, "heads": 3}, ""),
    (BaseSettings, build_base, TINY | {"widths": (8, 12)}, "widths: 12 is not a multiple of groups"),
    (BaseSettings, build_base, TINY | {"groups": 5}, "widths: 8 is not a multiple of groups"),
    (TextSettings, build_base, {"width": 9}, "width: 9 is not a multiple of heads"),
    (TextSettings, build_base, {"width": 16, "heads": 3}, "width: 16 is not a multiple of heads"),
    (ClipSettings, build_clip, {"width": 9}, ""),
    (ClipSettings, build_clip, {"vision": "vit", "width": 10, "patch": 7}, ""),
    (ClipSettings, build_clip, {"vision": "vit", "width": 9}, "width of a ViT: 9 is not a multiple of heads"),
    (ClipSettings, build_clip, {"vision": "vit", "patch": 65}, "patch 65 is larger than image_size 64"),
    (ClipSettings, build_clip, {"text_width": 65}, "text_width: 65 is not a multiple of two heads"),
    (ClipSettings, build_clip, {"vision_layers": (1, 1)}, "vision_layers: expected the blocks of"),
    (ClipSettings, build_clip, {"image_size": 33}, ""),
    (ClipSettings, build_clip, {"image_size": 62}, ""),
    (ClipSettings, build_clip, {"image_size": 16}, "image_size 16: expected 32 or more"),
    (ClipSettings, build_clip, {"image_size": 63}, "image_size 63: expected"),
    (ClipSettings, build_clip, {"image_size": 95}, "image_size 95: expected"),
]


def unchecked(model: type[Settings], values: dict[str, Any]) -> Any:
    """The settings as they would be without the check."""
    if model is TextSettings:
        text = TextSettings.model_construct(**{**vars(TextSettings()), **values})
        return BaseSettings.model_construct(**{**vars(BaseSettings(widths=(8,))), "text": text})
    return model.model_construct(
        **{**vars(model()), **values, **({"text": TextSettings(width=8)} if "text" in values else {})}
    )


def fails(build: Build, settings: Any, words: CLIPTokenizer) -> bool:
    """Whether the libraries raise, of whatever type."""
    try:
        build(settings, words)
    except Exception:
        return True
    return False


@pytest.mark.parametrize(("model", "build", "values", "message"), CASES)
def test_what_cannot_be_built_is_refused(
    model: type[Settings], build: Build, values: dict[str, Any], message: str, words: CLIPTokenizer
) -> None:
    if not message:
        build(model.model_validate(values), words)
        return
    with pytest.raises(ValidationError, match=message):
        model.model_validate(values)
    assert fails(build, unchecked(model, values), words)


def test_images_whose_side_an_autoencoder_does_not_give_back() -> None:
    """Which `stages.study` refuses where the side is known."""
    with pytest.raises(AssertionError):
        build_vae(VaeSettings(widths=(8, 9)), None, 33)  # type: ignore[arg-type]
