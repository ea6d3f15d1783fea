"""CLIP models in the layout of open_clip: the reward is the cosine of image and text features, without a logit scale.

A folder holds `open_clip_config.json` (`model_cfg`, and `preprocess_cfg` where it differs from CLIP's own),
`open_clip_model.safetensors` in half or single precision, and optionally `tokenizer/` with a CLIPTokenizer's files.
HPSv2 and CLIPScore are both this cosine (HPSv2, hpsv2/img_score.py; Hessel et al. 2021 without the factor 2.5).
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any, Literal

import torch
from open_clip.model import CLIP
from pydantic import Field
from safetensors import SafetensorError
from safetensors.torch import load_file
from torch import Tensor
from torch.nn import functional

from stages.errors import InputError
from stages.gives import Gives
from stages.mappings import DECODER
from stages.models.record import ModelRecord
from stages.rewards.networks.checkpoint import one_line
from stages.rewards.networks.contrastive import Contrastive, exact, plain
from stages.rewards.networks.options import KindOptions, options
from stages.rewards.preprocess import Preprocess, from_config

GIVES = Gives(
    holds=("open_clip_config.json", "open_clip_model.safetensors"), embedding=True, patches=True, text=True, words=True
)


class OpenClipOptions(KindOptions):
    """Options of kind `open_clip`."""

    normalise: Literal["clip", "imagenet", "half"] | None = Field(
        None, description="mean and standard deviation of the pixels; null: those in the folder's configuration"
    )


OPTIONS = OpenClipOptions

CONFIG, WEIGHTS, TOKENIZER = "open_clip_config.json", "open_clip_model.safetensors", "tokenizer"
CLIP_VOCABULARY = 49408


class OpenClip(Contrastive):
    """A frozen CLIP model as reward, as embedding of images and texts, and as features of patches."""

    model: CLIP

    def __init__(
        self,
        name: str,
        model: CLIP,
        preprocess: Preprocess,
        tokenize: Callable[[Sequence[str]], Tensor] | None = None,
        factor: float = 1.0,
    ) -> None:
        super().__init__(name, model, preprocess, factor)
        self._tokenize = tokenize

    def see(self, pixels: Tensor) -> Tensor:
        """Image features [B, D], not normalised."""
        return self.model.encode_image(pixels)

    def read(self, prompts: Sequence[str]) -> Tensor:
        """Text features [B, D], not normalised; the text is pooled at the largest id."""
        if self._tokenize is None:
            raise InputError(
                f"model {self.name!r}: no {TOKENIZER}/ folder, and {self.model.vocab_size} words are not those of "
                "CLIP's own tokenizer; expected the files of a CLIPTokenizer beside the weights"
            )
        return self.model.encode_text(self._tokenize(prompts).to(self._device))

    def patches(self, images: Tensor) -> Tensor:
        """Features [B, N, D] of the last layer: a ViT's patch tokens after its norm, or a ResNet's last map."""
        with plain(images):
            pixels, visual = self.pixels(images), self.model.visual
            if hasattr(visual, "ln_post"):
                found = visual.forward_intermediates(
                    pixels, indices=1, normalize_intermediates=True, intermediates_only=True, output_fmt="NLC"
                )
                return exact(found["image_intermediates"][-1])
            found = visual.forward_intermediates(pixels, indices=1, intermediates_only=True)
            return exact(found["image_intermediates"][-1].flatten(2).transpose(1, 2))

    def score_tokens(self, images: Tensor, token_ids: Tensor) -> Tensor:
        """The reward [B] with token ids [B, L] in place of prompts; the text is pooled at the largest id."""
        return self.against(self.embed(images), self.encode_tokens(token_ids))

    def encode_tokens(self, token_ids: Tensor) -> Tensor:
        """Text features [B, D] of unit length of token ids [B, L]; the text is pooled at the largest id."""
        with torch.no_grad(), plain(token_ids):
            features = self.model.encode_text(token_ids.to(self._device))
            return functional.normalize(exact(features), dim=-1)


def load(record: ModelRecord, device: torch.device | str = "cpu") -> OpenClip:
    """The model in the folder of `record`, in float32 on `device`.

    The record's option `normalise` (clip, imagenet, half) replaces mean and standard deviation of the configuration.
    Raises InputError for missing or changed files, a configuration that open_clip does not know, or other weights.
    """
    settings, folder = options(record, OpenClipOptions), record.folder()
    for name in (CONFIG, WEIGHTS):
        if name not in record.files:
            raise InputError(f"model {record.name!r}: {folder} has no {name}; expected the layout of open_clip")
    config = _config(folder / CONFIG)
    try:
        model = CLIP(**config["model_cfg"])
        model.load_state_dict(load_file(folder / WEIGHTS))
    except (TypeError, AttributeError) as error:
        raise InputError(f"{folder / CONFIG}: model_cfg: not a configuration of open_clip's CLIP: {error}") from None
    except (RuntimeError, SafetensorError) as error:
        raise InputError(f"{folder / WEIGHTS}: not weights of this model_cfg: {one_line(error)}") from None
    preprocess = from_config(
        {"size": model.visual.image_size} | (config.get("preprocess_cfg") or {}), f"{folder / CONFIG}: preprocess_cfg"
    )
    if settings.normalise is not None:
        preprocess = preprocess.normalised(settings.normalise, "options.normalise")
    return OpenClip(record.name, model.to(device), preprocess, tokenizer(folder, model))


def _config(path: Path) -> dict[str, dict[str, Any]]:
    try:
        config = DECODER.decode(path.read_text(encoding="utf-8"))
        if isinstance(config["model_cfg"], dict) and isinstance(config.get("preprocess_cfg") or {}, dict):
            return config
    except (ValueError, KeyError, TypeError):
        pass
    raise InputError(f"{path}: expected JSON with an object model_cfg and optionally an object preprocess_cfg")


def tokenizer(folder: Path, model: CLIP) -> Callable[[Sequence[str]], Tensor] | None:
    """Texts to ids [B, L], padded and cut to the model's length; None where there is no tokenizer that fits."""
    length = model.context_length
    if (folder / TOKENIZER).is_dir():
        from transformers import CLIPTokenizer

        try:
            words = CLIPTokenizer.from_pretrained(folder / TOKENIZER, local_files_only=True)
        except Exception as error:  # a damaged file makes transformers raise anything
            raise InputError(f"{folder / TOKENIZER}: not a CLIPTokenizer: {one_line(error)}") from None
        if len(words) > model.vocab_size:
            raise InputError(f"{folder / TOKENIZER}: {len(words)} words, but the model has only {model.vocab_size}")
        cut = {"padding": "max_length", "max_length": length, "truncation": True, "return_tensors": "pt"}
        return lambda prompts: words(list(prompts), **cut).input_ids
    if model.vocab_size == CLIP_VOCABULARY:
        from open_clip.tokenizer import SimpleTokenizer

        own = SimpleTokenizer(context_length=length)
        return lambda prompts: own(list(prompts))
    return None
