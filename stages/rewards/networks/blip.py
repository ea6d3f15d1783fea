"""The network of ImageReward from transformers' BLIP classes, its sizes read off the shapes of a checkpoint.

A ViT whose tokens a BERT attends to, and a head on BERT's first token. Original: THUDM/ImageReward (Apache-2.0),
ImageReward/ImageReward.py and models/BLIP; its names are mapped to those of transformers, tensor by tensor.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import Any, cast

import torch
from torch import Tensor, nn

HEAD_WIDTH = 64  # of every attention head, in BLIP's ViT and in BERT, at every size
VISION, TEXT, HEAD = "blip.visual_encoder.", "blip.text_encoder.", "mlp.layers."
UNUSED = ("blip.vision_proj.", "blip.text_proj.")
"""Projections of BLIP's contrastive loss, which the reward does not use."""
_VISION_NAMES = (
    (r"^cls_token$", "embeddings.class_embedding"),
    (r"^pos_embed$", "embeddings.position_embedding"),
    (r"^patch_embed\.proj\.", "embeddings.patch_embedding."),
    (r"^blocks\.(\d+)\.", r"encoder.layers.\1."),
    (r"\.norm([12])\.", r".layer_norm\1."),
    (r"\.attn\.qkv\.", ".self_attn.qkv."),
    (r"\.attn\.proj\.", ".self_attn.projection."),
    (r"^norm\.", "post_layernorm."),
)


class BlipReward(nn.Module):
    """Vision tower, text tower with cross-attention, and an affine head."""

    def __init__(self, vision: Mapping[str, Any], text: Mapping[str, Any], widths: tuple[int, ...]) -> None:
        super().__init__()
        from transformers import BlipTextConfig, BlipVisionConfig, BlipVisionModel
        from transformers.models.blip.modeling_blip_text import BlipTextModel

        self.vision = BlipVisionModel(BlipVisionConfig(**vision))
        self.text = BlipTextModel(BlipTextConfig(**text), add_pooling_layer=False)
        # The released head has dropout between its layers and no activation.
        self.head = nn.ModuleDict({
            str(place): nn.Linear(a, b)
            for place, a, b in zip((0, 2, 4, 6, 7), widths[:-1], widths[1:], strict=True)
        })  # fmt: skip

    def see(self, pixels: Tensor) -> Tensor:
        """Tokens [B, 1 + N, D] of pixels [B, 3, S, S], after the last norm; the first is the image's own."""
        return self.vision(pixel_values=cast(Any, pixels)).last_hidden_state

    def forward(self, tokens: Tensor, ids: Tensor, mask: Tensor) -> Tensor:
        """The head's output [B] in single precision, of image tokens and of token ids and their mask [B, L]."""
        found = self.text(input_ids=ids, attention_mask=mask, encoder_hidden_states=tokens).last_hidden_state[:, 0]
        found = found.to(torch.promote_types(found.dtype, torch.float32))
        for layer in self.head.values():
            weight, bias = (p.to(found.dtype) for p in (layer.weight, layer.bias))
            found = nn.functional.linear(found, cast(Tensor, weight), cast(Tensor, bias))
        return found.squeeze(-1)


def sizes(state: Mapping[str, Tensor]) -> dict[str, Any]:
    """Arguments of `BlipReward`, from the original names and shapes; raises KeyError for a tensor that is missing."""
    patch = state[f"{VISION}patch_embed.proj.weight"]
    width, side = patch.shape[0], patch.shape[-1]
    places = state[f"{VISION}pos_embed"].shape[1] - 1
    words, text_width = state[f"{TEXT}embeddings.word_embeddings.weight"].shape
    vision = {
        "hidden_size": width, "intermediate_size": state[f"{VISION}blocks.0.mlp.fc1.weight"].shape[0],
        "num_hidden_layers": _layers(state, rf"{VISION}blocks\.(\d+)\."), "num_attention_heads": width // HEAD_WIDTH,
        "image_size": side * round(places**0.5), "patch_size": side, "layer_norm_eps": 1e-6, "hidden_act": "gelu",
    }  # fmt: skip
    text = {
        "vocab_size": words, "hidden_size": text_width, "encoder_hidden_size": width,
        "intermediate_size": state[f"{TEXT}encoder.layer.0.intermediate.dense.weight"].shape[0],
        "num_hidden_layers": _layers(state, rf"{TEXT}encoder\.layer\.(\d+)\."),
        "num_attention_heads": text_width // HEAD_WIDTH, "is_decoder": True, "layer_norm_eps": 1e-12,
        "max_position_embeddings": state[f"{TEXT}embeddings.position_embeddings.weight"].shape[0],
    }  # fmt: skip
    head = [state[f"{HEAD}{place}.weight"].shape for place in (0, 2, 4, 6, 7)]
    return {"vision": vision, "text": text, "widths": (head[0][1], *(shape[0] for shape in head))}


def renamed(state: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """The tensors under the names of `BlipReward`; unused ones are left out, unknown ones keep their names."""
    found: dict[str, Tensor] = {}
    for name, value in state.items():
        if name.startswith(UNUSED) or name.endswith("embeddings.position_ids"):
            continue
        if name.startswith(VISION):
            inner = name.removeprefix(VISION)
            for pattern, replacement in _VISION_NAMES:
                inner = re.sub(pattern, replacement, inner)
            name = f"vision.{inner}"
        name = re.sub(rf"^{re.escape(TEXT)}", "text.", name)
        found[re.sub(rf"^{re.escape(HEAD)}", "head.", name)] = value
    return found


def _layers(state: Mapping[str, Tensor], pattern: str) -> int:
    return 1 + max(int(match[1]) for name in state if (match := re.match(pattern, name)))
