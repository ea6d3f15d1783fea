"""The plain reference: training steps and the sweep of combined generation as the released trainer does their work.

One autocast region around a whole step; texts and pictures encoded in every step; a diffusion loss that is computed
though its weight is nought; every k of a sweep from noise on; two complete pipelines; the scheduler of diffusers, which
works out its coefficients in every step; pictures through PIL; nothing kept. Left out are its mistakes (a stray step
where k or m is the first index), so that numbers can be compared, and what it does in other processes (decoding and
tokenising of batches to come).
"""

from __future__ import annotations

import io
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from diffusers.pipelines.stable_diffusion.pipeline_stable_diffusion import StableDiffusionPipeline
from diffusers.schedulers.scheduling_ddpm import DDPMScheduler
from diffusers.utils.torch_utils import randn_tensor
from PIL import Image
from torch import Tensor, nn
from torch.nn import functional
from torchvision import transforms

from stages.models.noise import KeyedNoise
from stages.rewards.open_clip import OpenClip
from stages.runtime import seed_from

MEAN, STD = (0.48145466, 0.4578275, 0.40821073), (0.26862954, 0.26130258, 0.27577711)


@dataclass(frozen=True)
class Draws:
    """Random draws of a batch, one generator per row: the same numbers as those of `KeyedNoise` with its keys."""

    seed: int
    keys: Sequence[tuple[object, ...]]

    @classmethod
    def like(cls, noise: KeyedNoise) -> Draws:
        """The draws of the same batch."""
        return cls(noise.seed, noise.keys)

    def named(self, what: str) -> list[torch.Generator]:
        """What diffusers takes as `generator` for one draw."""
        seeds = [seed_from("noise", self.seed, *key, what) for key in self.keys]
        return [torch.Generator().manual_seed(seed) for seed in seeds]

    def normal(self, what: str, shape: Sequence[int]) -> Tensor:
        """Standard normal numbers [B, ...]."""
        return randn_tensor((len(self.keys), *shape), generator=self.named(what))


@dataclass
class Pipeline:
    """One complete model with its own text encoder, autoencoder and scheduler."""

    unet: Any
    vae: Any
    text_encoder: Any
    tokenizer: Any
    scheduler: Any

    @classmethod
    def read(cls, folder: Path) -> Pipeline:
        """All of a folder in single precision, frozen."""
        found = StableDiffusionPipeline.from_pretrained(
            folder, local_files_only=True, torch_dtype=torch.float32, low_cpu_mem_usage=False, safety_checker=None,
            requires_safety_checker=False,
        )  # fmt: skip
        for network in (found.unet, found.vae, found.text_encoder):
            network.eval().requires_grad_(False)
        scheduler = DDPMScheduler.from_config(found.scheduler.config)
        return cls(found.unet, found.vae, found.text_encoder, found.tokenizer, scheduler)

    @property
    def scale(self) -> float:
        """The autoencoder's scaling factor."""
        return self.vae.config.scaling_factor

    def text(self, prompts: Sequence[str]) -> Tensor:
        """Hidden states [B, 77, width] of the prompts."""
        length = self.tokenizer.model_max_length
        ids = self.tokenizer(
            list(prompts), padding="max_length", max_length=length, truncation=True, return_tensors="pt"
        ).input_ids
        return self.text_encoder(ids)[0]

    def predict(self, x: Tensor, t: Tensor, text: Tensor, empty: Tensor | None = None, scale: float = 1.0) -> Tensor:
        """Noise prediction, guided where `empty` is given."""
        if empty is None:
            return self.unet(x, t, encoder_hidden_states=text).sample
        both = self.unet(torch.cat([x, x]), t, encoder_hidden_states=torch.cat([empty, text])).sample
        plain, wanted = both.chunk(2)
        return plain + scale * (wanted - plain)

    def roll(
        self, x: Tensor, start: int, stop: int, draws: Draws, text: Tensor, empty: Tensor | None = None,
        scale: float = 1.0,
    ) -> Tensor:  # fmt: skip
        """Latents entering index `stop`."""
        for i in range(start, stop):
            t = self.scheduler.timesteps[i]
            eps = self.predict(x, t, text, empty, scale)
            x = self.scheduler.step(eps, t, x, generator=draws.named(f"step {i}")).prev_sample
        return x

    def clean(self, x: Tensor, i: int, draws: Draws, text: Tensor) -> Tensor:
        """Clean latents predicted at index i."""
        t = self.scheduler.timesteps[i]
        step = self.scheduler.step(self.predict(x, t, text), t, x, generator=draws.named(f"step {i}"))
        return step.pred_original_sample

    def picture(self, latents: Tensor) -> Tensor:
        """Pictures [B, 3, H, W] in [0, 1]."""
        return (self.vae.decode(latents / self.scale).sample / 2 + 0.5).clamp(0, 1)

    def noised(self, pixels: Tensor, i: int, draws: Draws) -> tuple[Tensor, Tensor]:
        """Latents of pictures [B, 3, H, W] in [-1, 1], encoded now and noised to index i; and the noise."""
        latents = self.vae.encode(pixels).latent_dist.sample(draws.named("posterior")) * self.scale
        noise = draws.normal("forward", latents.shape[1:])
        return self.scheduler.add_noise(latents, noise, self.scheduler.timesteps[i].expand(len(latents))), noise


