"""What an oracle sees in images: a data class of arrays, one entry per image, that metrics share. Torch-free.

A kind of reward that reads images back without a network says in its `GIVES` which class that is (`sees`), so that what
several jobs have seen is put together again without the oracle.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import fields
from importlib import import_module
from typing import Any, Protocol, TypeVar, runtime_checkable

import numpy as np

from stages.errors import InputError
from stages.gives import declared


class Sight(Protocol):
    """A frozen data class, all fields arrays of length n."""

    def marks(self, prompts: Sequence[str]) -> Mapping[str, np.ndarray]:
        """Metrics of an image: float64 [n] each, of images with their own prompts; at least `caption_accuracy`."""
        ...

    def diversity(self) -> Mapping[str, float]:
        """Metrics of two or more images of one prompt, in what it leaves open; at least `attribute_diversity`."""
        ...

    def open_attributes(self) -> Mapping[str, np.ndarray]:
        """What may be open while an image is made, by name, [n] or [n, D] float64, words as one-hot; `stages/decided`
        asks when each of them is settled.
        """
        ...


@runtime_checkable
class Layout(Protocol):
    """What an oracle saw that also sees where the objects of an image are."""

    def boxes(self) -> Sequence[np.ndarray]:
        """float64 [m, 4] for each of the n images, one box for every object: left, top, right, bottom in one unit."""
        ...


S = TypeVar("S", bound=Sight)


def take(seen: S, rows: np.ndarray) -> S:
    """What was seen in the images at `rows`."""
    return type(seen)(**{name: values[rows] for name, values in arrays(seen).items()})


def join(parts: Sequence[S]) -> S:
    """What was seen in the images of all parts, of which there is at least one."""
    every = [arrays(part) for part in parts]
    return type(parts[0])(**{name: np.concatenate([part[name] for part in every]) for name in every[0]})


def arrays(seen: Sight) -> dict[str, np.ndarray]:
    """Every field by its name."""
    return {item.name: np.asarray(getattr(seen, item.name)) for item in fields(seen)}  # type: ignore[arg-type]


def restore(kind: str, values: Mapping[str, np.ndarray]) -> Sight:
    """What an oracle of this kind saw. Raises InputError where the kind sees nothing, or what has other fields."""
    gives = declared(kind)
    module, _, name = (gives.sees if gives else "").partition(":")
    if not name:
        raise InputError(f"reward kind {kind!r} says nothing of what it sees; expected `sees` in its GIVES")
    made: Any = getattr(import_module(module), name)
    if {item.name for item in fields(made)} != set(values):
        raise InputError(f"judged images: what {kind} saw has the fields {', '.join(values)}; run measure judge again")
    return made(**values)
