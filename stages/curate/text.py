"""What makes two prompts the same one, and what makes a prompt empty."""

from __future__ import annotations

import hashlib
import unicodedata


def normalised(text: str) -> str:
    """NFKC, lower case, letters, marks and numbers only, single spaces: prompts that agree in this are one prompt.

    Punctuation and symbols count as spaces, invisible format characters (joiners, marks of direction) as nothing. A
    text made of symbols alone, such as emoji, keeps them, so that two of those stay two prompts.
    """
    folded = unicodedata.normalize("NFKC", text).lower()
    words = " ".join(folded.translate(_KEPT).split())
    return words or " ".join(folded.split())


class _Kept(dict[int, str]):
    """What becomes of each character, looked up in Unicode's tables once: `str.translate` is fast, `category` slow."""

    def __missing__(self, code: int) -> str:
        letter = chr(code)
        category = unicodedata.category(letter)
        self[code] = letter if category[0] in "LMN" else "" if category == "Cf" else " "
        return self[code]


_KEPT = _Kept()


def has_text(text: str) -> bool:
    """Whether anything but blanks, punctuation and control characters stands in `text`."""
    return any(unicodedata.category(letter)[0] in "LNS" for letter in text)


def prompt_id(text: str) -> str:
    """First 12 hexadecimal digits of the SHA-256 of the normalised text."""
    return hashlib.sha256(normalised(text).encode()).hexdigest()[:12]


def words(text: str) -> int:
    """Number of words between blanks."""
    return len(text.split())
