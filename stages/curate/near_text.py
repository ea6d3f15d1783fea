"""Finding texts that share most of their word pairs: MinHash signatures, banded, and then the exact overlap.

The likeness of two texts is the Jaccard index of their sets of neighbouring words, start and end of the text included:
unlike a set of words, it tells "a dog chases a cat" from "a cat chases a dog". A signature holds, for each of 64 hash
functions, the least hash of the set; two sets agree in one of them with probability equal to their Jaccard index
(Broder 1997, On the resemblance and containment of documents). Texts are compared when they agree in a whole band of
the signature, and only what the exact index confirms counts as near. Cost is linear in the number of texts.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from functools import lru_cache

import numpy as np

from stages.curate.text import normalised, spaced

HASHES = 64
MISS = 1e-3
"""A pair just at the threshold goes unseen with at most this probability; pairs above it with less."""
WINDOW = 8
"""Texts of one band that each text is compared with: what keeps a bucket of thousands from costing millions."""
NONE = -1
"""No text is near."""
CHUNK = 2**15
"""Texts hashed at once."""

_BASE = np.uint64(0x9E3779B97F4A7C15)
_INVERSE = np.uint64(pow(int(_BASE), -1, 2**64))
_START, _END = np.uint64(0x2545F4914F6CDD1D), np.uint64(0xD6E8FEB86659FD93)
_FACTORS, _OFFSETS = np.random.default_rng(0).integers(2**63, size=(2, HASHES), dtype=np.uint64)
_FACTORS |= np.uint64(1)


def near_earlier(texts: Sequence[str], threshold: float, marks: np.ndarray | None = None) -> np.ndarray:
    """The place of an earlier text whose likeness to each reaches `threshold`, -1 where there is none; int [n].

    `marks` are the signatures of the texts.
    """
    marks = signatures(texts) if marks is None else marks
    near = np.full(len(texts), NONE)
    for keys in _bands(marks, threshold):
        order = np.argsort(keys, kind="stable")
        ranked = keys[order]
        for step in range(1, min(WINDOW, len(texts) - 1) + 1):
            same = np.flatnonzero(ranked[step:] == ranked[:-step])
            earlier, later = order[same], order[same + step]
            fresh = near[later] == NONE
            _confirm(near, marks, texts, later[fresh], marks, texts, earlier[fresh], threshold)
    return near


class NearTexts:
    """A list of texts that others can be compared with."""

    def __init__(self, texts: Sequence[str], threshold: float) -> None:
        self._texts, self._threshold = list(texts), threshold
        self._marks = signatures(self._texts)
        self._bands = [
            (keys[order := np.argsort(keys, kind="stable")], order) for keys in _bands(self._marks, threshold)
        ]

    def near(self, texts: Sequence[str], marks: np.ndarray | None = None) -> np.ndarray:
        """The place in the list of a text whose likeness to each of `texts` reaches the threshold, or -1; int [n]."""
        marks = signatures(texts) if marks is None else marks
        near = np.full(len(texts), NONE)
        for (listed, order), own in zip(self._bands, _bands(marks, self._threshold), strict=True):
            low, high = np.searchsorted(listed, own, "left"), np.searchsorted(listed, own, "right")
            for step in range(WINDOW):
                rows = np.flatnonzero((low + step < high) & (near == NONE))
                if not rows.size:
                    break
                found = order[low[rows] + step]
                _confirm(near, marks, texts, rows, self._marks, self._texts, found, self._threshold)
        return near


def signatures(texts: Sequence[str]) -> np.ndarray:
    """MinHash signatures, uint32 [n, 64]; the same for texts that agree when normalised."""
    marks = np.empty((len(texts), HASHES), np.uint32)
    for start in range(0, len(texts), CHUNK):
        made = shingles(texts[start : start + CHUNK])
        for column, (factor, offset) in enumerate(zip(_FACTORS, _OFFSETS, strict=True)):
            hashed = ((made.hashes * factor + offset) >> np.uint64(32)).astype(np.uint32)
            marks[start : start + CHUNK, column] = np.minimum.reduceat(hashed, made.starts)
    return marks


@dataclass(frozen=True)
class Shingles:
    """Hashes of neighbouring words, text after text; text i has those from `starts[i]` on, `counts[i]` of them."""

    hashes: np.ndarray
    starts: np.ndarray
    counts: np.ndarray

    def of(self, rows: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """The hashes of the texts `rows`, one after another, and for each hash the place of its text in `rows`."""
        counts = self.counts[rows]
        owner = np.repeat(np.arange(len(rows)), counts)
        within = np.arange(counts.sum()) - np.repeat(np.cumsum(counts) - counts, counts)
        return self.hashes[self.starts[rows][owner] + within], owner


def shingles(texts: Sequence[str]) -> Shingles:
    """Hashes of the neighbouring words of each text; a text of w words has w + 1 of them, not all distinct."""
    data = np.frombuffer("".join(f"{_words(text)}\n" for text in texts).encode(), np.uint8)
    ends = np.flatnonzero((data == ord(" ")) | (data == ord("\n")))
    starts = np.concatenate([[0], ends[:-1] + 1])
    words = _word_hashes(data, starts, ends)
    last = data[ends] == ord("\n")
    first = np.concatenate([[True], last[:-1]])
    text_of = np.cumsum(first) - 1
    hashes = np.empty(len(words) + len(texts), np.uint64)
    before = np.where(first, _START, np.roll(words, 1))
    hashes[np.arange(len(words)) + text_of] = _mix(before * _BASE + words)
    closing = np.flatnonzero(last) + np.arange(len(texts)) + 1
    hashes[closing] = _mix(words[last] * _BASE + _END)
    counts = np.diff(np.concatenate([[-1], closing]))
    return Shingles(hashes, closing + 1 - counts, counts)


def _words(text: str) -> str:
    """The words of a text with single blanks between them."""
    plain = normalised(text)
    return plain if plain.isascii() else " ".join(spaced(plain).split())


def _word_hashes(data: np.ndarray, starts: np.ndarray, ends: np.ndarray) -> np.ndarray:
    """A 64-bit hash of each word data[start:end]: a polynomial in its bytes modulo 2^64, from one running sum."""
    powers, inverses = _powers(1 << len(data).bit_length())
    running = np.zeros(len(data) + 1, np.uint64)
    np.cumsum((data + np.uint64(1)) * powers[: len(data)], out=running[1:])
    return _mix((running[ends] - running[starts]) * inverses[starts])


@lru_cache(maxsize=32)
def _powers(count: int) -> tuple[np.ndarray, np.ndarray]:
    """The powers of the base and of its inverse modulo 2^64, from 0 on."""
    return _geometric(_BASE, count), _geometric(_INVERSE, count)


def _geometric(base: np.uint64, count: int) -> np.ndarray:
    return np.cumprod(np.concatenate([np.ones(1, np.uint64), np.full(count, base)[1:]]))


def _mix(values: np.ndarray) -> np.ndarray:
    """The finaliser of SplitMix64 (Steele et al. 2014), after which every bit depends on every other."""
    values = (values ^ (values >> np.uint64(30))) * np.uint64(0xBF58476D1CE4E5B9)
    values = (values ^ (values >> np.uint64(27))) * np.uint64(0x94D049BB133111EB)
    return values ^ (values >> np.uint64(31))


def rows_of_band(threshold: float) -> int:
    """Hashes per band: as many as leave a pair at `threshold` unseen by every band with probability below `MISS`."""
    fitting = [r for r in range(1, HASHES + 1) if (1 - threshold**r) ** (HASHES // r) <= MISS]
    return max(fitting, default=1)


def _bands(marks: np.ndarray, threshold: float) -> Iterator[np.ndarray]:
    """One 64-bit key per text and band."""
    rows = rows_of_band(threshold)
    for start in range(0, HASHES // rows * rows, rows):
        keys = np.zeros(len(marks), np.uint64)
        for column in range(start, start + rows):
            keys = _mix(keys * _BASE + marks[:, column])
        yield keys


def _confirm(
    near: np.ndarray,
    marks: np.ndarray,
    texts: Sequence[str],
    rows: np.ndarray,
    other_marks: np.ndarray,
    other_texts: Sequence[str],
    others: np.ndarray,
    threshold: float,
) -> None:
    """Set `near` of those `rows` to the text across, `others`, with which the exact index reaches `threshold`."""
    doubt = 5 * (threshold * (1 - threshold) / HASHES) ** 0.5  # the estimate's standard deviation, five times
    for start in range(0, len(rows), CHUNK):
        a, b = rows[start : start + CHUNK], others[start : start + CHUNK]
        likely = (marks[a] == other_marks[b]).mean(1) >= threshold - doubt
        a, b = a[likely], b[likely]
        if a.size:
            index = jaccard([texts[int(row)] for row in a], [other_texts[int(row)] for row in b])
            sure = index >= threshold - 1e-9
            near[a[sure]] = b[sure]


def jaccard(texts: Sequence[str], others: Sequence[str]) -> np.ndarray:
    """The Jaccard index of the neighbouring words of each text and the one across; float [n]."""
    made = shingles([*texts, *others])
    hashes, owner = made.of(np.arange(2 * len(texts)))
    pair, side = owner % len(texts), 1 + owner // len(texts)
    order = np.lexsort((hashes, pair))
    hashes, pair, side = hashes[order], pair[order], side[order]
    new = np.flatnonzero(np.concatenate([[True], (hashes[1:] != hashes[:-1]) | (pair[1:] != pair[:-1])]))
    both = np.bitwise_or.reduceat(side, new) == 3
    union = np.bincount(pair[new], minlength=len(texts))
    return np.bincount(pair[new][both], minlength=len(texts)) / union
