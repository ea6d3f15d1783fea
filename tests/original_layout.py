"""Weights of a diffusers folder under the names of the original releases: Stable Diffusion (CompVis), SDXL (Stability's
generative models, with OpenCLIP's second text encoder), SD3 and SD3.5.
"""

from __future__ import annotations

import json
import re
from collections.abc import Iterator
from pathlib import Path

import torch
from safetensors.torch import load_file
from torch import Tensor

RESNET = {"norm1": "in_layers.0", "conv1": "in_layers.2", "norm2": "out_layers.0", "conv2": "out_layers.3",
          "time_emb_proj": "emb_layers.1", "conv_shortcut": "skip_connection"}  # fmt: skip
ENDS = {"conv_in": "input_blocks.0.0", "conv_norm_out": "out.0", "conv_out": "out.2",
        "time_embedding.linear_1": "time_embed.0", "time_embedding.linear_2": "time_embed.2",
        "add_embedding.linear_1": "label_emb.0.0", "add_embedding.linear_2": "label_emb.0.2"}  # fmt: skip
CODEC = {"query": "q", "key": "k", "value": "v", "proj_attn": "proj_out", "group_norm": "norm", "to_q": "q",
         "to_k": "k", "to_v": "v", "to_out.0": "proj_out"}  # fmt: skip
OPEN_CLIP = {"layer_norm1": "ln_1", "layer_norm2": "ln_2", "self_attn.out_proj": "attn.out_proj",
             "mlp.fc1": "mlp.c_fc", "mlp.fc2": "mlp.c_proj"}  # fmt: skip
SD3_ENDS = {"pos_embed.proj": "x_embedder.proj", "context_embedder": "context_embedder",
            "proj_out": "final_layer.linear",
            "time_text_embed.timestep_embedder.linear_1": "t_embedder.mlp.0",
            "time_text_embed.timestep_embedder.linear_2": "t_embedder.mlp.2",
            "time_text_embed.text_embedder.linear_1": "y_embedder.mlp.0",
            "time_text_embed.text_embedder.linear_2": "y_embedder.mlp.2"}  # fmt: skip
SD3_BLOCK = {"norm1.linear": "x_block.adaLN_modulation.1", "norm1_context.linear": "context_block.adaLN_modulation.1",
             "attn.to_out.0": "x_block.attn.proj", "attn.to_add_out": "context_block.attn.proj",
             "attn2.to_out.0": "x_block.attn2.proj", "attn.norm_q": "x_block.attn.ln_q",
             "attn.norm_k": "x_block.attn.ln_k", "attn.norm_added_q": "context_block.attn.ln_q",
             "attn.norm_added_k": "context_block.attn.ln_k", "attn2.norm_q": "x_block.attn2.ln_q",
             "attn2.norm_k": "x_block.attn2.ln_k", "ff.net.0.proj": "x_block.mlp.fc1", "ff.net.2": "x_block.mlp.fc2",
             "ff_context.net.0.proj": "context_block.mlp.fc1", "ff_context.net.2": "context_block.mlp.fc2"}  # fmt: skip
SD3_QKV = {"x_block.attn": ("attn.to_q", "attn.to_k", "attn.to_v"),
           "context_block.attn": ("attn.add_q_proj", "attn.add_k_proj", "attn.add_v_proj"),
           "x_block.attn2": ("attn2.to_q", "attn2.to_k", "attn2.to_v")}  # fmt: skip


def original(folder: Path) -> dict[str, Tensor]:
    """All weights of a Stable Diffusion folder in one dictionary."""
    text = {f"cond_stage_model.transformer.{name}": value for name, value in _text(folder, "text_encoder").items()}
    return _whole(_unets(folder) | _vaes(folder) | text)


def original_xl(folder: Path) -> dict[str, Tensor]:
    """All weights of an SDXL folder in one dictionary."""
    first = {f"conditioner.embedders.0.transformer.{n}": v for n, v in _text(folder, "text_encoder").items()}
    second = {f"conditioner.embedders.1.model.{n}": v for n, v in _open_clip(_text(folder, "text_encoder_2"))}
    return _whole(_unets(folder) | _vaes(folder) | first | second)


