"""What a network is told about the annotator whose taste it follows, beside the prompt (PPD).

Every name has a fixed code, drawn from a digest of it; a learnt matrix maps codes to a change of the embeddings of all
tokens of the prompt. It starts at zero, so that the network then is what it was; without a name nothing changes.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

import torch
from torch import Tensor, nn

from stages.models.conditioning import Conditioning
from stages.runtime import seed_from

ATTRIBUTE, WEIGHT = "annotators", "annotators.weight"
"""What a network calls this module, and what its weight is saved under."""
GAIN = 10.0
"""Factor of the change: token embeddings have numbers of size 1, but a step moves a weight by the learning rate."""


class Annotators(nn.Module):
    """The matrix [width, codes]; two names have codes that are orthogonal but for about 1 / sqrt(codes)."""

    def __init__(self, width: int, codes: int) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.zeros(width, codes))
        self._known: dict[str, Tensor] = {}

    def codes(self, names: Sequence[str]) -> Tensor:
        """Codes [B, codes] of unit length; zeros for the empty name."""
        for name in names:
            if name not in self._known:
                self._known[name] = _code(name, self.weight.shape[1])
        return torch.stack([self._known[name] for name in names]).to(self.weight)

    def told(self, text: Conditioning, names: Sequence[str]) -> Conditioning:
        """The conditioning [B] changed for the annotator of each row."""
        change = GAIN * self.codes(names) @ self.weight.T
        return replace(text, text=text.text + change[:, None].to(text.text))


def attach(network: nn.Module, width: int, codes: int) -> Annotators:
    """A new module for embeddings of that width, as a part of the network: it is trained and saved with it."""
    own = next(network.parameters())
    made = Annotators(width, codes).to(device=own.device, dtype=own.dtype)
    setattr(network, ATTRIBUTE, made)
    return made


def of(network: nn.Module) -> Annotators | None:
    """The module of a network; None where it knows no annotators."""
    found = getattr(network, ATTRIBUTE, None)
    return found if isinstance(found, Annotators) else None


def _code(name: str, codes: int) -> Tensor:
    if not name:
        return torch.zeros(codes)
    drawn = torch.randn(codes, generator=torch.Generator().manual_seed(seed_from("annotator", name)))
    return drawn / drawn.norm()
