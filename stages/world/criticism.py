"""Which words of a caption a picture of the shapes world does not show."""

from __future__ import annotations

from collections.abc import Sequence

from stages.world.oracle import Parsed, caption_match
from stages.world.scene import read_caption


def wrong_words(seen: Parsed, captions: Sequence[str]) -> list[list[int]]:
    """For each parsed picture the numbers, from 0, of the words of its caption (what stands between blanks) that name
    another colour, shape, size or background than it shows; none for a text that is no caption of this world.
    """
    match = caption_match(seen, captions)
    found = []
    for row, text in enumerate(captions):
        said = read_caption(text)
        shown = {"colour": match.colour, "shape": match.shape, "size": match.size, "background": match.background}
        wrong = {getattr(said, name) for name, fits in shown.items() if said and not fits[row]}
        found.append([number for number, word in enumerate(text.lower().split()) if word in wrong])
    return found
