"""Tiny random models and encodings in the layouts of real ones; everything is built in a fraction of a second.

The diffusion model works on latents of 4x8x8 (images of 16x16), with texts of 8 tokens and 16 channels.
"""

from __future__ import annotations

import json
import random
from collections.abc import Callable, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import torch
from diffusers.models.autoencoders.autoencoder_kl import AutoencoderKL
from diffusers.models.unets.unet_2d_condition import UNet2DConditionModel
from open_clip.model import CLIP
from safetensors.torch import save_file
from torch import Tensor, nn

from stages import tables
from stages.encode.store import EMPTY, MEANS, STDS, TEXTS
from stages.finetune.batch import Batch
from stages.finetune.families.reward_gradient import RewardGradient, Step, StepOutput
from stages.finetune.networks import Networks
from stages.finetune.objective import Run
from stages.finetune.reward import CountedReward, Decode, LatentReward, RewardFunction
from stages.finetune.rollouts import Prediction
from stages.finetune.settings import FinetuneSettings
from stages.finetune.training import Trainer
from stages.models.conditioning import Conditioning
from stages.models.diffusion import Autoencoder, Denoiser
from stages.models.noise import GivenNoise
from stages.models.process_noise import NoiseSchedule
from stages.models.record import ModelRecord, describe
from stages.prepare.tokenizer import build

CPU = torch.device("cpu")
LATENT, LENGTH, WIDTH = (4, 8, 8), 8, 16
WORDS = ("red", "blue", "green", "circle", "square", "cross", "small", "large", "a", "and")
SCHEDULER = {
    "_class_name": "DDPMScheduler", "_diffusers_version": "0.42.1", "beta_start": 0.00085, "beta_end": 0.012,
    "beta_schedule": "scaled_linear", "num_train_timesteps": 1000, "prediction_type": "epsilon", "clip_sample": False,
    "timestep_spacing": "leading", "steps_offset": 1, "variance_type": "fixed_small",
}  # fmt: skip


def unet(seed: int = 0) -> UNet2DConditionModel:
    """A UNet with cross-attention, 48 thousand parameters, frozen."""
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        network = UNet2DConditionModel(
            sample_size=8, block_out_channels=(8, 16), layers_per_block=1, cross_attention_dim=WIDTH,
            down_block_types=("CrossAttnDownBlock2D", "DownBlock2D"), norm_num_groups=4, attention_head_dim=2,
            up_block_types=("UpBlock2D", "CrossAttnUpBlock2D"),
        )  # fmt: skip
    return network.eval().requires_grad_(False)


def vae(seed: int = 0) -> AutoencoderKL:
    """An autoencoder that halves each side of an image; scaling factor 0.5, frozen."""
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        network = AutoencoderKL.from_config(
            {
                "block_out_channels": (8, 8), "down_block_types": ("DownEncoderBlock2D",) * 2, "layers_per_block": 1,
                "up_block_types": ("UpDecoderBlock2D",) * 2, "latent_channels": 4, "norm_num_groups": 4,
                "sample_size": 16, "scaling_factor": 0.5,
            }
        )  # fmt: skip
        assert isinstance(network, AutoencoderKL)
    return network.eval().requires_grad_(False)


def schedule(**changes: object) -> NoiseSchedule:
    """The schedule of Stable Diffusion 1.5."""
    return NoiseSchedule.from_config(SCHEDULER | changes, CPU)


