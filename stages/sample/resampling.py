"""Resampling of particles with less variance than independent draws: ancestors [B, N] of log weights [B, N].

Sources: systematic and stratified resampling, Douc, Cappe and Moulines 2005; SSP, Gerber, Chopin and Whiteley 2019, as
in the library `particles` (`resampling.py`). Ancestors are in ascending order.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import NamedTuple

import torch
from torch import Tensor


class Resampler(NamedTuple):
    """A scheme: how many uniforms it takes for N particles, and ancestors [B, N] by (log weights, uniforms)."""

    uniforms: Callable[[int], int]
    ancestors: Callable[[Tensor, Tensor], Tensor]


def systematic(log_weights: Tensor, uniforms: Tensor) -> Tensor:
    """Places (j + u) / N on the cumulative shares, with one uniform [B, 1]."""
    return _at(log_weights, (_count(log_weights) + uniforms) / log_weights.shape[1])


def stratified(log_weights: Tensor, uniforms: Tensor) -> Tensor:
    """Places (j + u_j) / N, with uniforms [B, N]."""
    return systematic(log_weights, uniforms)


def ordered(log_weights: Tensor, uniforms: Tensor) -> Tensor:
    """Multinomial resampling in order: places are normalised running sums of -log u, with uniforms [B, N + 1]."""
    sums = -uniforms.log()
    sums = sums.cumsum(1)
    return _at(log_weights, sums[:, :-1] / sums[:, -1:])


def ssp(log_weights: Tensor, uniforms: Tensor) -> Tensor:
    """Srinivasan sampling process: N share_n rounded to neighbouring whole numbers of children, with uniforms
    [B, N - 1].
    """
    shares = log_weights.double().softmax(1)
    found = [_ssp(own, draws) for own, draws in zip(shares.tolist(), uniforms.tolist(), strict=True)]
    return torch.tensor(found, device=log_weights.device)


def _ssp(shares: list[float], draws: list[float]) -> list[int]:
    count = len(shares)
    children = [int(count * share) for share in shares]
    rest = [count * share - whole for share, whole in zip(shares, children, strict=True)]
    i, j = 0, 1
    for k, draw in enumerate(draws[: count - 1]):
        up, down = min(rest[j], 1 - rest[i]), min(rest[i], 1 - rest[j])
        if draw < (up / (up + down) if up + down > 0 else 0.0):
            i, j, up = j, i, down
        if rest[j] < 1 - rest[i]:
            rest[i] += up
            j = k + 2
        else:
            rest[j] -= up
            children[i] += 1
            i = k + 2
    if sum(children) < count:  # rounding errors have lost the last one
        last = i if j >= count else j
        children[last] += count - sum(children)
    return [n for n, times in enumerate(children) for _ in range(times)]


def _count(log_weights: Tensor) -> Tensor:
    return torch.arange(log_weights.shape[1], device=log_weights.device, dtype=torch.float64)


def _at(log_weights: Tensor, places: Tensor) -> Tensor:
    """The first particle whose cumulative share is not below each place."""
    cumulative = log_weights.double().softmax(1).cumsum(1)
    return torch.searchsorted(cumulative, places.contiguous()).clamp(max=log_weights.shape[1] - 1)


RESAMPLERS: Mapping[str, Resampler] = {
    "ssp": Resampler(lambda count: count - 1, ssp),
    "systematic": Resampler(lambda count: 1, systematic),
    "stratified": Resampler(lambda count: count, stratified),
    "multinomial": Resampler(lambda count: count + 1, ordered),
}
