"""Trains a latent diffusion base: UNet2DConditionModel and CLIPTextModel on a VAE's latents.

The folder that comes out is a StableDiffusionPipeline, with Stable Diffusion's own noise schedule. Two things differ
from its training, both because latents of 8x8 are small: the network predicts v (with epsilon, one picture in three
comes out empty), and timesteps are drawn around a log signal-to-noise ratio of about 0 instead of uniformly, since most
of the schedule leaves nothing to see of so few latents.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import torch
from diffusers.models.autoencoders.autoencoder_kl import AutoencoderKL
from diffusers.models.unets.unet_2d_condition import UNet2DConditionModel
from diffusers.pipelines.stable_diffusion.pipeline_stable_diffusion import StableDiffusionPipeline
from diffusers.schedulers.scheduling_ddim import DDIMScheduler
from torch import Tensor
from transformers import CLIPTextConfig, CLIPTextModel, CLIPTokenizer

from stages.errors import InputError
from stages.models.diffusion import Autoencoder
from stages.params import nearest
from stages.prepare import quality
from stages.prepare import tokenizer as tokens
from stages.prepare.loop import Log, Probe, Terms, Trainer, draw_rows, generator, place
from stages.prepare.pictures import Pictures
from stages.prepare.settings import BaseSettings
from stages.prepare.vae import to_model
from stages.resume import State
from stages.runtime import seed_from, whole_files
from stages.world.scene import SHAPES, evaluation_prompts, read_caption


@dataclass
class Parts:
    """What a StableDiffusionPipeline is made of."""

    vae: AutoencoderKL
    unet: UNet2DConditionModel
    text: CLIPTextModel
    tokenizer: CLIPTokenizer
    scheduler: DDIMScheduler

    def pipeline(self) -> StableDiffusionPipeline:
        parts: dict[str, Any] = {
            "vae": self.vae, "unet": self.unet, "text_encoder": self.text, "tokenizer": self.tokenizer,
            "scheduler": self.scheduler, "safety_checker": None, "feature_extractor": None,
        }  # fmt: skip
        return StableDiffusionPipeline(**parts, requires_safety_checker=False)


def build(settings: BaseSettings, vae: AutoencoderKL, tokenizer: CLIPTokenizer) -> Parts:
    """The untrained base around `vae`."""
    torch.manual_seed(seed_from(settings.seed, "base weights"))
    side = vae.config["sample_size"] // 2 ** (len(vae.config["block_out_channels"]) - 1)
    levels = len(settings.widths)
    unet = UNet2DConditionModel(
        sample_size=side,
        in_channels=vae.config["latent_channels"],
        out_channels=vae.config["latent_channels"],
        block_out_channels=settings.widths,
        layers_per_block=settings.layers,
        down_block_types=("CrossAttnDownBlock2D",) * levels,
        up_block_types=("CrossAttnUpBlock2D",) * levels,
        attention_head_dim=settings.heads,
        norm_num_groups=settings.groups,
        cross_attention_dim=settings.text.width,
    )
    scheduler = DDIMScheduler(
        beta_start=0.00085, beta_end=0.012, beta_schedule="scaled_linear", num_train_timesteps=1000, clip_sample=False,
        set_alpha_to_one=True, steps_offset=1, timestep_spacing="leading", prediction_type=settings.prediction,
    )  # fmt: skip
    return Parts(vae.eval().requires_grad_(False), unet, _text_encoder(settings, tokenizer), tokenizer, scheduler)


def _text_encoder(settings: BaseSettings, tokenizer: CLIPTokenizer) -> CLIPTextModel:
    text = settings.text
    marks: dict[str, Any] = {
        name: getattr(tokenizer, name) for name in ("bos_token_id", "eos_token_id", "pad_token_id")
    }
    config = CLIPTextConfig(
        vocab_size=len(tokenizer),
        hidden_size=text.width,
        intermediate_size=4 * text.width,
        num_hidden_layers=text.layers,
        num_attention_heads=text.heads,
        max_position_embeddings=text.context,
        projection_dim=text.width,
        **marks,
    )
    encoder = CLIPTextModel(config)
    embedding: Any = encoder.get_input_embeddings()
    torch.nn.init.normal_(embedding.weight, std=text.embedding_std)
    return encoder


@torch.no_grad()
def encode_latents(vae: AutoencoderKL, images: np.ndarray, device: torch.device) -> tuple[Tensor, Tensor]:
    """Posterior means and standard deviations of uint8 images, multiplied by the scaling factor."""
    codec, batches = Autoencoder(vae), range(0, len(images), 500)
    posteriors = [codec.posterior((to_model(images[i : i + 500], device) + 1) / 2) for i in batches]
    means, stds = zip(*posteriors, strict=True)
    return torch.cat(means) * codec.scale, torch.cat(stds) * codec.scale


class Timesteps:
    """Timesteps whose log signal-to-noise ratio is close to normally distributed, stratified over a batch."""

    def __init__(self, scheduler: DDIMScheduler, mean: float, std: float, device: torch.device) -> None:
        kept = scheduler.alphas_cumprod.double()
        self.log_snr = (kept / (1 - kept)).log()
        self.mean, self.std = mean, std
        self.signal, self.noise = (v.sqrt().float().to(device) for v in (kept, 1 - kept))

    def draw(self, count: int, random: torch.Generator) -> Tensor:
        """int64 [count] timesteps; one in each of `count` equal shares of the distribution."""
        share = (torch.arange(count) + torch.rand(count, generator=random)) / count
        wanted = self.mean + self.std * torch.special.ndtri(share.double().clamp(1e-6, 1 - 1e-6))
        # log_snr falls with t, so searching its negation finds the first step at or below the wanted ratio.
        return torch.searchsorted(-self.log_snr, -wanted).clamp(max=len(self.log_snr) - 1)


def squared_errors(parts: Parts, steps: Timesteps, latents: Tensor, noise: Tensor, t: Tensor, hidden: Tensor) -> Tensor:
    """[n] squared error of the prediction, of v (Salimans and Ho 2022: v = a noise - s latents) or of the noise."""
    a, s = (table[t].view(-1, 1, 1, 1) for table in (steps.signal, steps.noise))
    made = parts.unet(a * latents + s * noise, t, encoder_hidden_states=hidden, return_dict=False)[0]
    target = a * noise - s * latents if parts.scheduler.config["prediction_type"] == "v_prediction" else noise
    return (made - target).square().mean((1, 2, 3))


def train(
    settings: BaseSettings,
    pictures: Pictures,
    held_out: Pictures,
    vae: AutoencoderKL,
    out: Path,
    device: torch.device,
    state: State | None = None,
) -> Log:
    """Train on `pictures`, probe with `held_out`, save a StableDiffusionPipeline folder at `out`; returns the log."""
    vocabulary = [*pictures.captions, *held_out.captions, *evaluation_prompts()]
    place(vae, device)
    parts = build(settings, vae, tokens.build(vocabulary, settings.text.context))
    tokens.say_cut_off("base: text.context", parts.tokenizer, pictures.captions, settings.text.context)
    lesson = Lesson(settings, parts, pictures, held_out, device, state)
    log = lesson.run("base", settings)
    if settings.polish.steps:
        changes = {"steps": settings.polish.steps, "lr": settings.polish.lr, "hold": 0.0}
        then = lesson.run("polish", settings.model_copy(update=changes), settings.polish.words)
        log.rows += [(settings.steps + step, term, value) for step, term, value in then.rows]
    with whole_files(out) as folder:
        parts.pipeline().save_pretrained(folder)
    return log


class Lesson:
    """Latents and captions to train on, and the loss of one step."""

    def __init__(
        self,
        settings: BaseSettings,
        parts: Parts,
        pictures: Pictures,
        held_out: Pictures,
        device: torch.device,
        state: State | None = None,
    ) -> None:
        self.settings, self.parts, self.pictures, self.device, self.state = settings, parts, pictures, device, state
        place(parts.unet, device)
        place(parts.text, device)
        self.steps = Timesteps(parts.scheduler, settings.log_snr_mean, settings.log_snr_std, device)
        self.means, self.stds = encode_latents(parts.vae, pictures.images, device)
        self.captions = self._ids(pictures.captions)
        self.nothing = self._ids([""])
        self.weights = torch.ones(len(pictures))
        self.probe = BaseProbe(parts, self.steps, held_out, device) if in_world(held_out) else None

    def run(self, name: str, settings: BaseSettings, words: dict[str, float] | None = None) -> Log:
        """One run of the trainer from the present weights; leaves the averaged ones in their place."""
        self.weights = word_weights(self.pictures.captions, words or {})
        modules = {"unet": self.parts.unet.train(), "text": self.parts.text.train()}
        factors = {"text": settings.text.lr_factor}
        trainer = Trainer(name, modules, settings, self.state, factors)
        trainer.run(self.terms, Probe(settings.probe_every, self.probe) if self.probe else None)
        return trainer.finish()

    def terms(self, step: int) -> Terms:
        settings = self.settings
        random = generator(settings.seed, "base noise", step)
        rows = self._rows(step).to(self.device)
        sampled, noise = torch.randn((2, settings.batch, *self.means.shape[1:]), generator=random).to(self.device)
        dropped = (torch.rand(settings.batch, generator=random) < settings.drop_caption).to(self.device)
        hidden = self.parts.text(torch.where(dropped[:, None], self.nothing, self.captions[rows]))[0]
        t = self.steps.draw(settings.batch, random).to(self.device)
        latents = self.means[rows] + self.stds[rows] * sampled
        return {"loss": squared_errors(self.parts, self.steps, latents, noise, t, hidden).mean()}

    def _rows(self, step: int) -> Tensor:
        if bool((self.weights == 1).all()):
            return draw_rows(self.settings.seed, "base", step, len(self.weights), self.settings.batch)
        random = generator(self.settings.seed, "weighted rows", step)
        return torch.multinomial(self.weights, self.settings.batch, replacement=True, generator=random)

    def _ids(self, captions: list[str]) -> Tensor:
        return tokens.ids(self.parts.tokenizer, captions, self.settings.text.context).to(self.device)


def word_weights(captions: list[str], words: dict[str, float]) -> Tensor:
    """[n] product of the weights of a caption's words."""
    return torch.tensor([math.prod(words.get(word, 1.0) for word in text.split()) for text in captions])