def original_sd3(folder: Path, texts: bool = True) -> dict[str, Tensor]:
    """All weights of an SD3 or SD3.5 folder in one dictionary; without `texts` none of its text encoders."""
    made = {f"model.diffusion_model.{name}": value for name, value in _sd3(folder)} | _vaes(folder)
    places = {"text_encoder": "clip_l", "text_encoder_2": "clip_g", "text_encoder_3": "t5xxl"}
    for part, place in places.items() if texts else ():
        given = load_file(folder / part / "model.safetensors")
        made |= {f"text_encoders.{place}.transformer.{name}": value for name, value in given.items()}
    made.pop("text_encoders.clip_l.transformer.text_projection.weight", None)  # which the release does not use
    return _whole(made)


def _whole(weights: dict[str, Tensor]) -> dict[str, Tensor]:
    return {name: value.contiguous() for name, value in weights.items()}


def _unets(folder: Path) -> dict[str, Tensor]:
    layers = json.loads((folder / "unet" / "config.json").read_text())["layers_per_block"]
    unet = load_file(folder / "unet" / "diffusion_pytorch_model.safetensors")
    return {f"model.diffusion_model.{_unet(name, layers, unet)}": value for name, value in unet.items()}


def _vaes(folder: Path) -> dict[str, Tensor]:
    levels = len(json.loads((folder / "vae" / "config.json").read_text())["block_out_channels"])
    made = {}
    for name, value in load_file(folder / "vae" / "diffusion_pytorch_model.safetensors").items():
        square = ".attentions." in name and name.endswith("weight") and value.ndim == 2
        made[f"first_stage_model.{_vae(name, levels)}"] = value[:, :, None, None] if square else value
    return made


def _text(folder: Path, part: str) -> dict[str, Tensor]:
    """Weights of a CLIP text encoder under the names that files had before transformers left out `text_model`."""
    weights = load_file(folder / part / "model.safetensors")
    outside = ("text_model.", "text_projection.")
    return {name if name.startswith(outside) else f"text_model.{name}": value for name, value in weights.items()}


def _open_clip(weights: dict[str, Tensor]) -> Iterator[tuple[str, Tensor]]:
    yield "positional_embedding", weights["text_model.embeddings.position_embedding.weight"]
    yield "token_embedding.weight", weights["text_model.embeddings.token_embedding.weight"]
    yield "text_projection", weights["text_projection.weight"].T
    yield "logit_scale", torch.tensor(4.6)
    for end in ("weight", "bias"):
        yield f"ln_final.{end}", weights[f"text_model.final_layer_norm.{end}"]
    layers = {int(name.split(".")[3]) for name in weights if name.startswith("text_model.encoder.layers.")}
    for n in sorted(layers):
        old, new = f"text_model.encoder.layers.{n}", f"transformer.resblocks.{n}"
        for end in ("weight", "bias"):
            for theirs, ours in OPEN_CLIP.items():
                yield f"{new}.{ours}.{end}", weights[f"{old}.{theirs}.{end}"]
            parts = [weights[f"{old}.self_attn.{letter}_proj.{end}"] for letter in "qkv"]
            yield f"{new}.attn.in_proj_{end}", torch.cat(parts)


def _sd3(folder: Path) -> Iterator[tuple[str, Tensor]]:
    weights = load_file(folder / "transformer" / "diffusion_pytorch_model.safetensors")
    yield "pos_embed", weights["pos_embed.pos_embed"]
    last = max(int(name.split(".")[1]) for name in weights if name.startswith("transformer_blocks."))
    for end in ("weight", "bias"):
        yield f"final_layer.adaLN_modulation.1.{end}", _swapped(weights[f"norm_out.linear.{end}"])
        for new, old in SD3_ENDS.items():
            yield f"{old}.{end}", weights[f"{new}.{end}"]
        for n in range(last + 1):
            block = f"transformer_blocks.{n}"
            for new, old in SD3_BLOCK.items():
                value = weights.get(f"{block}.{new}.{end}")
                if value is not None:
                    whole = _swapped(value) if n == last and new == "norm1_context.linear" else value
                    yield f"joint_blocks.{n}.{old}.{end}", whole
            for old, three in SD3_QKV.items():
                parts = [weights.get(f"{block}.{new}.{end}") for new in three]
                if parts[0] is not None:
                    yield f"joint_blocks.{n}.{old}.qkv.{end}", torch.cat([part for part in parts if part is not None])


def _swapped(value: Tensor) -> Tensor:
    """Shift and scale, which the original has the other way round."""
    first, second = value.chunk(2)
    return torch.cat([second, first])


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
