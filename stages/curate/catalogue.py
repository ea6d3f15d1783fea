"""Which images went into curation under which name, and what became of them: what pairs are looked up in."""

from __future__ import annotations

import unicodedata
from collections.abc import Iterable, Iterator
from pathlib import PurePosixPath

from stages.curate.rows import ImageRow

_TWO_IMAGES = "two images"


class Catalogue:
    """Names, ids and splits of all images seen, and which of them were kept."""

    def __init__(self) -> None:
        self.announced = 0
        """Images that the sources of captioned images have, before any was read."""
        self.captioned: list[tuple[str, str, str]] | None = None
        """(image_id, caption, source) of every captioned image that was kept so far; None where nobody asks."""
        self._ids: dict[str, str] = {}
        self._splits: dict[str, str] = {}
        self._kept: set[str] = set()
        self._spellings: dict[str, str] = {}

    def watch(self, rows: Iterable[ImageRow]) -> Iterator[ImageRow]:
        """Pass `rows` on and note each one when the next is asked for, that is, after it went through the filters."""
        for row in rows:
            yield row
            before = self._ids.get(row.name, "")
            self._ids[row.name] = before if row.image_id in ("", before) else _TWO_IMAGES if before else row.image_id
            self._splits.setdefault(row.image_id or row.name, row.split)
            if (plain := _plain(row.name)) != row.name:
                self._spellings.setdefault(plain, row.name)

    def keep(self, row: ImageRow) -> None:
        """Note that `row` passed every filter."""
        self._kept.add(row.image_id)
        if self.captioned is not None and not row.for_pairs:
            self.captioned.append((row.image_id, row.text, row.source))

    def named(self, name: str) -> str | None:
        """The name under which the image was seen that is called `name`, or has that path in another spelling; the
        first of several, None where there is none.
        """
        if self.knows(name):
            return name
        plain = _plain(name)
        return plain if self.knows(plain) else self._spellings.get(plain)

    def knows(self, name: str) -> bool:
        """Whether an image was seen under this name or image_id."""
        return name in self._ids or name in self._splits

    def ambiguous(self, name: str) -> bool:
        """Whether two different images were seen under this name."""
        return self._ids.get(name) == _TWO_IMAGES

    def kept(self, name: str) -> str:
        """The image_id of a known image; empty when a filter removed it."""
        image_id = self._id(name)
        return image_id if image_id in self._kept else ""

    def split(self, name: str) -> str:
        """The split of a known image, kept or not."""
        return self._splits[self._id(name) or name]

    def _id(self, name: str) -> str:
        """The image_id behind a name or image_id, empty for an image that was not decoded."""
        return self._ids.get(name, name)


def _plain(name: str) -> str:
    """A name as a path in one spelling: slashes, no `./`, and Unicode's composed form."""
    return unicodedata.normalize("NFC", PurePosixPath(name.replace("\\", "/")).as_posix())
