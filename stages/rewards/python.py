"""A reward from outside as a Python function: a service, a program, a rule; whatever gives an image a number.

The option `function` names it, `package.module:function`. It is called with images as uint8 arrays [B, H, W, 3] and the
list of their prompts, and returns B numbers. It gives no gradient. The record of the model holds the digests of the
function's code (`stages/own_code.py`), so that a change of it makes another model.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
import torch
from pydantic import Field, field_validator
from torch import Tensor

from stages.errors import InputError
from stages.gives import Gives
from stages.models.record import ModelRecord
from stages.own_function import function as imported
from stages.own_function import named
from stages.pictures import levels
from stages.rewards.networks.options import KindOptions, options

GIVES = Gives(files="none", gradient=False)
CODE = "function"
"""The option that names code of one's own."""


class PythonOptions(KindOptions):
    """Options of kind `python`."""

    function: str = Field(description="the function, `package.module:function`")

    @field_validator("function")
    @classmethod
    def _module_and_name(cls, place: str) -> str:
        return named(place)


OPTIONS = PythonOptions


class Python:
    """A function of arrays as a reward."""

    differentiable = False

    def __init__(self, name: str, function: Callable[[Any, list[str]], Any]) -> None:
        self.name, self.function = name, function

    def __call__(self, images: Tensor, prompts: Sequence[str]) -> Tensor:
        """Reward [B] float32 of images [B, 3, H, W] in [0, 1], rounded to 8 bits.

        Raises InputError where the function does not return B finite numbers.
        """
        try:
            found = np.asarray(self.function(levels(images), list(prompts)), dtype=np.float32)
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
    place = options(record, PythonOptions).function
    record.check(record.files)
    return Python(record.name, imported(place, f"{where}.function"))
