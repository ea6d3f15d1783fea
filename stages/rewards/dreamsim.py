"""DreamSim: how different two images look to people, from three ViTs tuned on their judgements (Fu et al. 2023).

`<name>_diversity` over its vectors is the mean DreamSim of a prompt's images: 1 minus the cosine of the concatenated
features, each less its mean over dimensions (arXiv 2306.09344; github.com/ssundaram21/dreamsim 0.2.1, model.py).

The folder is the one in which the `dreamsim` package keeps its weights. They are read here, since the package executes
code from torch.hub to build its DINO. The networks are timm's, whose parameters have the names of the released files.
"""

from __future__ import annotations

import json
import re
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from functools import partial
from typing import Any, Literal

import torch
from pydantic import Field
from torch import Tensor, nn

from stages.errors import InputError
from stages.gives import Gives
from stages.models.record import ModelRecord
from stages.rewards.networks import checkpoint
from stages.rewards.networks.contrastive import exact, plain
from stages.rewards.networks.features import Features
from stages.rewards.networks.options import KindOptions, options
from stages.rewards.preprocess import NORMALISATIONS, Preprocess

GIVES = Gives(score=False, gradient=False, embedding=True)

HEAD = 64
"""Width of an attention head of every ViT-B."""
LORA = re.compile(r".*extractor_list\.(\d)\.model\.blocks\.(\d+)\.attn\.qkv\.lora_([AB])(?:\.default)?\.weight")


class DreamsimOptions(KindOptions):
    """Options of kind `dreamsim`."""

    variant: Literal["ensemble", "dino_vitb16"] = Field(
        "ensemble", description="the release: three networks, which published numbers mean, or the DINO alone"
    )


OPTIONS = DreamsimOptions


@dataclass(frozen=True)
class Part:
    """A network of the ensemble: its file, and in what it differs from a plain ViT. `projected`: its feature is the
    normed class token times `proj` of the file; else the class token before the last norm.
    """

    file: str
    normalise: str = "clip"
    projected: bool = True
    quick_gelu: bool = False
    eps: float = 1e-5


DINO = Part("dino_vitbase16_pretrain.pth", "imagenet", projected=False, eps=1e-6)
PARTS = {
    "ensemble": (
        DINO,
        Part("clip_vitb16_pretrain.pth.tar", quick_gelu=True),
        Part("open_clip_vitb16_pretrain.pth.tar"),
    ),
    "dino_vitb16": (DINO,),
}
ADAPTER = {"ensemble": "ensemble_lora", "dino_vitb16": "dino_vitb16_single_lora"}


class Dreamsim(Features):
    """The networks of a variant; their features side by side."""

    model: nn.ModuleList

    def __init__(
        self, name: str, model: nn.ModuleList, parts: tuple[Part, ...], projections: tuple[Tensor | None, ...],
        preprocess: Preprocess, variant: str,
    ) -> None:  # fmt: skip
        super().__init__(name, model, preprocess)
        self.parts, self.projections, self.variant = parts, projections, variant

    def describe(self) -> dict[str, object]:
        """What identifies the computation beside the weights."""
        return super().describe() | {"variant": self.variant}

    def embed(self, images: Tensor) -> Tensor:
        """Vectors [B, D] of images [B, 3, H, W] in [0, 1], mean 0 over D; 1 - cosine of two is their DreamSim."""
        from torchvision.transforms.v2 import functional

        with plain(images):
            pixels, found = self.preprocess(exact(images)), []
            networks: Any = self.model
            for part, network, projection in zip(self.parts, networks, self.projections, strict=True):
                mean, std = NORMALISATIONS[part.normalise]
                token = network.forward_features(functional.normalize(pixels, list(mean), list(std)))[:, 0]
                found.append(token if projection is None else token @ projection)
            whole = torch.cat(found, dim=1)
            return whole - whole.mean(dim=1, keepdim=True)


def load(record: ModelRecord, device: torch.device | str = "cpu") -> Dreamsim:
    """The networks; raises InputError where a file is missing, damaged or of another network."""
    settings = options(record, DreamsimOptions)
    parts, folder = PARTS[settings.variant], ADAPTER[settings.variant]
    config = _config(record, f"{folder}/adapter_config.json")
    adapter = _file(record, [f"{folder}/adapter_model.safetensors", f"{folder}/adapter_model.bin"])
    updates = _updates(checkpoint.read(record.file(adapter)), config, f"{record.path}/{adapter}", len(parts))
    networks, projections, sides = [], [], set()
    for index, part in enumerate(parts):
        name = _file(record, [part.file, f"checkpoints/{part.file}"])
        network, projection = _network(
            part, checkpoint.read(record.file(name)), updates[index], f"{record.path}/{name}"
        )
        networks.append(network.to(device).float())
        projections.append(None if projection is None else projection.to(device).float())
        sides.add(network.patch_embed.img_size[0])
    if len(sides) != 1:
        raise InputError(
            f"model {record.name!r}: its networks take images of {sorted(sides)} pixels, expected one size"
        )
    preprocess = Preprocess(sides.pop(), (0.0,) * 3, (1.0,) * 3, resize_mode="squash")
    return Dreamsim(record.name, nn.ModuleList(networks), parts, tuple(projections), preprocess, settings.variant)


