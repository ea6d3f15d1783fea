"""What an emoji is called and what its code says: caption, concept, gender and tone, and the evaluation prompts.

Emoji are sequences of code points (Unicode Technical Standard 51). A person is woman (1F469), man (1F468) or adult
(1F9D1), alone, or joined (200D) with an object that says the occupation; or an activity to which a sign of gender
(2640, 2642) is joined. A tone is one of five modifiers (1F3FB to 1F3FF); without one the person is yellow.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass

TONES: Mapping[str, str] = {
    "": "yellow", "1F3FB": "light", "1F3FC": "medium-light", "1F3FD": "medium", "1F3FE": "medium-dark",
    "1F3FF": "dark",
}  # fmt: skip
"""Modifier to the name of the tone (Fitzpatrick types 1-2, 3, 4, 5 and 6)."""

NEUTRAL = {
    "1F468": "1F9D1", "1F469": "1F9D1", "1F466": "1F9D2", "1F467": "1F9D2", "1F474": "1F9D3", "1F475": "1F9D3",
    "1F934": "1FAC5", "1F478": "1FAC5",
}  # fmt: skip
"""Code points that name a gender, and the one that does not: adult, child, older adult, person with crown."""
WOMEN = ("1F469", "1F467", "1F475", "1F478", "2640")
MEN = ("1F468", "1F466", "1F474", "1F934", "2642")
SIGNS = ("2640", "2642")
JOINER, SELECTOR = "200D", "FE0F"

EVALUATION = (
    "cook", "pilot", "bearded person", "teacher", "judge", "construction worker", "person frowning", "student",
    "person with crown", "information desk person", "shrug", "face with no good gesture",
    "man with veil", "woman singer", "princess", "man health worker", "man student", "woman mechanic",
    "palm up hand", "pinching hand", "i love you hand sign", "index pointing at the viewer", "raised back of hand",
    "hand with index and middle fingers crossed",
)  # fmt: skip
"""Names that studies keep for evaluation: 12 of people whose gender is open, 6 of people of a gender, 6 of hands.

Each group is the beginning of the list of all such names with tones in the default subcategories, in the order of the
SHA-256 of the caption.
"""


@dataclass(frozen=True)
class Meaning:
    """What code and name say. `concept` is the code without gender; `gender` is woman, man or empty."""

    concept: str
    gender: str


def caption(name: str) -> str:
    """The name in small letters; what is neither a letter nor a digit becomes a space: `WOMAN: RED HAIR`."""
    return " ".join(re.findall(r"[^\W_]+", name.lower()))


def meaning(code: str, text: str) -> Meaning:
    """What a code without tone such as `1F469-200D-2708-FE0F` says, and the caption `text` that goes with it.

    Several people (a family, a couple) and what is no person have no gender, and their code is the concept. Some older
    names say a gender that the code does not: `man with turban`, 1F473.
    """
    points = [point for point in code.upper().split("-") if point != SELECTOR]
    said = [point for point in points if point in WOMEN + MEN]
    if len(said) > 1 or sum(point in NEUTRAL or point in NEUTRAL.values() for point in points) > 1:
        return Meaning("-".join(points), "")
    gender = "" if not said else "woman" if said[0] in WOMEN else "man"
    plain = [NEUTRAL.get(point, point) for point in points if point not in SIGNS]
    concept = [point for n, point in enumerate(plain) if point != JOINER or plain[n + 1 : n + 2] not in ([], [JOINER])]
    return Meaning("-".join(concept), gender or _named(text))


def _named(text: str) -> str:
    words = set(text.split())
    women, men = bool(words & {"woman", "women", "bride"}), bool(words & {"man", "men"})
    return "" if women == men else "woman" if women else "man"
