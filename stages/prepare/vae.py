"""Trains the world's AutoencoderKL.

A tiny autoencoder from the stock initialisation settles on grey: the group norm before the last convolution takes the
image's mean and scale away. It is therefore started as a linear pool-and-unpool codec that already carries colour
(`linear_start`), and only has to learn the edges.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any, cast

import numpy as np
import torch
from diffusers.models.autoencoders.autoencoder_kl import AutoencoderKL
from diffusers.models.downsampling import Downsample2D
from diffusers.models.resnet import ResnetBlock2D
from diffusers.models.upsampling import Upsample2D
from torch import Tensor, nn

from stages.errors import InputError
from stages.models.bases.loading import load_part
from stages.models.diffusion import Autoencoder
from stages.prepare import quality
from stages.prepare.loop import Log, Probe, Terms, Trainer, draw_rows, generator, place
from stages.prepare.pictures import Pictures
from stages.prepare.settings import SIGNAL, VaeSettings
from stages.resume import State
from stages.runtime import seed_from, whole_files

PILOT = 3.0
"""Constant carried by channels 6 and 7: it dominates the variance, so that the group norms hardly rescale the image."""
LOG_VARIANCE = -6.0
"""Log variance of the posterior at the start."""


def build(settings: VaeSettings, image_size: int) -> AutoencoderKL:
    """A small AutoencoderKL at its linear start. The smallest width must be at least SIGNAL."""
    torch.manual_seed(seed_from(settings.seed, "vae weights"))
    config: dict[str, Any] = {
        "down_block_types": ("DownEncoderBlock2D",) * len(settings.widths),
        "up_block_types": ("UpDecoderBlock2D",) * len(settings.widths),
        "block_out_channels": settings.widths,
        "layers_per_block": 1,
        "latent_channels": settings.latent_channels,
        "norm_num_groups": 1,
        "sample_size": image_size,
        "mid_block_add_attention": False,
    }
    vae = AutoencoderKL(**config)
    linear_start(vae)
    return vae


@torch.no_grad()
def linear_start(vae: AutoencoderKL) -> None:
    """Make `vae` the codec that averages pixels into the first three latent channels and copies them back.

    SiLU(x) - SiLU(-x) = x lets a pair of channels of opposite sign pass the nonlinearity unchanged.
    """
    for module in vae.modules():
        if isinstance(module, ResnetBlock2D):
            _start_as_identity(module)
        elif isinstance(module, Downsample2D):
            _near_identity(module.conv, slice(0, 2), 0.25)
        elif isinstance(module, Upsample2D):
            _near_identity(module.conv, slice(1, 2), 1.0)
    encoder, decoder = cast(Any, vae.encoder), cast(Any, vae.decoder)
    for side in (encoder, decoder):
        _write_pairs(side.conv_in)
        width = side.conv_norm_out.num_channels
        side.conv_norm_out.weight.fill_((2 * PILOT**2 / width) ** 0.5)
        _read_pairs(side.conv_out)
    channels = vae.config["latent_channels"]
    encoder.conv_out.weight[channels:] = 0
    encoder.conv_out.bias[channels:] = LOG_VARIANCE
    for conv in (vae.quant_conv, vae.post_quant_conv):
        _dirac(conv)


def _start_as_identity(block: ResnetBlock2D) -> None:
    second: Any = block.conv2
    nn.init.zeros_(second.weight)
    nn.init.zeros_(second.bias)
    if block.conv_shortcut is not None:
        _dirac(block.conv_shortcut)


def _dirac(conv: Any) -> None:
    nn.init.dirac_(conv.weight)
    nn.init.zeros_(conv.bias)


def _near_identity(conv: Any, taps: slice, weight: float) -> None:
    """Every channel keeps itself; the channels beyond the linear path also get a little of the usual noise."""
    noise = conv.weight.clone() * 0.05
    noise[:SIGNAL] = 0
    conv.weight.copy_(noise)
    for channel in range(conv.out_channels):
        conv.weight[channel, channel, taps, taps] = weight
    nn.init.zeros_(conv.bias)


def _write_pairs(conv: Any) -> None:
    conv.weight[:SIGNAL] = 0
    conv.bias[:SIGNAL] = 0
    for channel in range(3):
        conv.weight[channel, channel, 1, 1] = 1
        conv.weight[3 + channel, channel, 1, 1] = -1
    conv.bias[6], conv.bias[7] = PILOT, -PILOT


def _read_pairs(conv: Any) -> None:
    conv.weight[:3] = 0
    conv.bias[:3] = 0
    for channel in range(3):
        conv.weight[channel, channel, 1, 1] = 1
        conv.weight[channel, 3 + channel, 1, 1] = -1


def reconstruction_terms(target: Tensor, made: Tensor) -> Terms:
    """Errors of `made` [n, 3, h, w]: squared; squared after removing grey; absolute; absolute of differences."""
    error = made - target
    chroma = error - error.mean(1, keepdim=True)
    edges = error.diff(dim=-1).abs().mean() + error.diff(dim=-2).abs().mean()
    return {
        "mse": error.square().mean(),
        "chroma": chroma.square().mean(),
        "l1": error.abs().mean(),
        "edges": edges / 2,
    }


def train(
    settings: VaeSettings,
    pictures: Pictures,
    held_out: Pictures,
    out: Path,
    device: torch.device,
    state: State | None = None,
) -> Log:
    """Train on `pictures`, probe on `held_out`, save a diffusers folder at `out`; returns the training log."""
    vae = build(settings, pictures.images.shape[1])
    place(vae, device)

    def terms(step: int) -> Terms:
        rows = draw_rows(settings.seed, "vae", step, len(pictures), settings.batch)
        target = to_model(pictures.images[rows], device)
        with torch.autocast(device.type, torch.bfloat16, enabled=settings.bf16):
            posterior = vae.encode(target, return_dict=False)[0]
            noise = torch.randn(posterior.mean.shape, generator=generator(settings.seed, "vae noise", step)).to(device)
            made = vae.decode(cast(Any, posterior.mean + posterior.std * noise), return_dict=False)[0]
        parts = reconstruction_terms(target, made.float())
        parts["kl"] = posterior.kl().float().mean()
        loss = 3 * (parts["mse"] + 2 * parts["chroma"]) + 0.25 * parts["l1"] + 0.25 * parts["edges"]
        return {"loss": loss + settings.kl * parts["kl"], **parts}

    def probe(_: int) -> dict[str, float]:
        images = held_out.images[:512]
        return {"probe_psnr": quality.psnr(images, quality.reconstruct(vae, images, device))}

    trainer = Trainer("vae", {"vae": vae}, settings, state)
    every = max(1, settings.steps // 3)
    trainer.run(terms, Probe(every, probe))
    log = trainer.finish()
    vae.register_to_config(scaling_factor=round(1 / colour_std(vae, held_out, device), 4))
    with whole_files(out) as folder:
        vae.save_pretrained(folder)
    return log


def load(folder: Path) -> AutoencoderKL:
    """The AutoencoderKL of a diffusers folder, in float32. Raises InputError where there is none."""
    if not (folder / "config.json").is_file():
        raise InputError(f"{folder}: no config.json, expected the folder of a trained AutoencoderKL")
    network = load_part(folder.parent, folder.name)
    if not isinstance(network, AutoencoderKL):
        raise InputError(f"{folder}: holds a {type(network).__name__}, expected an AutoencoderKL")
    return network


def to_model(images: np.ndarray, device: torch.device) -> Tensor:
    """uint8 [n, h, w, 3] as float [n, 3, h, w] in [-1, 1]."""
    return torch.as_tensor(images).to(device).permute(0, 3, 1, 2).float() / 127.5 - 1


@torch.no_grad()
def colour_std(vae: AutoencoderKL, pictures: Pictures, device: torch.device, count: int = 512) -> float:
    """Standard deviation of the first three latent channels, which carry colour.

    The scaling factor is taken from these: the channels with edges stay smaller than 1 on purpose, since whitening
    them makes the denoiser spend its effort on detail.
    """
    mean, _ = Autoencoder(vae).posterior((to_model(pictures.images[:count], device) + 1) / 2)
    return float(mean[:, :3].std())
