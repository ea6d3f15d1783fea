"""Released networks at full size, on the meta device: their parameters are as many as the published files hold."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

import pytest
import torch
from torch import nn

from stages.models.policy import make_policy
from stages.rewards import inception, lpips, mps
from stages.rewards.networks import blip
from stages.rewards.networks.cross import CrossModel

pytestmark = pytest.mark.slow


def count(tensors: Iterable[torch.Tensor]) -> int:
    return sum(tensor.numel() for tensor in tensors)


def on_meta(make: Any) -> Any:
    with torch.device("meta"):
        return make()


def test_hps_is_vit_h_14() -> None:
    import open_clip
    from open_clip.model import CLIP

    config: Any = open_clip.get_model_config("ViT-H-14")
    model = on_meta(lambda: CLIP(**config))
    assert len(model.state_dict()) == 686
    assert count(model.parameters()) == 986_109_441
    assert count(model.visual.parameters()) == 632_076_800
    # HPS_v2.1_compressed.pt, 1,972,490,005 bytes, holds them in half precision, with less than 0.02 % besides
    assert 0 < 1_972_490_005 - 2 * 986_109_441 < 400_000


VIT_H = {"hidden_size": 1280, "num_hidden_layers": 32, "num_attention_heads": 16, "intermediate_size": 5120}
TEXT_H = {"hidden_size": 1024, "num_hidden_layers": 24, "num_attention_heads": 16, "intermediate_size": 4096}


def clip(vision: dict[str, int], text: dict[str, int], patch: int, width: int) -> nn.Module:
    from transformers import CLIPConfig, CLIPModel

    config = CLIPConfig(
        vision_config={**vision, "patch_size": patch, "image_size": 224}, text_config=text, projection_dim=width
    )
    return on_meta(lambda: CLIPModel(config))


def test_pickscore_is_the_same_network() -> None:
    assert count(clip(VIT_H, TEXT_H, 14, 1024).parameters()) == 986_109_441


def test_mps_sizes_are_read_off_its_tensors() -> None:
    towers, cross = clip(VIT_H, TEXT_H, 14, 1024), on_meta(lambda: CrossModel(1024, 4, 16))
    state = {f"model.{n}": t for n, t in towers.state_dict().items()}
    state |= {f"cross_model.{n}": t for n, t in cross.state_dict().items()}
    config, width, layers, heads = mps._sizes(state)
    assert (width, layers, heads) == (1024, 4, 16)
    assert (config.vision_config.num_attention_heads, config.text_config.num_attention_heads) == (16, 16)
    assert (config.vision_config.image_size, config.vision_config.patch_size) == (224, 14)
    rebuilt = on_meta(lambda: type(towers)(config))  # type: ignore[call-arg]
    assert {n: t.shape for n, t in rebuilt.state_dict().items()} == {n: t.shape for n, t in towers.state_dict().items()}
    # a layer: norm, q, kv, out, two of the gated feed-forward; norm, the fused projection, out, the feed-forward's end
    width, head, inner = 1024, 64, 4096
    across = width + width * width + width * 2 * head + width * width + width * 2 * inner + inner * width
    own = width + width * (width + 2 * head + 2 * inner) + width * width + inner * width
    assert count(cross.parameters()) == 4 * (across + own)


def test_image_reward_fills_its_file() -> None:
    vision = {
        "hidden_size": 1024, "intermediate_size": 4096, "num_hidden_layers": 24, "num_attention_heads": 16,
        "image_size": 224, "patch_size": 16, "layer_norm_eps": 1e-6, "hidden_act": "gelu",
    }  # fmt: skip
    text = {
        "vocab_size": 30524, "hidden_size": 768, "encoder_hidden_size": 1024, "intermediate_size": 3072,
        "num_hidden_layers": 12, "num_attention_heads": 12, "max_position_embeddings": 512, "is_decoder": True,
    }  # fmt: skip
    model = on_meta(lambda: blip.BlipReward(vision, text, (768, 1024, 128, 64, 16, 1)))
    unused = 1024 * 256 + 256 + 768 * 256 + 256  # BLIP's projections, which the file holds as well
    total = count(model.parameters()) + unused
    assert round(total / 1e6, 2) == 446.67
    # ImageReward.pt, 1,786,880,927 bytes of single precision; the rest is names and 512 position ids
    assert 0 < 1_786_880_927 - 4 * total < 400_000


def test_dino_and_dinov2() -> None:
    from transformers import Dinov2Config, Dinov2Model, ViTConfig, ViTModel

    small = ViTConfig(hidden_size=384, num_hidden_layers=12, num_attention_heads=6, intermediate_size=1536)
    assert count(on_meta(lambda: ViTModel(small, add_pooling_layer=False)).parameters()) == 21_665_664
    base = Dinov2Config(hidden_size=768, num_hidden_layers=12, num_attention_heads=12, image_size=518, patch_size=14)
    assert count(on_meta(lambda: Dinov2Model(base)).parameters()) == 86_580_480


def test_clip_b_32_and_l_14() -> None:
    small = {"hidden_size": 512, "num_hidden_layers": 12, "num_attention_heads": 8, "intermediate_size": 2048}
    b_32 = {"hidden_size": 768, "num_hidden_layers": 12, "num_attention_heads": 12, "intermediate_size": 3072}
    assert count(clip(b_32, small, 32, 512).parameters()) == 151_277_313
    large = {"hidden_size": 768, "num_hidden_layers": 12, "num_attention_heads": 12, "intermediate_size": 3072}
    l_14 = {"hidden_size": 1024, "num_hidden_layers": 24, "num_attention_heads": 16, "intermediate_size": 4096}
    assert count(clip(l_14, large, 14, 768).parameters()) == 427_616_513


def test_inception_and_alexnet_have_the_names_of_torchvision() -> None:
    from torchvision.models import alexnet, inception_v3

    theirs = on_meta(lambda: inception_v3(weights=None, aux_logits=False, num_classes=1008, init_weights=False))
    own = on_meta(inception.network)
    assert {n: t.shape for n, t in own.state_dict().items()} == {n: t.shape for n, t in theirs.state_dict().items()}
    assert len(own.state_dict()) == 566
    trunk = on_meta(lambda: alexnet(weights=None)).features.state_dict()
    assert {n: t.shape for n, t in on_meta(lpips.network).state_dict().items()} == {
        n: t.shape for n, t in trunk.items()
    }


def test_stable_diffusion_and_its_trained_parts() -> None:
    from diffusers.models.autoencoders.autoencoder_kl import AutoencoderKL
    from diffusers.models.unets.unet_2d_condition import UNet2DConditionModel
    from transformers import CLIPTextConfig, CLIPTextModel

    unet = on_meta(lambda: UNet2DConditionModel(cross_attention_dim=768))  # for the rest the library's defaults
    assert (len(unet.state_dict()), count(unet.parameters())) == (686, 859_520_964)
    sizes = {"norm_affine": 200_320, "lora": 3_188_736, "full": 859_520_964}
    for kind, size in sizes.items():
        policy = make_policy(unet.requires_grad_(False), kind, rank=16)  # type: ignore[arg-type]
        assert count(parameter for _, parameter in policy.parameters()) == size
    blocks = {"block_out_channels": (128, 256, 512, 512), "layers_per_block": 2, "sample_size": 512}
    ends: dict[str, Any] = {
        "down_block_types": ("DownEncoderBlock2D",) * 4,
        "up_block_types": ("UpDecoderBlock2D",) * 4,
    }
    vae = on_meta(lambda: AutoencoderKL(**blocks, **ends, latent_channels=4))
    assert (len(vae.state_dict()), count(vae.parameters())) == (248, 83_653_863)
    wide: dict[str, Any] = {
        "hidden_size": 768,
        "intermediate_size": 3072,
        "num_hidden_layers": 12,
        "num_attention_heads": 12,
    }
    assert count(on_meta(lambda: CLIPTextModel(CLIPTextConfig(**wide))).parameters()) == 123_060_480


def test_sdxl() -> None:
    from diffusers.models.unets.unet_2d_condition import UNet2DConditionModel
    from transformers import CLIPTextConfig, CLIPTextModelWithProjection

    attended = ("CrossAttnDownBlock2D",) * 2, ("CrossAttnUpBlock2D",) * 2
    several: dict[str, Any] = {"attention_head_dim": (5, 10, 20), "transformer_layers_per_block": (1, 2, 10)}
    unet = on_meta(lambda: UNet2DConditionModel(
        sample_size=128, block_out_channels=(320, 640, 1280), cross_attention_dim=2048, use_linear_projection=True,
        down_block_types=("DownBlock2D", *attended[0]), up_block_types=(*attended[1], "UpBlock2D"),
        addition_embed_type="text_time", addition_time_embed_dim=256, projection_class_embeddings_input_dim=2816,
        **several,
    ))  # fmt: skip
    assert count(unet.parameters()) == 2_567_463_684
    wide: dict[str, Any] = {
        "hidden_size": 1280,
        "intermediate_size": 5120,
        "num_hidden_layers": 32,
        "num_attention_heads": 20,
    }
    second = on_meta(lambda: CLIPTextModelWithProjection(CLIPTextConfig(**wide, projection_dim=1280)))
    assert count(second.parameters()) == 694_659_840


def test_pixart() -> None:
    from diffusers.models.transformers.pixart_transformer_2d import PixArtTransformer2DModel

    network = on_meta(lambda: PixArtTransformer2DModel(sample_size=64, caption_channels=4096))
    assert count(network.parameters()) == 610_856_096


def test_sd3_and_sd35_medium() -> None:
    """SD3.5's attends twice in its first 13 blocks and has norms of queries and keys."""
    from diffusers.models.transformers.transformer_sd3 import SD3Transformer2DModel

    shared: dict[str, Any] = {
        "sample_size": 128, "patch_size": 2, "in_channels": 16, "out_channels": 16, "num_layers": 24,
        "attention_head_dim": 64, "num_attention_heads": 24, "caption_projection_dim": 1536,
        "joint_attention_dim": 4096, "pooled_projection_dim": 2048,
    }  # fmt: skip
    more: dict[str, Any] = {"qk_norm": "rms_norm", "dual_attention_layers": tuple(range(13))}
    assert count(on_meta(lambda: SD3Transformer2DModel(**shared)).parameters()) == 2_028_328_000
    assert count(on_meta(lambda: SD3Transformer2DModel(**shared, **more)).parameters()) == 2_243_171_520
