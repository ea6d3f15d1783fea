"""A CLIP-like reward along a learned direction b of its text space (D2-Align, arXiv 2512.24146).

With t the unit text feature of a prompt and w the `scale`,

    e+ = (t + b) / |t + b|,   e- = (t - b) / |t - b|,   R = factor <image, e- + w (e+ - e-)>

b is learned once, with the generator frozen: it raises the mean reward of the base's images. `python -m
stages.rewards.directional` learns it from a table of samples; the policy is trained with the finished b. Known from
secondary notes: 1.5 and 2000 steps are theirs, the optimizer and its rate are ours, and so is the choice not to
normalise the last feature.
"""

from __future__ import annotations

import argparse
from collections.abc import Sequence
from pathlib import Path

import torch
from pydantic import Field
from torch import Tensor
from torch.nn import functional

from stages.errors import InputError
from stages.gives import Gives
from stages.models import record as records
from stages.models.record import ModelRecord
from stages.rewards.base import about, load_one, load_reward
from stages.rewards.networks.checkpoint import only_file, read
from stages.rewards.networks.contrastive import Contrastive
from stages.rewards.networks.options import KindOptions, options
from stages.runtime import device, require_apart, run_and_leave, whole_file

GIVES = Gives(files="needed", of="one", inner="text", embedding=True, text=True, words=True)
KEY = "direction"
"""Name of b [D] in its file of safetensors."""


class DirectionalOptions(KindOptions):
    """Options of kind `directional`."""

    scale: float = Field(1.5, description="w: 1 rewards e+ alone, 0.5 the mean of both, more goes beyond e+")


OPTIONS = DirectionalOptions


def turned(texts: Tensor, direction: Tensor, scale: float) -> Tensor:
    """e- + scale (e+ - e-) [B, D] of unit text features [B, D] and b [D]."""
    plus = functional.normalize(texts + direction, dim=-1)
    minus = functional.normalize(texts - direction, dim=-1)
    return minus + scale * (plus - minus)


def learn(images: Tensor, texts: Tensor, scale: float, steps: int, rate: float) -> Tensor:
    """b [D], from 0 by Adam: the mean reward of unit image features [N, D] with unit text features [N, D] is raised."""
    direction = torch.zeros(images.shape[1], dtype=images.dtype, device=images.device, requires_grad=True)
    optimizer = torch.optim.Adam([direction], lr=rate)
    for _ in range(steps):
        loss = -(images * turned(texts, direction, scale)).sum(-1).mean()
        [direction.grad] = torch.autograd.grad(loss, direction)
        optimizer.step()
    return direction.detach()


class Directional:
    """The reward with its text features turned along b."""

    differentiable = True

    def __init__(self, name: str, reward: Contrastive, direction: Tensor, scale: float) -> None:
        self.name, self.reward, self.direction, self.scale = name, reward, direction, scale

    def __call__(self, images: Tensor, prompts: Sequence[str]) -> Tensor:
        """Reward [B] of images [B, 3, H, W] in [0, 1], each with its own prompt."""
        return self.compare(self.embed(images), prompts)

    def embed(self, images: Tensor) -> Tensor:
        """Image features [B, D], not normalised."""
        return self.reward.embed(images)

    def compare(self, embeddings: Tensor, prompts: Sequence[str]) -> Tensor:
        """Reward [B] of image features [B, D] with their prompts."""
        if len(prompts) != len(embeddings):
            raise ValueError(f"{len(embeddings)} images but {len(prompts)} prompts")
        return self.reward.against(embeddings, self.encode_text(prompts))

    def encode_text(self, prompts: Sequence[str]) -> Tensor:
        """Text features [B, D], turned, and so no longer of unit length."""
        return turned(self.reward.encode_text(prompts), self.direction, self.scale)

    def describe(self) -> dict[str, object]:
        """What identifies the computation beside the weights of the networks."""
        return about(self.reward)


def load(record: ModelRecord, device: torch.device | str = "cpu") -> Directional:
    """The reward; raises InputError where the model under `of` has no text features or another number of them."""
    scale, inner = options(record, DirectionalOptions).scale, _contrastive(load_one(record, device), record.name)
    path = only_file(record, (".safetensors",))
    found = read(path).get(KEY)
    width = inner.encode_text([""]).shape[1]
    if found is None or found.shape != (width,):
        what = f"shape {list(found.shape)}" if found is not None else "none"
        raise InputError(f"{path}: {KEY}: found {what}, expected {width} numbers, as {inner.name!r} has features")
    return Directional(record.name, inner, found.to(device, torch.float32), scale)


def main() -> None:
    """Learn b from images of the frozen base."""
    parser = argparse.ArgumentParser(prog="python -m stages.rewards.directional", description=main.__doc__)
    parser.add_argument("--record", type=Path, required=True, help="record of the CLIP-like reward (JSON)")
    parser.add_argument("--samples", type=Path, required=True, help="table of samples of the base")
    parser.add_argument("--out", type=Path, required=True, help="the direction, .safetensors")
    parser.add_argument("--scale", type=float, default=1.5, help="w (default: %(default)s)")
    parser.add_argument("--steps", type=int, default=2000, help="optimizer steps (default: %(default)s)")
    parser.add_argument("--rate", type=float, default=1e-3, help="Adam's learning rate (default: %(default)s)")
    args = parser.parse_args()
    require_apart([args.record, args.samples], [args.out])
    place = device()
    reward = _contrastive(load_reward(records.load(args.record), place), str(args.record))
    images, texts = features(args.samples, reward, place)
    found = learn(images, texts, args.scale, args.steps, args.rate)
    before, after = ((images * turned(texts, b, args.scale)).sum(-1).mean() for b in (torch.zeros_like(found), found))
    from safetensors.torch import save_file

    with whole_file(args.out) as path:
        save_file({KEY: found.cpu().contiguous()}, path)
    print(f"{len(images)} images: mean cosine {float(before):.4f}, with the direction {float(after):.4f}")


def features(samples: Path, reward: Contrastive, place: torch.device) -> tuple[Tensor, Tensor]:
    """Unit features [N, D] of all images of a table of samples, and of their prompts."""
    from stages import pictures, tables

    images, prompts = [], []
    for part in tables.stream(samples, tables.SAMPLES, 64, ["prompt", "image"]):
        rows = part.to_pylist()
        with torch.no_grad():
            pixels = pictures.tensor((row["image"] for row in rows), str(samples)).to(place)
            images.append(functional.normalize(reward.embed(pixels), dim=-1))
        prompts += [row["prompt"] for row in rows]
    return torch.cat(images), reward.encode_text(prompts)


def _contrastive(reward: object, name: str) -> Contrastive:
    if not isinstance(reward, Contrastive):
        raise InputError(f"model {name!r}: has no text features to turn; expected a CLIP-like reward under `of`")
    return reward


if __name__ == "__main__":
    run_and_leave(main)
