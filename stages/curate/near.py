"""Finding a perceptual hash within a few bits of earlier ones, without comparing it to all of them."""

from __future__ import annotations

from collections import defaultdict
from itertools import pairwise

from PIL.Image import Image

BITS = 64


def perceptual_hash(image: Image) -> int:
    """The 64-bit DCT hash (pHash) of an image."""
    from imagehash import phash

    value = 0
    for bit in phash(image).hash.flat:
        value = value << 1 | bool(bit)
    return value


class HashIndex:
    """64-bit hashes that can be asked for a neighbour within `bits` bits.

    The 64 bits are cut into `bits` + 1 bands. Two hashes that differ in at most `bits` bits agree in at least one whole
    band, so only hashes that share a band with the question are compared.
    """

    def __init__(self, bits: int) -> None:
        self.bits = bits
        edges = [BITS * band // (bits + 1) for band in range(bits + 2)]
        self._bands = [(low, (1 << (high - low)) - 1) for low, high in pairwise(edges)]
        self._buckets: list[defaultdict[int, list[int]]] = [defaultdict(list) for _ in self._bands]
        self._names: dict[int, str] = {}

    def near(self, value: int) -> str | None:
        """The name of a hash within `bits` bits of `value`, None where none was added."""
        for (shift, mask), buckets in zip(self._bands, self._buckets, strict=True):
            for other in buckets.get(value >> shift & mask, ()):
                if (value ^ other).bit_count() <= self.bits:
                    return self._names[other]
        return None

    def add(self, value: int, name: str) -> None:
        """Add a hash, and the name of what it is the hash of."""
        self._names[value] = name
        for (shift, mask), buckets in zip(self._bands, self._buckets, strict=True):
            buckets[value >> shift & mask].append(value)