@dataclass
class Trainer:
    """A pipeline trained on a CLIP reward. `steps` counts those of the sampling grid, `latent` is [C, h, w]."""

    pipeline: Pipeline
    judge: OpenClip
    tokenize: Callable[[Sequence[str]], Tensor]
    latent: tuple[int, ...]
    steps: int
    precision: str = "float32"

    def __post_init__(self) -> None:
        self.pipeline.unet.requires_grad_(True)
        side = self.judge.preprocess.size
        self.preprocess = transforms.Compose([
            transforms.Resize(side, interpolation=transforms.InterpolationMode.BICUBIC),
            transforms.CenterCrop(side),
            transforms.Normalize(MEAN, STD),
        ])  # fmt: skip

    def refl(self, prompts: Sequence[str], pixels: Tensor, draws: Draws, m: int, weight: float) -> dict[str, float]:
        """A ReFL micro-step judged at index m; `weight` is that of the diffusion loss."""

        def loss() -> dict[str, Tensor]:
            own, text = self.pipeline, self.pipeline.text(prompts)
            with torch.no_grad():
                x = own.roll(draws.normal("initial", self.latent), 0, m, draws, text)
            terms = {"reward": self.reward(own.picture(own.clean(x, m, draws, text)), prompts)}
            with torch.set_grad_enabled(weight > 0):  # made even though it weighs nothing
                noisy, noise = own.noised(pixels, m, draws)
                error = functional.mse_loss(own.predict(noisy, own.scheduler.timesteps[m], text), noise)
            return terms | {"diffusion": error, "loss": weight * error - terms["reward"]}

        return self._backward(loss)

    def imagerefl(
        self, prompts: Sequence[str], pixels: Tensor, draws: Draws, start: int, m: int, weight: float
    ) -> dict[str, float]:
        """An ImageReFL micro-step from index `start`, judged at m; the prediction at `start` is made twice."""

        def loss() -> dict[str, Tensor]:
            own, text = self.pipeline, self.pipeline.text(prompts)
            with torch.no_grad():
                noisy, noise = own.noised(pixels, start, draws)
                x = own.roll(noisy, start, m, draws, text)
            reward = self.reward(own.picture(own.clean(x, m, draws, text)), prompts)
            error = functional.mse_loss(own.predict(noisy, own.scheduler.timesteps[start], text), noise)
            return {"reward": reward, "diffusion": error, "loss": weight * error - reward}

        return self._backward(loss)

    def draft(self, prompts: Sequence[str], draws: Draws) -> dict[str, float]:
        """A DRaFT-1 micro-step: every step but the last without gradient."""

        def loss() -> dict[str, Tensor]:
            own, text, last = self.pipeline, self.pipeline.text(prompts), self.steps - 1
            with torch.no_grad():
                x = own.roll(draws.normal("initial", self.latent), 0, last, draws, text)
            reward = self.reward(own.picture(own.clean(x, last, draws, text)), prompts)
            return {"reward": reward, "loss": -reward}

        return self._backward(loss)

    def reward(self, pictures: Tensor, prompts: Sequence[str]) -> Tensor:
        """Mean cosine; the prompts are tokenised and encoded in every step."""
        model = self.judge.model
        images = functional.normalize(model.encode_image(self.preprocess(pictures)), dim=-1)
        texts = functional.normalize(model.encode_text(self.tokenize(prompts)), dim=-1)
        return (images * texts).sum(-1).mean()

    def _backward(self, loss: Callable[[], dict[str, Tensor]]) -> dict[str, float]:
        self.pipeline.scheduler.set_timesteps(self.steps)
        with torch.autocast("cpu", torch.bfloat16, enabled=self.precision == "bfloat16"):
            terms = loss()
        terms["loss"].backward()
        return {name: value.item() for name, value in terms.items()}


@torch.no_grad()
def sweep(
    base: Pipeline, tuned: Pipeline, prompts: Sequence[str], draws: Draws, latent: tuple[int, ...], ks: Sequence[int],
    steps: int, guidance: float,
) -> dict[int, list[bytes]]:  # fmt: skip
    """PNGs of combined generation by every k, each from noise on."""
    made = {}
    for k in ks:
        for pipeline in (base, tuned):
            pipeline.scheduler.set_timesteps(steps)
        text, empty = base.text(prompts), base.text([""] * len(prompts))
        own = tuned.text(prompts)
        x = base.roll(draws.normal("initial", latent), 0, k, draws, text, empty, guidance)
        x = tuned.roll(x, k, steps - 1, draws, own)
        made[k] = _files(tuned.picture(tuned.clean(x, steps - 1, draws, own)))
    return made


def _files(pictures: Tensor) -> list[bytes]:
    """Pictures to PIL and to files, one after the other."""
    found = []
    for picture in pictures:
        buffer = io.BytesIO()
        Image.fromarray((picture * 255).round().byte().permute(1, 2, 0).numpy()).save(buffer, "PNG")
        found.append(buffer.getvalue())
    return found


class Counter:
    """Images that networks were evaluated on, counted where they are called; `close` when done."""

    def __init__(self, networks: Sequence[nn.Module]) -> None:
        self.count = 0
        self._hooks = [network.register_forward_pre_hook(self._seen) for network in networks]

    def _seen(self, network: nn.Module, args: tuple[Any, ...]) -> None:
        self.count += len(args[0])

    def close(self) -> None:
        """Stop counting."""
        for hook in self._hooks:
            hook.remove()
