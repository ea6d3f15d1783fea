"""A latent diffusion model as the stages use it: networks in, predictions and images out.

Loads what a stage needs of a base model, part by part, always in float32.
"""

from __future__ import annotations

from collections.abc import Callable, Collection
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Protocol

import torch
from torch import Tensor, nn

from stages.errors import InputError
from stages.models.bases.layout import SCHEDULER, BaseLayout, read_json
from stages.models.bases.loading import Folder, SingleFile, Source, load_part, load_texts, text_encoder
from stages.models.bases.texts import TextEncoder, Texts
from stages.models.calls import network_output
from stages.models.compiled import compiled
from stages.models.conditioning import Conditioning
from stages.models.features import Features, features
from stages.models.process import DiffusionProcess, Grid
from stages.models.process_config import load_process
from stages.models.record import ModelRecord
from stages.models.text_once import same

if TYPE_CHECKING:
    from diffusers.models.autoencoders.autoencoder_kl import AutoencoderKL
    from diffusers.models.unets.unet_2d_condition import UNet2DConditionModel


class Predict(Protocol):
    """A prediction (`stages.models.process`) with everything but the state fixed.

    Maps latents x [B, C, h, w] and an index i of the grid to [B, C, h, w].
    """

    def __call__(self, x: Tensor, i: int, /) -> Tensor: ...


class Denoiser:
    """One network (base or policy) of one diffusion process.

    Counts the images it was evaluated on in `evaluations`, and in `backward` those among them whose prediction carries
    gradient.

    `seen(x, t, prediction)` is called with the input and the result of every prediction, after guidance. With `quick`,
    evaluations without gradient are those of the compiled network.
    """

    def __init__(
        self,
        network: nn.Module,
        process: DiffusionProcess,
        seen: Callable[[Tensor, Tensor, Tensor], None] | None = None,
        quick: bool = False,
    ) -> None:
        self.network = network
        self._quick = compiled(network) if quick else network
        self.process = process
        self.seen = seen
        self.evaluations = 0
        self.backward = 0
        self._joined: tuple[list[Tensor], Conditioning] | None = None

    @property
    def eager(self) -> list[nn.Module]:
        """The network, where evaluations without gradient are its own and not those of a compiled one."""
        return [self.network] if self._quick is self.network else []

    def prediction(
        self,
        x: Tensor,
        t: Tensor,
        text: Conditioning | Tensor,
        empty: Conditioning | Tensor | None = None,
        scale: float = 1.0,
    ) -> Tensor:
        """Prediction [B, C, h, w] for latents x [B, C, h, w] at timestep t ([] or [B]), given text [B].

        With `scale` other than 1, classifier-free guidance:
        p(empty) + scale (p(text) - p(empty)), both in one call; `empty` has one row. Scale 1 is the conditional
        prediction itself, at half the cost. A tensor [B, length, width] stands for token embeddings alone.
        """
        text, empty = Conditioning.of(text), Conditioning.of(empty)
        if scale == 1.0:
            found = self._evaluate(x, t, text)
        elif empty is None:
            raise ValueError("guidance needs the encoding of the empty prompt")
        else:
            twice = torch.cat([t, t]) if t.ndim else t
            both = self._evaluate(torch.cat([x, x]), twice, self._both(text, empty))
            plain, wanted = both.chunk(2)
            found = plain + scale * (wanted - plain)
        if self.seen is not None:
            self.seen(x, t, found)
        return found

    def predict(
        self,
        grid: Grid,
        text: Conditioning | Tensor,
        empty: Conditioning | Tensor | None = None,
        scale: float = 1.0,
    ) -> Predict:
        """The prediction on `grid` given `text` [B], guided by `scale`."""
        return lambda x, i: self.prediction(x, grid.timesteps[i], text, empty, scale)

    def features(self, x: Tensor, t: Tensor, text: Conditioning | Tensor) -> Features:
        """A UNet's features of latents x [B, C, h, w] at timesteps t [B], up to its middle block; counts as an
        evaluation, though it is about half of one. Raises InputError for another architecture.
        """
        found = features(self.network, x, t, Conditioning.of(text))
        self.evaluations += len(x)
        self.backward += len(x) if found.middle.requires_grad else 0
        return found

    def _both(self, text: Conditioning, empty: Conditioning) -> Conditioning:
        """The empty prompt for every row, then the texts: one object as long as both stay the same."""
        given = [*text.tensors().values(), *empty.tensors().values()]
        kept, joined = self._joined or ([], None)
        if joined is None or len(kept) != len(given) or not all(map(same, kept, given)):
            joined = Conditioning.cat([empty.expand(len(text)), text])
            self._joined = given, joined
        return joined

    def _evaluate(self, x: Tensor, t: Tensor, text: Conditioning) -> Tensor:
        self.evaluations += len(x)
        network = self.network if torch.is_grad_enabled() else self._quick
        output = network_output(network, x, t, text)
        self.backward += len(x) if output.requires_grad else 0
        return self.process.prediction(output, x, t)


