"""The folder of a base model: which family it is, which files its parts need, and what is missing. Torch-free."""

from __future__ import annotations

import math
from collections.abc import Collection, Iterator, Mapping
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any, TypeGuard

from stages import contents, walk
from stages.errors import InputError
from stages.kinds import shown
from stages.mappings import DECODER, KeyTwice, twice
from stages.models.bases.weights import Weights, find_weights, is_weights
from stages.params import nearest

INDEX, CONFIG, TOKENIZER = "model_index.json", "config.json", "tokenizer_config.json"
SCHEDULER = "scheduler/scheduler_config.json"
VOCABULARIES = (("tokenizer.json",), ("vocab.json", "merges.txt"), ("spiece.model",))
"""Files of a tokenizer, which has those of one kind; without any, transformers makes one that knows no word."""


@dataclass(frozen=True)
class Family:
    """Base models of one kind: the `pipeline` class in model_index.json, the folder of its denoising `network`, and
    those of its text encoders and tokenizers, of which `optional` ones may be left out.
    """

    name: str
    pipeline: str
    network: str
    texts: tuple[str, ...] = ("text_encoder",)
    tokenizers: tuple[str, ...] = ("tokenizer",)
    optional: tuple[str, ...] = ()


FAMILIES = (
    Family("Stable Diffusion", "StableDiffusionPipeline", "unet"),
    Family(
        "SDXL",
        "StableDiffusionXLPipeline",
        "unet",
        ("text_encoder", "text_encoder_2"),
        ("tokenizer", "tokenizer_2"),
    ),
    Family("PixArt-alpha", "PixArtAlphaPipeline", "transformer"),
    Family(
        "Stable Diffusion 3",
        "StableDiffusion3Pipeline",
        "transformer",
        ("text_encoder", "text_encoder_2", "text_encoder_3"),
        ("tokenizer", "tokenizer_2", "tokenizer_3"),
        ("text_encoder_3", "tokenizer_3"),
    ),
)


@dataclass(frozen=True)
class BaseLayout:
    """A folder in the layout of diffusers; `variant` names other weight files (`fp16`), None for the plain ones or,
    where there are none, the only variant.
    """

    folder: Path
    variant: str | None = None

    @cached_property
    def index(self) -> Mapping[str, Any]:
        """model_index.json; a folder without it is taken for Stable Diffusion."""
        path = self.folder / INDEX
        return read_json(path) if path.is_file() else {"_class_name": FAMILIES[0].pipeline}

    @cached_property
    def family(self) -> Family:
        """The family that model_index.json names; raises InputError for one that is not known."""
        name = str(self.index.get("_class_name", ""))
        known = {family.pipeline: family for family in FAMILIES}
        if name not in known:
            raise InputError(f"{self.folder / INDEX}: pipeline {name!r} is not supported{nearest(name, known)}")
        return known[name]

    @property
    def texts(self) -> tuple[str, ...]:
        """Folders of the text encoders that this model has."""
        return tuple(part for part in self.family.texts if not self._left_out(part))

    @property
    def tokenizers(self) -> tuple[str, ...]:
        """Folders of the tokenizers that this model has."""
        return tuple(part for part in self.family.tokenizers if not self._left_out(part))

    def config(self, part: str) -> Mapping[str, Any]:
        """The configuration of a part, empty where its folder has none."""
        path = self.folder / part / CONFIG
        return read_json(path) if path.is_file() else {}

    def weights(self, part: str) -> Weights:
        """The weight files of a part."""
        return find_weights(self.folder / part, self.variant)

    def folders(self, part: str) -> tuple[str, ...]:
        """The folders behind a part as stages name them: `unet` (the denoising network), `vae`, `text_encoder`."""
        if part == "unet":
            return (self.family.network,)
        return (*self.texts, *self.tokenizers) if part == "text_encoder" else (part,)

    def check(self, parts: Collection[str], configs_only: bool = False) -> None:
        """Raise InputError naming everything that the folder lacks for `parts`, or parts that do not fit together."""
        missing = [lack for part in parts for lack in self._missing(part, configs_only)]
        if not (self.folder / SCHEDULER).is_file():
            missing.append(SCHEDULER)
        if missing:
            inner = [path.parent for path in walk.files(self.folder) if path.name == INDEX]
            hint = f"; there is a model in {inner[0]}" if len(inner) == 1 and inner[0] != self.folder else ""
            raise InputError(f"{self.folder}: not a complete diffusers folder; missing {', '.join(missing)}{hint}")
        fit = _fit_checks(self)
        for what, found, wanted in fit:
            if found != wanted:
                raise InputError(f"{self.folder}: {what} is {found}, but {self.family.network} expects {wanted}")
        for place, key, value, expected in _odd_numbers(self):
            raise InputError(f"{self.folder / place}: {key} is {shown(value)}, expected {expected}")

    def files(self) -> list[str]:
        """Names of the files that stand for the model: all but weights that are never read, and other tools' parts."""
        own = {folder for part in ("unet", "vae", "text_encoder") for folder in self.folders(part)} | {"scheduler"}
        used = {path for part in own for path in self._weights_if_any(part)}
        others = {name for name, value in self.index.items() if isinstance(value, list)} - own
        found = []
        for path in walk.files(self.folder):
            name = path.relative_to(self.folder)
            if name.parts[0] not in others and not (is_weights(path) and path not in used):
                found.append(name.as_posix())
        return found

    @property
    def multiple(self) -> int:
        """What divides the sides of the images, in pixels: pixels of a latent by the autoencoder's levels, times
        latents of a patch of the network; 1 where no configuration says.
        """
        levels, patch = self.config("vae").get("block_out_channels"), self.config(self.family.network).get("patch_size")
        pixels = 2 ** (len(levels) - 1) if isinstance(levels, list) and levels else 1
        return pixels * (patch if isinstance(patch, int) and patch > 0 else 1)

    @property
    def sized(self) -> bool:
        """Whether the network is told the size of the images (SDXL; PixArt for 1024 pixels)."""
        config = self.config(self.family.network)
        if self.family.pipeline == "PixArtAlphaPipeline":
            told = config.get("use_additional_conditions")
            return config.get("sample_size") == 128 if told is None else bool(told)
        return config.get("addition_embed_type") == "text_time"

    def _left_out(self, part: str) -> bool:
        entry = self.index.get(part)
        return part in self.family.optional and (entry is None or entry[0] is None)

    def _missing(self, part: str, configs_only: bool) -> Iterator[str]:
        for name in self.folders(part):
            folder = self.folder / name
            if name.startswith("tokenizer"):
                if folder.is_dir() and not any(all((folder / f).is_file() for f in kind) for kind in VOCABULARIES):
                    yield f"{name}/{VOCABULARIES[0][0]}"
                if name != "tokenizer" and not folder.is_dir():
                    yield f"{name}/"
            elif not folder.is_dir():
                yield f"{name}/"
            elif not (folder / CONFIG).is_file():
                yield f"{name}/{CONFIG}"
            elif not configs_only:
                yield from (f"{name}/{lack}" for lack in self.weights(name).missing)

    def _weights_if_any(self, part: str) -> list[Path]:
        return [path for path in self.weights(part).files if path.is_file()] if (self.folder / part).is_dir() else []


