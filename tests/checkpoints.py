"""Checkpoints of the tiny base in the forms in which they are trained elsewhere."""

from __future__ import annotations

import copy
import shutil
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from stages.checkpoints import fit
from stages.checkpoints.files import find
from stages.models.diffusion import DiffusionModel
from tests import tiny

ATTENTION = ["to_q", "to_k", "to_v", "to_out.0"]
PEFT = "base_model.model."


def output(network: nn.Module) -> Tensor:
    """What a network predicts."""
    x = torch.randn(2, *tiny.LATENT, generator=torch.Generator().manual_seed(3))
    with torch.no_grad():
        return network(x, torch.tensor(400), encoder_hidden_states=tiny.text(2), return_dict=False)[0]


def lora(base: DiffusionModel, folder: Path, **settings: Any) -> nn.Module:
    """The base with a random LoRA of peft, which is saved in `folder`."""
    from peft import LoraConfig, get_peft_model

    given = {"r": 4, "lora_alpha": 8, "target_modules": ATTENTION, "init_lora_weights": False} | settings
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(4)
        network = get_peft_model(copy.deepcopy(base.unet), LoraConfig(**given))  # type: ignore[arg-type]
    with torch.no_grad():
        for name, parameter in network.named_parameters():
            if "magnitude" in name:
                parameter.mul_(1 + torch.linspace(0, 0.5, parameter.numel()).reshape(parameter.shape))
    network.save_pretrained(str(folder))
    return network.get_submodule("base_model.model")


def tuned(base: DiffusionModel, by: float = 0.05) -> nn.Module:
    """A network with other weights than the base."""
    network = copy.deepcopy(base.unet)
    draw = torch.Generator().manual_seed(5)
    with torch.no_grad():
        for parameter in network.parameters():
            parameter.add_(by * torch.randn(parameter.shape, generator=draw))
    return network


def pipeline(base: DiffusionModel, network: nn.Module, folder: Path) -> Path:
    """A diffusers folder like the base's with another network."""
    shutil.copytree(base.layout.folder, folder)
    network.save_pretrained(folder / "unet")  # type: ignore[operator]
    return folder


def planned(base: DiffusionModel, place: Path) -> None:
    """What the planner asks of a checkpoint."""
    where = "s.yaml: runs.x.checkpoint"
    fit.check(find(str(place), where), base.layout, fit.header_shapes(base.layout), where)


def diffusers_names(tensors: dict[str, Tensor]) -> dict[str, Tensor]:
    return {name.replace(PEFT, "unet."): value for name, value in tensors.items()}


def kohya_names(tensors: dict[str, Tensor]) -> dict[str, Tensor]:
    made = {}
    for name, value in tensors.items():
        layer, matrix, _ = name.removeprefix(PEFT).rsplit(".", 2)
        flat = f"lora_unet_{layer.replace('.', '_')}"
        made[f"{flat}.{'lora_down' if matrix == 'lora_A' else 'lora_up'}.weight"] = value
        made[f"{flat}.alpha"] = torch.tensor(8.0)
    return made
