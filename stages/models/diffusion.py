"""A latent diffusion model as the stages use it: networks in, noise predictions and images out.

Loads what a stage needs of a diffusers folder, part by part, always in float32 unless asked otherwise.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Collection, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Protocol

import torch
from torch import Tensor, nn

from stages.errors import InputError
from stages.models.record import ModelRecord
from stages.models.schedule import Grid, Schedule

if TYPE_CHECKING:
    from diffusers.models.autoencoders.autoencoder_kl import AutoencoderKL
    from diffusers.models.unets.unet_2d_condition import UNet2DConditionModel
    from transformers import CLIPTextModel, CLIPTokenizer


class Predict(Protocol):
    """A noise prediction with everything but the state fixed: (latents x [B, C, h, w], index i of the grid) to eps."""

    def __call__(self, x: Tensor, i: int, /) -> Tensor: ...


class Denoiser:
    """One network (base or policy) on one schedule; counts the images it was evaluated on in `evaluations`, and in
    `backward` those among them whose prediction carries gradient.

    `seen(x, t, eps)` is called with the input and the result of every prediction, after guidance.
    """

    def __init__(
        self, network: nn.Module, schedule: Schedule, seen: Callable[[Tensor, Tensor, Tensor], None] | None = None
    ) -> None:
        self.network = network
        self.schedule = schedule
        self.seen = seen
        self.evaluations = 0
        self.backward = 0

    def epsilon(self, x: Tensor, t: Tensor, text: Tensor, empty: Tensor | None = None, scale: float = 1.0) -> Tensor:
        """Noise prediction [B, C, h, w] for latents x [B, C, h, w] at timestep t ([] or [B]), text [B, length, width].

        With `scale` other than 1, classifier-free guidance: eps(empty) + scale (eps(text) - eps(empty)), both in one
        call; `empty` [1, length, width]. Scale 1 is the conditional prediction itself, at half the cost.
        """
        if scale == 1.0:
            eps = self._evaluate(x, t, text)
        elif empty is None:
            raise ValueError("guidance needs the encoding of the empty prompt")
        else:
            twice = torch.cat([t, t]) if t.ndim else t
            both = self._evaluate(torch.cat([x, x]), twice, torch.cat([empty.expand_as(text), text]))
            plain, wanted = both.chunk(2)
            eps = plain + scale * (wanted - plain)
        if self.seen is not None:
            self.seen(x, t, eps)
        return eps

    def predict(self, grid: Grid, text: Tensor, empty: Tensor | None = None, scale: float = 1.0) -> Predict:
        """The prediction on `grid` for `text` [B, length, width], guided by `scale`."""
        return lambda x, i: self.epsilon(x, grid.timesteps[i], text, empty, scale)

    def _evaluate(self, x: Tensor, t: Tensor, text: Tensor) -> Tensor:
        self.evaluations += len(x)
        output = self.network(x, t, encoder_hidden_states=text, return_dict=False)[0]
        self.backward += len(x) if output.requires_grad else 0
        return self.schedule.epsilon(output, x, t)


@dataclass(frozen=True)
class Autoencoder:
    """The VAE with its scaling factor; latents outside are always scaled, images always in [0, 1] (or beyond, raw)."""

    network: AutoencoderKL

    @property
    def scale(self) -> float:
        """Latents of the diffusion model are VAE latents times this."""
        return float(self.network.config.scaling_factor)  # type: ignore[attr-defined]

    def posterior(self, images: Tensor) -> tuple[Tensor, Tensor]:
        """Mean and standard deviation [B, C, h, w], unscaled, of images [B, 3, H, W] in [0, 1]."""
        posterior = self.network.encode(2 * images - 1, return_dict=False)[0]
        return posterior.mean, posterior.std

    def decode_raw(self, latents: Tensor) -> Tensor:
        """The decoder's own output, about [-1, 1], for scaled latents [B, C, h, w]."""
        return self.network.decode(latents / self.scale, return_dict=False)[0]  # type: ignore[arg-type]

    def decode(self, latents: Tensor) -> Tensor:
        """Images [B, 3, H, W] clamped to [0, 1] for scaled latents [B, C, h, w]; differentiable inside the range."""
        return (self.decode_raw(latents) / 2 + 0.5).clamp(0, 1)


