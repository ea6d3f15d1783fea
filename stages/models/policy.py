"""The network that is trained: it shares every frozen weight with the base, so the base stays exactly recoverable.

`norm_affine` trains scale and shift of the normalisation layers, `full` every weight, `lora` low-rank updates of the
attention projections (Hu et al. 2021). A saved policy holds the trained part only.
"""

from __future__ import annotations

import copy
import json
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

import torch
from pydantic import ConfigDict, Field
from safetensors import safe_open
from safetensors.torch import save_file
from torch import Tensor, nn
from torch.nn.utils import parametrize

from stages.errors import InputError
from stages.models import annotators
from stages.models.lora_targets import require_targets
from stages.models.text_once import text_once
from stages.params import Settings, validate
from stages.runtime import whole_file

Trainable = Literal["norm_affine", "lora", "full"]
ATTENTION = ("to_q", "to_k", "to_v", "to_out.0")
NORMS = ("GroupNorm", "LayerNorm", "RMSNorm")  # RMSNorm is torch's, or diffusers' own
# The one entry of a checkpoint's metadata: diffusers reads `unet.r`, `unet.lora_alpha` and the layers from it, and
# with a second entry the order of the two, so the bytes of the file, would be random.
METADATA = "lora_adapter_metadata"


class LowRank(nn.Module):
    """Parametrization W -> W + (alpha / rank) B A of a linear weight [out, in]; B starts at zero, so W is unchanged."""

    def __init__(self, weight: Tensor, rank: int, alpha: float, generator: torch.Generator) -> None:
        super().__init__()
        out, width = weight.shape
        start = torch.randn(rank, width, generator=generator) / rank
        self.lora_A = nn.Parameter(start.to(weight.device))
        self.lora_B = nn.Parameter(weight.new_zeros(out, rank))
        self.factor = alpha / rank

    def forward(self, weight: Tensor) -> Tensor:
        """The updated weight [out, in]."""
        return weight + self.factor * (self.lora_B @ self.lora_A)


@dataclass
class Policy:
    """A network to train: `network` to call, `kind` of trainable part, LoRA's rank, alpha and targets."""

    network: nn.Module
    kind: Trainable
    rank: int = 0
    alpha: float = 0.0
    targets: tuple[str, ...] = ()

    def parameters(self) -> Iterator[tuple[str, nn.Parameter]]:
        """Trained parameters by the name they are saved under."""
        for name, parameter in self.network.named_parameters():
            if parameter.requires_grad:
                yield _saved_name(name, self.prefix), parameter

    @property
    def prefix(self) -> str:
        """What the names of LoRA's weights start with: `unet`, or `transformer`."""
        return "transformer" if "Transformer" in type(self.network).__name__ else "unet"

    def save(self, path: str | Path, base_digest: str, values: dict[str, Tensor] | None = None) -> None:
        """Write the trained part, or `values` such as an average instead, as safetensors with the base's digest."""
        tensors = values if values is not None else {name: p.detach() for name, p in self.parameters()}
        tensors = {name: value.contiguous().cpu() for name, value in tensors.items()}
        about: dict[str, object] = {"kind": self.kind, "base": base_digest}
        if self.kind == "lora":
            about["lora"] = {"rank": self.rank, "alpha": self.alpha, "targets": self.targets}
            part = self.prefix
            updated = [name.removeprefix(f"{part}.") for name in tensors if ".lora_" in name]
            layers = sorted({name.split(".lora_")[0] for name in updated})
            about |= {f"{part}.r": self.rank, f"{part}.lora_alpha": self.alpha, f"{part}.target_modules": layers}
        with whole_file(path) as partial:
            save_file(tensors, partial, {METADATA: json.dumps(about)})


@contextmanager
def unchanged(*networks: nn.Module) -> Iterator[None]:
    """A region without gradient in which the weights of `networks` do not change: LoRA's updated weights, and keys and
    values of a text, are worked out once in it, not in every evaluation, to the same bits.
    """
    with parametrize.cached(), text_once(*networks):
        yield


