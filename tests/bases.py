"""Tiny random base models of every family, in the files, names and types that the real ones have.

All of them make images of 16 x 16 from latents of 4 x 8 x 8. What is true to life: legacy names of the autoencoder's
attention, `text_model.` and `position_ids` in Stable Diffusion's text encoder, its scheduler without newer keys, and
parts in model_index.json that have no folder.
"""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
from diffusers.models.autoencoders.autoencoder_kl import AutoencoderKL
from diffusers.models.transformers.pixart_transformer_2d import PixArtTransformer2DModel
from diffusers.models.transformers.transformer_sd3 import SD3Transformer2DModel
from diffusers.models.unets.unet_2d_condition import UNet2DConditionModel
from safetensors.torch import load_file, save_file
from tokenizers import Tokenizer, models, pre_tokenizers
from torch import Tensor
from transformers import (
    CLIPTextConfig,
    CLIPTextModel,
    CLIPTextModelWithProjection,
    CLIPTokenizer,
    T5Config,
    T5EncoderModel,
    T5Tokenizer,
)

from stages.models.conditioning import Conditioning, sizes
from stages.models.record import ModelRecord
from stages.prepare.import_settings import ImportSettings
from stages.prepare.source import import_model
from stages.prepare.tokenizer import build

WORDS = ("red", "blue", "green", "circle", "square", "cross", "small", "large", "a", "and")
LENGTH, WIDTH, SIDE = 12, 16, 8
LEGACY = {"to_q": "query", "to_k": "key", "to_v": "value", "to_out.0": "proj_attn"}
DIFFUSION = {"beta_schedule": "scaled_linear", "beta_start": 0.00085, "beta_end": 0.012, "num_train_timesteps": 1000}

Weights = Callable[[dict[str, Tensor]], dict[str, Tensor]]


def record(folder: Path, **options: object) -> ModelRecord:
    """What prepare writes for a base in `folder`."""
    return import_model("base", ImportSettings(kind="diffusers", folder=str(folder), options=options), "study: base")


def make(family: str, folder: Path, seed: int = 0, sized: bool = False, second: int = WIDTH) -> Path:
    """A folder of `family` (sd15, sdxl, pixart, sd3); `sized` makes PixArt one for 1024 pixels, `second` is the width
    of the second CLIP text encoder.
    """
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        if family == "sd15":
            _sd15(folder)
        elif family == "sdxl":
            _sdxl(folder, second)
        elif family == "pixart":
            _pixart(folder, sized)
        else:
            _sd3(folder, second)
    return folder


def pipeline(folder: Path) -> Any:
    """The family's own pipeline; ancestral steps where there is a noise schedule."""
    import diffusers
    from diffusers.schedulers.scheduling_ddpm import DDPMScheduler

    name = made_of(folder)["_class_name"]
    names = ("safety_checker", "feature_extractor", "text_encoder_3", "tokenizer_3")
    absent = {part: None for part in names if part in made_of(folder) and not (folder / part).is_dir()}
    made = getattr(diffusers, name).from_pretrained(
        folder, local_files_only=True, torch_dtype=torch.float32, low_cpu_mem_usage=False, **absent
    )
    if "FlowMatch" not in type(made.scheduler).__name__:
        changes = {"clip_sample": False, "variance_type": "fixed_small", "thresholding": False}
        made.scheduler = DDPMScheduler.from_config(made.scheduler.config, **changes)
    made.set_progress_bar_config(disable=True)
    return made


def made_of(folder: Path) -> dict[str, Any]:
    return json.loads((folder / "model_index.json").read_text())


def conditions(family: str) -> Conditioning:
    """Random conditions of one image, for the network of `family`."""
    draw = torch.Generator().manual_seed(5)
    wide = WIDTH if family == "sd15" else 2 * WIDTH
    text = torch.randn(1, LENGTH, wide, generator=draw)
    if family == "sdxl":
        return Conditioning(text, pooled=torch.randn(1, WIDTH, generator=draw), size=sizes(1, 16, 16))
    if family == "sd3":
        return Conditioning(text, pooled=torch.randn(1, 2 * WIDTH, generator=draw))
    return Conditioning(text, mask=torch.ones(1, LENGTH) if family == "pixart" else None)


