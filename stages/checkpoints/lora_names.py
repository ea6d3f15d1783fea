"""Names of the tensors of a LoRA, as peft, diffusers and kohya's scripts write them. Torch-free."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass

from stages.checkpoints import released
from stages.errors import InputError

DOWN = (".lora_A.weight", ".lora.down.weight", ".lora_down.weight", "_lora.down.weight")
UP = (".lora_B.weight", ".lora.up.weight", ".lora_up.weight", "_lora.up.weight")
ALPHA = (".alpha",)
MAGNITUDE = (".lora_magnitude_vector.weight", ".lora_magnitude_vector")
ROLES = {"down": DOWN, "up": UP, "alpha": ALPHA, "magnitude": MAGNITUDE}
"""What a tensor is to its layer, by the end of its name; `magnitude` is DoRA's."""
OTHERS = ("lora_", "_lora", ".lora", "hada_", "lokr_", "dora_scale")
"""Found in names of low-rank adapters, of kinds too that are not read."""
PREFIXES = ("base_model.model.", "unet.", "transformer.", "diffusion_model.")
KOHYA = ("lora_unet_", "lora_transformer_")
"""How names begin in kohya's scripts, which write `_` for the dots in a layer's name."""
TEXTS = ("text_encoder", "lora_te")


@dataclass(frozen=True)
class Update:
    """Names of the tensors that update one `layer` of the network."""

    layer: str
    down: str
    up: str
    alpha: str | None = None
    magnitude: str | None = None


def is_lora(name: str) -> bool:
    """Whether a tensor of this name belongs to a low-rank adapter."""
    return any(part in name for part in OTHERS)


def updates(names: Iterable[str], layers: Iterable[str], where: str) -> list[Update]:
    """The updates of a LoRA whose tensors have these names, on a network with these `layers`.

    Raises InputError that starts with `where` for tensors of other adapters, for half of a pair, for text encoders and
    for layers that the network does not have.
    """
    known = {layer: layer for layer in layers}
    known |= {original: layer for layer in known if (original := released.name(layer, known)) is not None}
    flat = {name.replace(".", "_"): layer for name, layer in known.items()}
    found: dict[str, dict[str, str]] = {}
    for name in sorted(names):
        role, ending = _role(name, where)
        layer = _layer(name.removesuffix(ending), ending, known, flat, where)
        if role in found.setdefault(layer, {}):
            raise InputError(f"{where}: updates layer {layer!r} twice, by {found[layer][role]!r} and {name!r}")
        found[layer][role] = name
    if not found:
        raise InputError(f"{where}: holds no tensors")
    for layer, roles in found.items():
        if not {"down", "up"} <= roles.keys():
            raise InputError(f"{where}: of the pair of matrices that update {layer!r} one is missing; cut off?")
    return [Update(layer, **roles) for layer, roles in found.items()]


def _role(name: str, where: str) -> tuple[str, str]:
    if name.startswith(TEXTS) or name.removeprefix(PREFIXES[0]).startswith("text_model."):
        raise InputError(
            f"{where}: {name!r} updates a text encoder, but every run has the base's text embeddings; take a LoRA"
            " of the denoising network alone"
        )
    for role, endings in ROLES.items():
        for ending in endings:
            if name.endswith(ending):
                return role, ending
    raise InputError(
        f"{where}: {name!r} is no part of a LoRA (pairs of matrices, alpha, DoRA's magnitudes), and other adapters are"
        " not read; merge it into the network, and name the merged folder"
    )


def _layer(stem: str, ending: str, known: Mapping[str, str], flat: Mapping[str, str], where: str) -> str:
    """The layer of the network that a tensor updates; `stem` is its name without the ending."""
    kohya = next((start for start in KOHYA if stem.startswith(start)), None)
    if kohya is not None:
        stem, known = stem.removeprefix(kohya), flat
    else:
        for prefix in PREFIXES:
            stem = stem.removeprefix(prefix)
        if ending.startswith("_lora"):  # attn1.processor.to_out_lora.down.weight, as old versions of diffusers had it
            stem = stem.replace(".processor.", ".")
            stem += ".0" if stem.endswith("to_out") else ""
    if stem not in known:
        raise InputError(f"{where}: updates layer {stem!r}, which the base has not; a LoRA of another base?")
    return known[stem]