def _network(
    part: Part, state: dict[str, Tensor], updates: Mapping[int, Tensor], where: str
) -> tuple[Any, Tensor | None]:
    """A ViT with the weights of a file and the low-rank updates of its blocks, and the projection of its feature."""
    from timm.layers.activations import QuickGELU
    from timm.layers.patch_embed import PatchEmbed
    from timm.models.vision_transformer import VisionTransformer

    projection = state.pop("proj", None)
    if part.projected != (projection is not None) or not {"cls_token", "pos_embed", "patch_embed.proj.weight"} <= {
        *state
    }:
        raise InputError(f"{where}: not the {part.file} of DreamSim's release; its tensors are of another network")
    state = {name.replace("pos_drop.", "norm_pre."): value.float() for name, value in state.items()}
    depth = len({name.split(".")[1] for name in state if name.startswith("blocks.")})
    if set(updates) != set(range(depth)):
        raise InputError(
            f"{where}: has {depth} blocks, the adapter updates {len(updates)}; expected one release of both"
        )
    for block, update in updates.items():
        name = f"blocks.{block}.attn.qkv.weight"
        if name not in state or state[name].shape != update.shape:
            raise InputError(f"{where}: {name!r} is not of the shape {tuple(update.shape)} of the adapter's update")
        state[name] = state[name] + update
    width, patch = state["cls_token"].shape[-1], state["patch_embed.proj.weight"].shape[-1]
    side = patch * round((state["pos_embed"].shape[1] - 1) ** 0.5)

    def biased(**given: Any) -> nn.Module:
        return PatchEmbed(**{**given, "bias": True})

    network: Any = checkpoint.build(
        lambda: VisionTransformer(
            img_size=side, patch_size=patch, embed_dim=width, depth=depth, num_heads=max(1, width // HEAD),
            num_classes=0, pre_norm=part.projected, embed_layer=biased, weight_init="skip",
            norm_layer=partial(nn.LayerNorm, eps=part.eps), act_layer=QuickGELU if part.quick_gelu else nn.GELU,
        ),
        state, where,
    )  # fmt: skip
    if not part.projected:
        network.norm = nn.Identity()
    return network, projection


def _updates(
    adapter: Mapping[str, Tensor], config: Mapping[str, Any], where: str, count: int
) -> list[dict[int, Tensor]]:
    """For every network its blocks' updates of the attention weights: lora_alpha / r times B A (Hu et al. 2022)."""
    factors: dict[tuple[int, int], dict[str, Tensor]] = {}
    for name, value in adapter.items():
        found = LORA.fullmatch(name)
        if found is None or int(found[1]) >= count:
            raise InputError(f"{where}: has {name!r}, which the adapter of DreamSim's release does not have")
        factors.setdefault((int(found[1]), int(found[2])), {})[found[3]] = value.float()
    scale = config["lora_alpha"] / config["r"]
    made: list[dict[int, Tensor]] = [{} for _ in range(count)]
    for (network, block), pair in factors.items():
        if set(pair) != {"A", "B"} or pair["A"].shape[0] != config["r"] or pair["B"].shape[1] != config["r"]:
            raise InputError(f"{where}: the update of block {block} is not a pair of factors of rank {config['r']}")
        made[network][block] = scale * pair["B"] @ pair["A"]
    return made


def _config(record: ModelRecord, name: str) -> Mapping[str, Any]:
    path = record.file(_file(record, [name]))
    try:
        found = json.loads(path.read_text(encoding="utf-8"))
        if float(found["lora_alpha"]) and int(found["r"]) > 0:
            return found
    except (ValueError, KeyError, TypeError):
        pass
    raise InputError(f"{path}: not the configuration of an adapter; expected numbers lora_alpha and r")


def _file(record: ModelRecord, names: Iterable[str]) -> str:
    """The first of these files that the folder has."""
    wanted = list(names)
    for name in wanted:
        if name in record.files:
            return name
    raise InputError(
        f"model {record.name!r}: {record.path} lacks {wanted[0]}; expected the folder in which the dreamsim package "
        "keeps its weights"
    )
