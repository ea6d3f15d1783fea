"""EBAMA: energies of given attention maps, and their gradient by the maps."""

from __future__ import annotations

from collections.abc import Iterator

import torch

from stages.parity.checks import Check, compare
from stages.parity.sampling.world import SamplingSet
from stages.sample.attention_energy import Distance, attribution, dimness, energy

MAPS = 1e-6
TERMS = 1.0  # sums of distances of both signs, each of about this size
DISTANCES: dict[str, Distance] = {"cos": "cosine", "kl": "kl", "tv": "variation", "l1": "variation"}


def checks(reference: SamplingSet) -> Iterator[Check]:
    """Every item of the method. The first and the last token of a map are start and end, and no words."""
    for tag in reference.tags("ebama"):
        given, name = reference.params("ebama", tag, "attribution", "intensity", "total"), f"ebama.{tag}"
        maps = reference.inputs[f"{name}.attention"].clone().requires_grad_()
        words, distance = maps[..., 1:-1], DISTANCES[given["distance"]]
        phrases = [[token - 1 for token in tokens] for tokens in given["subtrees"]]
        total = energy(words, phrases, distance, given["lambda_intensity"])
        (gradient,) = torch.autograd.grad(total, maps)
        found = {
            "attribution": attribution(words, phrases, distance), "intensity": dimness(words, phrases), "total": total,
        }  # fmt: skip
        for part, value in found.items():
            expected = reference.expected.value("items", "ebama", tag, part)
            yield compare(f"items.{name}.{part}", value, expected, MAPS, TERMS)
        yield from reference.compared(name, {"gradient": gradient}, {"gradient": MAPS})
