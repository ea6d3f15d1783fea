"""Tiny random rewards and feature networks in the files, key names, dtypes and quirks of the released ones."""

from __future__ import annotations

import json
import string
import sys
import types
from collections import OrderedDict
from collections.abc import Callable
from dataclasses import asdict
from pathlib import Path
from typing import Any, TypeVar

import pyarrow as pa
import pyarrow.parquet as pq
import torch
from safetensors.torch import save_file
from torch import Tensor, nn

from stages import tables
from stages.models import plural
from stages.models.latent_scorer import CONFIG, WEIGHTS, Form, LatentScorer
from stages.models.record import ModelRecord, describe
from stages.pictures import png
from stages.prepare.tokenizer import build
from tests import tiny
from tests.tiny import WORDS

T = TypeVar("T")
SIDE = 28  # images of two patches of ViT-H/14 a side
CLIP_CFG = {
    "embed_dim": 32,
    "vision_cfg": {"image_size": SIDE, "layers": 2, "width": 160, "head_width": 80, "patch_size": 14},
    "text_cfg": {"context_length": 16, "vocab_size": 49408, "width": 64, "heads": 1, "layers": 2},
}  # fmt: skip
"""ViT-H-14 of open_clip in small: the same patches, head widths, activation and vocabulary."""


def seeded(make: Callable[[], T], seed: int = 0) -> T:
    """What `make` makes, with random parameters of its own that keep signals, and so gradients, at their size."""
    draw = torch.Generator().manual_seed(seed)
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        made = make()
    if isinstance(made, nn.Module):
        with torch.no_grad():
            for parameter in made.parameters():
                noise = torch.randn(parameter.shape, generator=draw)
                if parameter.ndim > 1:
                    parameter.copy_(noise / parameter[0].numel() ** 0.5)
                elif parameter.ndim:
                    parameter.add_(0.1 * noise)
    return made


def hps(folder: Path, name: str = "HPS_v2_compressed.pt") -> ModelRecord:
    """As `xswu/HPSv2`: {iterations, name, state_dict in half precision}; the configuration stands beside it."""
    from open_clip.model import CLIP

    model = seeded(lambda: CLIP(**CLIP_CFG))  # type: ignore[arg-type]
    folder.mkdir(parents=True, exist_ok=True)
    state = OrderedDict((key, value.half()) for key, value in model.state_dict().items())
    torch.save({"iterations": 4000, "name": "hps", "state_dict": state}, folder / name)
    (folder / "open_clip_config.json").write_text(json.dumps({"model_cfg": CLIP_CFG}))
    return describe("hps", "hps", folder)


def clip_config(act: str = "gelu", vocabulary: int = 49408, eos: int = 49407) -> Any:
    """A small CLIPConfig with the head widths of ViT-H/14."""
    from transformers import CLIPConfig

    text = {
        "hidden_size": 128, "num_attention_heads": 2, "num_hidden_layers": 2, "intermediate_size": 96,
        "vocab_size": vocabulary, "max_position_embeddings": 16, "projection_dim": 64, "hidden_act": act,
        "bos_token_id": eos - 1, "eos_token_id": eos, "pad_token_id": eos,
    }  # fmt: skip
    vision = {
        "hidden_size": 160, "num_attention_heads": 2, "num_hidden_layers": 2, "intermediate_size": 96,
        "image_size": SIDE, "patch_size": 14, "projection_dim": 64, "hidden_act": act,
    }  # fmt: skip
    return CLIPConfig(text_config=text, vision_config=vision, projection_dim=64)


def clip_folder(folder: Path, kind: str, seed: int = 0, words: bool = True, **config: Any) -> ModelRecord:
    """A CLIPModel folder with model.safetensors; with `words`, a tokenizer of its own beside it."""
    from transformers import CLIPModel

    tokenizer = build(WORDS, 16)
    if words:
        config |= {"vocabulary": len(tokenizer), "eos": tokenizer.eos_token_id}
    seeded(lambda: CLIPModel(clip_config(**config)), seed).save_pretrained(folder)
    if words:
        tokenizer.save_pretrained(folder)
    return describe(kind, kind, folder)


def as_bin(folder: Path) -> None:
    """Turn model.safetensors into the older pytorch_model.bin, position ids included."""
    from safetensors.torch import load_file

    state = load_file(folder / "model.safetensors")
    for tower, length in (("text_model", 16), ("vision_model", 5)):
        state[f"{tower}.embeddings.position_ids"] = torch.arange(length)[None]
    torch.save(state, folder / "pytorch_model.bin")
    (folder / "model.safetensors").unlink()