@dataclass(frozen=True)
class Autoencoder:
    """The VAE with its scaling factor, and its shift where there is one (SD3).

    Latents outside are always scaled, images always in [0, 1] (or beyond, raw).
    """

    network: AutoencoderKL

    @property
    def scale(self) -> float:
        """Latents of the diffusion model are VAE latents times this."""
        return float(self.network.config.scaling_factor)  # type: ignore[attr-defined]

    @property
    def shift(self) -> float:
        """What is taken off VAE latents before they are scaled."""
        return float(getattr(self.network.config, "shift_factor", None) or 0.0)

    def posterior(self, images: Tensor) -> tuple[Tensor, Tensor]:
        """Mean (less the shift) and standard deviation [B, C, h, w], unscaled, of images [B, 3, H, W] in [0, 1]."""
        posterior = self.network.encode(2 * images - 1, return_dict=False)[0]
        return posterior.mean - self.shift if self.shift else posterior.mean, posterior.std

    def decode_raw(self, latents: Tensor) -> Tensor:
        """The decoder's own output, about [-1, 1], for scaled latents [B, C, h, w]."""
        unscaled = latents / self.scale + self.shift if self.shift else latents / self.scale
        return self.network.decode(unscaled, return_dict=False)[0]  # type: ignore[arg-type]

    def decode(self, latents: Tensor) -> Tensor:
        """Images [B, 3, H, W] clamped to [0, 1] for scaled latents [B, C, h, w]; differentiable inside the range."""
        return (self.decode_raw(latents) / 2 + 0.5).clamp(0, 1)


def posterior_sample(mean: Tensor, std: Tensor, noise: Tensor, scale: float) -> Tensor:
    """Scaled latents scale (mean + std noise), each [B, C, h, w]; mean and std unscaled."""
    return scale * (mean + std * noise)


@dataclass(frozen=True)
class DiffusionModel:
    """The parts of a base model that a stage asked for; a part that was not asked for raises when it is used."""

    record: ModelRecord
    process: DiffusionProcess
    layout: BaseLayout
    parts: dict[str, object]

    @property
    def device(self) -> torch.device:
        """Where the networks are."""
        return self.process.device

    @property
    def channels(self) -> int:
        """Channels of the latents."""
        return int(self.layout.config(self.layout.family.network).get("in_channels", 4))

    @property
    def text_width(self) -> int | None:
        """Width of the text embeddings that the network takes; None where its configuration does not say."""
        config = self.layout.config(self.layout.family.network)
        keys = ("joint_attention_dim", "caption_channels", "encoder_hid_dim", "cross_attention_dim")
        return next((config[key] for key in keys if isinstance(config.get(key), int)), None)

    @property
    def unet(self) -> UNet2DConditionModel:
        """The denoising network, frozen; a transformer in some families."""
        return self._part("unet")  # type: ignore[return-value]

    @property
    def vae(self) -> Autoencoder:
        """The autoencoder, frozen."""
        return self._part("vae")  # type: ignore[return-value]

    @property
    def text(self) -> Texts:
        """The text encoders with their tokenizers, frozen."""
        return self._part("text_encoder")  # type: ignore[return-value]

    def _part(self, name: str) -> object:
        if name not in self.parts:
            raise RuntimeError(f"part {name!r} of model {self.record.name!r} was not loaded")
        return self.parts[name]


def load_diffusion(record: ModelRecord, device: torch.device, parts: Collection[str]) -> DiffusionModel:
    """Load `parts` (of `unet`, `vae`, `text_encoder`) of a base model, frozen and in float32, in evaluation mode.

    The record names a diffusers folder, or a single checkpoint file with the folder of its configurations in
    `options.config`; `options.variant` may name other weights (`fp16`) and `options.empty` say what guidance takes for
    no prompt in SDXL (`model` or `encoded`). Every file that is read is checked against the record. Raises InputError
    naming what a folder lacks.
    """
    source = source_of(record, parts)
    layout = source.layout
    loaded: dict[str, object] = {}
    for part in parts:
        if part == "text_encoder":
            loaded[part] = load_texts(source, lambda network: _frozen(network, device), record.options)
        else:
            network = _frozen(source.part(layout.folders(part)[0]), device)
            loaded[part] = Autoencoder(network) if part == "vae" else network  # type: ignore[arg-type]
    process = load_process(read_json(layout.folder / SCHEDULER), device)
    return DiffusionModel(record, process, layout, loaded)


def load_unet(folder: Path, device: torch.device, subfolder: str = "unet") -> nn.Module:
    """The denoising network in `folder`/`subfolder`, in float32, frozen."""
    return _frozen(load_part(folder, subfolder), device)


def load_vae(folder: Path, device: torch.device) -> Autoencoder:
    """The autoencoder in `folder`/vae, in float32, frozen."""
    return Autoencoder(_frozen(load_part(folder, "vae"), device))  # type: ignore[arg-type]


def load_text(folder: Path, device: torch.device) -> TextEncoder:
    """The text encoder in `folder`/text_encoder, in float32, frozen, with the tokenizer where there is one."""
    return text_encoder(folder, _frozen(load_part(folder, "text_encoder"), device))


def source_of(record: ModelRecord, parts: Collection[str]) -> Source:
    """Where the parts come from, after checking that it holds them and that they are the recorded ones."""
    if record.kind != "diffusers":
        raise InputError(f"model {record.name!r} is of kind {record.kind!r}, expected a diffusers folder")
    options = record.options
    config, variant = options.get("config"), options.get("variant")
    layout = BaseLayout(Path(str(config or record.path)), str(variant) if variant else None)
    layout.check(parts, configs_only=config is not None)
    if config is not None:
        record.folder()
        return SingleFile(Path(record.path) / next(iter(record.files)), layout)
    needed = {folder for part in parts for folder in layout.folders(part)} | {"scheduler", "model_index.json"}
    record.check(name for name in record.files if name.split("/")[0] in needed)
    for folder in needed - {"scheduler", "model_index.json"}:
        for path in layout.weights(folder).files if (layout.folder / folder).is_dir() else ():
            if path.relative_to(layout.folder).as_posix() not in record.files:
                raise InputError(f"{path}: not among the files of model {record.name!r}; run prepare again")
    return Folder(layout)


def _frozen(network: nn.Module, device: torch.device) -> nn.Module:
    return network.to(device).eval().requires_grad_(False)
