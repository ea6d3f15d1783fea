"""Multi-dimensional Preference Score: a CLIP ViT-H/14 whose image tokens read those words of the prompt that matter.

Zhang et al. 2024 (CVPR); Kwai-Kolors/MPS, trainer/models/clip_model.py and eval_overall_mps_on_hpdv2.py. The released
`MPS_overall_checkpoint.pth` is a pickled module of that repository; its tensors are taken without executing it
(`networks.checkpoint.read_module`). The same tensors as safetensors load faster.

A prompt's token counts where its largest product with a token of a fixed condition text, over the largest of that
prompt, exceeds a threshold. The published code takes that last maximum over the whole batch, so that scores depend on
batch mates; here it is the prompt's own, which is what their evaluation amounts to, one prompt at a time.
"""

from __future__ import annotations

import re
from collections import OrderedDict
from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple, cast

import torch
from pydantic import Field
from torch import Tensor
from torch.nn import functional

from stages.errors import InputError
from stages.gives import Gives
from stages.models.record import ModelRecord
from stages.rewards.networks import checkpoint
from stages.rewards.networks.contrastive import exact, plain
from stages.rewards.networks.cross import HEAD_WIDTH, CrossModel
from stages.rewards.networks.options import Options, options
from stages.rewards.networks.transformers_clip import Tokenize, pooled, tokenizer
from stages.rewards.preprocess import Preprocess

GIVES = Gives(embedding=True)

CONDITION = (
    "light, color, clarity, tone, style, ambiance, artistry, shape, face, hair, hands, limbs, structure, instance, "
    "texture, quantity, attributes, position, number, location, word, things."
)
"""What the overall preference is conditioned on."""
KEPT = 512  # prompts whose tokens are kept; 300 kB each at full size
TEXT_HEAD, VISION_HEAD = 64, 80  # widths of the attention heads of ViT-H/14, which no shape tells


class MpsOptions(Options):
    """Options of kind `mps`. `precision` is that of the CLIP towers; what follows them is always in float32."""

    threshold: float = Field(
        0.3, ge=0, lt=1, description="share above which a token counts: 0.3 in their evaluation, 0.01 in their training"
    )
    condition: str = Field(CONDITION, min_length=1, description="text that says what the preference is about")


OPTIONS = MpsOptions


class Text(NamedTuple):
    """A prompt, encoded: its tokens [L, W], which of them count [L], and its feature [W] of unit length."""

    tokens: Tensor
    counts: Tensor
    feature: Tensor


class Mps:
    """A frozen MPS. Every prompt is encoded once, as long as it is among the last `KEPT`."""

    differentiable = True

    def __init__(
        self, name: str, clip: Any, cross: CrossModel, tokenize: Tokenize, settings: MpsOptions, preprocess: Preprocess
    ) -> None:
        self.name, self.preprocess, self.settings = name, preprocess, settings
        self.clip, self.cross = clip.eval().requires_grad_(False), cross.eval().requires_grad_(False)
        self.factor = float(clip.logit_scale.double().exp())
        self._tokenize = tokenize
        self._texts: OrderedDict[str, Text] = OrderedDict()
        self._condition: Tensor | None = None

    def __call__(self, images: Tensor, prompts: Sequence[str]) -> Tensor:
        """Reward [B], exp(logit_scale) times a cosine, of images [B, 3, H, W] in [0, 1], each with its own prompt."""
        if len(prompts) != len(images):
            raise ValueError(f"{len(images)} images but {len(prompts)} prompts")
        texts = self._encode(prompts)
        with plain(images):
            tokens, counts, features = (torch.stack(part) for part in zip(*texts, strict=True))
            seen = self.cross(self._see(images), tokens, counts)[:, 0]
            return self.factor * (functional.normalize(seen, dim=-1) * features).sum(-1)

    def embed(self, images: Tensor) -> Tensor:
        """The image's own token [B, W] before it has read any text, not normalised."""
        with plain(images):
            return self._see(images)[:, 0]

    def describe(self) -> dict[str, object]:
        """What identifies the computation beside the weights."""
        about = self.settings.model_dump(include={"threshold", "condition"})
        return {"preprocess": self.preprocess.describe(), **about}

    def _see(self, images: Tensor) -> Tensor:
        """Projected tokens [B, 1 + N, W] of the last layer, which has no norm after it here."""
        dtype = self.clip.visual_projection.weight.dtype
        pixels = self.preprocess(exact(images)).to(dtype)
        found = self.clip.vision_model(pixel_values=cast(Any, pixels)).last_hidden_state
        return exact(self.clip.visual_projection(found))

    def _encode(self, prompts: Sequence[str]) -> list[Text]:
        missing = [prompt for prompt in dict.fromkeys(prompts) if prompt not in self._texts]
        # Kept tensors outlive the caller's mode: made under inference mode they could never meet a gradient.
        with torch.inference_mode(False), torch.no_grad(), plain(self.clip.logit_scale):
            found = zip(missing, map(self._text, missing), strict=True)
            texts = {prompt: self._texts[prompt] for prompt in prompts if prompt in self._texts} | dict(found)
        for prompt, text in texts.items():
            self._texts[prompt] = text
            self._texts.move_to_end(prompt)
        while len(self._texts) > KEPT:
            self._texts.popitem(last=False)
        return [texts[prompt] for prompt in prompts]

    def _text(self, prompt: str) -> Text:
        tokens, feature = self._read(prompt)
        if self._condition is None:
            self._condition = self._read(self.settings.condition)[0]
        similarity = (tokens @ self._condition.T).amax(1)
        counts = similarity / similarity.max() > self.settings.threshold
        return Text(tokens, counts, functional.normalize(feature, dim=-1))

    def _read(self, text: str) -> tuple[Tensor, Tensor]:
        """Projected tokens [L, W] after the last norm, padding included, and the one at the end of the text [W]."""
        ids = self._tokenize([text]).to(self.clip.logit_scale.device)
        found = self.clip.text_model(input_ids=ids)
        project = self.clip.text_projection
        return exact(project(found.last_hidden_state))[0], exact(project(pooled(found)))[0]