def make_policy(
    base: nn.Module,
    kind: Trainable,
    seed: int = 0,
    rank: int = 4,
    alpha: float = 4.0,
    targets: tuple[str, ...] = ATTENTION,
) -> Policy:
    """A policy equal to `base` that shares its frozen weights. `base` itself is left as it is, frozen.

    `seed` draws LoRA's A; `targets` are the ends of the names of linear layers that LoRA updates.
    """
    own = {id(p) for p in _trained_weights(base, kind)}
    shared = {id(t): t for t in (*base.parameters(), *base.buffers()) if id(t) not in own}
    network = copy.deepcopy(base, memo=shared)
    if kind != "lora":
        for parameter in _trained_weights(network, kind):
            parameter.requires_grad_(True)
        return Policy(network, kind)
    generator = torch.Generator().manual_seed(seed)
    linear = {name: module for name, module in network.named_modules() if isinstance(module, nn.Linear)}
    require_targets(targets, linear, "lora.targets")
    for layer in (module for name, module in linear.items() if name.endswith(tuple(targets))):
        parametrize.register_parametrization(layer, "weight", LowRank(layer.weight, rank, alpha, generator))
    return Policy(network, kind, rank, alpha, targets)


class _Lora(Settings):
    rank: int = Field(ge=1)
    alpha: float
    targets: tuple[str, ...] = Field(min_length=1)


class _About(Settings):
    """What a saved policy says of itself; entries for diffusers stand beside."""

    model_config = ConfigDict(extra="ignore", frozen=True)

    kind: Trainable
    lora: _Lora | None = None


def load_policy(base: nn.Module, path: str | Path, base_digest: str) -> Policy:
    """The policy saved at `path` on `base`; raises InputError for a checkpoint of another base, a damaged file, and
    weights that are not finite.
    """
    try:
        with safe_open(path, "pt") as file:
            said = json.loads((file.metadata() or {}).get(METADATA, "{}"))
            tensors = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118 (not a mapping)
    except FileNotFoundError:
        raise InputError(f"{path}: no such checkpoint") from None
    except Exception as error:  # safetensors raises its own untyped errors
        raise InputError(f"{path}: not a readable safetensors file: {error}") from None
    if isinstance(said, dict) and said.get("base") != base_digest:
        raise InputError(f"{path}: trained on base {said.get('base', 'unknown')}, but the base here is {base_digest}")
    about = validate(_About, said, f"{path}: metadata: {METADATA}")
    policy = make_policy(base, about.kind, **(about.lora.model_dump() if about.lora else {}))
    if annotators.WEIGHT in tensors and tensors[annotators.WEIGHT].ndim == 2:
        annotators.attach(policy.network, *tensors[annotators.WEIGHT].shape)
    wanted = dict(policy.parameters())
    shapes = {name: parameter.shape for name, parameter in wanted.items()}
    found = {name: value.shape for name, value in tensors.items()}
    if shapes != found:
        odd = min(name for name in shapes.keys() | found.keys() if shapes.get(name) != found.get(name))
        raise InputError(f"{path}: does not fit this network, for one at {odd!r}")
    with torch.no_grad():
        for name, parameter in wanted.items():
            value = tensors[name]
            if not value.is_floating_point() or not bool(torch.isfinite(value).all()):
                raise InputError(f"{path}: {name!r} is not finite numbers; train again")
            parameter.copy_(value)
    return policy


def _trained_weights(network: nn.Module, kind: Trainable) -> list[nn.Parameter]:
    if kind == "full":
        return list(network.parameters())
    if kind == "norm_affine":
        found = [p for m in network.modules() if type(m).__name__ in NORMS for p in m.parameters(recurse=False)]
        if not found:
            raise InputError("norm_affine: no normalisation of this network has a scale or shift; train lora or full")
        return found
    return []


def _saved_name(name: str, prefix: str) -> str:
    """`...to_q.parametrizations.weight.0.lora_A` is saved as `unet....to_q.lora_A.weight`, the name diffusers reads;
    `prefix` is `unet` or `transformer`.
    """
    if ".parametrizations.weight.0." in name:
        layer, matrix = name.split(".parametrizations.weight.0.")
        return f"{prefix}.{layer}.{matrix}.weight"
    return name
