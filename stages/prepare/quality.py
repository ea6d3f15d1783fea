"""How good trained models are: what a base draws, what a VAE keeps, what a CLIP model recognises and prefers."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from diffusers.models.autoencoders.autoencoder_kl import AutoencoderKL
from diffusers.pipelines.stable_diffusion.pipeline_stable_diffusion import StableDiffusionPipeline
from torch import Tensor

from stages import tables
from stages.errors import InputError
from stages.models.diffusion import Autoencoder
from stages.pictures import levels
from stages.prepare.pictures import Pictures
from stages.rewards.base import Oracle
from stages.runtime import seed_from
from stages.sight import Sight
from stages.world import oracle
from stages.world.scene import evaluation_prompts

Embed = Callable[[np.ndarray], Tensor]
"""uint8 images [n, h, w, 3] to features [n, d] of unit length."""
Encode = Callable[[Sequence[str]], Tensor]
"""Texts to features [n, d] of unit length."""

BATCH = 96


@dataclass(frozen=True)
class Scorer:
    """What scores the images that a base makes for `prompts`.

    `shares` gives means over uint8 images [n, h, w, 3], each with its prompt; `caption`, one of them, is the share of
    images that show what the prompt says. `diversity` is of images of one prompt.
    """

    prompts: Sequence[str]
    shares: Callable[[np.ndarray, Sequence[str]], Mapping[str, float]]
    caption: str
    diversity: Callable[[np.ndarray, str], Mapping[str, float]]


@dataclass(frozen=True)
class Pairs:
    """Comparisons as rows of `Pictures`: prompts, the two images' rows, and the share of votes for a."""

    prompts: list[str]
    a: np.ndarray
    b: np.ndarray
    preference: np.ndarray
    annotators: Sequence[str] = ()
    """Who judged each; empty texts where nobody is named."""

    def __len__(self) -> int:
        return len(self.prompts)


def read_pairs(path: str | Path, split: str, source: str, pictures: Pictures) -> Pairs:
    """The comparisons of two images of `split` (and of `source`, unless it is empty), which stand in `pictures`.

    Raises InputError when there are none, or when one names an image that is missing.
    """
    where = {name: row for row, name in enumerate(pictures.ids)}
    rows = [
        row
        for row in tables.read(path, tables.pairs_schema(path)).to_pylist()
        if row["split"] == split and source in ("", row["source"]) and row["image_a"] != row["image_b"]
    ]
    if not rows:
        wanted = f"split {split!r}" + (f" and source {source!r}" if source else "")
        raise InputError(f"{path}: no pair of {wanted}, expected at least one")
    for row in rows:
        for side in ("image_a", "image_b"):
            if row[side] not in where:
                raise InputError(
                    f"{path}: pair {row['pair_id']}: {side} {row[side]!r} is no image of split {split!r} or of pairs"
                )
    return Pairs(
        [row["prompt"] for row in rows],
        np.array([where[row["image_a"]] for row in rows]),
        np.array([where[row["image_b"]] for row in rows]),
        np.array([row["preference"] for row in rows], np.float32),
        [str(row.get("annotator") or "") for row in rows],
    )


@torch.no_grad()
def retrieval(pictures: Pictures, embed: Embed, encode: Encode, count: int = 1000) -> float:
    """Share of pictures whose caption is the nearest among all captions of the same number of words.

    Captions of other lengths are left out because a shorter one may be just as true.
    """
    right = total = 0
    for words in sorted({len(text.split()) for text in pictures.captions if text}):
        rows = [row for row, text in enumerate(pictures.captions) if text and len(text.split()) == words][:count]
        choices = sorted({pictures.captions[row] for row in rows})
        best = (embed(pictures.images[rows]) @ encode(choices).T).argmax(1).tolist()
        right += sum(choices[index] == pictures.captions[row] for index, row in zip(best, rows, strict=True))
        total += len(rows)
    return right / total


@torch.no_grad()
def pair_accuracy(pictures: Pictures, pairs: Pairs, embed: Embed, encode: Encode) -> float:
    """Share of comparisons in which the larger cosine goes with the picture that most votes prefer; ties left out."""
    texts = encode(pairs.prompts)
    gap = ((embed(pictures.images[pairs.a]) - embed(pictures.images[pairs.b])) * texts).sum(-1).cpu().numpy()
    decided = pairs.preference != 0.5
    return float(((gap > 0) == (pairs.preference > 0.5))[decided].mean())