def load(record: ModelRecord, device: torch.device | str = "cpu") -> Mps:
    """The reward; raises InputError for a damaged file and for tensors that are not those of MPS."""
    from transformers import CLIPModel

    settings = options(record, MpsOptions)
    path = checkpoint.only_file(record)
    state = {n: t for n, t in checkpoint.read(path, modules=True).items() if not n.endswith(".position_ids")}
    try:
        config, width, layers, heads = _sizes(state)
    except (KeyError, ValueError) as error:
        raise InputError(f"{path}: not weights of MPS: lacks {error}") from None
    clip: Any = checkpoint.build(lambda: CLIPModel(config), _below(state, "model."), path)
    cross = checkpoint.build(lambda: CrossModel(width, layers, heads), _below(state, "cross_model."), path)
    words = tokenizer(record, config.text_config.vocab_size, config.text_config.max_position_embeddings)
    preprocess = settings.normalised(Preprocess(config.vision_config.image_size))
    return Mps(record.name, clip.to(device, settings.dtype), cross.to(device).float(), words, settings, preprocess)


def _below(state: Mapping[str, Tensor], prefix: str) -> dict[str, Tensor]:
    return {name.removeprefix(prefix): value for name, value in state.items() if name.startswith(prefix)}


def _sizes(state: Mapping[str, Tensor]) -> tuple[Any, int, int, int]:
    """CLIPConfig, and width, layers and heads of the cross-attention, from the shapes of a checkpoint."""
    from transformers import CLIPConfig

    words, text = state["model.text_model.embeddings.token_embedding.weight"].shape
    vision, _, patch, _ = state["model.vision_model.embeddings.patch_embedding.weight"].shape
    places = len(state["model.vision_model.embeddings.position_embedding.weight"]) - 1
    width = len(state["model.text_projection.weight"])

    def tower(name: str, hidden: int, head: int) -> dict[str, Any]:
        return {
            "hidden_size": hidden, "num_attention_heads": hidden // head, "hidden_act": "gelu",
            "intermediate_size": len(state[f"model.{name}.encoder.layers.0.mlp.fc1.weight"]),
            "num_hidden_layers": _count(state, rf"model\.{name}\.encoder\.layers\.(\d+)\."), "projection_dim": width,
        }  # fmt: skip

    config = CLIPConfig(
        text_config=tower("text_model", text, TEXT_HEAD) | {
            "vocab_size": words, "eos_token_id": words - 1, "bos_token_id": words - 2, "pad_token_id": words - 1,
            "max_position_embeddings": len(state["model.text_model.embeddings.position_embedding.weight"]),
        },
        vision_config=tower("vision_model", vision, VISION_HEAD) | {
            "image_size": patch * round(places**0.5), "patch_size": patch,
        },
        projection_dim=width,
    )  # fmt: skip
    heads = len(state["cross_model.layers.0.0.fn.to_q.weight"]) // HEAD_WIDTH
    return config, width, _count(state, r"cross_model\.layers\.(\d+)\."), heads


def _count(state: Mapping[str, Tensor], pattern: str) -> int:
    return 1 + max(int(match[1]) for name in state if (match := re.match(pattern, name)))
