"""Which words of a prompt belong together: modifiers and their noun, by a rule that knows no grammar. Torch-free.

A phrase is what stands between function words and punctuation, its noun the last word: `a large red circle and a blue
square` has (large, red, circle) and (blue, square). Verbs and adverbs fool it; strategies take phrases from a better
parser as data.
"""

from __future__ import annotations

from collections.abc import Sequence

BREAKS = frozenset({
    "a", "an", "the", "and", "or", "but", "with", "without", "of", "on", "in", "at", "to", "by", "from", "for",
    "under", "over", "above", "below", "behind", "beside", "between", "near", "next", "left", "right", "top",
    "inside", "into", "onto", "is", "are", "was", "were", "be", "has", "have", "having", "that", "which", "who",
    "this", "these", "those", "it", "its", "no", "not", "only", "each", "every", "some", "any", "one", "two",
    "three", "four", "five", "six", "seven", "eight", "nine", "ten",
})  # fmt: skip
"""Words that belong to no phrase and end one."""
ENDS = ",.;:!?"
"""Characters after which a phrase is over."""


def phrases_of(words: Sequence[str]) -> list[list[int]]:
    """Numbers of the words of each phrase, from 0, the noun last; those of one word are nouns without modifiers."""
    found: list[list[int]] = [[]]
    for number, word in enumerate(words):
        bare = word.strip(ENDS + "'\"()").lower()
        if bare in BREAKS or not any(letter.isalpha() for letter in bare):
            found.append([])
            continue
        found[-1].append(number)
        if word.endswith(tuple(ENDS)):
            found.append([])
    return [phrase for phrase in found if phrase]