def require_words(settings: BaseSettings, captions: Sequence[str], where: str) -> None:
    """Raise InputError that starts with `where` where a weighted word is in no caption, or every weight is 0."""
    words, known = settings.polish.words, {word for text in captions for word in text.split()}
    if not settings.polish.steps:
        return
    for word in words:
        if word not in known:
            raise InputError(f"{where}.polish.words: no training caption has the word {word!r}{nearest(word, known)}")
    if not word_weights([*captions], words).any():
        raise InputError(f"{where}.polish.words: every training image has weight 0, expected one with more")


def in_world(pictures: Pictures) -> bool:
    """Whether any caption is a sentence of the shapes world, so that its oracle can judge."""
    return any(read_caption(text) for text in pictures.captions)


class BaseProbe:
    """What an unfinished base can do: find the captioned shape by its loss, and draw what prompts say."""

    def __init__(self, parts: Parts, steps: Timesteps, held_out: Pictures, device: torch.device) -> None:
        self.parts, self.steps, self.device = parts, steps, device
        said = [(row, read_caption(text)) for row, text in enumerate(held_out.captions)]
        known = [(row, caption) for row, caption in said if caption][:128]
        self.images = held_out.images[[row for row, _ in known]]
        self.captions = [caption for _, caption in known]

    def __call__(self, step: int) -> dict[str, float]:
        found = {"probe_shape": self.shape_by_loss()}
        prompts = [prompt for prompt in evaluation_prompts() for _ in range(4)]
        for guidance in (1.0, 2.0, 3.0):
            images = quality.draw(self.parts.pipeline(), prompts, guidance, 20, 0)
            found |= {f"probe_{name}_{guidance:g}": value for name, value in quality.fidelity(images, prompts).items()}
        return found

    def shape_by_loss(self) -> float:
        """Share of held-out pictures whose true shape gives the lowest loss of all shapes at timestep 500.

        This moves long before pictures do: one divided by the number of shapes until the shapes are told apart.
        """
        parts = self.parts
        latents, _ = encode_latents(parts.vae, self.images, self.device)
        noise = torch.randn(latents.shape, generator=generator(0, "probe", 0)).to(self.device)
        t = torch.full((len(latents),), 500, device=self.device)
        losses = []
        for shape in SHAPES:
            captions = [str(replace(caption, shape=shape)) for caption in self.captions]
            ids = tokens.ids(parts.tokenizer, captions, parts.text.config.max_position_embeddings)
            losses.append(squared_errors(parts, self.steps, latents, noise, t, parts.text(ids.to(self.device))[0]))
        true = torch.tensor([SHAPES.index(caption.shape) for caption in self.captions])
        return float((torch.stack(losses).argmin(0).cpu() == true).float().mean())
