"""Trains open_clip models from scratch: contrastive on captioned images, then on pairs of images as HPSv2 does.

The folder that comes out holds `open_clip_config.json`, `open_clip_model.safetensors` and `tokenizer/`.
"""

from __future__ import annotations

import json
import math
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from open_clip.model import CLIP
from safetensors.torch import save_file
from torch import Tensor
from torch.nn import functional
from torchvision.transforms.v2 import InterpolationMode
from torchvision.transforms.v2 import functional as transforms
from transformers import CLIPTokenizer

from stages.prepare import quality
from stages.prepare import tokenizer as tokens
from stages.prepare.loop import Log, Probe, Terms, Trainer, draw_rows, generator
from stages.prepare.pictures import Pictures
from stages.prepare.quality import Pairs
from stages.prepare.settings import ClipSettings
from stages.prepare.vae import to_model
from stages.resume import State
from stages.runtime import seed_from, whole_file, whole_files

CONFIG, WEIGHTS, TOKENIZER = "open_clip_config.json", "open_clip_model.safetensors", "tokenizer"
MAX_SCALE = math.log(100)


def model_config(settings: ClipSettings, vocabulary: int) -> dict[str, Any]:
    """Arguments of `open_clip.model.CLIP`."""
    vision: dict[str, Any] = {"image_size": settings.image_size, "width": settings.width}
    if settings.vision == "resnet":
        vision |= {"layers": list(settings.vision_layers), "patch_size": None, "head_width": 32}
    else:
        vision |= {
            "layers": sum(settings.vision_layers),
            "patch_size": settings.patch,
            "head_width": settings.width // 4,
        }
    text = {
        "context_length": settings.context, "vocab_size": vocabulary, "width": settings.text_width, "heads": 2,
        "layers": settings.text_layers,
    }  # fmt: skip
    return {"embed_dim": settings.embed, "vision_cfg": vision, "text_cfg": text}


def preprocess_config(settings: ClipSettings) -> dict[str, Any]:
    """open_clip's `preprocess_cfg`: squash to the model's size, pixels to [-1, 1]."""
    half = [0.5, 0.5, 0.5]
    return {
        "size": settings.image_size, "mode": "RGB", "mean": half, "std": half, "interpolation": "bicubic",
        "resize_mode": "squash",
    }  # fmt: skip


def build(settings: ClipSettings, vocabulary: int) -> CLIP:
    """The untrained model."""
    torch.manual_seed(seed_from(settings.seed, "clip weights"))
    return CLIP(**model_config(settings, vocabulary))  # starts at CLIP's own logit scale, 1 / 0.07


def scale(model: CLIP) -> Tensor:
    """The factor of the cosines in both losses, at most 100 as in CLIP."""
    return model.logit_scale.clamp(max=MAX_SCALE).exp()


def contrastive_loss(model: CLIP, images: Tensor, ids: Tensor) -> Tensor:
    """CLIP's symmetric cross entropy, where equal captions in a batch are positives of each other."""
    image, text, _ = model(images, ids)
    logits = scale(model) * image @ text.T
    same = (ids[:, None] == ids[None]).all(-1).float()
    target = same / same.sum(1, keepdim=True)
    return (functional.cross_entropy(logits, target) + functional.cross_entropy(logits.T, target)) / 2


def preference_loss(model: CLIP, first: Tensor, second: Tensor, ids: Tensor, preference: Tensor) -> Tensor:
    """HPSv2 (Wu et al. 2023, eq. 1-2): cross entropy of the scaled cosines of both images with the prompt."""
    text = functional.normalize(model.encode_text(ids), dim=-1)
    both = functional.normalize(model.encode_image(torch.cat([first, second])), dim=-1)
    cosine = (both * torch.cat([text, text])).sum(-1)
    logits = scale(model) * torch.stack(cosine.chunk(2), 1)
    return functional.cross_entropy(logits, torch.stack([preference, 1 - preference], 1))


def captioned_rows(pictures: Pictures, source: str) -> np.ndarray:
    """Rows of pictures of `source` (all when it is empty) that have a caption."""
    named = zip(pictures.captions, pictures.sources, strict=True)
    return np.array([row for row, (text, name) in enumerate(named) if text and source in ("", name)])


