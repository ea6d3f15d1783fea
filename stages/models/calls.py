"""How the denoising networks are called: each architecture takes time and conditions in its own way."""

from __future__ import annotations

from collections.abc import Callable

from torch import Tensor, nn

from stages.models.conditioning import Conditioning


def network_output(network: nn.Module, x: Tensor, t: Tensor, given: Conditioning) -> Tensor:
    """The network's output [B, C, h, w] for latents x [B, C, h, w] at timestep t ([] or [B]).

    What it predicts (noise, velocity) is the diffusion process's business. A learned variance is left out.
    """
    architecture = type(getattr(network, "_orig_mod", network)).__name__  # a compiled network wraps the original one
    return CALLS.get(architecture, _unet)(network, x, t, given)


def _unet(network: nn.Module, x: Tensor, t: Tensor, given: Conditioning) -> Tensor:
    """Stable Diffusion, and SDXL with its pooled text and time ids."""
    if given.pooled is None:
        return network(x, t, encoder_hidden_states=given.text, return_dict=False)[0]
    added = {"text_embeds": given.pooled, "time_ids": given.size}
    return network(x, t, encoder_hidden_states=given.text, added_cond_kwargs=added, return_dict=False)[0]


def _pixart(network: nn.Module, x: Tensor, t: Tensor, given: Conditioning) -> Tensor:
    """PixArt-alpha: text with its mask; the second half of the channels, where there is one, is a variance.

    Models for 1024 pixels also take height and width, and height / width.
    """
    added: dict[str, Tensor | None] = {"resolution": None, "aspect_ratio": None}
    if given.size is not None:
        made = given.size[:, 4:6]
        added = {"resolution": made, "aspect_ratio": made[:, :1] / made[:, 1:]}
    output = network(
        x, encoder_hidden_states=given.text, encoder_attention_mask=given.mask, timestep=t.expand(len(x)),
        added_cond_kwargs=added, return_dict=False,
    )[0]  # fmt: skip
    return output[:, : x.shape[1]]


def _sd3(network: nn.Module, x: Tensor, t: Tensor, given: Conditioning) -> Tensor:
    """Stable Diffusion 3 and 3.5: text of three encoders in one sequence, pooled text of two."""
    return network(
        hidden_states=x, timestep=t.expand(len(x)), encoder_hidden_states=given.text,
        pooled_projections=given.pooled, return_dict=False,
    )[0]  # fmt: skip


CALLS: dict[str, Callable[[nn.Module, Tensor, Tensor, Conditioning], Tensor]] = {
    "PixArtTransformer2DModel": _pixart,
    "SD3Transformer2DModel": _sd3,
}
