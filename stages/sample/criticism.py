"""A critic that says what is wrong with an image, and how the condition is changed for it (IMG).

Both are hooks: models of a study with the methods below, of a kind that this project or an installed package has. A
critic's `GIVES` says `criticises=True`, an aligner's `aligns=True` (`stages/gives.py`). Without an aligner the words
that the critic names are emphasised.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from typing import Protocol, runtime_checkable

import torch
from torch import Tensor

from stages.errors import InputError
from stages.models.conditioning import Conditioning
from stages.sample.attention import attention_of
from stages.sample.context import Context

Faults = Sequence[Sequence[int]]
"""For each image the numbers of the words of its prompt, from 0, that it does not show; none for a good image."""


@runtime_checkable
class Critic(Protocol):
    """Says what an image does not show."""

    def criticise(self, images: Tensor, prompts: Sequence[str]) -> Faults:
        """Faults of images [B, 3, H, W] in [0, 1], each with its own prompt and whatever the others are."""
        ...


@runtime_checkable
class Aligner(Protocol):
    """Changes the condition that an image is made again with."""

    def align(self, text: Conditioning, images: Tensor, prompts: Sequence[str], faults: Faults) -> Conditioning:
        """`text` [B] as it is to be for images [B, 3, H, W] in [0, 1] with these faults, row by row."""
        ...


def criticised(ctx: Context, images: Tensor, critic: str) -> list[list[int]]:
    """The faults of the images of the rows of `ctx`; a query each, at most `batch_size` at a time.

    Raises InputError for a model that is no critic, and for words that the prompt does not have.
    """
    model = ctx.rewards[critic]
    if not isinstance(model, Critic):
        raise InputError(f"model {critic!r} criticises no images; expected one with a method `criticise`")
    ctx.rows.meter.add("queries", ctx.rows.images)
    faults: list[list[int]] = []
    for rows in ctx.rows.chunks():
        found = model.criticise(images[rows], ctx.prompts[rows])
        if len(found) != len(images[rows]):
            raise InputError(f"critic {critic!r}: found faults of {len(found)} images, expected {len(images[rows])}")
        faults += [sorted(set(words)) for words in found]
    for prompt, words in zip(ctx.prompts, faults, strict=True):
        if words and not 0 <= words[0] <= words[-1] < max(len(prompt.split()), 1):
            raise InputError(f"critic {critic!r}: no word {words[-1]} in {prompt[:60]!r}")
    return faults


def aligned(ctx: Context, images: Tensor, faults: Faults, aligner: str) -> Conditioning:
    """The condition of the rows of `ctx` after an aligner; raises InputError for a model that is none, or that gives
    another number of rows.
    """
    model = ctx.rewards[aligner]
    if not isinstance(model, Aligner):
        raise InputError(f"model {aligner!r} changes no condition; expected one with a method `align`")
    found = model.align(ctx.networks.text, images, ctx.prompts, faults)
    if len(found) != len(images):
        raise InputError(f"aligner {aligner!r}: found conditions of {len(found)} images, expected {len(images)}")
    return found


def emphasised(ctx: Context, named: Faults, strength: float) -> Conditioning:
    """The condition of the rows of `ctx` with the tokens of the named words moved away from those of the empty prompt,
    t + m strength (t - empty) for a word that is named m times. Tokens beyond the length of the text are left out.
    """
    text, words = ctx.networks.text, attention_of(ctx)
    weights = torch.zeros(text.text.shape[:2], device=text.device)
    for row, (prompt, own) in enumerate(zip(ctx.prompts, named, strict=True)):
        places = words.places(prompt)
        # an empty prompt may be found fault with as if it had one word, and has none to emphasise
        for place in (
            place for word in own if word < len(places) for place in places[word] if place < weights.shape[1]
        ):
            weights[row, place] += strength
    return replace(text, text=text.text + weights[..., None] * (text.text - ctx.networks.empty.text))