def rewrite(file: Path, change: Weights, target: Path | None = None) -> None:
    """Change the weights in a safetensors file, in place or into `target`."""
    made = {name: value.contiguous() for name, value in change(load_file(file)).items()}
    save_file(made, target or file, {"format": "pt"})


def halved(weights: dict[str, Tensor]) -> dict[str, Tensor]:
    """Floating-point weights in half precision."""
    return {name: value.half() if value.is_floating_point() else value for name, value in weights.items()}


def index(folder: Path, pipeline: str, parts: dict[str, list[str | None]], **more: object) -> None:
    """model_index.json."""
    entry = {"_class_name": pipeline, "_diffusers_version": "0.6.0", **parts, **more}
    (folder / "model_index.json").write_text(json.dumps(entry))


def scheduler(folder: Path, name: str, **values: object) -> None:
    """The configuration of a scheduler."""
    (folder / "scheduler").mkdir(parents=True)
    entry = {"_class_name": name, "_diffusers_version": "0.6.0", **values}
    (folder / "scheduler" / "scheduler_config.json").write_text(json.dumps(entry))


def autoencoder(folder: Path, legacy: bool = False, **config: object) -> None:
    """An autoencoder that halves each side."""
    values: dict[str, Any] = {
        "block_out_channels": (8, 8), "down_block_types": ("DownEncoderBlock2D",) * 2, "layers_per_block": 1,
        "up_block_types": ("UpDecoderBlock2D",) * 2, "latent_channels": 4, "norm_num_groups": 4, "sample_size": 16,
    }  # fmt: skip
    network = AutoencoderKL.from_config(values | config)
    assert isinstance(network, AutoencoderKL)
    network.save_pretrained(folder / "vae")
    if legacy:
        rewrite(folder / "vae" / "diffusion_pytorch_model.safetensors", _legacy_attention)


def _legacy_attention(weights: dict[str, Tensor]) -> dict[str, Tensor]:
    renamed = {}
    for name, value in weights.items():
        for new, old in LEGACY.items():
            if ".attentions." in name:
                name = name.replace(f".{new}.", f".{old}.")
        renamed[name] = value
    assert any("proj_attn" in name for name in renamed)
    return renamed


def clip_text(projection: bool = False, width: int = WIDTH) -> CLIPTextModel | CLIPTextModelWithProjection:
    """A CLIP text encoder of two layers, for `clip_tokenizer`."""
    words = clip_tokenizer()
    ids = {f"{token}_token_id": getattr(words, f"{token}_token_id") for token in ("bos", "eos", "pad")}
    config = CLIPTextConfig(
        vocab_size=len(words), hidden_size=width, intermediate_size=32, num_hidden_layers=2, num_attention_heads=2,
        max_position_embeddings=LENGTH, projection_dim=WIDTH, **ids,
    )  # fmt: skip
    return CLIPTextModelWithProjection(config) if projection else CLIPTextModel(config)


def clip_tokenizer() -> CLIPTokenizer:
    """A tokenizer of 12 tokens a prompt."""
    return build(WORDS, LENGTH)


def t5(folder: Path, encoder: str, tokenizer: str) -> None:
    """A T5 encoder of 32 channels with a tokenizer that knows single letters."""
    letters = [(piece, 0.0) for piece in ("<pad>", "</s>", "<unk>", "▁", *"abcdefghijklmnopqrstuvwxyz")]
    pieces = Tokenizer(models.Unigram(letters, unk_id=2, byte_fallback=False))
    pieces.pre_tokenizer = pre_tokenizers.Metaspace()  # type: ignore[assignment]
    made = T5Tokenizer(tokenizer_object=pieces, pad_token="<pad>", eos_token="</s>", unk_token="<unk>", extra_ids=0)
    made.save_pretrained(folder / tokenizer)
    config = T5Config(
        vocab_size=len(letters) + 2, d_model=2 * WIDTH, d_kv=8, d_ff=32, num_layers=1, num_heads=2,
        feed_forward_proj="gated-gelu", is_encoder_decoder=False, use_cache=False,
    )  # fmt: skip
    T5EncoderModel(config).save_pretrained(folder / encoder)