def flow_matching(scheduler: Mapping[str, Any]) -> bool:
    """Whether the configuration of a scheduler is one of flow matching, not of a noise schedule."""
    return str(scheduler.get("_class_name", "")).startswith("FlowMatch")


def read_json(path: Path) -> Mapping[str, Any]:
    """A JSON object; raises InputError for anything else."""
    try:
        found = DECODER.decode(path.read_text(encoding="utf-8"))
    except KeyTwice as error:
        raise twice(error, path.read_text(encoding="utf-8"), str(path)) from None
    except (ValueError, OSError) as error:
        said = contents.stand_in(contents.head(path)) if path.is_file() else ""
        raise InputError(f"{path}: {f'is {said}' if said else f'not readable as JSON: {error}'}") from None
    if not isinstance(found, dict):
        raise InputError(f"{path}: expected a JSON object, found {type(found).__name__}")
    return found


def _fit_checks(layout: BaseLayout) -> Iterator[tuple[str, object, object]]:
    """(what, as it is, as the network wants it) for the widths on which parts meet, where configurations name them."""
    network, vae = layout.config(layout.family.network), layout.config("vae")
    if network and vae:
        yield "the number of latent channels of vae", vae.get("latent_channels", 4), network.get("in_channels", 4)
    texts = [layout.config(part) for part in layout.texts]
    if not network or not all(texts):
        return
    widths = [text.get("hidden_size", text.get("d_model")) for text in texts]
    if layout.family.pipeline == "StableDiffusionPipeline":
        yield "the width of text_encoder", widths[0], network.get("cross_attention_dim", 1280)
    elif layout.family.pipeline == "StableDiffusionXLPipeline":
        wanted = network.get("cross_attention_dim")
        yield "the width of text_encoder and text_encoder_2 together", sum(widths), wanted
        pooled = texts[1].get("projection_dim", 512) + 6 * (network.get("addition_time_embed_dim") or 0)
        yield (
            "the width of pooled text and time ids",
            pooled,
            network.get("projection_class_embeddings_input_dim"),
        )
    elif layout.family.pipeline == "PixArtAlphaPipeline":
        yield "the width of text_encoder", widths[0], network.get("caption_channels")
    else:
        joint, pooled = network.get("joint_attention_dim"), network.get("pooled_projection_dim")
        yield "the width of pooled text", sum(text.get("projection_dim", 512) for text in texts[:2]), pooled
        if len(texts) > 2:
            yield "the width of text_encoder_3", widths[2], joint


def _odd_numbers(layout: BaseLayout) -> Iterator[tuple[str, str, object, str]]:
    """(file, key, value, what is expected) for numbers of configurations with which no image could be made."""
    vae = layout.config("vae")
    scale, shift = vae.get("scaling_factor", 1.0), vae.get("shift_factor")
    if not (_finite(scale) and scale > 0):
        yield f"vae/{CONFIG}", "scaling_factor", scale, "a number above 0"
    if shift is not None and not _finite(shift):
        yield f"vae/{CONFIG}", "shift_factor", shift, "a number or null"
    for text, tokenizer in zip(layout.texts, layout.tokenizers, strict=True):
        place = f"{tokenizer}/{TOKENIZER}"
        most = layout.config(text).get("max_position_embeddings")  # T5 has none, and takes any length
        if isinstance(most, int) and (layout.folder / place).is_file():
            length = read_json(layout.folder / place).get("model_max_length")
            if not (isinstance(length, int) and 2 <= length <= most):
                yield place, "model_max_length", length, f"a whole number from 2 to the {most} positions of {text}"


def _finite(value: object) -> TypeGuard[float]:
    return isinstance(value, int | float) and not isinstance(value, bool) and math.isfinite(value)
