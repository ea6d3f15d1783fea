"""Weights of several fine-tuned networks of one base as one network."""

from __future__ import annotations

import copy

import torch
from torch import Tensor, nn


def merged(network: nn.Module, tuned: nn.Module, base: nn.Module, weight: float) -> nn.Module:
    """A network with the weights network + (1 - weight) (tuned - base), frozen; LoRA's updates count as weights.

    Source: Diffusion-NPO, its script for SDXL. `base` is a plain network of the same shapes.
    """
    made = copy.deepcopy(base)
    with torch.no_grad():
        for name, own in made.named_parameters():
            start = _weight(base, name)
            own.copy_(_weight(network, name) + (1 - weight) * (_weight(tuned, name) - start))
    return made.eval().requires_grad_(False)


def _weight(network: nn.Module, name: str) -> Tensor:
    """A weight as the network uses it."""
    module, _, leaf = name.rpartition(".")
    return getattr(network.get_submodule(module), leaf)