def _sd15(folder: Path) -> None:
    UNet2DConditionModel(
        sample_size=SIDE, block_out_channels=(8, 16), layers_per_block=1, cross_attention_dim=WIDTH,
        down_block_types=("CrossAttnDownBlock2D", "DownBlock2D"), norm_num_groups=4, attention_head_dim=2,
        up_block_types=("UpBlock2D", "CrossAttnUpBlock2D"),
    ).save_pretrained(folder / "unet")  # fmt: skip
    autoencoder(folder, legacy=True)  # no scaling_factor in the file, as in the real one
    config = json.loads((folder / "vae" / "config.json").read_text())
    config.pop("scaling_factor")
    (folder / "vae" / "config.json").write_text(json.dumps(config))
    clip_text().save_pretrained(folder / "text_encoder")
    rewrite(folder / "text_encoder" / "model.safetensors", _old_text)
    clip_tokenizer().save_pretrained(folder / "tokenizer")
    scheduler(folder, "PNDMScheduler", **DIFFUSION, clip_sample=False, set_alpha_to_one=False, skip_prk_steps=True,
              steps_offset=1, trained_betas=None)  # fmt: skip
    index(folder, "StableDiffusionPipeline", {
        "feature_extractor": ["transformers", "CLIPFeatureExtractor"],
        "safety_checker": ["stable_diffusion", "StableDiffusionSafetyChecker"],
        "scheduler": ["diffusers", "PNDMScheduler"], "text_encoder": ["transformers", "CLIPTextModel"],
        "tokenizer": ["transformers", "CLIPTokenizer"], "unet": ["diffusers", "UNet2DConditionModel"],
        "vae": ["diffusers", "AutoencoderKL"],
    })  # fmt: skip


def _old_text(weights: dict[str, Tensor]) -> dict[str, Tensor]:
    named = {f"text_model.{name}": value for name, value in weights.items() if not name.startswith("text_model.")}
    return named | {"text_model.embeddings.position_ids": torch.arange(LENGTH)[None]}


def _sdxl(folder: Path, second: int) -> None:
    several: dict[str, Any] = {"attention_head_dim": (2, 4), "transformer_layers_per_block": (1, 2)}
    UNet2DConditionModel(
        sample_size=SIDE, block_out_channels=(8, 16), layers_per_block=1, cross_attention_dim=WIDTH + second,
        down_block_types=("DownBlock2D", "CrossAttnDownBlock2D"), norm_num_groups=4, addition_embed_type="text_time",
        up_block_types=("CrossAttnUpBlock2D", "UpBlock2D"), use_linear_projection=True, addition_time_embed_dim=8,
        projection_class_embeddings_input_dim=6 * 8 + WIDTH, **several,
    ).save_pretrained(folder / "unet")  # fmt: skip
    autoencoder(folder, scaling_factor=0.13025, force_upcast=True)
    clip_text().save_pretrained(folder / "text_encoder")
    clip_text(projection=True, width=second).save_pretrained(folder / "text_encoder_2")
    for name in ("tokenizer", "tokenizer_2"):
        clip_tokenizer().save_pretrained(folder / name)
    scheduler(folder, "EulerDiscreteScheduler", **DIFFUSION, clip_sample=False, interpolation_type="linear",
              prediction_type="epsilon", sample_max_value=1.0, set_alpha_to_one=False, skip_prk_steps=True,
              steps_offset=1, timestep_spacing="leading", trained_betas=None, use_karras_sigmas=False)  # fmt: skip
    index(folder, "StableDiffusionXLPipeline", {
        "scheduler": ["diffusers", "EulerDiscreteScheduler"], "text_encoder": ["transformers", "CLIPTextModel"],
        "text_encoder_2": ["transformers", "CLIPTextModelWithProjection"],
        "tokenizer": ["transformers", "CLIPTokenizer"], "tokenizer_2": ["transformers", "CLIPTokenizer"],
        "unet": ["diffusers", "UNet2DConditionModel"], "vae": ["diffusers", "AutoencoderKL"],
    }, force_zeros_for_empty_prompt=True)  # fmt: skip