class Lesson:
    """Everything a training step of one model needs, and the measurements on held-out rows."""

    def __init__(
        self, settings: ClipSettings, pictures: Pictures, held_out: Pictures, pairs: Path | None, device: torch.device
    ) -> None:
        self.settings, self.device = settings, device
        self.pictures, self.held_out = pictures, held_out
        self.judged = held_out.of(settings.source, "validation images")
        vocabulary = [*pictures.captions, *held_out.captions]
        if pairs and settings.preference_steps:
            self.pairs: Pairs | None = quality.read_pairs(pairs, "train", settings.pair_source, pictures)
            self.held_pairs: Pairs | None = quality.read_pairs(pairs, "val", "", held_out)
            vocabulary += [*self.pairs.prompts, *self.held_pairs.prompts]
        else:
            self.pairs = self.held_pairs = None
        self.tokenizer: CLIPTokenizer = tokens.build(vocabulary, settings.context)
        tokens.say_cut_off("clip: context", self.tokenizer, vocabulary, settings.context)
        self.model = build(settings, len(self.tokenizer)).to(device)
        self.captions = self.ids(pictures.captions)
        self.captioned = captioned_rows(pictures, settings.source)
        self.prompts = self.ids(self.pairs.prompts) if self.pairs else None

    def ids(self, captions: list[str]) -> Tensor:
        return tokens.ids(self.tokenizer, captions, self.settings.context).to(self.device)

    def images(self, rows: np.ndarray, step: int, purpose: str) -> Tensor:
        """Pictures with a little noise of random strength, so that the model does not hang on single pixels."""
        values = to_model(self.pictures.images[rows], self.device)
        random = generator(self.settings.seed, purpose, step)
        strength = self.settings.noise * torch.rand((len(rows), 1, 1, 1), generator=random)
        values = values + (strength * torch.randn(values.shape, generator=random)).to(self.device)
        return self.fit(values)

    def fit(self, values: Tensor) -> Tensor:
        """Images in [-1, 1] at the model's own side, as the saved preprocessing says."""
        side = self.settings.image_size
        if values.shape[-1] == side:
            return values
        return transforms.resize(values, [side, side], InterpolationMode.BICUBIC, antialias=True)

    def contrastive(self, step: int, batch: int, purpose: str = "clip") -> Tensor:
        rows = self.captioned[draw_rows(self.settings.seed, purpose, step, len(self.captioned), batch).numpy()]
        return contrastive_loss(self.model, self.images(rows, step, purpose + " noise"), self.captions[rows])

    def preference(self, step: int) -> Terms:
        settings, pairs, prompts = self.settings, self.pairs, self.prompts
        assert pairs is not None and prompts is not None
        rows = draw_rows(settings.seed, "pairs", step, len(pairs), settings.preference_batch).numpy()
        first, second = self.images(np.concatenate([pairs.a[rows], pairs.b[rows]]), step, "pair noise").chunk(2)
        votes = torch.from_numpy(pairs.preference[rows]).to(self.device)
        chosen = preference_loss(self.model, first, second, prompts[rows], votes)
        if not settings.keep_contrastive:
            return {"loss": chosen, "loss_preference": chosen}
        kept = self.contrastive(step, settings.preference_batch, "kept")
        return {"loss": chosen + settings.keep_contrastive * kept, "loss_preference": chosen, "loss_contrastive": kept}

    def measure(self, step: int) -> dict[str, float]:
        found = {"probe_retrieval": quality.retrieval(self.judged, self.embed, self.encode)}
        if self.held_pairs:
            found["probe_pairs"] = quality.pair_accuracy(self.held_out, self.held_pairs, self.embed, self.encode)
        return found

    def embed(self, images: np.ndarray) -> Tensor:
        parts = [self.fit(to_model(images[i : i + 500], self.device)) for i in range(0, len(images), 500)]
        return functional.normalize(torch.cat([self.model.encode_image(part) for part in parts]), dim=-1)

    def encode(self, texts: Sequence[str]) -> Tensor:
        return functional.normalize(self.model.encode_text(self.ids(list(texts))), dim=-1)


def train(
    settings: ClipSettings,
    pictures: Pictures,
    held_out: Pictures,
    pairs: Path | None,
    out: Path,
    device: torch.device,
    state: State | None = None,
) -> Log:
    """Train on `pictures` (and on `pairs`), save the model folder at `out`; returns the log of both parts."""
    lesson = Lesson(settings, pictures, held_out, pairs, device)
    model = lesson.model.train()

    def contrastive(step: int) -> Terms:
        return {"loss": lesson.contrastive(step, settings.batch)}

    first = Trainer("contrastive", {"clip": model}, settings, state)
    first.run(contrastive, Probe(max(1, settings.steps // 4), lesson.measure))
    log = first.finish()
    if settings.preference_steps:
        changes = {"steps": settings.preference_steps, "lr": settings.preference_lr}
        then = settings.model_copy(update=changes)
        second = Trainer("preference", {"clip": model.train()}, then, state)
        second.run(lesson.preference, Probe(max(1, then.steps // 3), lesson.measure))
        log.rows += [(settings.steps + step, term, value) for step, term, value in second.finish().rows]
    save(model.eval(), lesson.tokenizer, settings, out)
    return log


def save(model: CLIP, tokenizer: CLIPTokenizer, settings: ClipSettings, out: Path) -> None:
    """Write configuration, weights and tokenizer."""
    config = {"model_cfg": model_config(settings, len(tokenizer)), "preprocess_cfg": preprocess_config(settings)}
    with whole_files(out / TOKENIZER) as folder:
        tokenizer.save_pretrained(folder)
    with whole_file(out / CONFIG) as partial:
        partial.write_text(json.dumps(config, indent=2) + "\n", encoding="utf-8")
    with whole_file(out / WEIGHTS) as partial:
        save_file({name: value.contiguous() for name, value in model.state_dict().items()}, partial)
