"""Which linear layers LoRA updates: those whose names end in one of the targets. Torch-free."""

from __future__ import annotations

from collections.abc import Iterable, Sequence

from stages.errors import InputError
from stages.params import nearest


def require_targets(targets: Sequence[str], layers: Iterable[str], where: str) -> None:
    """Raise InputError that starts with `where` for a target in which no name of a linear layer ends."""
    names = list(layers)
    for target in targets:
        if not any(name.endswith(target) for name in names):
            ends = {".".join(name.split(".")[-2:]) if name[-1].isdigit() else name.rpartition(".")[2] for name in names}
            raise InputError(f"{where}: no linear layer of the network ends in {target!r}{nearest(target, ends)}")
