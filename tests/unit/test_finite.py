"""Weights that are no numbers are refused when a model is recorded, by the name of the tensor."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file, save_file

from stages.errors import InputError
from stages.models.bases import finite
from stages.models.bases.finite import require_finite
from stages.prepare.import_settings import ImportSettings
from stages.prepare.source import import_model
from tests.original_layout import original
from tests.tiny import clip_folder, diffusion_folder
from tests.unit.base_models import single

KINDS = (torch.float64, torch.float32, torch.float16, torch.bfloat16, torch.float8_e5m2, torch.float8_e4m3fn)


@pytest.mark.parametrize("kind", KINDS, ids=str)
def test_every_value_that_a_type_has(tmp_path: Path, kind: torch.dtype, monkeypatch: pytest.MonkeyPatch) -> None:
    """Of the 16-bit and 8-bit types every pattern of bits, of the others extremes: torch says which are not finite."""
    monkeypatch.setattr(finite, "AT_ONCE", 1000)
    bits = torch.finfo(kind).bits
    if bits <= 16:
        whole = torch.arange(2**bits, dtype=torch.int32).to(torch.uint16 if bits == 16 else torch.uint8)
        values = whole.view(kind)
    else:
        most, tiny = torch.finfo(kind).max, torch.finfo(kind).tiny
        values = torch.tensor(
            [0.0, -0.0, most, -most, tiny, tiny / 4, float("inf"), -float("inf"), float("nan")], dtype=kind
        )
    good = values[torch.isfinite(values.double())]
    odd = len(values) - len(good)
    assert odd > 0
    save_file({"weight": good.clone(), "empty": good[:0].clone()}, tmp_path / "good.safetensors")
    require_finite(tmp_path / "good.safetensors")
    save_file({"a": good[:7].clone(), "weight": values.clone()}, tmp_path / "odd.safetensors")
    with pytest.raises(InputError, match=rf"'weight' has values that are not finite: {odd} of {len(values)}$"):
        require_finite(tmp_path / "odd.safetensors")


def test_what_is_left_out(tmp_path: Path) -> None:
    """Masks hold minus infinity on purpose, and integers are none of the patterns."""
    mask = torch.full((3, 3), float("-inf")).triu(1)
    save_file({"attn_mask": mask, "ids": torch.full((4,), -1)}, tmp_path / "x.safetensors")
    require_finite(tmp_path / "x.safetensors")


@pytest.mark.parametrize("part", ["unet", "vae", "text_encoder"])
def test_a_base_is_refused_when_it_is_recorded(tmp_path: Path, part: str) -> None:
    diffusion_folder(tmp_path / "sd")
    [file] = (tmp_path / "sd" / part).glob("*.safetensors")
    tensors = load_file(file)
    name = max(tensors)
    tensors[name].view(-1)[0] = float("nan")
    save_file(tensors, file)
    settings = ImportSettings(kind="diffusers", folder=str(tmp_path / "sd"))
    with pytest.raises(InputError, match=f"{file.name}: '{name}' has values that are not finite: 1 of"):
        import_model("base", settings, "study: base")


def test_a_single_file_is_judged_by_the_parts_that_are_read(tmp_path: Path) -> None:
    """Buffers of the noise schedule may be infinite: those of zero terminal SNR are."""
    diffusion_folder(tmp_path / "sd")
    whole = original(tmp_path / "sd")
    file = tmp_path / "model.safetensors"
    save_file(whole | {"sqrt_recip_alphas_cumprod": torch.full((1000,), float("inf"))}, file)
    single(tmp_path / "sd", file)
    name = next(name for name in whole if name.startswith("first_stage_model."))
    save_file(whole | {name: torch.full_like(whole[name], float("inf"))}, file)
    with pytest.raises(InputError, match=f"'{name}' has values that are not finite"):
        single(tmp_path / "sd", file)


def test_a_judge_is_refused_when_it_is_recorded(tmp_path: Path) -> None:
    clip_folder(tmp_path / "clip")
    file = tmp_path / "clip" / "open_clip_model.safetensors"
    tensors = load_file(file)
    tensors["visual.proj"][0, 0] = float("nan")
    save_file(tensors, file)
    with pytest.raises(InputError, match=r"'visual\.proj' has values that are not finite"):
        import_model("clip", ImportSettings(kind="open_clip", folder=str(tmp_path / "clip")), "here")
