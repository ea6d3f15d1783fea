"""Text encoders of the base models: prompts in, conditioning out, as each family's own pipeline makes it."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Protocol

import torch
from torch import Tensor
from torch.nn import functional

from stages.errors import InputError
from stages.models.conditioning import Conditioning

if TYPE_CHECKING:
    from transformers import (
        CLIPTextModel,
        CLIPTextModelWithProjection,
        CLIPTokenizer,
        PreTrainedTokenizerBase,
        T5EncoderModel,
    )

PIXART_LENGTH, SD3_LENGTH = 120, 256
"""Tokens that T5 is given, as in the pipelines of diffusers."""


class Texts(Protocol):
    """The text side of a base model."""

    def encode(self, prompts: Sequence[str]) -> tuple[Conditioning, int]:
        """Conditioning [B] of the prompts, and how many were cut at the encoder's length."""
        ...

    def empty(self) -> Conditioning:
        """Conditioning [1] of the branch without a prompt, for guidance."""
        ...


@dataclass(frozen=True)
class TextEncoder:
    """Stable Diffusion: last hidden states of one CLIP model. Token ids need no tokenizer."""

    tokenizer: CLIPTokenizer | None
    network: CLIPTextModel

    def tokens(self, prompts: Sequence[str]) -> tuple[Tensor, int]:
        """Token ids [B, length], padded and truncated to the model's length, and how many prompts were truncated."""
        if self.tokenizer is None:
            raise InputError("the base model has no tokenizer/ folder, which prompts need")
        ids, _, cut = tokenize(self.tokenizer, prompts, self.tokenizer.model_max_length)
        return ids, cut

    def hidden(self, ids: Tensor) -> Tensor:
        """Last hidden state [B, length, width] (after the final layer norm) of token ids [B, length]."""
        return self.network(ids, return_dict=False)[0]

    def pooled(self, ids: Tensor) -> Tensor:
        """The embedding [B, width] of each whole text of token ids [B, length]: the state at its end."""
        return self.network(ids.to(self.network.device), return_dict=False)[1]

    def encode(self, prompts: Sequence[str]) -> tuple[Conditioning, int]:
        """Conditioning [B] of the prompts, and how many were cut."""
        ids, cut = self.tokens(prompts)
        return Conditioning(self.hidden(ids.to(self.network.device))), cut

    def empty(self) -> Conditioning:
        """The empty prompt."""
        return self.encode([""])[0]


@dataclass(frozen=True)
class ClipTower:
    """A CLIP model that gives its penultimate hidden states, and its embedding of the whole text."""

    tokenizer: CLIPTokenizer
    network: CLIPTextModel | CLIPTextModelWithProjection

    def encode(self, prompts: Sequence[str], length: int) -> tuple[Tensor, Tensor, int]:
        """Hidden states [B, length, width] before the last layer, embedding [B, projection] (of use for a model with
        projection only), and how many prompts were cut.
        """
        ids, _, cut = tokenize(self.tokenizer, prompts, length)
        output = self.network(ids.to(self.network.device), output_hidden_states=True)
        return output.hidden_states[-2], output[0], cut


@dataclass(frozen=True)
class T5Tower:
    """A T5 encoder."""

    tokenizer: PreTrainedTokenizerBase
    network: T5EncoderModel

    def encode(self, prompts: Sequence[str], length: int, masked: bool) -> tuple[Tensor, Tensor, int]:
        """Hidden states [B, length, width], mask [B, length], and how many prompts were cut; padding is attended to
        unless `masked`.
        """
        ids, mask, cut = tokenize(self.tokenizer, prompts, length)
        ids, mask = ids.to(self.network.device), mask.to(self.network.device)
        return self.network(ids, attention_mask=mask if masked else None)[0], mask, cut


@dataclass(frozen=True)
class SdxlTexts:
    """SDXL: hidden states of both CLIP models side by side, pooled text of the second.

    With `zeros` the branch without a prompt is all zeros, as `force_zeros_for_empty_prompt` says in model_index.json;
    else it is the empty prompt, encoded, as ImageReFL's code has it.
    """

    first: ClipTower
    second: ClipTower
    zeros: bool

    def encode(self, prompts: Sequence[str]) -> tuple[Conditioning, int]:
        """Conditioning [B] of the prompts, without sizes, and how many were cut."""
        towers = [tower.encode(prompts, tower.tokenizer.model_max_length) for tower in (self.first, self.second)]
        hidden = torch.cat([hidden for hidden, _, _ in towers], dim=-1)
        return Conditioning(hidden, pooled=towers[1][1]), towers[0][2]

    def empty(self) -> Conditioning:
        """Zeros, or the empty prompt."""
        made = self.encode([""])[0]
        return made.map(torch.zeros_like) if self.zeros else made


@dataclass(frozen=True)
class PixArtTexts:
    """PixArt-alpha: T5 with its mask; prompts are put in lower case and stripped, as its pipeline does it."""

    tower: T5Tower

    def encode(self, prompts: Sequence[str]) -> tuple[Conditioning, int]:
        """Conditioning [B] of the prompts, without sizes, and how many were cut."""
        lowered = [prompt.lower().strip() for prompt in prompts]
        hidden, mask, cut = self.tower.encode(lowered, PIXART_LENGTH, masked=True)
        return Conditioning(hidden, mask=mask.to(hidden.dtype)), cut

    def empty(self) -> Conditioning:
        """The empty prompt."""
        return self.encode([""])[0]


@dataclass(frozen=True)
class Sd3Texts:
    """Stable Diffusion 3: both CLIP models side by side and padded to T5's `width`, then T5's states; pooled text of
    both CLIP models. Without T5 (it is large) its states are zeros, as in the pipeline.
    """

    first: ClipTower
    second: ClipTower
    third: T5Tower | None
    width: int

    def encode(self, prompts: Sequence[str]) -> tuple[Conditioning, int]:
        """Conditioning [B] of the prompts, and how many were cut at the length of the CLIP models."""
        length = self.first.tokenizer.model_max_length
        towers = [tower.encode(prompts, length) for tower in (self.first, self.second)]
        hidden = torch.cat([hidden for hidden, _, _ in towers], dim=-1)
        if self.third is None:
            long = hidden.new_zeros(len(hidden), SD3_LENGTH, self.width)
        else:
            long = self.third.encode(prompts, SD3_LENGTH, masked=False)[0]
        hidden = functional.pad(hidden, (0, self.width - hidden.shape[-1]))
        pooled = torch.cat([pooled for _, pooled, _ in towers], dim=-1)
        return Conditioning(torch.cat([hidden, long], dim=1), pooled=pooled), towers[0][2]

    def empty(self) -> Conditioning:
        """The empty prompt."""
        return self.encode([""])[0]


def tokenize(tokenizer: PreTrainedTokenizerBase, prompts: Sequence[str], length: int) -> tuple[Tensor, Tensor, int]:
    """Token ids and mask [B, length], padded and truncated to `length`, and how many prompts were truncated."""
    made = tokenizer(list(prompts), padding="max_length", max_length=length, truncation=True)
    full = tokenizer(list(prompts), verbose=False)["input_ids"]
    cut = sum(len(row) > length for row in full)  # type: ignore[arg-type]
    return torch.tensor(made["input_ids"]), torch.tensor(made["attention_mask"]), cut
