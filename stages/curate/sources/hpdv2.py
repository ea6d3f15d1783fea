"""Human Preference Dataset v2 as it is published: `train.json`, `test.json` and folders of images.

An entry of `train.json` has a prompt, two images (`file_path`, in some copies `image_path`) and `human_preference`, 1
for the preferred one. An entry of `test.json` has several images, the rank of each (1 is best) and in
`raw_annotations` the ranks that each annotator gave. Images lie below `train/` and `test/`.
"""

from __future__ import annotations

from collections.abc import Iterator
from functools import partial
from itertools import combinations
from pathlib import Path

from stages import walk
from stages.curate.catalogue import Catalogue
from stages.curate.datasets import Hpdv2Images, Hpdv2Pairs, Hpdv2Prompts
from stages.curate.left_out import LeftOut
from stages.curate.rows import ImageRow, Offer, PairRow, PromptRow, Stream
from stages.curate.settings import source_name
from stages.curate.sources.file import prompt_rows
from stages.curate.sources.images import read_file
from stages.curate.sources.json_list import short
from stages.curate.sources.offers import offer, share_of_better_ranks
from stages.curate.sources.records import Record, open_records
from stages.errors import InputError

RANKED_IMAGES = 9
"""Images per prompt in `test.json`, from which the number of pairs is estimated."""


def prompts(settings: Hpdv2Prompts) -> Stream[PromptRow]:
    """The prompt of every entry. Raises InputError for a file that is missing or malformed."""
    table = open_records(str(_list(settings.path, settings.split)), ("prompt",))
    return prompt_rows(table, "prompt", source_name(settings))


def images(settings: Hpdv2Images) -> Stream[ImageRow]:
    """Images with their prompts as captions; those that were preferred, or ranked first, unless all are wanted."""
    table = open_records(str(_list(settings.path, settings.split)), ("prompt",))
    root, seen = Path(settings.path), set[str]()
    _expect(root, settings.split, table.left_out, "an image that no entry names, or none as preferred")

    def rows() -> Iterator[ImageRow]:
        for record in table.rows:
            names = _names(record)
            if settings.preferred:
                wins = _ranks(record, len(names), settings.split)
                names = [name for name, ranks in zip(names, wins, strict=True) if ranks.merged == 1]
            for name in names:
                if name not in seen:
                    seen.add(name)
                    file = _place(root, settings.split, name)
                    table.left_out.read(file)
                    yield ImageRow(name, read_file(file, record.where), record.text("prompt"), source_name(settings))

    return Stream(rows(), table.total * 2, table.left_out)


def pairs(settings: Hpdv2Pairs, catalogue: Catalogue) -> Stream[Offer]:
    """Every pair of the training part; of the test part all pairs of a prompt's images, with the annotators' votes."""
    table = open_records(str(_list(settings.path, settings.split)), ("prompt",))
    root, source = Path(settings.path), source_name(settings)
    _expect(root, settings.split, table.left_out, "an image that no entry names")

    def read(path: str, where: str) -> bytes:
        table.left_out.read(Path(path))
        return read_file(Path(path), where)

    def rows() -> Iterator[Offer]:
        for record in table.rows:
            names, text = _names(record), record.text("prompt")
            ranked = list(zip(names, _ranks(record, len(names), settings.split), strict=True))
            for (a, ranks_a), (b, ranks_b) in combinations(ranked, 2):
                share = share_of_better_ranks(ranks_a.each, ranks_b.each)
                path_a, path_b = (str(_place(root, settings.split, name)) for name in (a, b))
                pair = PairRow(record.where, text, path_a, path_b, share, source)
                yield offer(pair, partial(read, where=record.where), catalogue)

    each = 1 if settings.split == "train" else RANKED_IMAGES * (RANKED_IMAGES - 1) // 2
    return Stream(rows(), table.total * each, table.left_out)


class _Ranks:
    """The ranks of one image: `each` annotator's, and the `merged` one."""

    def __init__(self, merged: float, each: list[float]) -> None:
        self.merged, self.each = merged, each


def _ranks(record: Record, count: int, split: str) -> list[_Ranks]:
    """The ranks of every image of an entry."""
    if split == "train":
        votes = _numbers(record, record.get("human_preference"), "human_preference", count)
        best = max(votes)
        merged = [1.0 if vote == best else 2.0 for vote in votes]
        judged = best > 0
        return [_Ranks(rank if judged else 2.0, [rank] if judged else []) for rank in merged]
    merged = _numbers(record, record.get("rank"), "rank", count)
    raw = record.values.get("raw_annotations") or []
    if not isinstance(raw, list) or not all(isinstance(each, dict) for each in raw):
        raise InputError(f"{record.where}: 'raw_annotations' is {short(raw)}, expected a list of objects")
    judges = [_numbers(record, each.get("rank"), "raw_annotations.rank", count) for each in raw] or [merged]
    return [_Ranks(merged[n], [judge[n] for judge in judges]) for n in range(count)]


def _numbers(record: Record, value: object, key: str, count: int) -> list[float]:
    numeric = isinstance(value, list) and all(isinstance(each, int | float) for each in value)
    if not isinstance(value, list) or not numeric or len(value) != count:
        raise InputError(f"{record.where}: {key!r} is {short(value)}, expected {count} numbers, one per image")
    return [float(each) for each in value]


def _names(record: Record) -> list[str]:
    key = "file_path" if "file_path" in record.values else "image_path"
    names = record.get(key)
    if not isinstance(names, list) or len(names) < 2 or not all(isinstance(name, str) and name for name in names):
        raise InputError(f"{record.where}: {key!r} is {short(names)}, expected a list of two or more paths")
    return names


def _list(path: str, split: str) -> Path:
    file = Path(path) / f"{split}.json"
    if not file.is_file():
        raise InputError(f"{path}: there is no {split}.json here, expected the folder of HPDv2")
    return file


def _expect(root: Path, split: str, left_out: LeftOut, reason: str) -> None:
    """Put down every file below the folder of a split as left out, until it is read."""
    below = walk.search(root / split) if (root / split).is_dir() else walk.Found()
    left_out.add_unread(below.unread)
    left_out.unless_read(below.files, reason)


def _place(root: Path, split: str, name: str) -> Path:
    """Where an image lies: below the folder of its split, which some copies write into its name."""
    below = root / split / name
    return below if below.exists() or not (root / name).exists() else root / name
