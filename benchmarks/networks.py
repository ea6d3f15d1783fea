"""A small random Stable Diffusion 1.5 with a CLIP reward, prompts and pictures, on disk as the stages expect them.

Every kind of block of the real networks is there, in the real order; only widths and sides are small.
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import yaml

if TYPE_CHECKING:
    from stages.models.diffusion import DiffusionModel

WORDS = ("red", "blue", "green", "yellow", "circle", "square", "cross", "star", "small", "large", "left", "right")
TOKENS = 77
STEPS = 40
SWITCHES = (20, 25, 32, 35, 38)
"""Switch steps of the sweep, after 0, which is the tuned network alone."""
GUIDANCE = 7.5
SCHEDULER = {
    "beta_start": 0.00085, "beta_end": 0.012, "beta_schedule": "scaled_linear", "num_train_timesteps": 1000,
    "prediction_type": "epsilon", "clip_sample": False, "timestep_spacing": "leading", "steps_offset": 1,
    "variance_type": "fixed_small",
}  # fmt: skip


@dataclass(frozen=True)
class Shape:
    """Sizes: UNet channels of the first block, layers per block, side of the latents (pictures are 8 times that),
    images per batch, side of the reward's input, and channels of the autoencoder's blocks (empty: half and all of
    `width`).
    """

    width: int = 32
    layers: int = 2
    latent: int = 16
    batch: int = 4
    reward_side: int = 224
    autoencoder: tuple[int, ...] = ()

    def as_dict(self) -> dict[str, Any]:
        """For the results file."""
        return asdict(self)


@dataclass(frozen=True)
class Place:
    """The files of one benchmark below `root`: one folder per model, tables, and the study."""

    root: Path

    @property
    def base(self) -> Path:
        """The base in the layout of diffusers."""
        return self.root / "base"

    @property
    def reward(self) -> Path:
        """The reward in the layout of open_clip."""
        return self.root / "reward"

    @property
    def study(self) -> Path:
        """The study file."""
        return self.root / "params.yaml"

    @property
    def encodings(self) -> tuple[Path, Path]:
        """Tensors and index that the encode stage wrote."""
        return self.root / "encodings.safetensors", self.root / "index.parquet"

    def table(self, name: str) -> Path:
        """A table of curated rows: prompts or images."""
        return self.root / f"{name}.parquet"


def build(
    root: Path, shape: Shape, methods: Mapping[str, Mapping[str, Any]], steps: int = STEPS,
    switches: Sequence[int] = SWITCHES,
) -> Place:  # fmt: skip
    """Write models, tables, study and encodings below `root`; one run per method, seed 0, and a sweep on `steps` steps
    with these switch steps.
    """
    place = Place(root)
    root.mkdir(parents=True, exist_ok=True)
    _base(place.base, shape)
    _reward(place.reward, shape)
    _tables(place, shape)
    place.study.write_text(yaml.safe_dump(_study(shape, methods, steps, switches)))
    _encode(place)
    return place


def load(place: Place, parts: tuple[str, ...] = ("unet", "vae")) -> DiffusionModel:
    """The base as a stage loads it."""
    from stages.models.diffusion import load_diffusion
    from stages.prepare.import_settings import ImportSettings
    from stages.prepare.source import import_model
    from stages.runtime import device

    record = import_model("base", ImportSettings(kind="diffusers", folder=str(place.base)), "benchmark")
    return load_diffusion(record, device(), parts=parts)


def _study(
    shape: Shape, methods: Mapping[str, Mapping[str, Any]], steps: int, switches: Sequence[int]
) -> dict[str, Any]:
    return {
        "study": {"name": "bench", "seed": 0, "reward": "clip", "heldout": "clip"},
        "finetune": {"sampling_steps": STEPS, "batch_size": shape.batch},
        "methods": {name: dict(values) for name, values in methods.items()},
        "runs": {f"{name}-s0": {"method": name, "seed": 0} for name in methods},
        "sample": {
            "steps": steps, "samples_per_prompt": 2, "batch_size": shape.batch, "strategies": {
                "tuned": {"kind": "tuned"},
                "combined": {"kind": "combined", "k": list(switches), "base_guidance": GUIDANCE},
            },
        },
    }  # fmt: skip


def _base(folder: Path, shape: Shape) -> None:
    import torch
    from diffusers.models.autoencoders.autoencoder_kl import AutoencoderKL
    from diffusers.models.unets.unet_2d_condition import UNet2DConditionModel
    from diffusers.pipelines.stable_diffusion.pipeline_stable_diffusion import StableDiffusionPipeline
    from diffusers.schedulers.scheduling_ddpm import DDPMScheduler
    from transformers import CLIPTextConfig, CLIPTextModel

    from stages.prepare.tokenizer import build as build_tokenizer

    tokenizer, width = build_tokenizer(WORDS, TOKENS), shape.width
    ids = {f"{token}_token_id": getattr(tokenizer, f"{token}_token_id") for token in ("bos", "eos", "pad")}
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        text = CLIPTextModel(CLIPTextConfig(
            vocab_size=len(tokenizer), hidden_size=2 * width, intermediate_size=8 * width, num_hidden_layers=2,
            num_attention_heads=2, max_position_embeddings=TOKENS, projection_dim=2 * width, **ids,
        ))  # fmt: skip
        unet = UNet2DConditionModel(
            sample_size=shape.latent, block_out_channels=(width, 2 * width, 4 * width, 4 * width),
            layers_per_block=shape.layers, cross_attention_dim=2 * width, attention_head_dim=4,
            norm_num_groups=min(32, width),
        )  # fmt: skip
        channels = shape.autoencoder or (width // 2, width // 2, width, width)
        vae = AutoencoderKL.from_config({
            "block_out_channels": channels, "layers_per_block": shape.layers,
            "down_block_types": ("DownEncoderBlock2D",) * 4, "up_block_types": ("UpDecoderBlock2D",) * 4,
            "latent_channels": 4, "norm_num_groups": min(32, channels[0]), "sample_size": 8 * shape.latent,
            "scaling_factor": 0.18215,
        })  # fmt: skip
    parts: dict[str, Any] = {
        "vae": vae, "text_encoder": text, "tokenizer": tokenizer, "unet": unet,
        "scheduler": DDPMScheduler(**SCHEDULER), "safety_checker": None, "feature_extractor": None,
    }  # fmt: skip
    StableDiffusionPipeline(**parts, requires_safety_checker=False).save_pretrained(folder)


def _reward(folder: Path, shape: Shape) -> None:
    import torch
    from open_clip.model import CLIP
    from safetensors.torch import save_file

    from stages.prepare.tokenizer import build as build_tokenizer

    tokenizer = build_tokenizer(WORDS, TOKENS)
    side = shape.reward_side
    config = {
        "embed_dim": 32,
        "vision_cfg": {"image_size": side, "patch_size": max(side // 7, 4), "layers": 2, "width": 64, "head_width": 16},
        "text_cfg": {"context_length": TOKENS, "vocab_size": len(tokenizer), "width": 64, "heads": 4, "layers": 2},
    }
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(1)
        model = CLIP(**config)  # type: ignore[arg-type]
    folder.mkdir(parents=True)
    (folder / "open_clip_config.json").write_text(json.dumps({"model_cfg": config}))
    save_file(model.state_dict(), folder / "open_clip_model.safetensors")
    tokenizer.save_pretrained(folder / "tokenizer")


def _tables(place: Place, shape: Shape) -> None:
    """As many training pictures with their captions, and training prompts, as a batch; half as many to evaluate."""
    import numpy as np

    from stages import pictures, tables

    draw, side = np.random.default_rng(0), 8 * shape.latent
    captions = [f"{WORDS[n % 4]} {WORDS[4 + n // 4 % 4]} {WORDS[8 + n // 16 % 4]}" for n in range(3 * shape.batch)]
    images, prompts = [], []
    for n, caption in enumerate(captions[: shape.batch]):
        smooth = np.kron(draw.uniform(0, 255, (8, 8, 3)), np.ones((side // 8, side // 8, 1)))
        images.append({
            "image_id": f"i{n}", "caption": caption, "image": pictures.encode(smooth.astype(np.uint8)), "width": side,
            "height": side, "split": "train", "group": f"i{n}", "source": "made", "attributes": None,
        })  # fmt: skip
    for n, caption in enumerate(captions[shape.batch : 2 * shape.batch + max(shape.batch // 2, 1)]):
        split = "train" if n < shape.batch else "eval"
        prompts.append({"prompt_id": f"p{n}", "prompt": caption, "split": split, "group": f"p{n}", "source": "made"})
    tables.write(place.table("images"), tables.table(tables.IMAGES, images), tables.IMAGES)
    tables.write(place.table("prompts"), tables.table(tables.PROMPTS, prompts), tables.PROMPTS)


def _encode(place: Place) -> None:
    from stages.encode.encode import encode
    from stages.encode.settings import EncodeSettings

    model = load(place, ("vae", "text_encoder"))
    encode(model, place.table("prompts"), place.table("images"), *place.encodings, EncodeSettings())
