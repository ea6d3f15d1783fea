"""Settings of `prepare`: which models are trained here, how large they are and for how long."""

from __future__ import annotations

from typing import Annotated, Literal

from pydantic import Field, model_validator

from stages.params import Settings

Positive = Annotated[int, Field(ge=1)]
SIGNAL = 8
"""Channels of the linear path through an autoencoder at its start: +RGB, -RGB, +PILOT, -PILOT (`vae.py`)."""


def _require_multiple(what: str, value: int, of: str, count: int) -> None:
    if value % count:
        raise ValueError(f"{what}: {value} is not a multiple of {of} ({count})")


class Training(Settings):
    """AdamW with a warm-up, a flat stretch and a linear decay, and an average of the weights."""

    source: str = Field(default="", description="train on captioned images of this `source` only; empty takes all")
    seed: int = Field(default=0, ge=0, description="seed of weights, batches and noise")
    steps: int = Field(default=1000, ge=1, description="optimizer steps")
    batch: int = Field(default=32, ge=1, description="examples per step")
    lr: float = Field(default=1.5e-3, gt=0, description="highest learning rate")
    warmup: int = Field(default=40, ge=0, description="steps over which the learning rate rises from 0")
    hold: float = Field(
        default=0.5, ge=0, le=1, description="share of the steps before the learning rate falls linearly"
    )
    final: float = Field(
        default=0.03, ge=0, le=1, description="learning rate at the last step, as a share of the highest"
    )
    beta2: float = Field(default=0.99, gt=0, lt=1, description="AdamW's second moment decay (the first is 0.9)")
    weight_decay: float = Field(default=1e-3, ge=0, description="decoupled weight decay")
    clip: float = Field(default=1.0, gt=0, description="largest gradient norm")
    ema: float = Field(default=0.0, ge=0, lt=1, description="decay of the averaged weights; 0 keeps the last weights")
    save_every: int = Field(
        default=500, ge=1, description="steps after which the state is saved, beside the saves by time"
    )
    log_every: int = Field(default=20, ge=1, description="steps between two rows of each term in the training log")


class VaeSettings(Training):
    """AutoencoderKL: image to latents and back."""

    steps: int = Field(default=900, ge=1, description="optimizer steps")
    lr: float = Field(default=3e-3, gt=0, description="highest learning rate")
    hold: float = Field(
        default=0.2, ge=0, le=1, description="share of the steps before the learning rate falls linearly"
    )
    weight_decay: float = Field(default=0.0, ge=0, description="decoupled weight decay")
    widths: tuple[Positive, ...] = Field(
        default=(16, 32, 48), min_length=1, description="channels; each after the first halves the side"
    )
    latent_channels: int = Field(default=6, ge=3, description="channels of the latents")
    kl: float = Field(default=5e-7, ge=0, description="weight of the KL divergence of a whole image")
    bf16: bool = Field(default=True, description="train in bfloat16 autocast")

    @model_validator(mode="after")
    def _wide_enough(self) -> VaeSettings:
        if min(self.widths) < SIGNAL:
            raise ValueError(f"widths: {min(self.widths)} is too narrow, expected at least {SIGNAL} channels each")
        return self

    @property
    def factor(self) -> int:
        """Pixels of an image per latent, along one side."""
        return 2 ** (len(self.widths) - 1)


class TextSettings(Settings):
    """A CLIP text encoder trained together with the denoiser."""

    layers: int = Field(default=2, ge=1, description="transformer layers")
    width: int = Field(default=64, ge=8, description="hidden size")
    heads: int = Field(default=2, ge=1, description="attention heads")
    context: int = Field(default=16, ge=4, description="tokens of a prompt, padding included")
    lr_factor: float = Field(default=2.0, gt=0, description="learning rate relative to the denoiser's")
    embedding_std: float = Field(
        default=0.2, gt=0, description="standard deviation of the token embeddings at the start"
    )

    @model_validator(mode="after")
    def _whole_heads(self) -> TextSettings:
        _require_multiple("width", self.width, "heads", self.heads)
        return self


class PolishSettings(Settings):
    """A second, shorter run of the base from its averaged weights, which sees what is hard to draw more often."""

    steps: int = Field(default=0, ge=0, description="further optimizer steps; 0 leaves it out")
    lr: float = Field(default=8e-4, gt=0, description="highest learning rate; it falls linearly from the start")
    words: dict[str, Annotated[float, Field(ge=0)]] = Field(
        default={}, description="weight of training images whose caption has this word; others have 1"
    )


