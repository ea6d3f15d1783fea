"""Networks in fused kernels (`torch.compile`), for evaluations without gradient.

Compiling takes about a minute for every shape of the input, from torch's own cache a fraction of that, so it pays in
jobs that take much longer. Results differ from those of the network as it is by rounding, and by nothing else: each
shape has kernels of its own, so neither the order of batches nor what was compiled before changes a bit.
"""

from __future__ import annotations

import os
import shlex
import shutil
import sys
from functools import lru_cache
from typing import TYPE_CHECKING

from stages.errors import InputError

if TYPE_CHECKING:
    from torch import nn

SHAPES = 64
"""Shapes of the input that are compiled; torch gives up after 8 unless told otherwise."""


def compiler() -> tuple[str, bool]:
    """The C++ compiler that torch will call, which CXX in the environment may name, and whether it is there."""
    compiler = os.environ.get("CXX") or ("clang++" if sys.platform == "darwin" else "g++")
    return compiler, shutil.which(shlex.split(compiler)[0]) is not None


@lru_cache(maxsize=4)
def compiled(network: nn.Module) -> nn.Module:
    """`network` with the same weights, compiled when it is first called. Raises InputError without a C++ compiler."""
    name, there = compiler()
    if not there:
        raise InputError(
            f"compile: true needs a C++ compiler, and {name} is not here: install it, name another one in CXX, or "
            "leave the setting out"
        )
    import torch
    import torch._dynamo.config as dynamo

    dynamo.recompile_limit = max(dynamo.recompile_limit, SHAPES)
    return torch.compile(network, dynamic=False)  # type: ignore[return-value]
