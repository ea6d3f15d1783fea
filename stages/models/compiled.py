"""Networks in fused kernels (`torch.compile`), for evaluations without gradient.

Compiling takes about a minute for every shape of the input, from torch's own cache a fraction of that, so it pays in
jobs that take much longer. Results differ from those of the network as it is by rounding, and by nothing else: each
shape has kernels of its own, so neither the order of batches nor what was compiled before changes a bit.
"""

from __future__ import annotations

import os
import shutil
from functools import lru_cache

import torch
from torch import nn

from stages.errors import InputError

COMPILERS = ("g++", "clang++")
SHAPES = 64
"""Shapes of the input that are compiled; torch gives up after 8 unless told otherwise."""


@lru_cache(maxsize=4)
def compiled(network: nn.Module) -> nn.Module:
    """`network` with the same weights, compiled when it is first called. Raises InputError without a C++ compiler."""
    asked = os.environ.get("CXX", "")
    if not any(shutil.which(name) for name in (asked, *COMPILERS) if name):
        raise InputError(
            f"compile: true needs a C++ compiler, and there is none: install one of {', '.join(COMPILERS)}, "
            "name yours in CXX, or leave the setting out"
        )
    import torch._dynamo.config as dynamo

    dynamo.recompile_limit = max(dynamo.recompile_limit, SHAPES)
    return torch.compile(network, dynamic=False)  # type: ignore[return-value]