class BaseSettings(Training):
    """UNet2DConditionModel and CLIPTextModel on the latents of the VAE, with Stable Diffusion's noise schedule."""

    steps: int = Field(default=3300, ge=1, description="optimizer steps")
    ema: float = Field(default=0.997, ge=0, lt=1, description="decay of the averaged weights; 0 keeps the last weights")
    widths: tuple[Positive, ...] = Field(default=(48, 96), min_length=1, description="channels of the UNet's levels")
    layers: int = Field(default=1, ge=1, description="residual blocks per level")
    heads: int = Field(default=4, ge=1, description="attention heads")
    groups: int = Field(default=8, ge=1, description="groups of the group norms")
    prediction: Literal["v_prediction", "epsilon"] = Field(
        default="v_prediction", description="what the network predicts"
    )
    log_snr_mean: float = Field(default=-0.4, description="mean of the log signal-to-noise ratios trained on")
    log_snr_std: float = Field(default=1.4, gt=0, description="their standard deviation")
    drop_caption: float = Field(
        default=0.1, ge=0, le=1, description="share of captions emptied, for classifier-free guidance"
    )
    text: TextSettings = Field(default=TextSettings(), description="the text encoder")
    polish: PolishSettings = Field(default=PolishSettings(), description="a second run")
    probe_every: int = Field(
        default=1000,
        ge=1,
        description="steps between two probes of what the base draws; more than `steps` probes never",
    )

    @model_validator(mode="after")
    def _whole_groups(self) -> BaseSettings:
        for width in self.widths:
            _require_multiple("widths", width, "groups", self.groups)
        return self


class ClipSettings(Training):
    """An open_clip model: contrastive on captions, then optionally the preference loss of HPSv2 on pairs."""

    steps: int = Field(default=600, ge=0, description="contrastive steps")
    batch: int = Field(default=128, ge=2, description="examples per contrastive step")
    preference_steps: int = Field(default=0, ge=0, description="steps on pairs after the contrastive ones")
    preference_batch: int = Field(default=64, ge=1, description="pairs per preference step")
    preference_lr: float = Field(default=5e-4, gt=0, description="highest learning rate of the preference steps")
    keep_contrastive: float = Field(
        default=0.3, ge=0, description="weight of the contrastive loss during preference steps"
    )
    noise: float = Field(
        default=0.1, ge=0, description="largest standard deviation of noise on training images in [-1, 1]"
    )
    pair_source: str = Field(default="", description="train on pairs of this `source` only; empty takes all")
    vision: Literal["resnet", "vit"] = Field(default="resnet", description="image tower")
    image_size: int = Field(default=64, ge=16, description="side to which the model resizes its images")
    width: int = Field(default=16, ge=8, description="width of the image tower")
    vision_layers: tuple[Positive, ...] = Field(
        default=(1, 1, 1, 1), description="blocks of the ResNet's four stages; a ViT adds them up"
    )
    patch: int = Field(default=8, ge=2, description="side of a ViT's patches")
    embed: int = Field(default=64, ge=8, description="size of the joint embedding")
    text_layers: int = Field(default=2, ge=1, description="layers of the text tower")
    text_width: int = Field(default=64, ge=8, description="width of the text tower")
    context: int = Field(default=16, ge=4, description="tokens of a caption, padding included")

    @model_validator(mode="after")
    def _a_network(self) -> ClipSettings:
        _require_multiple("text_width", self.text_width, "two heads", 2)
        if self.vision == "vit":
            _require_multiple("width of a ViT", self.width, "heads", self.width // (self.width // 4))
            if self.patch > self.image_size:
                raise ValueError(f"patch {self.patch} is larger than image_size {self.image_size}")
            return self
        if self.image_size < 32 or self.image_size % 32 == 31:  # its places are counted by 32, and made by halving
            raise ValueError(
                f"image_size {self.image_size}: expected 32 or more for a ResNet, and not 63, 95, 127, ..."
            )
        if len(self.vision_layers) != 4:
            raise ValueError(
                f"vision_layers: expected the blocks of a ResNet's four stages, found {len(self.vision_layers)}"
            )
        return self