def diffusion_folder(folder: Path, seed: int = 0) -> ModelRecord:
    """A complete StableDiffusionPipeline folder and its record."""
    from diffusers.pipelines.stable_diffusion.pipeline_stable_diffusion import StableDiffusionPipeline
    from diffusers.schedulers.scheduling_ddpm import DDPMScheduler
    from transformers import CLIPTextConfig, CLIPTextModel

    tokenizer = build(WORDS, LENGTH)
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        ids = {f"{token}_token_id": getattr(tokenizer, f"{token}_token_id") for token in ("bos", "eos", "pad")}
        config = CLIPTextConfig(
            vocab_size=len(tokenizer), hidden_size=WIDTH, intermediate_size=32, num_hidden_layers=1,
            num_attention_heads=2, max_position_embeddings=LENGTH, projection_dim=WIDTH, **ids,
        )  # fmt: skip
        text = CLIPTextModel(config)
    parts: dict[str, Any] = {
        "vae": vae(seed), "text_encoder": text, "tokenizer": tokenizer, "unet": unet(seed),
        "scheduler": DDPMScheduler(**SCHEDULER), "safety_checker": None, "feature_extractor": None,
    }  # fmt: skip
    StableDiffusionPipeline(**parts, requires_safety_checker=False).save_pretrained(folder)
    return describe("tiny", "diffusers", folder)


def clip_folder(folder: Path, seed: int = 0, name: str = "clip") -> ModelRecord:
    """An open_clip folder for images of any size (resized to 16), with a tokenizer, and its record."""
    tokenizer = build(WORDS, LENGTH)
    config = {
        "embed_dim": 8,
        "vision_cfg": {"image_size": 16, "patch_size": 8, "layers": 1, "width": 16, "head_width": 8},
        "text_cfg": {
            "context_length": LENGTH, "vocab_size": len(tokenizer), "width": 16, "heads": 2, "layers": 1,
        },
    }  # fmt: skip
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        model = CLIP(**config)
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "open_clip_config.json").write_text(json.dumps({"model_cfg": config}))
    save_file(model.state_dict(), folder / "open_clip_model.safetensors")
    tokenizer.save_pretrained(folder / "tokenizer")
    return describe(name, "open_clip", folder)


def encodings(folder: Path, train: int = 6, held: int = 3, images: int = 6, seed: int = 0) -> tuple[Path, Path]:
    """Random encodings of `train` and `held` (eval) prompts and `images` captioned images: tensors and index."""
    draw = torch.Generator().manual_seed(seed)
    rng = random.Random(seed)
    texts = [" ".join(rng.choices(WORDS, k=3)) + f" {n}" for n in range(train + held + images)]
    rows: list[dict[str, object]] = []
    for n, text in enumerate(texts[: train + held]):
        split = "train" if n < train else "eval"
        rows.append({"kind": "prompt", "item_id": f"p{n}", "text": text, "row": n, "split": split, "source": "words"})
    for n, text in enumerate(texts[train + held :]):
        shared: dict[str, object] = {
            "item_id": f"i{n}",
            "text": text,
            "split": "train",
            "source": ("even", "odd")[n % 2],
        }
        rows.append({"kind": "image", "row": n} | shared)
        rows.append({"kind": "caption", "row": train + held + n} | shared)
    parts = {
        TEXTS: torch.randn(len(texts), LENGTH, WIDTH, generator=draw),
        EMPTY: torch.randn(1, LENGTH, WIDTH, generator=draw),
        MEANS: torch.randn(images, *LATENT, generator=draw),
        STDS: torch.rand(images, *LATENT, generator=draw) * 0.1,
    }
    folder.mkdir(parents=True, exist_ok=True)
    save_file(parts, folder / "encodings.safetensors")
    tables.write(folder / "index.parquet", tables.table(tables.ENCODINGS, rows), tables.ENCODINGS)
    return folder / "encodings.safetensors", folder / "index.parquet"


def text(count: int, seed: int = 0) -> Tensor:
    """Random text embeddings [count, length, width]."""
    return torch.randn(count, LENGTH, WIDTH, generator=torch.Generator().manual_seed(seed))


def noise(count: int, steps: int, seed: int = 0, dtype: torch.dtype = torch.float32) -> GivenNoise:
    """Random draws for a batch of `count` on a grid of `steps`."""
    draw = torch.Generator().manual_seed(seed)

    def normal(*shape: int) -> Tensor:
        return torch.randn(*shape, *LATENT, generator=draw).to(dtype)

    names = ("forward", "posterior", "renoise 0", "renoise 1")
    return GivenNoise(normal(count), normal(steps, count), {name: normal(count) for name in names})