def image_reward(folder: Path) -> ModelRecord:
    """As `THUDM/ImageReward`: a flat float32 state_dict with BLIP's own names, unused projections included."""
    from stages.rewards.networks import blip

    vision = {
        "hidden_size": 64, "intermediate_size": 96, "num_hidden_layers": 2, "num_attention_heads": 1,
        "image_size": 32, "patch_size": 16, "layer_norm_eps": 1e-6, "hidden_act": "gelu",
    }  # fmt: skip
    vocabulary = ["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]", *string.ascii_lowercase, *WORDS]
    text = {
        "vocab_size": len(vocabulary) + 2, "hidden_size": 128, "encoder_hidden_size": 64, "intermediate_size": 96,
        "num_hidden_layers": 2, "num_attention_heads": 2, "max_position_embeddings": 40, "is_decoder": True,
    }  # fmt: skip
    model = seeded(lambda: blip.BlipReward(vision, text, (128, 24, 12, 8, 4, 1)))
    state = {_blip_name(name): value for name, value in model.state_dict().items()}
    state |= {"blip.vision_proj.weight": torch.zeros(8, 64), "blip.text_proj.bias": torch.zeros(8)}
    state["blip.text_encoder.embeddings.position_ids"] = torch.arange(40)[None]
    folder.mkdir(parents=True, exist_ok=True)
    torch.save(OrderedDict(state), folder / "ImageReward.pt")
    (folder / "vocab.txt").write_text("\n".join(vocabulary) + "\n")
    (folder / "med_config.json").write_text(json.dumps({"hidden_size": 128, "vocab_size": len(vocabulary) + 2}))
    return describe("image_reward", "image_reward", folder)


def _blip_name(name: str) -> str:
    """transformers' name of a tensor as BLIP's, written the other way round than the loader has it."""
    part, _, rest = name.partition(".")
    if part == "head":
        return f"mlp.layers.{rest}"
    if part == "text":
        return f"blip.text_encoder.{rest}"
    fixed = {
        "embeddings.class_embedding": "cls_token", "embeddings.position_embedding": "pos_embed",
        "embeddings.patch_embedding.weight": "patch_embed.proj.weight",
        "embeddings.patch_embedding.bias": "patch_embed.proj.bias",
        "post_layernorm.weight": "norm.weight", "post_layernorm.bias": "norm.bias",
    }  # fmt: skip
    if rest not in fixed:
        rest = rest.replace("encoder.layers", "blocks").replace("layer_norm", "norm").replace("self_attn", "attn")
        rest = rest.replace("attn.projection", "attn.proj")
    return f"blip.visual_encoder.{fixed.get(rest, rest)}"


def aesthetic_head(path: Path, width: int = 64) -> dict[str, Tensor]:
    """As sac+logos+ava1-l14-linearMSE.pth: an OrderedDict `layers.{0,2,4,6,7}`; returns its tensors."""
    draw = torch.Generator().manual_seed(3)
    widths = (width, 24, 12, 8, 4, 1)
    state = OrderedDict()
    for place, given, made in zip((0, 2, 4, 6, 7), widths[:-1], widths[1:], strict=True):
        state[f"layers.{place}.weight"] = torch.randn(made, given, generator=draw) / given**0.5
        state[f"layers.{place}.bias"] = torch.randn(made, generator=draw)
    torch.save(state, path)
    return state


def dino(folder: Path) -> ModelRecord:
    """As `facebook/dino-vits16`: a ViTModel without pooling layer."""
    from transformers import ViTConfig, ViTModel

    config = ViTConfig(
        hidden_size=32, num_hidden_layers=2, num_attention_heads=2, intermediate_size=48, image_size=32, patch_size=16
    )
    seeded(lambda: ViTModel(config, add_pooling_layer=False)).save_pretrained(folder)
    return describe("dino", "dino", folder)


def dinov2(folder: Path) -> ModelRecord:
    """As `facebook/dinov2-small`: positions for a larger side than the one used."""
    from transformers import Dinov2Config, Dinov2Model

    config = Dinov2Config(
        hidden_size=32, num_hidden_layers=2, num_attention_heads=2, mlp_ratio=2, image_size=56, patch_size=14
    )
    seeded(lambda: Dinov2Model(config)).save_pretrained(folder)
    return describe("dinov2", "dinov2", folder, options={"size": 28})


