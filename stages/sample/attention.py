"""Cross-attention maps of words, and latents that descend an energy of these maps during sampling."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass

import torch
from torch import Tensor, nn

from stages.errors import InputError
from stages.models.bases.words import words_of
from stages.models.diffusion import DiffusionModel
from stages.models.sampler import Enter
from stages.sample.context import Context, WordMaps

SHARE = 4  # maps are taken whose sides are nearest to a quarter of the latents': 16 of 64 in Stable Diffusion 1.5
Energy = Callable[[str, Tensor], Tensor]
"""The energy [] of the maps [h, w, W] of a prompt's words; lower is better."""


@dataclass(frozen=True)
class CrossAttention:
    """The maps of the network that is sampled, for networks that have cross-attention with one row of text."""

    model: DiffusionModel

    def words(self, prompt: str) -> list[str]:
        """The words of a prompt: what stands between blanks."""
        return prompt.split()

    def places(self, prompt: str) -> list[list[int]]:
        """The places of the tokens of each word."""
        return words_of(self.model.layout).places(prompt)

    def maps(self, ctx: Context, x: Tensor, i: int) -> list[Tensor]:
        """For each row of `ctx` maps [h, w, W], the share of attention that each place pays to each word.

        Means over heads, layers of one size, and the tokens of a word; differentiable in the latents x [B, C, h, w].
        """
        networks = ctx.networks
        with recorded(networks.own_network.network) as layers:
            networks.own(1.0)(x, i)
        height, width = x.shape[-2:]
        sides = [(layer.query.shape[1] * height / width) ** 0.5 for layer in layers]
        nearest = min(sides, key=lambda side: (abs(side - height / SHARE), side))
        chosen = [layer for layer, side in zip(layers, sides, strict=True) if side == nearest]
        mean = torch.stack([share(layer, networks.text.mask) for layer in chosen]).mean(0)
        tokens = mean.unflatten(1, (round(nearest), -1))
        return [self._words(row, prompt) for row, prompt in zip(tokens, ctx.prompts, strict=True)]

    def _words(self, tokens: Tensor, prompt: str) -> Tensor:
        """Maps [h, w, W] of the first words of a prompt, all whose tokens are among `tokens` [h, w, tokens]."""
        length = tokens.shape[-1]
        places = [each for each in words_of(self.model.layout).places(prompt) if each and each[-1] < length]
        if not places:
            return tokens[..., :0]
        return torch.stack([tokens[..., each].mean(-1) for each in places], -1)


@dataclass(frozen=True)
class Layer:
    """What one layer of cross-attention computed: queries [B, places, width] and keys [B, tokens, width]."""

    query: Tensor
    key: Tensor
    heads: int
    scale: float


def share(layer: Layer, mask: Tensor | None) -> Tensor:
    """Attention [B, places, tokens] in [0, 1], sum 1 over tokens, the mean of all heads; 0 where `mask` [B, tokens] is
    0.
    """
    query, key = (each.unflatten(-1, (layer.heads, -1)).transpose(1, 2) for each in (layer.query, layer.key))
    logits = query @ key.transpose(-1, -2) * layer.scale
    if mask is not None:
        logits = logits.masked_fill(mask[:, None, None] == 0, float("-inf"))
    return logits.softmax(-1).mean(1)


@contextmanager
def recorded(network: nn.Module) -> Iterator[list[Layer]]:
    """Layers of cross-attention of one evaluation, in order, filled in when the block is left.

    Raises InputError for a network without any: SD3 joins texts and images in one attention.
    """
    found: list[Layer] = []
    seen: list[tuple[nn.Module, dict[str, list[Tensor]]]] = []
    handles = []
    for module in network.modules():
        if getattr(module, "is_cross_attention", False):
            outputs: dict[str, list[Tensor]] = {"to_q": [], "to_k": []}
            seen.append((module, outputs))
            handles += [
                getattr(module, name).register_forward_hook(lambda _, __, output, kept=kept: kept.append(output))
                for name, kept in outputs.items()
            ]
    if not seen:
        raise InputError(
            "the network has no cross-attention to align; expected a base such as Stable Diffusion or SDXL"
        )
    try:
        yield found
    finally:
        for handle in handles:
            handle.remove()
    for module, outputs in seen:
        query, key = (torch.cat(outputs[name]) for name in ("to_q", "to_k"))
        found.append(Layer(query, key, int(module.heads), float(module.scale)))  # type: ignore[arg-type]


def descending(
    ctx: Context, energy: Energy, rates: Sequence[float], rows: Sequence[int], after: Enter | None = None
) -> Enter:
    """What latents become that enter an index i: what `after` makes of them and then, where i < len(rates), those of
    `rows` moved by -rates[i] times the gradient of the energy of their own maps.
    """
    moving = ctx.take(rows)

    def enter(x: Tensor, i: int) -> Tensor:
        x = x if after is None else after(x, i)
        if i >= len(rates) or len(rows) == 0:
            return x

        def score(part: Context, latents: Tensor) -> Tensor:
            maps = attention_of(part).maps(part, latents, i)
            return torch.stack([energy(prompt, each) for prompt, each in zip(part.prompts, maps, strict=True)])

        _, gradient = moving.gradient(x[list(rows)], score)
        return x.index_add(0, torch.tensor(rows, device=x.device), gradient, alpha=-rates[i])

    return enter


def attention_of(ctx: Context) -> WordMaps:
    """What tells about attention; raises ValueError in a context without."""
    if ctx.attention is None:
        raise ValueError("the context has no attention maps")
    return ctx.attention
