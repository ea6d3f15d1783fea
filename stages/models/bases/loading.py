"""Parts of a base model from a diffusers folder or a single checkpoint file: in float32, nothing left random."""

from __future__ import annotations

import pickle
import re
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch
from torch import nn

from stages import contents
from stages.errors import InputError
from stages.models.bases.layout import BaseLayout
from stages.models.bases.single import require_family
from stages.models.bases.texts import ClipTower, PixArtTexts, Sd3Texts, SdxlTexts, T5Tower, TextEncoder, Texts
from stages.models.bases.weights import check_safetensors, find_weights

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase

# buffers that old files hold and new classes make themselves
DERIVED = ("position_ids",)


@dataclass(frozen=True)
class Folder:
    """The parts of a model in a diffusers folder."""

    layout: BaseLayout

    def part(self, name: str) -> nn.Module:
        """The network in the folder `name`."""
        return load_part(self.layout.folder, name, self.layout.variant)


@dataclass(frozen=True)
class SingleFile:
    """The parts of a model in one checkpoint `file` of the original layout; `layout` has configurations and tokenizers.

    diffusers converts the names of weights.
    """

    file: Path
    layout: BaseLayout

    def part(self, name: str) -> nn.Module:
        """The network that would stand in the folder `name`."""
        import diffusers

        if self.file.suffix == ".safetensors":
            check_safetensors(self.file)
        else:
            refuse_pickles(self.file)
        require_family(self.file, self.layout)
        pipeline = getattr(diffusers, self.layout.family.pipeline)
        # what is None is not loaded
        parts = {part for part, value in self.layout.index.items() if isinstance(value, list)} - {name, "scheduler"}
        others: dict[str, Any] = dict.fromkeys(parts)
        with readable(self.file):
            try:
                made = pipeline.from_single_file(
                    str(self.file),
                    config=str(self.layout.folder),
                    local_files_only=True,
                    torch_dtype=torch.float32,
                    **others,
                )
            except NotImplementedError:  # of weights that stayed without memory
                raise InputError(
                    f"{self.file}: weights of {name} are missing, or have other names than those of the release"
                ) from None
        network = made.components[name]
        # what the file lacks stays without memory; tied weights are filled by what they are tied to
        if hasattr(network, "tie_weights"):
            network.tie_weights()
        empty = [key for key, value in network.state_dict().items() if value.is_meta]
        if lacking := sorted(key for key in empty if not key.endswith(DERIVED)):
            more = f" and {len(lacking) - 1} more" if len(lacking) > 1 else ""
            raise InputError(f"{self.file}: the weights of {name} lack {lacking[0]}{more}; not those of this family?")
        return network


Source = Folder | SingleFile


def load_part(folder: Path, name: str, variant: str | None = None) -> nn.Module:
    """The network in `folder`/`name`, in float32.

    Raises InputError for a folder without weights, a damaged file, one that holds pickled objects, and weights that do
    not fill the network or do not fit it.
    """
    place = folder / name
    weights = find_weights(place, variant)
    if weights.missing:
        raise InputError(f"{place}: no {', '.join(weights.missing)}")
    for path in weights.files:
        if path.suffix == ".safetensors":
            check_safetensors(path)
        elif path.suffix != ".json":
            refuse_pickles(path)
    config = BaseLayout(folder).config(name)
    shared = {"local_files_only": True, "variant": weights.variant, "use_safetensors": weights.safetensors,
              "output_loading_info": True}  # fmt: skip
    with readable(place):
        if name.startswith("text_encoder"):
            network, info = _text_class(config).from_pretrained(place, dtype=torch.float32, **shared)
        else:
            made = _diffusers_class(config, place)
            network, info = made.from_pretrained(folder, subfolder=name, torch_dtype=torch.float32, **shared)
    lacking = sorted(key for key in info["missing_keys"] if not key.endswith(DERIVED))
    if lacking:
        more = f" and {len(lacking) - 1} more" if len(lacking) > 1 else ""
        raise InputError(f"{place}: the weights lack {lacking[0]}{more}; not those of this configuration?")
    return network


def load_texts(source: Source, place: Callable[[nn.Module], nn.Module], options: Mapping[str, object]) -> Texts:
    """The text encoders of a model, with their tokenizers; `place` puts a network where it belongs."""
    layout = source.layout

    def network(part: str) -> Any:
        return place(source.part(part))

    def clip(part: str) -> ClipTower:
        return ClipTower(load_tokenizer(layout, part), network(part))  # type: ignore[arg-type]

    def t5(part: str) -> T5Tower:
        return T5Tower(load_tokenizer(layout, part), network(part))

    if layout.family.pipeline == "StableDiffusionPipeline":
        return text_encoder(layout.folder, network("text_encoder"))
    if layout.family.pipeline == "StableDiffusionXLPipeline":
        zeros = options.get("empty", "model") == "model" and layout.index.get("force_zeros_for_empty_prompt", True)
        return SdxlTexts(clip("text_encoder"), clip("text_encoder_2"), bool(zeros))
    if layout.family.pipeline == "PixArtAlphaPipeline":
        return PixArtTexts(t5("text_encoder"))
    third = t5("text_encoder_3") if "text_encoder_3" in layout.texts else None
    width = int(layout.config(layout.family.network)["joint_attention_dim"])
    return Sd3Texts(clip("text_encoder"), clip("text_encoder_2"), third, width)


