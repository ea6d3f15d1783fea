"""Images that are criticised and then edited (RPO, Zhao et al. 2025, arXiv 2503.11720), by functions of one's own or,
in the world of shapes, by its oracle and its renderer.

RPO has a vision-language model criticise a generated image, a language model turn that into an instruction, and a
diffusion model with ControlNet edit the image. A critic here returns such instructions, an editor takes them.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import numpy as np

from stages import own_function, pictures
from stages.errors import InputError
from stages.world import editor as renderer
from stages.world.settings import WorldSettings


def criticised(images: Sequence[bytes], prompts: Sequence[str], place: str | None, where: str) -> list[str]:
    """What each image (PNG or JPEG bytes) lacks of its prompt; empty where nothing is to be changed.

    A critic of one's own is called with the list of images and the list of prompts. Raises InputError that starts with
    `where` for anything but a list of as many texts.
    """
    if place is None:
        return _each_size(images, where, lambda rows, arrays: renderer.criticise(arrays, [prompts[n] for n in rows]))
    found = _called(place, where, "critic", images, prompts)
    if not all(isinstance(text, str) for text in found):
        raise InputError(f"{where}: critic {place!r} returned something else than texts")
    return [text.strip() for text in found]


def edited(
    images: Sequence[bytes], prompts: Sequence[str], critiques: Sequence[str], place: str | None, seed: int,
    world: WorldSettings, where: str,
) -> list[bytes | None]:  # fmt: skip
    """Each image (bytes of a file) changed as its critique says; None where the editor returns none.

    An editor of one's own is called with the lists of images, prompts and critiques, and the seed. Raises InputError
    that starts with `where` for anything but a list of as many files, or None.
    """
    if place is None:

        def drawn(rows: list[int], arrays: np.ndarray) -> list[bytes | None]:
            try:
                made = renderer.edited(arrays, [critiques[n] for n in rows], world)
            except ValueError as error:
                raise InputError(f"{where}: the renderer of the shapes world: {error}") from None
            return [pictures.encode(one) for one in made]

        return _each_size(images, where, drawn)
    found = _called(place, where, "editor", images, prompts, critiques, seed)
    if not all(data is None or isinstance(data, bytes) for data in found):
        raise InputError(f"{where}: editor {place!r} returned something else than bytes of image files or None")
    return found


def _called(place: str, where: str, what: str, images: Sequence[bytes], *further: Any) -> list[Any]:
    function: Callable[..., Any] = own_function.function(place, f"{where}: {what}")
    lists = [list(one) if isinstance(one, Sequence) else one for one in further]
    try:
        found = list(function(list(images), *lists))
    except Exception as error:  # whatever the code raises
        raise InputError(f"{where}: {what} {place!r}: {type(error).__name__}: {error}") from None
    if len(found) != len(images):
        raise InputError(f"{where}: {what} {place!r} returned {len(found)} entries, expected {len(images)}")
    return found


def _each_size(
    images: Sequence[bytes], where: str, make: Callable[[list[int], np.ndarray], Sequence[Any]]
) -> list[Any]:
    """What `make` gives for the images, with those of one size in one array uint8 [n, h, w, 3]."""
    arrays = [pictures.decode(data, where) for data in images]
    found: list[Any] = [None] * len(arrays)
    for shape in dict.fromkeys(array.shape for array in arrays):
        rows = [n for n, array in enumerate(arrays) if array.shape == shape]
        for n, value in zip(rows, make(rows, np.stack([arrays[n] for n in rows])), strict=True):
            found[n] = value
    return found
