"""How far rounding alone moves an item: its tolerance where the networks amplify rounding more than usual.

Monte Carlo arithmetic (Parker 1997): what every layer returns, and the gradient that comes back to it, is multiplied by
1 + u with u uniform in -COARSE to COARSE, as if it were rounded to 18 bits. The error of an item in such a run, divided
by COARSE over the unit of single precision, is the error that one rounding per layer makes of it. This contains what
amplifies rounding: guidance, a small variance, a gradient of terms that cancel.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import replace
from functools import partial
from types import ModuleType
from typing import Any

import torch
from torch import Tensor, nn

from stages.parity.adam import HALF_ULP
from stages.parity.checks import Check

COARSE = 2.0**-18  # 64 times single precision: the rounding of single precision itself hardly counts beside it
ROUNDINGS = 10.0
"""Roundings of a layer in units of one. A sum of n = 300 products, the usual size of the layers here, in 8 lanes makes
about sqrt(n / 8) = 6 independent ones, and two processors are compared: times sqrt(2)."""
RUNS = 2
NEAR = 0.25  # of the fixed tolerance: no error below it needs another


def with_rounding(networks: Iterable[nn.Module], item: Callable[[], Iterable[Check]]) -> Iterator[Check]:
    """The checks of an item; one whose error is not far below its fixed tolerance gets the tolerance that rounding in
    `networks` gives it, where that is larger.

    A mistake never widens its own tolerance enough to pass: the factor from an error in a coarse run to the tolerance
    is ROUNDINGS / 64.
    """
    found = list(item())
    if not any(check.fixed and check.error > NEAR * check.tolerance for check in found):
        yield from found
        return
    networks = list(networks)
    mean: dict[str, float] = {}
    for seed in range(RUNS):
        with coarse(networks, seed):
            for check in item():
                mean[check.name] = mean.get(check.name, 0.0) + check.error / RUNS
    for check in found:
        own = ROUNDINGS * HALF_ULP / COARSE * mean.get(check.name, 0.0)
        near = check.fixed and check.tolerance < own < float("inf")
        yield replace(check, tolerance=own) if near else check


def of_modules(
    modules: Iterable[ModuleType], networks: Sequence[nn.Module], given: Callable[[], object]
) -> Iterator[Check]:
    """The checks of every module of items, `module.checks(given())`, by `with_rounding`.

    What is given is made anew each time, since it keeps values that the networks computed.
    """
    for module in modules:
        yield from with_rounding(networks, partial(_checks, module, given))


def _checks(module: ModuleType, given: Callable[[], object]) -> Iterable[Check]:
    return module.checks(given())


@contextmanager
def coarse(networks: Iterable[nn.Module], seed: int) -> Iterator[None]:
    """Every layer of the networks rounds its output and its gradient to 18 bits, at random."""
    generator = torch.Generator().manual_seed(seed)

    def rounded(_layer: nn.Module, _inputs: Any, output: Any) -> Any:
        if isinstance(output, Tensor) and output.is_floating_point():
            return _Rounded.apply(output, generator)
        return None

    layers = {layer for network in networks for layer in network.modules() if not list(layer.children())}
    hooks = [layer.register_forward_hook(rounded) for layer in layers]
    try:
        yield
    finally:
        for hook in hooks:
            hook.remove()


class _Rounded(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, values: Tensor, generator: torch.Generator) -> Tensor:
        ctx.generator = generator
        return _off(values, generator)

    @staticmethod
    def backward(ctx: Any, *gradients: Tensor) -> tuple[Tensor, None]:
        return _off(gradients[0], ctx.generator), None


def _off(values: Tensor, generator: torch.Generator) -> Tensor:
    random = torch.rand(values.shape, generator=generator, dtype=values.dtype)
    return values * (1 + COARSE * (2 * random - 1))