def reward(images: Tensor, prompts: Sequence[str]) -> Tensor:
    """A smooth made-up reward [B] of images [B, 3, 16, 16], which depends on the prompt too."""
    draw = torch.Generator().manual_seed(7)
    first, second = torch.randn(768, 6, generator=draw) / 10, torch.randn(6, generator=draw)
    seen = torch.tanh(images.flatten(1) @ first.to(images)) @ second.to(images)
    return seen + images.new_tensor([0.1 * len(prompt) for prompt in prompts]) * images.mean((1, 2, 3))


def networks(network: nn.Module, steps: int = 6, guidance: float = 1.0, dtype: torch.dtype = torch.float32) -> Networks:
    """A network on a grid of `steps`, without a reference."""
    on = schedule()
    on = NoiseSchedule(on.alphas_cumprod.to(dtype), on.prediction_type, on.spacing, on.offset)
    return Networks(Denoiser(network, on), on.grid(steps), Conditioning(text(1, seed=99).to(dtype)), guidance)


def batch(
    count: int = 2,
    steps: int = 6,
    micro: int = 0,
    seed: int = 0,
    images: bool = True,
    dtype: torch.dtype = torch.float32,
) -> Batch:
    """A micro-batch with given noise and, with `images`, real latents."""
    given = noise(count, steps, seed, dtype)
    clean = 0.5 * torch.randn(count, *LATENT, generator=torch.Generator().manual_seed(seed + 1)).to(dtype)
    return Batch(
        prompts=[f"prompt {n}" for n in range(count)], text=Conditioning(text(count, seed).to(dtype)), noise=given,
        rng=random.Random(seed), micro=micro, clean=clean if images else None,
    )  # fmt: skip


def judged(networks: Networks, batch: Batch, step: Step) -> StepOutput:
    """What a micro-batch of a reward-gradient method wants judged, with all its penalties; its rollouts go alone."""
    penalties, send = {}, None
    while True:
        try:
            wanted = next(step) if send is None else step.send(send)
        except StopIteration as end:
            return replace(end.value, penalties={**penalties, **end.value.penalties})
        own = networks if wanted.guided else networks.without_guidance()
        if isinstance(wanted, Prediction):
            send = own.prediction(batch, wanted.x, wanted.index)
            continue
        penalties |= wanted.penalties
        send = own.rollout(batch, wanted.x, wanted.start, wanted.stop, wanted.first)


def trainer(
    network: nn.Module,
    step: Callable[[Networks, Batch], Step],
    settings: FinetuneSettings | None = None,
    steps: int = 6,
    dtype: torch.dtype = torch.float32,
    decode: Decode | None = None,
    judge: RewardFunction | None = None,
    reference: nn.Module | None = None,
) -> Trainer:
    """A trainer of the parameters of `network` that want a gradient by a reward-gradient method, with the tiny
    autoencoder and `reward` unless others are given.
    """
    settings = settings or FinetuneSettings()
    parameters = {name: p for name, p in network.named_parameters() if p.requires_grad}
    made = networks(network, steps, settings.guidance, dtype)
    made = replace(made, sampler=settings.sampler, extra_step=settings.as_released.extra_step)
    if reference is not None:
        made = replace(made, reference=Denoiser(reference, made.policy.process))
    judges = LatentReward(decode or Autoencoder(vae()).decode, CountedReward(judge or reward), settings)
    run = Run(made, judges, settings)
    return Trainer.start(run, RewardGradient(run, lambda batch: step(made, batch)), parameters)


class Watched(nn.Module):
    """Stands for a compiled network: calls the original one and counts the images."""

    def __init__(self, network: nn.Module, dynamic: bool) -> None:
        super().__init__()
        self._orig_mod, self.images, self.dynamic = network, 0, dynamic

    def forward(self, x: Tensor, *args: Any, **more: Any) -> Any:
        """The original's output."""
        assert not torch.is_grad_enabled()
        self.images += len(x)
        return self._orig_mod(x, *args, **more)
