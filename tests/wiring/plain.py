"""ReFL, ImageReFL, sampling and the probe once more in plain torch and diffusers, from the files of the study.

Only the random draws are the project's (`KeyedNoise`, `seed_from`): everything that is done with them is written anew.
"""

from __future__ import annotations

import random
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Any

import pandas as pd
import torch
from diffusers.models.autoencoders.autoencoder_kl import AutoencoderKL
from diffusers.models.unets.unet_2d_condition import UNet2DConditionModel
from safetensors.torch import load_file
from torch import Tensor

from stages.models.noise import KeyedNoise
from stages.models.record import load
from stages.rewards.base import load_reward
from stages.runtime import seed_from
from tests.wiring.mini import STEPS, Mini

CPU = torch.device("cpu")
Predict = Callable[[Tensor, int], Tensor]


@dataclass(frozen=True)
class Plain:
    """The study's base and encodings."""

    mini: Mini

    @cached_property
    def alphas(self) -> Tensor:
        """Cumulative products of the scaled linear schedule, [1000], and after the last step 1."""
        betas = torch.linspace(0.00085**0.5, 0.012**0.5, 1000, dtype=torch.float64) ** 2
        return torch.cumprod(1 - betas, 0).float()

    @cached_property
    def times(self) -> list[int]:
        """Timesteps from noise to image, leading, with an offset of 1."""
        return [1000 // STEPS * (STEPS - 1 - i) + 1 for i in range(STEPS)]

    def network(self) -> UNet2DConditionModel:
        """The base's network, to be trained."""
        return UNet2DConditionModel.from_pretrained(str(self.mini.params.parent / "base"), subfolder="unet").train(
            False
        )

    @cached_property
    def base(self) -> UNet2DConditionModel:
        """The base's network, as it is."""
        return self.network()

    @cached_property
    def vae(self) -> Any:
        """The autoencoder."""
        return AutoencoderKL.from_pretrained(str(self.mini.params.parent / "base"), subfolder="vae").requires_grad_(
            False
        )

    @cached_property
    def index(self) -> pd.DataFrame:
        """Where the encodings of prompts, captions and images stand."""
        return pd.read_parquet(self.mini.path("encodings/index.parquet"))

    @cached_property
    def tensors(self) -> dict[str, Tensor]:
        """Encodings."""
        return {
            name: value.float() for name, value in load_file(self.mini.path("encodings/encodings.safetensors")).items()
        }

    def rows(self, kind: str, split: str) -> pd.DataFrame:
        """The encodings of a kind and split, in the order of the table, by item."""
        found = self.index[(self.index["kind"] == kind) & (self.index["split"] == split)]
        return found.set_index("item_id")

    def reward(self, name: str) -> Callable[[Tensor, list[str]], Tensor]:
        """A reward of the study."""
        return load_reward(load(self.mini.path(f"models/{name}.json")), CPU)

    def decode(self, clean: Tensor) -> Tensor:
        """Images [B, 3, H, W] in [0, 1] of scaled latents."""
        return (self.vae.decode(clean / self.vae.config.scaling_factor).sample / 2 + 0.5).clamp(0, 1)

    def predict(self, network: Any, text: Tensor, scale: float) -> Predict:
        """The noise that a network predicts at an index, guided."""
        empty = self.tensors["empty_embedding"].expand(len(text), -1, -1)

        def predict(x: Tensor, i: int) -> Tensor:
            found = network(x, self.times[i], text).sample
            if scale == 1:
                return found
            without = network(x, self.times[i], empty).sample
            return without + scale * (found - without)

        return predict

    def clean(self, x: Tensor, eps: Tensor, i: int) -> Tensor:
        """The clean latents behind x, by the predicted noise."""
        a = self.alphas[self.times[i]]
        return (x - (1 - a).sqrt() * eps) / a.sqrt()

    def transition(self, predict: Predict, x: Tensor, i: int, eta: float) -> tuple[Tensor, Tensor]:
        """Mean and deviation of a DDIM step of stochasticity `eta` (Song et al. 2021, eq. 12 and 16); the last step
        ends at timestep 0.
        """
        eps, a = predict(x, i), self.alphas[self.times[i]]
        after = self.alphas[self.times[i + 1] if i < STEPS - 1 else 0]
        deviation = eta * ((1 - after) / (1 - a) * (1 - a / after)).sqrt()
        return after.sqrt() * self.clean(x, eps, i) + (1 - after - deviation**2).sqrt() * eps, deviation

    def walk(self, predict: Predict, x: Tensor, noise: KeyedNoise, start: int, stop: int) -> Tensor:
        """Ancestral steps from index `start`; latents entering `stop`, or clean ones where that is the end."""
        for i in range(start, stop):
            eps = predict(x, i)
            x0 = self.clean(x, eps, i)
            if i == STEPS - 1:
                return x0
            a, after = self.alphas[self.times[i]], self.alphas[self.times[i + 1]]
            beta = 1 - a / after
            mean = after.sqrt() * beta / (1 - a) * x0 + (1 - beta).sqrt() * (1 - after) / (1 - a) * x
            x = mean + ((1 - after) / (1 - a) * beta).sqrt() * noise.step(i)
        return x

    def noise(self, seed: int, keys: Sequence[tuple[object, ...]]) -> KeyedNoise:
        """The draws of rows with these keys."""
        return KeyedNoise(seed, keys, tuple(self.tensors["posterior_mean"].shape[1:]), CPU)


@dataclass(frozen=True)
class Trained:
    """The averaged weights and the network that training ends with, and mean reward, diffusion loss and loss a step."""

    average: dict[str, Tensor]
    network: Any
    logged: list[dict[str, float]]


def refl(plain: Plain, seed: int) -> Trained:
    """ReFL as the study asks for it."""
    train, own = plain.mini.raw["finetune"], plain.mini.raw["methods"]["refl"]
    network = plain.network()
    values = dict(network.named_parameters())
    average = {name: value.detach().clone() for name, value in values.items()}
    optimizer = torch.optim.AdamW(values.values(), train["optimizer"]["lr"], weight_decay=0.0)
    images, captions = plain.rows("image", "train"), plain.rows("caption", "train")
    judge, logged = plain.reward("proxy"), []
    size, parts = train["batch_size"] // train["accumulate"], train["accumulate"]
    for step in range(train["steps"]):
        optimizer.zero_grad()
        terms: dict[str, float] = dict.fromkeys(("reward", "loss_diffusion", "loss_kl", "loss"), 0.0)
        for micro in range(parts):
            places = [step * train["batch_size"] + micro * size + row for row in range(size)]
            items = [images.index[_order(seed, place, len(images))] for place in places]
            noise = plain.noise(seed, [("train", place) for place in places])
            text = plain.tensors["text_embeddings"][captions.loc[items, "row"].tolist()]
            where = images.loc[items, "row"].tolist()
            latents = plain.tensors["posterior_mean"][where] + plain.tensors["posterior_std"][where] * noise.extra(
                "posterior"
            )
            draws = random.Random(seed_from("window", seed, step, micro))
            m = draws.randrange(*own["middle"])
            near = draws.randrange(m + 1)
            guided = plain.predict(network, text, train["guidance"])
            with torch.no_grad():
                there = plain.walk(guided, noise.initial(), noise, 0, near)
                x = plain.walk(guided, there, noise, near, m)
                mean, _ = plain.transition(plain.predict(plain.base, text, train["guidance"]), there, near, 1.0)
            mine, deviation = plain.transition(guided, there, near, 1.0)
            apart = ((mine - mean) / deviation).square().mean() / 2
            rewards = judge(plain.decode(plain.clean(x, guided(x, m), m)), images.loc[items, "text"].tolist())
            a, n = plain.alphas[plain.times[m]], noise.extra("forward")
            real = a.sqrt() * plain.vae.config.scaling_factor * latents + (1 - a).sqrt() * n
            error = (plain.predict(network, text, 1.0)(real, m) - n).square().mean()
            loss = -train["reward_scale"] * (rewards + train["reward_offset"]).mean() + own["diffusion_weight"] * error
            loss = loss + own["kl_weight"] * apart
            (loss / parts).backward()
            for name, value in (
                ("reward", rewards.mean()),
                ("loss_diffusion", error),
                ("loss_kl", apart),
                ("loss", loss),
            ):
                terms[name] += float(value.detach()) / parts
        optimizer.step()
        for name, value in values.items():
            average[name] += (1 - train["ema"]) * (value.detach() - average[name])
        logged.append(terms)
    return Trained(average, network, logged)


def _order(seed: int, place: int, count: int) -> int:
    """Which of `count` items stands at a place of the endless sequence of epochs."""
    epoch, offset = divmod(place, count)
    order = list(range(count))
    random.Random(seed_from("order", seed, epoch)).shuffle(order)
    return order[offset]