def inception(path: Path) -> ModelRecord:
    """As weights-inception-2015-12-05: the names and shapes of torchvision's inception_v3 with 1008 classes."""
    from torchvision.models import inception_v3

    model = seeded(lambda: inception_v3(weights=None, aux_logits=False, num_classes=1008, init_weights=False))
    torch.save(model.state_dict(), path)
    return describe("inception", "inception", path)


def lpips(folder: Path) -> ModelRecord:
    """torchvision's alexnet, classifier left out, and layer weights as the lpips package ships them."""
    from torchvision.models import alexnet

    trunk = seeded(lambda: alexnet(weights=None).features)
    folder.mkdir(parents=True, exist_ok=True)
    torch.save({f"features.{n}": t for n, t in trunk.state_dict().items()}, folder / "alexnet-owt-7be5be79.pth")
    draw = torch.Generator().manual_seed(1)
    widths = (64, 192, 384, 256, 256)
    heads = {f"lin{n}.model.1.weight": torch.rand(1, w, 1, 1, generator=draw) for n, w in enumerate(widths)}
    torch.save(OrderedDict(heads), folder / "alex.pth")
    return describe("lpips", "lpips", folder)


def mps(path: Path, extra: object = None) -> ModelRecord:
    """As MPS_overall_checkpoint.pth: torch.save of a half-precision module whose classes cannot be imported.

    The older transformers that it was saved with kept position ids as buffers. `extra` is pickled with the module.
    """
    from transformers import CLIPModel

    from stages.rewards.networks.cross import CrossModel

    package = types.ModuleType("trainer")
    vars(package)["models"] = inner = types.ModuleType("trainer.models")
    vars(inner)["clip_model"] = home = types.ModuleType("trainer.models.clip_model")
    outer: Any = type("CLIPModel", (nn.Module,), {"__module__": home.__name__})
    vars(home)["CLIPModel"] = outer
    module: Any = outer()
    module.model = seeded(lambda: CLIPModel(clip_config()))
    for tower, length in ((module.model.text_model, 16), (module.model.vision_model, 5)):
        del tower.embeddings.position_ids
        tower.embeddings.register_buffer("position_ids", torch.arange(length)[None])
    module.cross_model = seeded(lambda: CrossModel(64, 2, 2), 1)
    module.extra = extra
    added = {name.__name__: name for name in (package, inner, home)}
    sys.modules.update(added)
    try:
        torch.save(module.half(), path)
    finally:
        for name in added:
            del sys.modules[name]
    return describe("mps", "mps", path)


def nearest_image(folder: Path, side: int = 32) -> ModelRecord:
    """Parquet of a few real images of one person and a pear, two drawings and two tones each, and its record."""
    folder.mkdir()
    random = torch.Generator().manual_seed(0)
    rows: list[dict[str, object]] = []
    for caption, gender, tone, vendor in (
        ("pilot", "", "light", "google"), ("pilot", "", "dark", "twitter"), ("woman pilot", "woman", "light", "google"),
        ("pear", "", "", "google"), ("pear", "", "", "twitter"),
    ):  # fmt: skip
        about = {"caption": caption, "concept": caption[-5:], "gender": gender, "tone": tone, "vendor": vendor}
        about |= {"category": "any", "subcategory": "any"}
        name = f"{vendor}/{len(rows)}.png"
        [image] = png(torch.rand((1, 3, side, side), generator=random))
        rows.append({
            "image_id": f"{len(rows):012d}", "caption": caption, "image": image, "width": side, "height": side,
            "split": "train", "group": name, "source": "emoji", "attributes": json.dumps(about),
        })  # fmt: skip
    tables.write(folder / "images.parquet", tables.table(tables.IMAGES, rows), tables.IMAGES)
    return describe("oracle", "nearest_image", folder / "images.parquet")


def nearest_captioned(folder: Path, side: int = 32) -> ModelRecord:
    """Parquet of a user's own images, stars and moons in two colours and the one sun, and its record."""
    folder.mkdir()
    random = torch.Generator().manual_seed(0)
    names = [("star", "red"), ("star", "blue"), ("moon", "red"), ("moon", "blue"), ("sun", "yellow")]
    images = png(torch.rand((len(names), 3, side, side), generator=random))
    columns = {"image": images, "caption": [name for name, _ in names], "colour": [colour for _, colour in names]}
    pq.write_table(pa.table(columns), folder / "images.parquet")
    options = {"attributes": ["colour"]}
    return describe("own", "nearest_captioned", folder / "images.parquet", options=options)


