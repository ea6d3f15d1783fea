"""What a table of comparisons holds, told from its judgements without reading an image: for checks before any job."""

from __future__ import annotations

from collections import Counter
from dataclasses import dataclass, field
from pathlib import Path

from stages.curate.pair_settings import FilePairs
from stages.curate.sources import columnar, file
from stages.curate.sources.images import from_base64, locate, refuse_address
from stages.curate.sources.records import Record, open_records
from stages.errors import InputError


@dataclass
class Survey:
    """Counts of the rows of a table: those that nobody judged, `ties` (preference 1/2), and pairs of each annotator."""

    pairs: int = 0
    unjudged: int = 0
    ties: int = 0
    annotators: Counter[str] = field(default_factory=Counter)

    @property
    def preferred(self) -> int:
        """Pairs with a preference."""
        return self.pairs - self.unjudged - self.ties

    @property
    def alone(self) -> int:
        """Annotators with one pair."""
        return sum(count == 1 for count in self.annotators.values())

    def __str__(self) -> str:
        counts = [f"{self.pairs} pairs"]
        counts += [f"{self.ties} ties"] if self.ties else []
        counts += [f"{self.unjudged} without a judgement"] if self.unjudged else []
        if self.annotators:
            one = f", {self.alone} of them with one pair" if self.alone else ""
            counts.append(f"{len(self.annotators)} annotators{one}")
        return ", ".join(counts)


def survey(settings: FilePairs) -> Survey:
    """The counts of the table. Raises InputError for a table without images, for a cell without the judgement,
    weight or text that it should hold, and, with `folder`, for an image file that is not there; `curate` looks into the
    images.
    """
    sides, votes = file.columns_of(settings)
    _require_images(settings, sides)
    named = sides if settings.folder is not None else ()
    found = Survey()
    own = [key for key in (settings.caption_a, settings.caption_b) if key is not None]
    keys = (settings.prompt, *named, *votes, settings.weight, settings.annotator, *own)
    for record in open_records(settings.path, keys).rows:
        for key in (settings.prompt, *own):
            record.text(key)
        for key in named:
            _require_file(record, key, Path(settings.folder or ""))
        file.weight_of(record, settings.weight)
        preference = file.preference_of(record, settings) if votes else 1.0
        found.pairs += 1
        found.unjudged += preference is None
        found.ties += preference == 0.5
        if who := record.label(settings.annotator):
            found.annotators[who] += 1
    return found


def annotators(settings: FilePairs) -> Counter[str]:
    """Pairs of each annotator of the table; nothing else of it is read."""
    found: Counter[str] = Counter()
    for record in open_records(settings.path, (settings.annotator,)).rows:
        if who := record.label(settings.annotator):
            found[who] += 1
    return found


def _require_images(settings: FilePairs, sides: tuple[str, str]) -> None:
    """Raise InputError where a column of images is known to be empty."""
    if not columnar.is_table(settings.path):
        return
    for path in columnar.find(settings.path).files:
        names = columnar.schema(path).names
        empty = next((side for side in sides if side in names and columnar.all_null(path, side)), None)
        if empty is not None:
            raise InputError(f"{path}: column {empty!r} is empty, expected the images of pairs")


def _require_file(record: Record, key: str, folder: Path) -> None:
    cell, where = record.get(key), f"{record.where}: {key!r}"
    if isinstance(cell, bytes | dict) or (isinstance(cell, str) and from_base64(cell, where) is not None):
        return  # the image itself, which curate reads
    name = record.label(key)
    if not name:
        raise InputError(f"{where} is empty, expected an image")
    refuse_address(name, where)
    path = locate(folder, name)
    if len(name) < 1000 and not path.is_file():
        raise InputError(f"{where}: no image {path}")
