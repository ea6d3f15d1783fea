"""A reward from outside as a Python function: a service, a program, a rule; whatever gives an image a number.

The option `function` names it, `package.module:function`. It is called with images as uint8 arrays [B, H, W, 3] and the
list of their prompts, and returns B numbers. It gives no gradient.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from importlib import import_module
from typing import Any

import numpy as np
import torch
from torch import Tensor

from stages.errors import InputError
from stages.gives import Gives
from stages.models.record import ModelRecord
from stages.params import nearest

GIVES = Gives(files="none", gradient=False)


class Python:
    """A function of arrays as a reward."""

    differentiable = False

    def __init__(self, name: str, function: Callable[[Any, list[str]], Any]) -> None:
        self.name, self.function = name, function

    def __call__(self, images: Tensor, prompts: Sequence[str]) -> Tensor:
        """Reward [B] float32 of images [B, 3, H, W] in [0, 1], rounded to 8 bits.

        Raises InputError where the function does not return B finite numbers.
        """
        levels = (images.detach().float().clamp(0, 1) * 255).round().byte().permute(0, 2, 3, 1).cpu().numpy()
        try:
            found = np.asarray(self.function(levels, list(prompts)), dtype=np.float32)
        except (TypeError, ValueError) as error:
            raise InputError(f"reward {self.name!r}: {error}") from None
        if found.shape != (len(images),) or not np.isfinite(found).all():
            raise InputError(
                f"reward {self.name!r}: its function returned shape {found.shape}, "
                f"expected {len(images)} finite numbers"
            )
        return torch.from_numpy(found).to(images.device)


def load(record: ModelRecord, device: torch.device | str = "cpu") -> Python:
    """The function that the option `function` names; raises InputError where there is none."""
    where = f"model {record.name!r}: options"
    if unknown := [key for key in record.options if key != "function"]:
        raise InputError(f"{where}: unknown key {unknown[0]!r}{nearest(unknown[0], ['function'])}")
    place = str(record.options.get("function", ""))
    module, _, name = place.partition(":")
    try:
        function = getattr(import_module(module), name) if module and name else None
    except (ImportError, AttributeError) as error:
        raise InputError(f"{where}.function: {place!r} cannot be imported: {error}") from None
    if not callable(function):
        raise InputError(f"{where}.function: {place!r}, expected package.module:function")
    return Python(record.name, function)
