"""Architectures of the real base models, built without memory: their numbers of parameters, whole and trained."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from torch import nn

from stages.models.policy import ATTENTION, make_policy

pytestmark = pytest.mark.slow

SD15: dict[str, Any] = {
    "block_out_channels": (320, 640, 1280, 1280), "cross_attention_dim": 768, "attention_head_dim": 8,
    "layers_per_block": 2, "sample_size": 64,
}  # fmt: skip
SDXL: dict[str, Any] = {
    "block_out_channels": (320, 640, 1280), "cross_attention_dim": 2048, "attention_head_dim": (5, 10, 20),
    "layers_per_block": 2, "sample_size": 128, "addition_embed_type": "text_time", "addition_time_embed_dim": 256,
    "projection_class_embeddings_input_dim": 2816, "transformer_layers_per_block": (1, 2, 10),
    "use_linear_projection": True, "down_block_types": ("DownBlock2D", "CrossAttnDownBlock2D", "CrossAttnDownBlock2D"),
    "up_block_types": ("CrossAttnUpBlock2D", "CrossAttnUpBlock2D", "UpBlock2D"),
}  # fmt: skip
VAE: dict[str, Any] = {
    "block_out_channels": (128, 256, 512, 512), "down_block_types": ("DownEncoderBlock2D",) * 4,
    "up_block_types": ("UpDecoderBlock2D",) * 4, "layers_per_block": 2, "latent_channels": 4, "sample_size": 512,
}  # fmt: skip
PIXART: dict[str, Any] = {"caption_channels": 4096, "cross_attention_dim": 1152, "sample_size": 64}
SD35: dict[str, Any] = {
    "num_layers": 24, "num_attention_heads": 24, "caption_projection_dim": 1536, "pos_embed_max_size": 384,
    "dual_attention_layers": tuple(range(13)), "qk_norm": "rms_norm",
}  # fmt: skip


def built(name: str, values: dict[str, Any]) -> nn.Module:
    """A network of diffusers on the meta device, frozen."""
    import diffusers

    with torch.device("meta"):
        return getattr(diffusers, name).from_config(values).requires_grad_(False)


def count(network: nn.Module) -> int:
    return sum(parameter.numel() for parameter in network.parameters())


@pytest.mark.parametrize(
    ("name", "values", "expected"),
    [
        ("UNet2DConditionModel", SD15, 859_520_964),
        ("AutoencoderKL", VAE, 83_653_863),
        ("UNet2DConditionModel", SDXL, 2_567_463_684),
        ("PixArtTransformer2DModel", PIXART, 610_856_096),
        ("SD3Transformer2DModel", SD35, 2_243_171_520),
    ],
)
def test_parameters_of_the_networks(name: str, values: dict[str, Any], expected: int) -> None:
    assert count(built(name, values)) == expected


def test_parameters_of_the_text_encoders() -> None:
    from transformers import CLIPTextConfig, CLIPTextModel, CLIPTextModelWithProjection, T5Config, T5EncoderModel

    small = CLIPTextConfig(hidden_size=768, intermediate_size=3072, num_hidden_layers=12, num_attention_heads=12)
    large = CLIPTextConfig(
        hidden_size=1280, intermediate_size=5120, num_hidden_layers=32, num_attention_heads=20, projection_dim=1280
    )
    t5 = T5Config(
        vocab_size=32128, d_model=4096, d_kv=64, d_ff=10240, num_layers=24, num_heads=64,
        feed_forward_proj="gated-gelu", is_encoder_decoder=False, use_cache=False,
    )  # fmt: skip
    with torch.device("meta"):
        assert count(CLIPTextModel(small)) == 123_060_480
        assert count(CLIPTextModelWithProjection(large)) == 694_659_840
        assert round(count(T5EncoderModel(t5)) / 1e9, 3) == 4.762


def trained(network: nn.Module, kind: str, **more: Any) -> int:
    return sum(p.numel() for _, p in make_policy(network, kind, **more).parameters())  # type: ignore[arg-type]


def test_trained_parameters_of_stable_diffusion() -> None:
    network = built("UNet2DConditionModel", SD15)
    assert trained(network, "norm_affine") == 200_320
    assert trained(network, "lora", rank=16) == 3_188_736


@pytest.mark.parametrize(
    ("name", "values"),
    [("PixArtTransformer2DModel", PIXART), ("SD3Transformer2DModel", SD35), ("UNet2DConditionModel", SDXL)],
)
def test_lora_reaches_every_attention_of_the_others(name: str, values: dict[str, Any]) -> None:
    """rank (in + out) for each linear layer that its name makes a query, key, value or output of attention."""
    network = built(name, values)
    layers = [m for n, m in network.named_modules() if isinstance(m, nn.Linear) and n.endswith(ATTENTION)]
    assert trained(network, "lora", rank=16) == sum(16 * (m.in_features + m.out_features) for m in layers) > 0
