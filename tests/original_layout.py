"""Stable Diffusion's weights under the names of its first release (CompVis), from a diffusers folder."""

from __future__ import annotations

import json
import re
from pathlib import Path

from safetensors.torch import load_file
from torch import Tensor

RESNET = {"norm1": "in_layers.0", "conv1": "in_layers.2", "norm2": "out_layers.0", "conv2": "out_layers.3",
          "time_emb_proj": "emb_layers.1", "conv_shortcut": "skip_connection"}  # fmt: skip
ENDS = {"conv_in": "input_blocks.0.0", "conv_norm_out": "out.0", "conv_out": "out.2",
        "time_embedding.linear_1": "time_embed.0", "time_embedding.linear_2": "time_embed.2"}  # fmt: skip
CODEC = {"query": "q", "key": "k", "value": "v", "proj_attn": "proj_out", "group_norm": "norm"}


def original(folder: Path) -> dict[str, Tensor]:
    """All weights of a Stable Diffusion folder (with legacy attention names in its VAE) in one dictionary."""
    layers = json.loads((folder / "unet" / "config.json").read_text())["layers_per_block"]
    levels = len(json.loads((folder / "vae" / "config.json").read_text())["block_out_channels"])
    unet, vae = (load_file(folder / part / "diffusion_pytorch_model.safetensors") for part in ("unet", "vae"))
    text = load_file(folder / "text_encoder" / "model.safetensors")
    made = {f"model.diffusion_model.{_unet(name, layers, unet)}": value for name, value in unet.items()}
    for name, value in vae.items():
        square = ".attentions." in name and name.endswith("weight") and value.ndim == 2
        made[f"first_stage_model.{_vae(name, levels)}"] = value[:, :, None, None] if square else value
    made |= {f"cond_stage_model.transformer.{name}": value for name, value in text.items()}
    return {name: value.contiguous() for name, value in made.items()}


def _unet(name: str, layers: int, every: dict[str, Tensor]) -> str:
    for new, old in ENDS.items():
        if name.startswith(f"{new}."):
            return name.replace(new, old, 1)
    found = re.fullmatch(
        r"(down|mid|up)_blocks?\.(?:(\d+)\.)?(resnets|attentions|downsamplers|upsamplers)\.(\d+)\.(.*)", name
    )
    assert found, name
    side, level, kind, n, rest = found[1], int(found[2] or 0), found[3], int(found[4]), found[5]
    if kind == "resnets":
        part, _, end = rest.partition(".")
        rest = f"{RESNET[part]}.{end}"
    if side == "mid":
        return f"middle_block.{1 if kind == 'attentions' else 2 * n}.{rest}"
    within = {"resnets": 0, "attentions": 1}.get(kind)
    if side == "down":
        if kind == "downsamplers":
            return f"input_blocks.{(layers + 1) * (level + 1)}.0.op.{rest.removeprefix('conv.')}"
        return f"input_blocks.{(layers + 1) * level + n + 1}.{within}.{rest}"
    if kind == "upsamplers":
        attended = any(key.startswith(f"up_blocks.{level}.attentions") for key in every)
        return f"output_blocks.{(layers + 1) * level + layers}.{2 if attended else 1}.{rest}"
    return f"output_blocks.{(layers + 1) * level + n}.{within}.{rest}"


def _vae(name: str, levels: int) -> str:
    name = name.replace("conv_norm_out", "norm_out").replace("conv_shortcut", "nin_shortcut")
    name = name.replace("mid_block.resnets.0", "mid.block_1").replace("mid_block.resnets.1", "mid.block_2")
    if "mid_block.attentions.0" in name:
        name = name.replace("mid_block.attentions.0", "mid.attn_1")
        for new, old in CODEC.items():
            name = name.replace(f".{new}.", f".{old}.")
    name = re.sub(r"down_blocks\.(\d+)\.resnets\.(\d+)", r"down.\1.block.\2", name)
    name = re.sub(r"down_blocks\.(\d+)\.downsamplers\.0", r"down.\1.downsample", name)
    name = re.sub(r"up_blocks\.(\d+)", lambda found: f"up.{levels - 1 - int(found[1])}", name)
    return re.sub(r"(up\.\d+)\.resnets", r"\1.block", name).replace(".upsamplers.0", ".upsample")
