"""Numbers as texts have them."""

from __future__ import annotations

NUMBER = r"[+−-]?\d+(?:\.\d+)?(?:e[+-]\d+)?"


def close(text: str, value: float) -> bool:
    """Whether a number is written as this value, to its last decimal place."""
    if text == "–" or value != value:
        return text == "–" and value != value
    digits, _, exponent = text.replace("−", "-").partition("e")
    last = int(exponent or 0) - len(digits.partition(".")[2])
    return abs(float(text.replace("−", "-")) - value) <= 0.501 * 10.0**last