DREAMSIM_SIDE, DREAMSIM_WIDTH, DREAMSIM_RANK = 16, 128, 2


def dreamsim(folder: Path, variant: str = "ensemble") -> ModelRecord:
    """As the dreamsim package's folder: three ViTs in the names of DINO's code, and the adapter as peft writes it."""
    from safetensors.torch import save_file

    folder.mkdir(parents=True, exist_ok=True)
    draw = torch.Generator().manual_seed(5)

    def noise(*shape: int) -> Tensor:
        return torch.randn(*shape, generator=draw) / max(1, shape[-1]) ** 0.5

    def vit(projected: bool) -> dict[str, Tensor]:
        width, state = DREAMSIM_WIDTH, {}
        state["cls_token"], state["pos_embed"] = noise(1, 1, width) * 9, noise(1, 5, width) * 9
        state["patch_embed.proj.weight"], state["patch_embed.proj.bias"] = noise(width, 3, 8, 8), noise(width)
        norms = ["norm", *(["pos_drop"] if projected else [])]
        for block in range(2):
            norms += [f"blocks.{block}.norm1", f"blocks.{block}.norm2"]
            for name, out, into in (
                ("attn.qkv", 3 * width, width), ("attn.proj", width, width), ("mlp.fc1", 4 * width, width),
                ("mlp.fc2", width, 4 * width),
            ):  # fmt: skip
                state[f"blocks.{block}.{name}.weight"] = noise(out, into)
                state[f"blocks.{block}.{name}.bias"] = noise(out)
        for name in norms:
            state[f"{name}.weight"], state[f"{name}.bias"] = 1 + noise(width), noise(width)
        return state | ({"proj": noise(width, 24)} if projected else {})

    torch.save(vit(False), folder / "dino_vitbase16_pretrain.pth")
    for name in ("clip", "open_clip") if variant == "ensemble" else ():
        torch.save({"state_dict": vit(True)}, folder / f"{name}_vitb16_pretrain.pth.tar")
    adapter = folder / ("ensemble_lora" if variant == "ensemble" else "dino_vitb16_single_lora")
    adapter.mkdir(exist_ok=True)
    (adapter / "adapter_config.json").write_text(
        json.dumps(
            {
                "peft_type": "LORA",
                "r": DREAMSIM_RANK,
                "lora_alpha": 0.5,
                "lora_dropout": 0.3,
                "bias": "none",
                "target_modules": ["qkv"],
            }
        )
    )
    factors = {}
    for index in range(3 if variant == "ensemble" else 1):
        for block in range(2):
            where = f"base_model.model.extractor_list.{index}.model.blocks.{block}.attn.qkv.lora_"
            factors[f"{where}A.weight"] = noise(DREAMSIM_RANK, DREAMSIM_WIDTH) * 9
            factors[f"{where}B.weight"] = noise(3 * DREAMSIM_WIDTH, DREAMSIM_RANK) * 3
    save_file(factors, adapter / "adapter_model.safetensors")
    return describe("dreamsim", "dreamsim", folder, options={"variant": variant})


def pal(folder: Path) -> ModelRecord:
    """A reward of several tastes on a tiny CLIP model, in the files that `prepare.train.pal` writes."""
    clip = tiny.clip_folder(folder / "clip")
    form = plural.Form(8, 4, 2, ("ann", "bob"))
    scorer = seeded(lambda: plural.PluralScorer(form))
    (folder / "model").mkdir(parents=True)
    save_file(dict(scorer.state_dict()), folder / "model" / plural.WEIGHTS)
    (folder / "model" / plural.CONFIG).write_text(json.dumps(asdict(form) | {"annotator": None}))
    return describe("pal", "pal", folder / "model", parts={"features": clip})


def latent(folder: Path) -> ModelRecord:
    """A reward of noisy latents on a tiny base, in the files that `prepare.train.latent` writes."""
    base, form = tiny.diffusion_folder(folder / "base"), Form()
    made = seeded(lambda: LatentScorer(tiny.unet(), form, tiny.WIDTH, 8))
    (folder / "model").mkdir()
    save_file({name: value.detach() for name, value in made.trained().items()}, folder / "model" / WEIGHTS)
    content = asdict(form) | {"width": tiny.WIDTH, "dimensions": 8}
    (folder / "model" / CONFIG).write_text(json.dumps(content))
    return describe("latent", "latent", folder / "model", parts={"base": base})
