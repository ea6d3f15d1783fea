"""Pairs of critique and editing: the images of another source, and what an editor makes of each after its critique."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from itertools import islice

from stages.curate import edit
from stages.curate.catalogue import Catalogue
from stages.curate.decode import Decoded, Unreadable, decode
from stages.curate.left_out import LeftOut
from stages.curate.pair_settings import EditedPairs
from stages.curate.rows import ImageRow, Offer, PairRow, Stream
from stages.curate.settings import source_name
from stages.world.settings import WorldSettings

CHUNK = 64
"""Images that the critic and the editor are given at a time."""


def pairs(
    settings: EditedPairs, images: Stream[ImageRow], catalogue: Catalogue, world: WorldSettings, max_pixels: int
) -> Stream[Offer]:
    """The edited image of each pair, which is preferred, and the original; `images` are those of the source `of`.

    Images that lack nothing, that cannot be read, or that the editor leaves as they are, are counted.
    """
    left_out, name = LeftOut(), source_name(settings)
    where = f"curate.pairs: source {name!r}"

    def rows() -> Iterator[Offer]:
        for chunk in _chunks(islice(images.rows, settings.limit)):
            readable = list(_decoded(chunk, left_out, max_pixels))
            files = [found.data for _, found in readable]
            prompts = [row.text for row, _ in readable]
            said = edit.criticised(files, prompts, settings.critic, where)
            wrong = [number for number, text in enumerate(said) if text]
            for number in set(range(len(said))) - set(wrong):
                left_out.add(readable[number][0].name, "an image in which the critic finds nothing wrong")
            made = edit.edited(
                [files[n] for n in wrong], [prompts[n] for n in wrong], [said[n] for n in wrong], settings.editor,
                settings.seed, world, where,
            )  # fmt: skip
            for number, data in zip(wrong, made, strict=True):
                row, before = readable[number]
                if data is None or data == before.data:
                    left_out.add(row.name, "an image that the editor left as it was")
                else:
                    yield _offer(row, data, name, catalogue)

    total = images.total if settings.limit is None else min(images.total, settings.limit)
    return Stream(rows(), total, left_out)


def _offer(row: ImageRow, data: bytes, source: str, catalogue: Catalogue) -> Offer:
    edited = f"{row.name}, edited for {source}"
    brings = [] if catalogue.knows(row.name) else [row]
    brings.append(ImageRow(edited, data, row.text, source, row.group, for_pairs=True))
    return Offer(PairRow(edited, row.text, edited, row.name, 1.0, source), tuple(brings))


def _decoded(
    chunk: Iterable[ImageRow], left_out: LeftOut, max_pixels: int
) -> Iterator[tuple[ImageRow, Decoded]]:  # fmt: skip
    for row in chunk:
        try:
            yield row, decode(row.data, max_pixels)
        except Unreadable:
            left_out.add(row.name, "an image that cannot be read")


def _chunks(rows: Iterable[ImageRow]) -> Iterator[list[ImageRow]]:
    """Chunks of the rows in their order; an image that comes twice is in them once."""
    known: set[str] = set()
    chunk: list[ImageRow] = []
    for row in rows:
        if row.name in known:
            continue
        known.add(row.name)
        chunk.append(row)
        if len(chunk) == CHUNK:
            yield chunk
            chunk = []
    if chunk:
        yield chunk
