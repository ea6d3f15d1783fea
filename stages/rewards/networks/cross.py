"""The cross-attention of MPS: image tokens attend to text tokens, then to each other (Zhang et al. 2024, section 4).

Names and shapes are those of the released `cross_model` (Kwai-Kolors/MPS, trainer/models/cross_modeling.py, which
follows the blocks of PaLM): queries have heads, keys and values have one that all queries share; attention and a gated
feed-forward stand in parallel; norms have no trained bias.
"""

from __future__ import annotations

import torch
from torch import Tensor, nn
from torch.nn import functional

HEAD_WIDTH = 64


class Norm(nn.Module):
    """Layer norm over the last axis with a weight; its bias is a buffer of zeros that checkpoints hold."""

    bias: Tensor

    def __init__(self, width: int) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.ones(width))
        self.register_buffer("bias", torch.zeros(width))

    def forward(self, x: Tensor) -> Tensor:
        """x [..., width], normalised."""
        return functional.layer_norm(x, x.shape[-1:], self.weight, self.bias)


class Gate(nn.Module):
    """x * silu(g) of a last axis that holds x and then g."""

    def forward(self, pair: Tensor) -> Tensor:
        """[..., 2 W] to [..., W]."""
        x, gate = pair.chunk(2, dim=-1)
        return x * functional.silu(gate)


class CrossAttention(nn.Module):
    """Image tokens attend to text tokens that are kept; a feed-forward of the same input is added."""

    def __init__(self, width: int, heads: int, factor: int) -> None:
        super().__init__()
        self.heads = heads
        self.norm = Norm(width)
        self.to_q = nn.Linear(width, heads * HEAD_WIDTH, bias=False)
        self.to_kv = nn.Linear(width, 2 * HEAD_WIDTH, bias=False)
        self.to_out = nn.Linear(heads * HEAD_WIDTH, width, bias=False)
        inner = factor * width
        self.ff = nn.Sequential(
            nn.Linear(width, 2 * inner, bias=False), Gate(), nn.Linear(inner, width, bias=False)
        )  # fmt: skip

    def forward(self, x: Tensor, context: Tensor, keep: Tensor) -> Tensor:
        """x [B, N, W] and context [B, L, W] to [B, N, W]; `keep` [B, L] says which text tokens are seen."""
        x = self.norm(x)
        keys, values = self.to_kv(context).unsqueeze(1).chunk(2, dim=-1)
        found = attend(split(self.to_q(x), self.heads), keys, values, keep[:, None, None])
        return self.to_out(found) + self.ff(x)


class SelfAttention(nn.Module):
    """Image tokens attend to each other, rotary in their order, in parallel with a feed-forward."""

    def __init__(self, width: int, heads: int, factor: int) -> None:
        super().__init__()
        self.heads, inner = heads, factor * width
        self.norm = Norm(width)
        self.rotary_emb = Rotary()
        self.parts = (heads * HEAD_WIDTH, HEAD_WIDTH, HEAD_WIDTH, 2 * inner)
        self.fused_attn_ff_proj = nn.Linear(width, sum(self.parts), bias=False)
        self.attn_out = nn.Linear(heads * HEAD_WIDTH, width, bias=False)
        self.ff_out = nn.Sequential(Gate(), nn.Linear(inner, width, bias=False))

    def forward(self, x: Tensor) -> Tensor:
        """x [B, N, W] to [B, N, W]."""
        queries, keys, values, inner = self.fused_attn_ff_proj(self.norm(x)).split(self.parts, dim=-1)
        queries, keys = self.rotary_emb(split(queries, self.heads)), self.rotary_emb(keys.unsqueeze(1))
        return self.attn_out(attend(queries, keys, values.unsqueeze(1))) + self.ff_out(inner)


class Rotary(nn.Module):
    """Rotation of pairs (i, i + half) of a head by angles that grow with the place (Su et al. 2021).

    The frequencies are those of the checkpoint, which a file in half precision holds rounded.
    """

    inv_freq: Tensor

    def __init__(self) -> None:
        super().__init__()
        self.register_buffer("inv_freq", 10_000 ** -(torch.arange(0, HEAD_WIDTH, 2) / HEAD_WIDTH))

    def forward(self, x: Tensor) -> Tensor:
        """x [B, H, N, HEAD_WIDTH], rotated by place N."""
        places = torch.arange(x.shape[-2], device=x.device, dtype=x.dtype)
        angles = torch.outer(places, self.inv_freq).repeat(1, 2)
        first, second = x.chunk(2, dim=-1)
        return x * angles.cos() + torch.cat([-second, first], -1) * angles.sin()


class CrossModel(nn.Module):
    """Layers of cross-attention and self-attention, each added to what it was given."""

    def __init__(self, width: int, layers: int, heads: int, factor: int = 4) -> None:
        super().__init__()
        self.layers = nn.ModuleList(
            nn.ModuleList(
                [Residual(CrossAttention(width, heads, factor)), Residual(SelfAttention(width, heads, factor))]
            )
            for _ in range(layers)
        )

    def forward(self, image: Tensor, text: Tensor, keep: Tensor) -> Tensor:
        """Image tokens [B, N, W] after all layers; text [B, L, W], of which those in `keep` [B, L] are seen."""
        for layer in self.layers:
            across, own = layer  # type: ignore[misc]
            image = own(across(image, text, keep))
        return image


class Residual(nn.Module):
    """fn(x, ...) + x."""

    def __init__(self, fn: nn.Module) -> None:
        super().__init__()
        self.fn = fn

    def forward(self, x: Tensor, *more: Tensor) -> Tensor:
        """x and what `fn` makes of it."""
        return self.fn(x, *more) + x


def split(x: Tensor, heads: int) -> Tensor:
    """[B, N, H * D] to [B, H, N, D]."""
    return x.unflatten(-1, (heads, -1)).transpose(1, 2)


def attend(queries: Tensor, keys: Tensor, values: Tensor, keep: Tensor | None = None) -> Tensor:
    """Attention of queries [B, H, N, D] to keys and values [B, 1, L, D], heads joined: [B, N, H * D]."""
    heads = queries.shape[1]
    shared = [x.expand(-1, heads, -1, -1) for x in (keys, values)]
    found = functional.scaled_dot_product_attention(queries, *shared, attn_mask=keep)
    return found.transpose(1, 2).flatten(2)
