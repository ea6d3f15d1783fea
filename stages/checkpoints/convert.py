"""From a checkpoint to a policy on the study's base: a LoRA like this project's stays one, the rest is kept whole."""

from __future__ import annotations

import torch
from safetensors.torch import load_file
from torch import Tensor, nn

from stages.checkpoints import fit
from stages.checkpoints.files import Checkpoint
from stages.checkpoints.lora import scales
from stages.checkpoints.lora_names import Update, updates
from stages.errors import InputError
from stages.models.bases.loading import SingleFile
from stages.models.diffusion import DiffusionModel
from stages.models.policy import Policy, load_policy, make_policy


def policy_of(model: DiffusionModel, checkpoint: Checkpoint, where: str) -> Policy:
    """The policy that a checkpoint stands for, in float32.

    Raises InputError that starts with `where` for one that does not fit the base, and for weights that are not finite.
    """
    try:
        return _policy(model, checkpoint, where)
    except InputError as error:
        said = str(error)
        raise InputError(said if said.startswith(where) else f"{where}: {said}") from None


def _policy(model: DiffusionModel, checkpoint: Checkpoint, where: str) -> Policy:
    base = model.unet
    shapes = {name: tuple(value.shape) for name, value in base.state_dict().items()}
    fit.check(checkpoint, model.layout, shapes, where)
    said = f"{where}: {checkpoint.place}"
    if checkpoint.form == "policy":
        return load_policy(base, checkpoint.weights[0], model.record.digest)
    if checkpoint.form == "lora":
        return _of_lora(base, checkpoint, shapes, said)
    if checkpoint.form == "original":
        part = SingleFile(checkpoint.weights[0], model.layout).part(model.layout.family.network)
        return _full(base, dict(part.named_parameters()), said)
    return _full(base, _tensors(checkpoint), said)


def _tensors(checkpoint: Checkpoint) -> dict[str, Tensor]:
    files = (file for file in checkpoint.weights if file.suffix == ".safetensors")
    return {name: value.float() for file in files for name, value in load_file(file).items()}


def _full(base: nn.Module, values: dict[str, Tensor], said: str) -> Policy:
    """A policy with these weights by the names of the network's parameters; those that are not given are the base's."""
    policy = make_policy(base, "full")
    with torch.no_grad():
        for name, parameter in policy.parameters():
            if name in values:
                parameter.copy_(_finite(values[name], name, said))
    return policy


def _finite(value: Tensor, name: str, said: str) -> Tensor:
    if not value.is_floating_point() or not bool(torch.isfinite(value).all()):
        raise InputError(f"{said}: {name!r} is not finite numbers")
    return value


def _of_lora(base: nn.Module, checkpoint: Checkpoint, shapes: fit.Shapes, said: str) -> Policy:
    tensors = {name: _finite(value, name, said) for name, value in _tensors(checkpoint).items()}
    found = updates(tensors, fit.layers_of(shapes), said)
    given = scales(checkpoint, found, said)
    factors = {update.layer: _factor(update, given[update.layer], tensors) for update in found}
    if _like_ours(base, found, factors, tensors):
        return _kept(base, found, factors, tensors)
    weights = {name: value for name, value in base.state_dict().items() if name.endswith(".weight")}
    return _full(
        base,
        {f"{u.layer}.weight": _merged(weights[f"{u.layer}.weight"], u, factors[u.layer], tensors) for u in found},
        said,
    )


def _factor(update: Update, given: float | None, tensors: dict[str, Tensor]) -> float:
    if given is not None or update.alpha is None:
        return 1.0 if given is None else given
    return float(tensors[update.alpha]) / tensors[update.down].shape[0]


def _like_ours(
    base: nn.Module, found: list[Update], factors: dict[str, float], tensors: dict[str, Tensor]
) -> bool:  # fmt: skip
    """Whether every update is of a linear layer, with one rank and one factor, and no other layer's name ends like one
    of theirs.
    """
    layers = {name for name, module in base.named_modules() if isinstance(module, nn.Linear)}
    own = {update.layer for update in found}
    plain = all(update.magnitude is None and tensors[update.down].ndim == 2 for update in found)
    alike = len({tensors[update.down].shape[0] for update in found}) == len(set(factors.values())) == 1
    return plain and alike and own == {name for name in layers if name.endswith(tuple(own))}


def _kept(base: nn.Module, found: list[Update], factors: dict[str, float], tensors: dict[str, Tensor]) -> Policy:
    rank = tensors[found[0].down].shape[0]
    targets = tuple(sorted(update.layer for update in found))
    policy = make_policy(base, "lora", rank=rank, alpha=factors[found[0].layer] * rank, targets=targets)
    own = dict(policy.parameters())
    with torch.no_grad():
        for update in found:
            name = f"{policy.prefix}.{update.layer}"
            own[f"{name}.lora_A.weight"].copy_(tensors[update.down])
            own[f"{name}.lora_B.weight"].copy_(tensors[update.up])
    return policy


def _merged(weight: Tensor, update: Update, factor: float, tensors: dict[str, Tensor]) -> Tensor:
    """W + s B A, of DoRA m (W + s B A) / |W + s B A| with the norm of every output (Liu et al. 2024, equation 5)."""
    down, up = tensors[update.down].flatten(1), tensors[update.up].flatten(1)
    whole = weight + factor * (up @ down).reshape(weight.shape)
    if update.magnitude is None:
        return whole
    norm = whole.flatten(1).norm(dim=1)
    return whole * (tensors[update.magnitude].flatten() / norm).reshape(-1, *(1,) * (weight.ndim - 1))
