"""DreamSim on small random weights in the layout of its release, against the computation layer by layer."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from safetensors.torch import load_file, save_file
from torch import Tensor
from torch.nn import functional as F
from torchvision.transforms.v2 import functional as transforms

from stages.errors import InputError
from stages.measure.metrics.diversity import pairwise_diversity
from stages.models.record import describe
from stages.rewards.base import load_reward
from tests import tiny_judges

IMAGENET = ((0.485, 0.456, 0.406), (0.229, 0.224, 0.225))
CLIP = ((0.48145466, 0.4578275, 0.40821073), (0.26862954, 0.26130258, 0.27577711))


def images(height: int, width: int, count: int = 3) -> Tensor:
    return torch.rand(count, 3, height, width, generator=torch.Generator().manual_seed(1))


def trunk(state: dict[str, Tensor], factors: dict[str, Tensor], index: int, x: Tensor) -> Tensor:
    """The class token of DINO's ViT, with peft's update beside each weight, as the package computes it."""
    dino, quick = index == 0, index == 1
    eps = 1e-6 if dino else 1e-5

    def norm(x: Tensor, name: str) -> Tensor:
        return F.layer_norm(x, x.shape[-1:], state[f"{name}.weight"], state[f"{name}.bias"], eps)

    def linear(x: Tensor, name: str) -> Tensor:
        return x @ state[f"{name}.weight"].T + state[f"{name}.bias"]

    x = F.conv2d(x, state["patch_embed.proj.weight"], state["patch_embed.proj.bias"], stride=8).flatten(2).mT
    x = torch.cat([state["cls_token"].expand(len(x), -1, -1), x], dim=1) + state["pos_embed"]
    x = x if dino else norm(x, "pos_drop")
    for block in range(2):
        name = f"blocks.{block}"
        y = norm(x, f"{name}.norm1")
        where = f"base_model.model.extractor_list.{index}.model.{name}.attn.qkv.lora_"
        qkv = (
            linear(y, f"{name}.attn.qkv")
            + 0.5 / 2 * (y @ factors[f"{where}A.weight"].T) @ factors[f"{where}B.weight"].T
        )
        q, k, v = qkv.unflatten(-1, (3, 2, 64)).permute(2, 0, 3, 1, 4)
        weights = (q @ k.mT / 64**0.5).softmax(-1)
        x = x + linear((weights @ v).transpose(1, 2).flatten(2), f"{name}.attn.proj")
        y = linear(norm(x, f"{name}.norm2"), f"{name}.mlp.fc1")
        y = y * torch.sigmoid(1.702 * y) if quick else F.gelu(y)
        x = x + linear(y, f"{name}.mlp.fc2")
    return x[:, 0] if dino else norm(x, "norm")[:, 0] @ state["proj"]


def read(folder: Path, adapter: str) -> tuple[list[dict[str, Tensor]], dict[str, Tensor]]:
    names = ["clip_vitb16_pretrain.pth.tar", "open_clip_vitb16_pretrain.pth.tar"] if adapter == "ensemble_lora" else []
    states = [torch.load(folder / "dino_vitbase16_pretrain.pth")]
    states += [torch.load(folder / name)["state_dict"] for name in names]
    doubles = [{name: value.double() for name, value in state.items()} for state in states]
    factors = {
        name: value.double() for name, value in load_file(folder / adapter / "adapter_model.safetensors").items()
    }
    return doubles, factors


@pytest.mark.parametrize(
    ("variant", "adapter"), [("ensemble", "ensemble_lora"), ("dino_vitb16", "dino_vitb16_single_lora")]
)
def test_vectors_are_those_of_the_package(tmp_path: Path, variant: str, adapter: str) -> None:
    made: Any = load_reward(tiny_judges.dreamsim(tmp_path / "d", variant))
    given = images(40, 24)
    pixels = transforms.resize(given.double(), [16, 16], transforms.InterpolationMode.BICUBIC, antialias=True)
    states, factors = read(tmp_path / "d", adapter)
    parts = []
    for index, state in enumerate(states):
        mean, std = IMAGENET if index == 0 else CLIP
        parts.append(trunk(state, factors, index, transforms.normalize(pixels, list(mean), list(std))))
    whole = torch.cat(parts, dim=1)
    wanted = whole - whole.mean(dim=1, keepdim=True)
    found = made.embed(given)
    assert found.shape == (3, 128 + 2 * 24 * (variant == "ensemble"))
    torch.testing.assert_close(found.double(), wanted, rtol=1e-3, atol=1e-4)
    unit = wanted / wanted.norm(dim=1, keepdim=True)
    distances = [float(1 - unit[i] @ unit[j]) for i, j in ((0, 1), (0, 2), (1, 2))]
    assert pairwise_diversity(found.numpy()[:, None]) == pytest.approx(np.mean(distances), rel=1e-3)
    assert min(distances) > 1e-3


def test_weights_below_the_folder_of_torch_hub_are_found(tmp_path: Path) -> None:
    plain: Any = load_reward(tiny_judges.dreamsim(tmp_path))
    (tmp_path / "checkpoints").mkdir()
    (tmp_path / "dino_vitbase16_pretrain.pth").rename(tmp_path / "checkpoints/dino_vitbase16_pretrain.pth")
    moved: Any = load_reward(describe("dreamsim", "dreamsim", tmp_path))
    assert torch.equal(moved.embed(images(16, 16)), plain.embed(images(16, 16)))


def test_the_adapter_matters_and_the_variant_is_part_of_the_identity(tmp_path: Path) -> None:
    record = tiny_judges.dreamsim(tmp_path)
    tuned: Any = load_reward(record)
    path = tmp_path / "ensemble_lora/adapter_model.safetensors"
    save_file({name: torch.zeros_like(value) for name, value in load_file(path).items()}, path)
    untuned: Any = load_reward(describe("dreamsim", "dreamsim", tmp_path))
    assert not torch.allclose(tuned.embed(images(16, 16)), untuned.embed(images(16, 16)), atol=1e-2)
    assert tuned.describe()["variant"] == "ensemble"


def refused(folder: Path, message: str) -> None:
    with pytest.raises(InputError, match=message) as found:
        load_reward(describe("dreamsim", "dreamsim", folder))
    assert "\n" not in str(found.value)


def test_files_that_are_not_those_of_the_release_are_refused(tmp_path: Path) -> None:
    tiny_judges.dreamsim(tmp_path)
    clip, adapter = tmp_path / "clip_vitb16_pretrain.pth.tar", tmp_path / "ensemble_lora/adapter_model.safetensors"
    kept, factors = torch.load(clip), load_file(adapter)
    torch.save(torch.load(tmp_path / "dino_vitbase16_pretrain.pth"), clip)
    refused(tmp_path, "clip_vitb16_pretrain.pth.tar: not the clip_vitb16_pretrain.pth.tar of DreamSim's release")
    clip.unlink()
    refused(tmp_path, "lacks clip_vitb16_pretrain.pth.tar; expected the folder in which the dreamsim package")
    torch.save(kept, clip)
    first = next(iter(factors))
    save_file(factors | {"head.weight": torch.zeros(1)}, adapter)
    refused(tmp_path, "has 'head.weight', which the adapter of DreamSim's release does not have")
    save_file({name: value for name, value in factors.items() if name != first}, adapter)
    refused(tmp_path, "the update of block 0 is not a pair of factors of rank 2")
    save_file({name: value for name, value in factors.items() if ".blocks.1." not in name}, adapter)
    refused(tmp_path, "dino_vitbase16_pretrain.pth: has 2 blocks, the adapter updates 1")
    save_file(factors, adapter)
    config = tmp_path / "ensemble_lora/adapter_config.json"
    config.write_text(json.dumps({"r": 2}))
    refused(tmp_path, "adapter_config.json: not the configuration of an adapter; expected numbers lora_alpha and r")
