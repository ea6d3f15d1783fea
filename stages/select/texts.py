"""Prompts as numbers, without a network: how far each is from others, and how well it reads as a prompt."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from functools import cache
from zlib import crc32

import numpy as np

from stages.curate.text import normalised, spaced

WIDTH = 512
"""Buckets of hashed words (our number)."""
CHUNK = 1024
NEAREST = 0.01
"""Two prompts of the same words are taken to be this far apart (our number): the logarithm of 0 says nothing."""
WORDS = 8
"""A prompt of so many words is as good as a longer one (our number)."""


def log_distances(texts: Sequence[str], neighbour: int, references: int) -> np.ndarray:
    """Logarithm of the distance of each text to its `neighbour`-th nearest among others, float64 [n]: the term of the
    text in the nearest-neighbour estimate of entropy (Kozachenko and Leonenko 1987).

    The distance is that of counts of hashed words, scaled to length 1. The others are at most `references` of the
    texts, the same ones in whatever order they come; a text is no neighbour of itself. Of one text alone it is 0.
    Counts are whole numbers, so that the result does not depend on how a machine sums them up.
    """
    others = sorted(range(len(texts)), key=lambda n: (crc32(texts[n].encode()), texts[n]))[:references]
    most = len(others) - 1
    if most < 1:
        return np.zeros(len(texts))
    known = _counts([texts[n] for n in others])
    place = {n: column for column, n in enumerate(others)}
    wanted, found = min(neighbour, most), np.empty(len(texts))
    for start in range(0, len(texts), CHUNK):
        part = texts[start : start + CHUNK]
        alike = _cosines(_counts(part), known)
        for row in range(len(part)):
            if (column := place.get(start + row)) is not None:
                alike[row, column] = -np.inf
        nearest = np.partition(alike, len(others) - wanted, axis=1)[:, len(others) - wanted]
        found[start : start + len(part)] = np.log(np.maximum(2 - 2 * nearest, NEAREST**2)) / 2
    return found


def qualities(texts: Sequence[str]) -> np.ndarray:
    """A score in [0, 1] of each text, float64 [n]: the share of its words that are not repetitions, times the share of
    its characters that are letters or blanks, times its share of eight words. It tells a prompt from a list of tags or
    a mistake, and no more: it stands in for a language model's score.
    """
    return np.array([_quality(text) for text in texts])


def _quality(text: str) -> float:
    words = _words(text)
    if not words:
        return 0.0
    plain = sum(letter.isalpha() or letter.isspace() for letter in text) / len(text)
    return len(set(words)) / len(words) * plain * min(1.0, len(words) / WORDS)


def _words(text: str) -> list[str]:
    return spaced(normalised(text)).split()


def _counts(texts: Sequence[str]) -> np.ndarray:
    """Counts of hashed words, float32 [n, WIDTH], which are whole numbers; a word counts 1 or -1, by its hash."""
    found = np.zeros((len(texts), WIDTH), np.float32)
    for row, bucket, sign in _hashed(texts):
        found[row, bucket] += sign
    return found


def _hashed(texts: Sequence[str]) -> Iterator[tuple[int, int, int]]:
    for row, text in enumerate(texts):
        for word in _words(text):
            value = _hash(word)
            yield row, value % WIDTH, 1 - 2 * (value // WIDTH % 2)


@cache
def _hash(word: str) -> int:
    return crc32(word.encode())


def _cosines(a: np.ndarray, b: np.ndarray) -> np.ndarray:
    """Cosines [n, m] of rows; 0 for a row of zeros. Dot products of whole numbers are exact in single precision."""
    lengths = np.outer((a.astype(np.float64) ** 2).sum(1), (b.astype(np.float64) ** 2).sum(1))
    return (a @ b.T).astype(np.float64) / np.sqrt(np.maximum(lengths, 1))