def text_encoder(folder: Path, network: Any) -> TextEncoder:
    """Stable Diffusion's text encoder, with the tokenizer where the folder has one."""
    from transformers import CLIPTokenizer

    words = folder / "tokenizer"
    if not words.is_dir():
        return TextEncoder(None, network)
    with readable(words):
        return TextEncoder(CLIPTokenizer.from_pretrained(words, local_files_only=True), network)


def refuse_pickles(path: Path) -> None:
    """Raise InputError where a file of torch's own format holds anything but tensors; nothing in it is executed."""
    try:
        torch.load(path, map_location="meta", weights_only=True)
    except pickle.UnpicklingError as error:
        raise InputError(f"{path}: {_no_tensors(path, error)}") from None
    except (RuntimeError, OSError, EOFError, ValueError, LookupError, TypeError, AttributeError) as error:
        found = contents.stand_in(contents.head(path))
        reason = f"is {found}" if found else f"damaged, or not a file of weights: {_first_line(error)}"
        raise InputError(f"{path}: {reason}") from None


def _no_tensors(path: Path, error: pickle.UnpicklingError) -> str:
    """What a file is that torch does not read as tensors alone, and what to do."""
    if found := contents.stand_in(contents.head(path)):
        return f"is {found}"
    named = re.search(r"GLOBAL (\S+)", str(error))
    if named is None and not contents.head(path).startswith((b"PK", b"\x80")):
        return "not a file of weights that torch.save wrote; expected safetensors, or tensors saved by torch"
    objects = f" ({named[1]})" if named else ""
    return (
        f"holds pickled Python objects, which are never executed here{objects}; take the model's safetensors files, "
        "or write its tensors alone (docs/real-models.md, models without safetensors)"
    )


@contextmanager
def readable(place: Path) -> Iterator[None]:
    """Errors of the libraries while they load `place`, whatever their kind, as one line; no warnings, no bars."""
    from diffusers.utils import logging as diffusers_logging
    from transformers.utils import logging as transformers_logging

    loggers = (diffusers_logging, transformers_logging)
    before = [(logger.get_verbosity(), logger.is_progress_bar_enabled()) for logger in loggers]
    try:
        for logger in loggers:
            logger.set_verbosity_error()
            logger.disable_progress_bar()
        yield
    except InputError:
        raise
    except Exception as error:
        raise InputError(f"{place}: cannot be loaded: {_first_line(error)}") from None
    finally:
        for logger, (level, bars) in zip(loggers, before, strict=True):
            logger.set_verbosity(level)
            if bars:
                logger.enable_progress_bar()


def _first_line(error: Exception) -> str:
    lines = [line.strip() for line in str(error).splitlines() if line.strip()]
    return " ".join(lines[:2])[:300] if lines else type(error).__name__


def _diffusers_class(config: Mapping[str, Any], place: Path) -> Any:
    name = config.get("_class_name", "UNet2DConditionModel" if place.name.startswith("unet") else "AutoencoderKL")
    if name == "UNet2DConditionModel":
        from diffusers.models.unets.unet_2d_condition import UNet2DConditionModel as Found
    elif name == "AutoencoderKL":
        from diffusers.models.autoencoders.autoencoder_kl import AutoencoderKL as Found
    elif name in ("PixArtTransformer2DModel", "Transformer2DModel"):
        from diffusers.models.transformers.pixart_transformer_2d import PixArtTransformer2DModel as Found
    elif name == "SD3Transformer2DModel":
        from diffusers.models.transformers.transformer_sd3 import SD3Transformer2DModel as Found
    else:
        raise InputError(f"{place}: network {name!r} is not supported")
    return Found


def _text_class(config: Mapping[str, Any]) -> Any:
    import transformers

    name = (config.get("architectures") or ["CLIPTextModel"])[0]
    known = ("CLIPTextModel", "CLIPTextModelWithProjection", "T5EncoderModel")
    if name not in known:
        raise InputError(f"text encoder {name!r} is not supported; known: {', '.join(known)}")
    return getattr(transformers, name)


def load_tokenizer(layout: BaseLayout, encoder: str) -> PreTrainedTokenizerBase:
    """The tokenizer of a text encoder: `tokenizer_2` for `text_encoder_2`."""
    from transformers import CLIPTokenizer, T5Tokenizer

    folder = layout.folder / encoder.replace("text_encoder", "tokenizer")
    if not folder.is_dir():
        raise InputError(f"{layout.folder}: not a complete diffusers folder; missing {folder.name}/")
    clip = layout.config(encoder).get("model_type", "").startswith("clip")
    pieces = folder / "spiece.model"
    with readable(folder):
        try:
            return (CLIPTokenizer if clip else T5Tokenizer).from_pretrained(folder, local_files_only=True)
        except (ValueError, ImportError):
            if pieces.is_file() and not (folder / "tokenizer.json").is_file():
                raise InputError(f"{pieces}: reading it needs the package sentencepiece; install extra t5") from None
            raise
