"""Which images went into curation under which name, and what became of them: what pairs are looked up in."""

from __future__ import annotations

from collections.abc import Iterable, Iterator

from stages.curate.rows import ImageRow

_TWO_IMAGES = "two images"


class Catalogue:
    """Names, ids and splits of all images seen, and which of them were kept."""

    def __init__(self) -> None:
        self._ids: dict[str, str] = {}
        self._splits: dict[str, str] = {}
        self._kept: set[str] = set()

    def watch(self, rows: Iterable[ImageRow]) -> Iterator[ImageRow]:
        """Pass `rows` on and note each one when the next is asked for, that is, after it went through the filters."""
        for row in rows:
            yield row
            before = self._ids.get(row.name, "")
            self._ids[row.name] = before if row.image_id in ("", before) else _TWO_IMAGES if before else row.image_id
            self._splits.setdefault(row.image_id or row.name, row.split)

    def keep(self, row: ImageRow) -> None:
        """Note that `row` passed every filter."""
        self._kept.add(row.image_id)

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
