"""Inner activations of a denoising UNet, for losses and rewards that compare noisy latents in its feature space."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, Protocol, cast

from torch import Tensor, nn

from stages.errors import InputError
from stages.models.calls import network_output
from stages.models.conditioning import Conditioning


@dataclass(frozen=True)
class Features:
    """Outputs of a UNet's first half, each [B, C, h, w] with sizes of its own.

    `down` holds those of the first convolution and of every layer on the way down in order, downsamplers among them;
    `ends` are the places among them of the last one of each block; `middle` is that of the middle block.
    """

    down: tuple[Tensor, ...]
    ends: tuple[int, ...]
    middle: Tensor


class OwnFeatures(Protocol):
    """A network that gives features itself: a single one down and the middle one."""

    def features(self, x: Tensor, t: Tensor, text: Tensor) -> tuple[Tensor, Tensor]: ...


class _Reached(Exception):
    """The middle block has been evaluated."""


def features(network: nn.Module, x: Tensor, t: Tensor, given: Conditioning) -> Features:
    """The features of latents x [B, C, h, w] at timesteps t [B]; the way up is not evaluated.

    Raises InputError for a network without a middle block, such as a transformer.
    """
    if hasattr(network, "features"):
        only, last = cast(OwnFeatures, network).features(x, t, given.text)
        return Features((only,), (0,), last)
    require_features(network)
    down: list[Tensor] = []
    ends: list[int] = []
    middle: list[Tensor] = []

    def first(_: nn.Module, __: Any, output: Tensor) -> None:
        down.append(output)

    def block(_: nn.Module, __: Any, output: tuple[Tensor, tuple[Tensor, ...]]) -> None:
        down.extend(output[1])
        ends.append(len(down) - 1)

    def reached(_: nn.Module, __: Any, output: Tensor) -> None:
        middle.append(output)
        raise _Reached

    parts: Any = network
    hooks = [parts.conv_in.register_forward_hook(first), parts.mid_block.register_forward_hook(reached)]
    hooks += [part.register_forward_hook(block) for part in parts.down_blocks]
    try:
        network_output(network, x, t, given)
    except _Reached:
        pass
    finally:
        for hook in hooks:
            hook.remove()
    return Features(tuple(down), tuple(ends), middle[0])


def require_features(network: nn.Module) -> None:
    """Raise InputError for a network that has no features."""
    if not hasattr(network, "features") and getattr(network, "mid_block", None) is None:
        raise InputError(
            f"features of a denoiser are those of a UNet up to its middle block, and {type(network).__name__} has none"
        )
