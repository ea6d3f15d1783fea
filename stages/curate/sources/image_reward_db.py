"""ImageRewardDB as it is published: zips of images, in each a JSON list of what the images show and how they rank.

`images/train/train_1.zip` holds the images and `train_1.json`, whose entries have `image_path`, `prompt_id`, `prompt`
and `rank` (1 is best, equal ranks are ties). `metadata-train.parquet` beside `images/` lists the same without images.
"""

from __future__ import annotations

import re
import zipfile
from collections.abc import Iterator
from itertools import combinations
from pathlib import Path, PurePosixPath
from typing import Any

from stages import contents, walk
from stages.curate.catalogue import Catalogue
from stages.curate.datasets import ImageRewardPairs, ImageRewardPrompts
from stages.curate.left_out import LeftOut
from stages.curate.rows import Offer, PairRow, PromptRow, Stream
from stages.curate.settings import source_name
from stages.curate.sources import columnar
from stages.curate.sources.file import prompt_rows
from stages.curate.sources.json_list import short
from stages.curate.sources.offers import offer, share_of_better_ranks
from stages.curate.sources.records import open_parquet
from stages.errors import InputError
from stages.mappings import read_json


def prompts(settings: ImageRewardPrompts) -> Stream[PromptRow]:
    """The prompt of every image; those of one prompt stand together. Raises InputError without the metadata."""
    file = Path(settings.path) / f"metadata-{settings.split}.parquet"
    if not file.is_file():
        raise InputError(f"{settings.path}: there is no {file.name} here, expected the folder of ImageRewardDB")
    return prompt_rows(open_parquet(columnar.Shards([file]), ("prompt",)), "prompt", source_name(settings))


def pairs(settings: ImageRewardPairs, catalogue: Catalogue) -> Stream[Offer]:
    """All pairs of the images of each prompt, with the better rank preferred.

    Raises InputError for a folder without zips, a zip that is damaged or lacks its list, and an image that a list names
    but the zip has not.
    """
    left_out = LeftOut()
    archives = [_Archive(file, left_out) for file in _zips(settings, left_out)]
    total = sum(len(group) * (len(group) - 1) // 2 for archive in archives for group in archive.groups())

    def rows() -> Iterator[Offer]:
        for archive in archives:
            with archive:
                for group in archive.groups():
                    for pair in _pairs(archive, group, settings, left_out):
                        yield offer(pair, archive.read, catalogue)
                archive.count_unnamed()

    return Stream(rows(), total, left_out)


def _pairs(
    archive: _Archive, group: list[dict[str, Any]], settings: ImageRewardPairs, left_out: LeftOut
) -> Iterator[PairRow]:
    for a, b in combinations(group, 2):
        where = f"{archive.file}, prompt {a['prompt_id']}"
        if a["rank"] == b["rank"] and not settings.ties:
            left_out.add(where, "a pair of equal ranks")
            continue
        share = share_of_better_ranks([a["rank"]], [b["rank"]])
        yield PairRow(where, a["prompt"], archive.name(a), archive.name(b), share, source_name(settings))


def _zips(settings: ImageRewardPairs, left_out: LeftOut) -> list[Path]:
    """The zips of a split in the order of their numbers."""
    folder = Path(settings.path) / "images" / settings.split
    below = walk.search(folder)
    left_out.add_unread(below.unread)
    numbered = {}
    for file in below.files:
        number = re.fullmatch(rf"{settings.split}_(\d+)\.zip", file.name)
        if number and file.parent == folder:
            numbered[int(number[1])] = file
    found = [numbered[number] for number in sorted(numbered)]
    if not found:
        raise InputError(f"{folder}: no zips here, expected files such as {settings.split}_1.zip of ImageRewardDB")
    wanted = found[: settings.parts]
    left_out.unless_read(found[len(wanted) :], f"beyond the first {settings.parts} zips")
    left_out.unless_read(sorted(set(below.files) - set(found)))
    return wanted


class _Archive:
    """One zip: its list, and its images by name. Open while it is a context."""

    def __init__(self, file: Path, left_out: LeftOut) -> None:
        self.file, self._left_out = file, left_out
        self._zip: zipfile.ZipFile | None = None
        self._named: set[str] = set()

    def __enter__(self) -> _Archive:
        self._zip = self._open()
        members = [info.filename for info in self._zip.infolist() if not info.is_dir()]
        self._members = {PurePosixPath(member).name: member for member in members}
        return self

    def __exit__(self, *_: object) -> None:
        if self._zip:
            self._zip.close()

    def name(self, entry: dict[str, Any]) -> str:
        """What an image is called among all zips."""
        return f"{self.file.name}/{PurePosixPath(entry['image_path']).name}"

    def count_unnamed(self) -> None:
        """Count what lies in the zip and is named by no entry of its list."""
        for name, member in self._members.items():
            if name and name not in self._named and name != f"{self.file.stem}.json":
                self._left_out.add(f"{self.file}, {member}", "named by no entry of the list")

    def read(self, name: str) -> bytes:
        """The bytes of an image."""
        member = self._members.get(PurePosixPath(name).name)
        if member is None:
            raise InputError(f"{self.file}: there is no image {PurePosixPath(name).name!r} in it, which its list names")
        assert self._zip is not None, "the archive is not open"
        try:
            return self._zip.read(member)
        except (zipfile.BadZipFile, OSError, EOFError) as error:
            raise InputError(f"{self.file}: image {member!r} cannot be read: {error}") from None

    def groups(self) -> list[list[dict[str, Any]]]:
        """The entries of the list, prompt by prompt."""
        with self._open() as archive:
            member = next((m for m in archive.namelist() if PurePosixPath(m).name == f"{self.file.stem}.json"), None)
            if member is None:
                raise InputError(
                    f"{self.file}: there is no {self.file.stem}.json in it, expected a zip of ImageRewardDB"
                )
            try:
                text = archive.read(member).decode("utf-8-sig")
            except (UnicodeDecodeError, zipfile.BadZipFile) as error:
                raise InputError(f"{self.file}: {member} is not UTF-8 text: {error}") from None
        entries = read_json(text, f"{self.file}: {member}")
        groups: dict[str, list[dict[str, Any]]] = {}
        for number, entry in enumerate(entries, 1):
            _check(entry, f"{self.file}, {member}, entry {number}")
            groups.setdefault(entry["prompt_id"], []).append(entry)
            self._named.add(PurePosixPath(entry["image_path"]).name)
        return list(groups.values())

    def _open(self) -> zipfile.ZipFile:
        try:
            return zipfile.ZipFile(self.file)
        except (zipfile.BadZipFile, OSError) as error:
            found = contents.stand_in(contents.head(self.file)) if self.file.is_file() else ""
            raise InputError(f"{self.file}: not a readable zip: {f'it is {found}' if found else error}") from None


def _check(entry: object, where: str) -> None:
    texts = ("prompt_id", "prompt", "image_path")
    good = isinstance(entry, dict) and all(isinstance(entry.get(key), str) for key in texts)
    if not (good and isinstance(entry, dict) and isinstance(entry.get("rank"), int)):
        raise InputError(f"{where}: {short(entry)}, expected an object with {', '.join(texts)} and a whole number rank")
