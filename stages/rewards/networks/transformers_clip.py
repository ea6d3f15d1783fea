"""CLIP models in the layout of transformers: `config.json`, `model.safetensors` or `.bin`, and a tokenizer's files."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, cast

import torch
from torch import Tensor

from stages.errors import InputError
from stages.models.record import ModelRecord
from stages.rewards.networks.checkpoint import one_line
from stages.rewards.networks.contrastive import Contrastive, exact, plain
from stages.rewards.networks.folder import pretrained
from stages.rewards.networks.options import Options
from stages.rewards.preprocess import Preprocess

if TYPE_CHECKING:
    from transformers import CLIPModel

TOKENIZER_FILES = ("tokenizer.json", "vocab.json", "tokenizer_config.json")
CLIP_VOCABULARY = 49408
Tokenize = Callable[[Sequence[str]], Tensor]


class TransformersClip(Contrastive):
    """A frozen CLIPModel; texts are pooled at their first end-of-text token, whatever they are padded with."""

    model: CLIPModel

    def __init__(
        self, name: str, model: CLIPModel, preprocess: Preprocess, tokenize: Tokenize, factor: float = 1.0
    ) -> None:
        super().__init__(name, model, preprocess, factor)
        self.tokenize = tokenize

    def see(self, pixels: Tensor) -> Tensor:
        """Image features [B, D], not normalised."""
        return pooled(self.model.get_image_features(pixel_values=cast(Any, pixels)))

    def read(self, prompts: Sequence[str]) -> Tensor:
        """Text features [B, D], not normalised."""
        return pooled(self.model.get_text_features(input_ids=self.tokenize(prompts).to(self._device)))

    def patches(self, images: Tensor) -> Tensor:
        """Patch tokens [B, N, D] of the last layer, after the norm that the class token gets."""
        with plain(images):
            vision = self.model.vision_model
            found = vision(pixel_values=cast(Any, self.pixels(images))).last_hidden_state[:, 1:]
            return exact(vision.post_layernorm(found))


def load_clip(record: ModelRecord, device: torch.device | str, options: Options) -> TransformersClip:
    """The CLIPModel in the folder of `record`, with factor 1; images are cut to their centre.

    Raises InputError for a folder that lacks files or weights, and for damaged or pickled ones.
    """
    from transformers import CLIPModel

    model: Any = pretrained(CLIPModel, record, options.dtype, device)
    preprocess = options.normalised(Preprocess(model.config.vision_config.image_size))
    text = model.config.text_config
    words = tokenizer(record, text.vocab_size, text.max_position_embeddings)
    return TransformersClip(record.name, model, preprocess, words)


def tokenizer(record: ModelRecord, vocabulary: int, length: int) -> Tokenize:
    """Texts to ids [B, length]: by the tokenizer of the folder, or by CLIP's own where that has as many words."""
    folder = Path(record.path)
    if any(name in record.files for name in TOKENIZER_FILES):
        from transformers import CLIPTokenizer

        try:
            words = CLIPTokenizer.from_pretrained(folder, local_files_only=True)
        except Exception as error:  # a damaged file makes transformers raise anything
            raise InputError(f"{folder}: not the files of a CLIPTokenizer: {one_line(error)}") from None
        if len(words) > vocabulary:
            raise InputError(f"{folder}: {len(words)} words, but the model has only {vocabulary}")
        cut: dict[str, Any] = {"padding": "max_length", "max_length": length, "truncation": True}
        return lambda prompts: words(list(prompts), return_tensors="pt", **cut).input_ids
    if vocabulary != CLIP_VOCABULARY:
        raise InputError(f"{folder}: no tokenizer, and {vocabulary} words are not those of CLIP's own tokenizer")
    from open_clip.tokenizer import SimpleTokenizer

    own = SimpleTokenizer(context_length=length)

    def tokenize(prompts: Sequence[str]) -> Tensor:
        ids = own(list(prompts))
        # Padded with the end of text, as transformers' CLIPTokenizer does; open_clip pads with zeros.
        return torch.where((ids == CLIP_VOCABULARY - 1).cumsum(1) > 0, CLIP_VOCABULARY - 1, ids)

    return tokenize


def pooled(found: object) -> Tensor:
    """The projected features of `get_image_features` or `get_text_features`, which transformers 5 wraps."""
    return found if isinstance(found, Tensor) else cast(Any, found).pooler_output
