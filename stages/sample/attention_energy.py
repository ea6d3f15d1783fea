"""Energies of cross-attention maps (EBAMA): modifiers should attend where their noun does, and every noun somewhere.

Zhang et al. 2024, arXiv 2404.07389; read in the released code (YasminZhang/EBAMA), whose sums are these. Maps are
[h, w, W], one for each word of a prompt, above 0. A phrase names words of it, modifiers first and the noun last.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Literal, get_args

import torch
from torch import Tensor
from torch.nn import functional

Distance = Literal["cosine", "kl", "variation"]
Phrase = Sequence[int]
WIDTH = 0.5  # of the smoothing below
LEAST = 1e-12  # shares below this count as this in the logarithm


def energy(maps: Tensor, phrases: Sequence[Phrase], distance: Distance, intensity: float) -> Tensor:
    """Attribution + `intensity` times the intensity of the nouns [], of maps [h, w, W]."""
    return attribution(maps, phrases, distance) + intensity * dimness(maps, phrases)


def attribution(maps: Tensor, phrases: Sequence[Phrase], distance: Distance) -> Tensor:
    """Sum over modifiers of D(modifier, noun) less the mean of D(noun, word) over the words outside the phrase [].

    The second term is left out where the phrase has all words.
    """
    found, distance_of = maps.new_zeros(()), DISTANCES[distance]
    for phrase in phrases:
        *modifiers, noun = phrase
        others = [word for word in range(maps.shape[-1]) if word not in phrase]
        for modifier in modifiers:
            found = found + distance_of(maps[..., modifier], maps[..., noun])
            if others:
                found = found - torch.stack([distance_of(maps[..., noun], maps[..., word]) for word in others]).mean()
    return found


def dimness(maps: Tensor, phrases: Sequence[Phrase]) -> Tensor:
    """Minus the sum over nouns of the largest value of the noun's smoothed share of all words [], in [-nouns, 0]."""
    shares = maps.softmax(-1)
    peaks = [smoothed(shares[..., phrase[-1]]).max() for phrase in phrases]
    return -torch.stack(peaks).sum() if peaks else maps.new_zeros(())


def smoothed(map_: Tensor) -> Tensor:
    """A map [h, w] under a window of 3 x 3 with reflected borders.

    Weights are exp(-(u / (2 s))^2) with s = 0.5, as released: not a Gaussian of standard deviation s.
    """
    away = torch.arange(-1.0, 2.0, device=map_.device)
    line = torch.exp(-((away / (2 * WIDTH)) ** 2))
    line = line / line.sum()
    window = (line[:, None] * line[None]).to(map_.dtype)
    padded = functional.pad(map_[None, None], (1, 1, 1, 1), mode="reflect")
    return functional.conv2d(padded, window[None, None])[0, 0]


def _cosine(one: Tensor, other: Tensor) -> Tensor:
    return 1 - functional.cosine_similarity(one.flatten(), other.flatten(), dim=0)


def _kl(one: Tensor, other: Tensor) -> Tensor:
    """The mean of both divergences."""
    logs = _shares(one).clamp(min=LEAST).log() - _shares(other).clamp(min=LEAST).log()
    return ((_shares(one) - _shares(other)) * logs).sum() / 2


def _variation(one: Tensor, other: Tensor) -> Tensor:
    """Half the L1 distance."""
    return (_shares(one) - _shares(other)).abs().sum() / 2


def _shares(map_: Tensor) -> Tensor:
    return map_.flatten() / map_.sum()


DISTANCES: dict[Distance, Callable[[Tensor, Tensor], Tensor]] = {"cosine": _cosine, "kl": _kl, "variation": _variation}
assert set(DISTANCES) == set(get_args(Distance))
