"""Captions that no longer fit their image: what TPO has a language model write is made by a rule here.

A caption of the world of shapes has a word for its colour, shape, size or background exchanged. In another one a word
is replaced by one that stands, in other captions, between the same two words: in "a red cup on a table" the word red
by blue where another caption has "a blue cup". A caption without such a word is left out.
"""

from __future__ import annotations

import random
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, field
from typing import Any

from stages import own_function
from stages.curate.text import prompt_id
from stages.errors import InputError
from stages.runtime import seed_from
from stages.world.captioner import exchanged
from stages.world.settings import WorldSettings

EDGE = ""
"""What stands before the first and after the last word."""
DRAWS = 8
"""Draws for each perturbed caption that is asked for, of which those are taken that are new."""


@dataclass(frozen=True)
class Places:
    """Words of captions by the two words between which they stand, in alphabetical order."""

    words: dict[tuple[str, str], list[str]] = field(default_factory=dict)

    @classmethod
    def of(cls, captions: Iterable[str]) -> Places:
        """Those of some captions; the order of captions makes no difference."""
        found: dict[tuple[str, str], set[str]] = {}
        for caption in captions:
            words = [EDGE, *caption.split(), EDGE]
            for before, word, after in zip(words, words[1:], words[2:], strict=False):
                found.setdefault((before.lower(), after.lower()), set()).add(word)
        return cls({place: sorted(words) for place, words in found.items()})

    def exchanged(self, caption: str, rng: random.Random) -> str | None:
        """The caption with one word replaced; None where no word of it has another in its place."""
        words = caption.split()
        around = [EDGE, *words, EDGE]
        ways = []
        for number, word in enumerate(words):
            place = around[number].lower(), around[number + 2].lower()
            others = [other for other in self.words.get(place, ()) if other.lower() != word.lower()]
            ways += [(number, others)] if others else []
        if not ways:
            return None
        number, others = rng.choice(ways)
        return " ".join([*words[:number], rng.choice(others), *words[number + 1 :]])


def by_rule(captions: Sequence[str], each: int, seed: int, world: WorldSettings) -> list[list[str]]:
    """For each caption up to `each` others that differ from it in a word, no two of them the same prompt. They depend
    on the seed, the caption and the set of all captions alone.
    """
    places, made = Places.of(captions), []
    for caption in captions:
        rng = random.Random(seed_from("perturbed", seed, caption))
        found: dict[str, str] = {}
        for _ in range(DRAWS * each):
            other = exchanged(caption, world, rng) or places.exchanged(caption, rng)
            if other is None or len(found) == each:
                break
            if prompt_id(other) != prompt_id(caption):
                found.setdefault(prompt_id(other), other)
        made.append(list(found.values()))
    return made


def by_function(captions: Sequence[str], each: int, seed: int, place: str, where: str) -> list[list[str]]:
    """What a function of one's own makes of each caption: it is called with the list of different captions, `each` and
    the seed, and returns a list of texts for every caption, empty where it has none.

    Raises InputError that starts with `where` for anything else.
    """
    function: Callable[..., Any] = own_function.function(place, where)
    try:
        found = [list(texts) for texts in function(list(captions), each, seed)]
    except Exception as error:  # whatever the code raises
        raise InputError(f"{where}: {place!r}: {type(error).__name__}: {error}") from None
    if len(found) != len(captions) or not all(isinstance(text, str) for texts in found for text in texts):
        raise InputError(f"{where}: {place!r} returned {len(found)} entries, expected {len(captions)} lists of texts")
    return found
