"""What makes two prompts the same one, and what makes a prompt empty."""

from __future__ import annotations

import hashlib
import re
import unicodedata


def normalised(text: str) -> str:
    """NFKC, lower case, letters, marks, numbers and emoji, single spaces: prompts that agree in this are one prompt.

    Punctuation and other symbols count as spaces; invisible format characters (joiners, marks of direction) and
    variation selectors as nothing. An emoji is a word of its own. A text made of other symbols alone keeps them, so
    that two of those stay two prompts.
    """
    folded = unicodedata.normalize("NFKC", text).lower()
    words = " ".join(folded.translate(_KEPT).split())
    return words or " ".join(folded.split())


_SELECTORS = range(0xFE00, 0xFE10)
"""They choose between a letter-like and a colourful form of the same emoji."""
_EMOJI = (range(0x2600, 0x27C0), range(0x1F000, 0x20000))
_UNSPACED = re.compile("([\u3005-\u3007\u3040-\u30ff\u3400-\u4dbf\u4e00-\u9fff\uf900-\ufaff\U00020000-\U0003ffff])")
"""Chinese characters and Japanese syllables, which stand without blanks between words."""


class _Kept(dict[int, str]):
    """What becomes of each character, looked up in Unicode's tables once: `str.translate` is fast, `category` slow."""

    def __missing__(self, code: int) -> str:
        letter = chr(code)
        category = unicodedata.category(letter)
        if code in _SELECTORS or category == "Cf":
            self[code] = ""
        elif category in ("So", "Sk") and any(code in block for block in _EMOJI):
            self[code] = f" {letter} "
        else:
            self[code] = letter if category[0] in "LMN" else " "
        return self[code]


_KEPT = _Kept()


_CONTROL = re.compile("[\x00-\x08\x0e-\x1f\x7f]")


def no_text(text: str) -> str:
    """Why `text` is none: nothing but blanks, punctuation and control characters, or a control character that is no
    blank, as colours of a terminal and binary data have. Empty for a text.
    """
    if found := _CONTROL.search(text):
        return f"a control character, U+{ord(found[0]):04X}"
    return "" if any(unicodedata.category(letter)[0] in "LNS" for letter in text) else "no text"


def prompt_id(text: str) -> str:
    """First 12 hexadecimal digits of the SHA-256 of the normalised text."""
    return hashlib.sha256(normalised(text).encode()).hexdigest()[:12]


def spaced(text: str) -> str:
    """`text` with a blank on either side of each Chinese character and Japanese syllable, which count as words."""
    return text if text.isascii() else _UNSPACED.sub(r" \1 ", text)


def words(text: str) -> int:
    """Number of words between blanks; a Chinese character or Japanese syllable is one."""
    return len(spaced(text).split())