@torch.no_grad()
def reconstruct(vae: AutoencoderKL, images: np.ndarray, device: torch.device) -> np.ndarray:
    """uint8 images decoded from the mean of their posterior."""
    codec, made = Autoencoder(vae), []
    for start in range(0, len(images), BATCH):
        mean, _ = codec.posterior(torch.as_tensor(images[start : start + BATCH]).to(device).permute(0, 3, 1, 2) / 255)
        decoded = codec.decode(mean * codec.scale)
        made.append(levels(decoded))
    return np.concatenate(made)


def psnr(images: np.ndarray, made: np.ndarray) -> float:
    """Mean over uint8 images of the peak signal-to-noise ratio, in dB."""
    error = ((images.astype(np.float64) - made) / 255) ** 2
    return float((-10 * np.log10(np.maximum(error.mean((1, 2, 3)), 1e-10))).mean())


@torch.no_grad()
def draw(
    pipeline: StableDiffusionPipeline, prompts: Sequence[str], guidance: float, steps: int, seed: int
) -> np.ndarray:
    """uint8 [n, h, w, 3]: one picture per prompt in `steps` steps; the noise depends on seed and row alone."""
    pipeline.set_progress_bar_config(disable=True)
    random = [torch.Generator().manual_seed(seed_from(seed, "draw", row)) for row in range(len(prompts))]
    made = []
    for start in range(0, len(prompts), BATCH):
        rows = slice(start, start + BATCH)
        drawn = pipeline(
            list(prompts[rows]),
            num_inference_steps=steps,
            guidance_scale=guidance,
            generator=random[rows],
            output_type="np",
        )
        made.append(drawn.images)  # pyright: ignore[reportAttributeAccessIssue]
    return np.round(np.concatenate(made) * 255).astype(np.uint8)


def fidelity(images: np.ndarray, prompts: Sequence[str]) -> dict[str, float]:
    """By the oracle, shares of pictures: right colour, right colour and shape, all that is said, no object at all."""
    seen = oracle.parse(images)
    match = oracle.caption_match(seen, prompts)
    shares = {"colour": match.colour, "both": match.both, "all": match.all, "empty": seen.empty}
    return {name: float(values.mean()) for name, values in shares.items()}


SHAPES = Scorer(
    evaluation_prompts(),
    fidelity,
    "both",
    lambda images, prompt: {"attribute_diversity": oracle.attribute_diversity(images)},
)
"""The oracle of the shapes world, and its evaluation prompts."""


def by_oracle(oracle: Oracle, prompts: Sequence[str]) -> Scorer:
    """An oracle that is a reward of the study, and prompts of it."""

    def see(images: np.ndarray, texts: Sequence[str]) -> Sight:
        return oracle.see(torch.from_numpy(images).permute(0, 3, 1, 2).float() / 255, texts)

    def shares(images: np.ndarray, texts: Sequence[str]) -> dict[str, float]:
        return {name: float(values.mean()) for name, values in see(images, texts).marks(texts).items()}

    def diversity(images: np.ndarray, prompt: str) -> Mapping[str, float]:
        return see(images, [prompt] * len(images)).diversity()

    return Scorer(prompts, shares, "caption_accuracy", diversity)


def base_scores(
    pipeline: StableDiffusionPipeline, scorer: Scorer, guidances: Sequence[float], samples: int, steps: int = 20,
    seed: int = 0,
) -> dict[str, dict[str, float]]:  # fmt: skip
    """By guidance scale, the judge's shares, and its diversities in the mean of those prompts that have them."""
    prompts = [prompt for prompt in scorer.prompts for _ in range(samples)]
    found = {}
    for guidance in guidances:
        images = draw(pipeline, prompts, guidance, steps, seed)
        groups = zip(np.split(images, len(scorer.prompts)), scorer.prompts, strict=True)
        diversities: dict[str, list[float]] = {}
        for name, value in (item for group, prompt in groups for item in scorer.diversity(group, prompt).items()):
            diversities.setdefault(name, []).append(value)
        means = {name: float(np.mean(values)) for name, values in diversities.items()}
        found[f"{guidance:g}"] = {**scorer.shares(images, prompts), **means}
    return found


def vae_scores(
    vae: AutoencoderKL, pictures: Pictures, scorer: Scorer, device: torch.device, count: int = 1000
) -> dict[str, float]:
    """PSNR of reconstructions, and the judge's verdict on the captions of them and of the pictures themselves."""
    images, captions = pictures.images[:count], pictures.captions[:count]
    made = reconstruct(vae, images, device)
    key = scorer.caption
    return {
        "psnr": psnr(images, made),
        key: scorer.shares(made, captions)[key],
        f"{key}_original": scorer.shares(images, captions)[key],
    }
