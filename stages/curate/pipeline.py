"""From sources through filters to the curated tables."""

from __future__ import annotations

import hashlib
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import ExitStack
from dataclasses import dataclass
from itertools import chain, compress
from pathlib import Path

import pyarrow as pa

from stages import tables
from stages.curate import filters, manifest, versions
from stages.curate.catalogue import Catalogue
from stages.curate.decode import square
from stages.curate.near_text import NearTexts, signatures
from stages.curate.rows import Filter, ImageRow, Offer, PairRow, PromptRow, Stream, Tally, TextRow, passes, sift
from stages.curate.settings import CurateSettings, PromptSource, source_name
from stages.curate.sources import opening
from stages.curate.split import split_of
from stages.errors import InputError
from stages.runtime import progress, whole_file
from stages.world.settings import WorldSettings

GROUP_ROWS, GROUP_BYTES = 512, 2**25
"""A row group of images ends at so many rows or bytes, whichever comes first."""
PAIR_ROWS = 2**16
"""Pairs in a row group."""


@dataclass(frozen=True)
class Outputs:
    """Where the four files go."""

    prompts: Path
    images: Path
    pairs: Path
    manifest: Path


class Curation:
    """One run over a study's sources: its settings, what is known of prompts and images so far, and the counts."""

    def __init__(self, settings: CurateSettings, world: WorldSettings, study_seed: int) -> None:
        self.settings, self.world, self.study_seed = settings, world, study_seed
        self.tallies: dict[str, Tally] = {}
        self.catalogue = Catalogue()
        self.evaluation: Mapping[str, str] = {}
        self.versions: list[versions.Found] = []
        self.near_evaluation: NearTexts | None = None
        self.offered: list[PairRow] = []
        self._streams: list[tuple[str, Stream[ImageRow]]] = []
        self._offers: list[tuple[str, Stream[Offer]]] = []

    def run(self, outputs: Outputs) -> None:
        """Write all four files, or none. Raises InputError for a source that is wrong, and where no row is left."""
        self._open()
        with ExitStack() as stack:
            # The manifest is entered first and so gets its name last: where it stands, the tables stand too.
            names = ("manifest", "prompts", "images", "pairs")
            partial = {name: stack.enter_context(whole_file(getattr(outputs, name))) for name in names}
            tables.write(partial["prompts"], self.prompts(), tables.PROMPTS)
            tables.write(partial["images"], _row_groups(self.images(), tables.IMAGES, GROUP_ROWS), tables.IMAGES)
            schema = tables.JUDGED_PAIRS if self.settings.judged else tables.PAIRS
            schema = tables.CAPTIONED_PAIRS if self.settings.captioned_pairs else schema
            tables.write(partial["pairs"], _row_groups(self.pairs(), schema, PAIR_ROWS), schema)
            written = {getattr(outputs, name).name: partial[name] for name in names[1:]}
            digest = manifest.settings_digest(self.settings, self.world, self.study_seed)
            manifest.write(partial["manifest"], digest, self.tallies, written, self.versions)

    def _open(self) -> None:
        """Open every source of images and pairs, so that one that is missing is refused before any work."""
        own = [] if self.settings.versions is None else versions.read(self.settings.versions)
        known = [*own, *versions.read()]
        for source in self.settings.sources:
            if place := getattr(source, "path", None):
                self.versions += versions.check(source.kind, place, known)
        for image_source in self.settings.images:
            stream = opening.images(image_source, self.world, self.study_seed)
            self._streams.append((source_name(image_source), stream))
            self.catalogue.announced += stream.total
        for pair_source in self.settings.pairs:
            offers = opening.pairs(pair_source, self.world, self.study_seed, self.catalogue, self.settings)
            self._offers.append((source_name(pair_source), offers))

    # --- prompts ----------------------------------------------------------------------------------------------------

    def prompts(self) -> pa.Table:
        """Training prompts, of which none is an evaluation prompt, and evaluation prompts."""
        lists = self.settings.prompts
        evaluation = self._prompt_list("eval", lists.eval, ())
        self.evaluation = {row.prompt_id: row.name for row in evaluation}
        if self.settings.filters.near_duplicate_text is not None:
            texts = [row.text for row in evaluation]
            self.near_evaluation = NearTexts(texts, self.settings.filters.near_duplicate_text)
        groups = frozenset(row.group for row in evaluation)
        unseen = (filters.leakage(self.evaluation), filters.group_leakage(groups))
        rows = [*self._prompt_list("train", lists.train, unseen), *evaluation]
        columns: dict[str, Sequence[object]] = {"prompt": [row.text for row in rows]}
        columns |= {name: [getattr(row, name) for row in rows] for name in ("prompt_id", "split", "group", "source")}
        return tables.table(tables.PROMPTS, columns)

    def _prompt_list(
        self, split: str, sources: list[PromptSource], unseen: Iterable[Filter[PromptRow]]
    ) -> list[PromptRow]:
        rules = self.settings.filters
        steps = [filters.text(), filters.duplicate_prompts(), *unseen, filters.caption_words(*rules.caption_words)]
        near = rules.near_duplicate_text if split == "train" else None
        late = [*(["near_leakage", "near_duplicates"] if near is not None else []), filters.LIMIT]
        tally = self._tally(f"prompts_{split}", [*(step.name for step in steps), *late])
        rows = list(sift(self._prompt_rows(split, sources, tally), steps, tally))
        if near is not None:
            rows = self._unlike(rows, near, tally)
        limit = filters.limit(rows, {source_name(source): source.limit for source in sources})
        rows = [row for row in rows if passes(row, (limit,), tally)]
        tally.require_rows(f"curate.prompts.{split}")
        tally.splits = {split: len(rows)}
        return rows

    def _unlike(self, rows: list[PromptRow], threshold: float, tally: Tally) -> list[PromptRow]:
        """The rows that are like no evaluation prompt and no earlier row."""
        assert self.near_evaluation is not None, "evaluation prompts come first"
        marks = signatures([row.text for row in rows])
        leaks = filters.near_leakage(self.near_evaluation, self._names, rows, marks)
        kept = [passes(row, (leaks,), tally) for row in rows]
        rows, marks = list(compress(rows, kept)), marks[kept]
        repeats = filters.near_duplicate_prompts(rows, threshold, marks)
        return [row for row in rows if passes(row, (repeats,), tally)]

    def _prompt_rows(self, split: str, sources: list[PromptSource], tally: Tally) -> Iterator[PromptRow]:
        for source in sources:
            made = opening.prompts(source, self.world)
            tally.left_out[source_name(source)] = made.left_out
            for row in progress(made.rows, made.total, f"{split} prompts"):
                row.split = split
                yield row

    # --- images -----------------------------------------------------------------------------------------------------

    def images(self) -> Iterator[dict[str, object]]:
        """Rows of the images table: first the captioned images, then those that only pairs brought (split `pairs`)."""
        rules = self.settings.filters
        steps: list[Filter[ImageRow]] = [
            filters.text(),
            filters.caption_words(*rules.caption_words),
            *([filters.metadata()] if any(source.kind == "laion" for source in self.settings.images) else []),
            filters.decode(rules.max_pixels),
            filters.min_side(rules.min_side),
            *([] if rules.min_quality is None else [filters.quality(rules.min_quality)]),
            filters.exact_duplicates(),
            *([] if rules.near_duplicate_bits is None else [filters.near_duplicates(rules.near_duplicate_bits)]),
            *self._leakage(),
        ]
        tally = self._tally("images", (step.name for step in steps))
        tally.left_out = {name: images.left_out for name, images in self._streams}
        for row in sift(self.catalogue.watch(self._image_rows()), steps, tally):
            self.catalogue.keep(row)
            split = "pairs" if row.for_pairs else row.split
            if self.settings.side and not row.for_pairs:
                row.image, row.data = square(row.pixels, row.data, self.settings.side, self.settings.as_released.squash)
            tally.splits[split] = tally.splits.get(split, 0) + 1
            yield {
                "image_id": row.image_id, "caption": row.text, "image": row.data, "width": row.pixels.width,
                "height": row.pixels.height, "split": split, "group": row.group, "source": row.source,
                "attributes": row.attributes,
            }  # fmt: skip
        if self.settings.images or self.settings.pairs:
            tally.require_rows("curate.images" if self.settings.images else "curate.pairs")
        if self.settings.images and not tally.splits.get("train"):
            raise InputError(f"curate.images: all {tally.left} images fell to validation; expected some for training")

    def _image_rows(self) -> Iterator[ImageRow]:
        for name, images in self._streams:
            yield from progress(self._with_split(images.rows), images.total, f"images of {name}")
        for name, offers in self._offers:
            for offer in progress(offers.rows, offers.total, f"pairs of {name}"):
                self.offered.append(offer.pair)
                yield from self._with_split(offer.brings)

    def _with_split(self, rows: Iterable[ImageRow]) -> Iterator[ImageRow]:
        for row in rows:
            row.split = split_of(row.group, self.settings.val_share)
            yield row

    # --- pairs ------------------------------------------------------------------------------------------------------

    def pairs(self) -> Iterator[dict[str, object]]:
        """Rows of the pairs table, from the pairs read along with the images, now that it is known which were kept."""
        steps: list[Filter[PairRow]] = [
            filters.text(),
            filters.caption_words(*self.settings.filters.caption_words),
            filters.judged(),
            *self._leakage(self.offered),
            *self._captions(),
            filters.images_kept(self.catalogue),
            filters.one_image(),
            filters.across_splits(self.catalogue),
            filters.duplicate_pairs(),
        ]
        tally = self._tally("pairs", (step.name for step in steps))
        tally.left_out = {name: offers.left_out for name, offers in self._offers}
        captioned = bool(self.settings.captioned_pairs)
        judged = self.settings.judged or captioned
        for row in sift(self._offered_rows(), steps, tally):
            tally.splits[row.split] = tally.splits.get(row.split, 0) + 1
            yield {
                "pair_id": _pair_id(row), "prompt": row.text, "image_a": row.a, "image_b": row.b,
                "preference": row.preference, "split": row.split, "source": row.source,
                **({"weight": row.weight, "annotator": row.annotator} if judged else {}),
                **({"caption_a": row.caption_a, "caption_b": row.caption_b} if captioned else {}),
            }  # fmt: skip
        if self.settings.pairs:
            tally.require_rows("curate.pairs")

    def _offered_rows(self) -> Iterator[PairRow]:
        for row in self.offered:
            row.split = self.catalogue.split(row.a)
            yield row

    def _leakage(self, ahead: Sequence[TextRow] = ()) -> list[Filter[TextRow]]:
        if not self.settings.filters.leakage:
            return []
        near = [] if self.near_evaluation is None else [filters.near_leakage(self.near_evaluation, self._names, ahead)]
        return [filters.leakage(self.evaluation), *near]

    def _captions(self) -> list[Filter[PairRow]]:
        """What the captions of a pair's images must satisfy, where a source gives any."""
        if not self.settings.captioned_pairs:
            return []
        rules = self.settings.filters
        evaluation, near = (self.evaluation, self.near_evaluation) if rules.leakage else ({}, None)
        return [filters.captions(*rules.caption_words, evaluation, near, self._names)]

    @property
    def _names(self) -> list[str]:
        """The names of the evaluation prompts, in the order of `near_evaluation`."""
        return list(self.evaluation.values())

    def _tally(self, table: str, names: Iterable[str]) -> Tally:
        self.tallies[table] = Tally(names)
        return self.tallies[table]


def _pair_id(row: PairRow) -> str:
    """First 12 hexadecimal digits of the SHA-256 of prompt and images, and of the annotator where one is named, and of
    captions where there are any.
    """
    named = (row.annotator,) if row.annotator else ()
    named += row.captions if row.caption_a or row.caption_b else ()
    return hashlib.sha256("\x1f".join((row.prompt_id, row.a, row.b, *named)).encode()).hexdigest()[:12]


def _row_groups(rows: Iterable[dict[str, object]], schema: pa.Schema, most: int) -> Iterator[pa.Table]:
    """Tables of at most `most` rows and about `GROUP_BYTES` of images, so that only one of them is in memory."""
    group: list[dict[str, object]] = []
    size = 0
    for row in chain(rows, (None,)):
        if row is not None:
            group.append(row)
            size += len(row.get("image", b""))  # pyright: ignore
        if group and (row is None or len(group) >= most or size >= GROUP_BYTES):
            yield tables.table(schema, group)
            group, size = [], 0
