"""ImageReward: a BLIP that reads prompt and image together (Xu et al. 2023), without the published package.

Source: THUDM/ImageReward (Apache-2.0), ImageReward/ImageReward.py; weights `ImageReward.pt` of the hub repository of
that name, a flat state_dict in single precision. Beside them stands `vocab.txt` of bert-base-uncased.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch
from pydantic import Field
from torch import Tensor

from stages.errors import InputError
from stages.gives import Gives
from stages.models.record import ModelRecord
from stages.rewards.networks import blip, checkpoint
from stages.rewards.networks.contrastive import exact, plain
from stages.rewards.networks.options import Options, options
from stages.rewards.preprocess import Preprocess

GIVES = Gives(holds=("vocab.txt",), embedding=True)

MEAN, STD = 0.16717362830052426, 1.0333394966054072
"""Of the head's output over the authors' validation data: the reward is (output - MEAN) / STD."""
TOKENS = 35
"""Length to which prompts are cut and padded."""


class ImageRewardOptions(Options):
    """Options of kind `image_reward`."""

    raw: bool = Field(False, description="the head's output as it is; otherwise it is normalised as in the paper")


OPTIONS = ImageRewardOptions


class ImageReward:
    """A frozen ImageReward. Every prompt is tokenised once; text and image meet inside the network."""

    differentiable = True

    def __init__(
        self, name: str, model: blip.BlipReward, preprocess: Preprocess, tokenizer: Any, raw: bool = False
    ) -> None:
        self.name, self.preprocess, self.raw = name, preprocess, raw
        self.model = model.eval().requires_grad_(False)
        self._tokenizer = tokenizer
        self._ids: dict[str, tuple[list[int], list[int]]] = {}

    def __call__(self, images: Tensor, prompts: Sequence[str]) -> Tensor:
        """Reward [B] of images [B, 3, H, W] in [0, 1], each with its own prompt: mean 0 and standard deviation 1 unless
        raw.
        """
        if len(prompts) != len(images):
            raise ValueError(f"{len(images)} images but {len(prompts)} prompts")
        with plain(images):
            ids, mask = (
                torch.tensor(rows, device=images.device) for rows in zip(*map(self._read, prompts), strict=True)
            )
            found = self.model(self.model.see(self._pixels(images)), ids, mask)
            return found if self.raw else (found - MEAN) / STD

    def embed(self, images: Tensor) -> Tensor:
        """The vision tower's own token [B, D], not normalised; it depends on the image alone."""
        with plain(images):
            return exact(self.model.see(self._pixels(images))[:, 0])

    def describe(self) -> dict[str, object]:
        """What identifies the computation beside the weights."""
        return {"preprocess": self.preprocess.describe(), "raw": self.raw}

    def _pixels(self, images: Tensor) -> Tensor:
        dtype = next(self.model.parameters()).dtype
        return self.preprocess(images.to(torch.promote_types(exact(images).dtype, dtype))).to(dtype)

    def _read(self, prompt: str) -> tuple[list[int], list[int]]:
        if prompt not in self._ids:
            found = self._tokenizer(prompt, padding="max_length", truncation=True, max_length=TOKENS)
            self._ids[prompt] = (found["input_ids"], found["attention_mask"])
        return self._ids[prompt]


def load(record: ModelRecord, device: torch.device | str = "cpu") -> ImageReward:
    """The reward; raises InputError for missing, damaged or pickled files and for tensors that are no ImageReward."""
    settings = options(record, ImageRewardOptions)
    path = checkpoint.only_file(record)
    if "vocab.txt" not in record.files:
        raise InputError(f"{record.path}: no vocab.txt; expected that of bert-base-uncased beside {path.name}")
    state = checkpoint.read(path)
    try:
        sizes = blip.sizes(state)
    except (KeyError, ValueError) as error:
        raise InputError(f"{path}: not weights of ImageReward: lacks {error}") from None
    model = checkpoint.build(lambda: blip.BlipReward(**sizes), blip.renamed(state), path)
    words = _tokenizer(record.file("vocab.txt"), sizes["text"]["vocab_size"])
    preprocess = settings.normalised(Preprocess(sizes["vision"]["image_size"]))
    return ImageReward(record.name, model.to(device, settings.dtype), preprocess, words, settings.raw)


def _tokenizer(path: Path, words: int) -> Any:
    from transformers import BertTokenizer

    try:
        made = BertTokenizer.from_pretrained(path.parent, local_files_only=True)
    except Exception as error:  # a damaged file makes transformers raise anything
        raise InputError(f"{path}: not BERT's vocabulary: {checkpoint.one_line(error)}") from None
    if len(made) > words:
        raise InputError(f"{path}: {len(made)} words, but the model has only {words}")
    return made