def _pixart(folder: Path, sized: bool) -> None:
    PixArtTransformer2DModel(
        num_attention_heads=2, attention_head_dim=12, in_channels=4, out_channels=8, num_layers=2, norm_num_groups=4,
        cross_attention_dim=24, sample_size=SIDE, caption_channels=2 * WIDTH, use_additional_conditions=sized,
    ).save_pretrained(folder / "transformer")  # fmt: skip
    autoencoder(folder, legacy=True, scaling_factor=0.18215)
    t5(folder, "text_encoder", "tokenizer")
    scheduler(folder, "DPMSolverMultistepScheduler", algorithm_type="dpmsolver++", beta_start=0.0001, beta_end=0.02,
              beta_schedule="linear", num_train_timesteps=1000, prediction_type="epsilon", solver_order=2,
              steps_offset=0, timestep_spacing="linspace", thresholding=False, trained_betas=None,
              variance_type=None)  # fmt: skip
    index(folder, "PixArtAlphaPipeline", {
        "scheduler": ["diffusers", "DPMSolverMultistepScheduler"], "text_encoder": ["transformers", "T5EncoderModel"],
        "tokenizer": ["transformers", "T5Tokenizer"], "transformer": ["diffusers", "PixArtTransformer2DModel"],
        "vae": ["diffusers", "AutoencoderKL"],
    })  # fmt: skip


def _sd3(folder: Path, second: int) -> None:
    SD3Transformer2DModel(
        sample_size=SIDE, patch_size=2, in_channels=4, out_channels=4, num_layers=2, attention_head_dim=8,
        num_attention_heads=3, caption_projection_dim=24, joint_attention_dim=2 * WIDTH,
        pooled_projection_dim=2 * WIDTH, pos_embed_max_size=16, dual_attention_layers=(0,), qk_norm="rms_norm",
    ).save_pretrained(folder / "transformer")  # fmt: skip
    autoencoder(folder, scaling_factor=1.5305, shift_factor=0.0609, use_quant_conv=False, use_post_quant_conv=False)
    for name, width in {"text_encoder": WIDTH, "text_encoder_2": second}.items():
        clip_text(projection=True, width=width).save_pretrained(folder / name)
        clip_tokenizer().save_pretrained(folder / name.replace("text_encoder", "tokenizer"))
    t5(folder, "text_encoder_3", "tokenizer_3")
    scheduler(folder, "FlowMatchEulerDiscreteScheduler", num_train_timesteps=1000, shift=3.0)
    index(folder, "StableDiffusion3Pipeline", {
        "scheduler": ["diffusers", "FlowMatchEulerDiscreteScheduler"],
        "text_encoder": ["transformers", "CLIPTextModelWithProjection"],
        "text_encoder_2": ["transformers", "CLIPTextModelWithProjection"],
        "text_encoder_3": ["transformers", "T5EncoderModel"], "tokenizer": ["transformers", "CLIPTokenizer"],
        "tokenizer_2": ["transformers", "CLIPTokenizer"], "tokenizer_3": ["transformers", "T5TokenizerFast"],
        "transformer": ["diffusers", "SD3Transformer2DModel"], "vae": ["diffusers", "AutoencoderKL"],
    })  # fmt: skip
