"""The bare network calls of a piece of work: recorded once, then made again with nothing around them.

What the work takes beyond them is its own overhead. A recorded call keeps its inputs, and whether it carried gradient;
made again, it then goes back from the sum of its output.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn


@dataclass(frozen=True)
class Call:
    """One call of a network with its inputs; those that carried a gradient want one again."""

    network: nn.Module
    given: tuple[Any, ...]
    named: Mapping[str, Any]
    gradient: bool

    def make(self) -> None:
        """Forward, and backward where the call carried gradient."""
        with torch.set_grad_enabled(self.gradient):
            found = self.network(*self.given, **self.named)
            output = found[0] if isinstance(found, tuple) else found
            if self.gradient:
                output.sum().backward()


@contextmanager
def recorded(networks: Mapping[str, nn.Module]) -> Iterator[list[Call]]:
    """The calls of `networks` that are made in the region."""
    calls: list[Call] = []

    def note(network: nn.Module, given: tuple[Any, ...], named: dict[str, Any]) -> None:
        if torch.is_grad_enabled():
            carries = any(p.requires_grad for p in network.parameters())
            carries = carries or any(isinstance(value, Tensor) and value.requires_grad for value in given)
        else:
            carries = False
        kept = tuple(own(value) for value in given)
        calls.append(Call(network, kept, {name: own(value) for name, value in named.items()}, carries))

    with ExitStack() as hooks:
        for network in networks.values():
            handle = network.register_forward_pre_hook(note, with_kwargs=True)
            hooks.callback(handle.remove)
        yield calls


def own(value: Any) -> Any:
    """A leaf of the same numbers, which wants a gradient where the tensor carries one; other values as they are."""
    if not isinstance(value, Tensor):
        return value
    return value.detach().clone().requires_grad_(value.requires_grad)


def bare(work: Callable[[], object], networks: Mapping[str, nn.Module]) -> Callable[[], None]:
    """Do `work` once; the function that is returned makes its calls of `networks` again."""
    with recorded(networks) as calls:
        work()

    def again() -> None:
        for call in calls:
            call.make()

    return again