@dataclass(frozen=True)
class TextEncoder:
    """Tokenizer and text model; prompts in, last hidden states out. Token ids need no tokenizer."""

    tokenizer: CLIPTokenizer | None
    network: CLIPTextModel

    def tokens(self, prompts: Sequence[str]) -> tuple[Tensor, int]:
        """Token ids [B, length], padded and truncated to the model's length, and how many prompts were truncated."""
        if self.tokenizer is None:
            raise InputError("the base model has no tokenizer/ folder, which prompts need")
        length = self.tokenizer.model_max_length
        ids = self.tokenizer(list(prompts), padding="max_length", max_length=length, truncation=True)["input_ids"]
        full = self.tokenizer(list(prompts))["input_ids"]
        return torch.tensor(ids), sum(len(row) > length for row in full)

    def hidden(self, ids: Tensor) -> Tensor:
        """Last hidden state [B, length, width] (after the final layer norm) of token ids [B, length]."""
        return self.network(ids, return_dict=False)[0]


def posterior_sample(mean: Tensor, std: Tensor, noise: Tensor, scale: float) -> Tensor:
    """Scaled latents scale (mean + std noise), each [B, C, h, w]; mean and std unscaled."""
    return scale * (mean + std * noise)


PARTS = ("unet", "vae", "text_encoder", "scheduler")


@dataclass(frozen=True)
class DiffusionModel:
    """The parts of a base model that a stage asked for; a part that was not asked for raises when it is used."""

    record: ModelRecord
    schedule: Schedule
    parts: dict[str, object]

    @property
    def device(self) -> torch.device:
        """Where the networks are."""
        return self.schedule.alphas_cumprod.device

    @property
    def unet(self) -> UNet2DConditionModel:
        """The denoising network, frozen."""
        return self._part("unet")  # type: ignore[return-value]

    @property
    def vae(self) -> Autoencoder:
        """The autoencoder, frozen."""
        return self._part("vae")  # type: ignore[return-value]

    @property
    def text(self) -> TextEncoder:
        """The text encoder with its tokenizer, frozen."""
        return self._part("text_encoder")  # type: ignore[return-value]

    def _part(self, name: str) -> object:
        if name not in self.parts:
            raise RuntimeError(f"part {name!r} of model {self.record.name!r} was not loaded")
        return self.parts[name]


def load_diffusion(record: ModelRecord, device: torch.device, parts: Collection[str]) -> DiffusionModel:
    """Load `parts` (of `unet`, `vae`, `text_encoder`) of a diffusers folder, frozen and in float32, in evaluation mode.

    Every file that is read is checked against the record. Raises InputError naming what a folder lacks.
    """
    if record.kind != "diffusers":
        raise InputError(f"model {record.name!r} is of kind {record.kind!r}, expected a diffusers folder")
    folder = record.folder()
    missing = [part for part in (*parts, "scheduler") if not (folder / part).is_dir()]
    if missing:
        raise InputError(f"{folder}: not a complete diffusers folder; missing {', '.join(missing)}")
    config = json.loads((folder / "scheduler" / "scheduler_config.json").read_text())
    loaded: dict[str, object] = {}
    for part in parts:
        loaded[part] = LOADERS[part](folder, device)
    return DiffusionModel(record, Schedule.from_config(config, device), loaded)


def load_unet(folder: Path, device: torch.device, subfolder: str = "unet") -> nn.Module:
    """The denoising network in `folder`/`subfolder`, in float32, frozen."""
    from diffusers.models.unets.unet_2d_condition import UNet2DConditionModel

    network = UNet2DConditionModel.from_pretrained(
        folder, subfolder=subfolder, torch_dtype=torch.float32, local_files_only=True
    )
    return _frozen(network, device)


def load_vae(folder: Path, device: torch.device) -> Autoencoder:
    """The autoencoder in `folder`/vae, in float32, frozen."""
    from diffusers.models.autoencoders.autoencoder_kl import AutoencoderKL

    network = AutoencoderKL.from_pretrained(folder, subfolder="vae", torch_dtype=torch.float32, local_files_only=True)
    return Autoencoder(_frozen(network, device))  # type: ignore[arg-type]


def load_text(folder: Path, device: torch.device) -> TextEncoder:
    """The text encoder in `folder`/text_encoder, in float32, frozen, with the tokenizer where there is one."""
    from transformers import CLIPTextModel, CLIPTokenizer

    network = CLIPTextModel.from_pretrained(folder / "text_encoder", dtype=torch.float32, local_files_only=True)
    words = folder / "tokenizer"
    tokenizer = CLIPTokenizer.from_pretrained(words, local_files_only=True) if words.is_dir() else None
    return TextEncoder(tokenizer, _frozen(network, device))  # type: ignore[arg-type]


def _frozen(network: nn.Module, device: torch.device) -> nn.Module:
    return network.to(device).eval().requires_grad_(False)


LOADERS = {"unet": load_unet, "vae": load_vae, "text_encoder": load_text}
