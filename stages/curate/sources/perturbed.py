"""Pairs of captions: every captioned image with its own caption, which is preferred, and with a perturbed one."""

from __future__ import annotations

from collections.abc import Iterator

from stages.curate import perturb
from stages.curate.catalogue import Catalogue
from stages.curate.left_out import LeftOut
from stages.curate.pair_settings import PerturbedCaptions
from stages.curate.rows import Offer, PairRow, Stream
from stages.curate.settings import source_name
from stages.world.settings import WorldSettings


def pairs(settings: PerturbedCaptions, catalogue: Catalogue, world: WorldSettings) -> Stream[Offer]:
    """The pairs, in the order of the images that curation kept; they are known when all images have been read.

    A caption that nothing could be exchanged in is left out and counted.
    """
    catalogue.captioned = catalogue.captioned or []
    left_out, name = LeftOut(), source_name(settings)

    def rows() -> Iterator[Offer]:
        images = [row for row in catalogue.captioned or () if settings.of in (None, row[2])]
        captions = list(dict.fromkeys(caption for _, caption, _ in images))
        if settings.function is None:
            made = perturb.by_rule(captions, settings.each, settings.seed, world)
        else:
            where = f"curate.pairs: source {name!r}: function"
            made = perturb.by_function(captions, settings.each, settings.seed, settings.function, where)
        others = dict(zip(captions, made, strict=True))
        for image, caption, _ in images:
            if not others[caption]:
                left_out.add(f"image {image}", "a caption without another word in any place")
            for number, other in enumerate(others[caption][: settings.each], 1):
                row = f"image {image}, perturbed caption {number}"
                yield Offer(PairRow(row, caption, image, image, 1.0, name, caption_b=other))

    return Stream(rows(), catalogue.announced * settings.each, left_out)
