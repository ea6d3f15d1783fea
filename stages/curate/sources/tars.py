"""Samples in a tar: the members of one key, wherever they stand, each sample in memory by itself.

WebDataset's rule is followed: the name of a member up to the first dot is its key, the rest its suffix
(webdataset, tariterators.py, base_plus_ext). Where suffixes hold dots, and an image and its text or metadata agree up
to the last dot, that part of the name is the key.
"""

from __future__ import annotations

import lzma
import re
import tarfile
import tempfile
import unicodedata
import zlib
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path, PurePosixPath
from typing import IO, cast

from stages import contents, walk
from stages.curate.left_out import LeftOut
from stages.curate.sources.images import SUFFIXES
from stages.errors import InputError

IMAGES = tuple(suffix[1:] for suffix in SUFFIXES)
TEXTS = ("txt", "caption")
OTHER = ("json",)
TAR = re.compile(r"\.(tar|tar\.gz|tgz|tar\.bz2|tbz2?|tar\.xz|txz)$", re.IGNORECASE)
PACKED = {rb"\x1f\x8b\x08": "gzip", rb"BZh[1-9]1A": "bz2", rb"\xfd7zXZ\x00": "lzma"}
"""How compressed files begin, and the module that reads them."""

Members = Sequence[tarfile.TarInfo]


@dataclass(frozen=True)
class Sample:
    """The files of one key, by suffix; `where` names tar and key."""

    where: str
    key: str
    files: Mapping[str, bytes]

    def first(self, suffixes: Sequence[str]) -> bytes:
        """The file with the first of these suffixes that there is, empty without one."""
        return next((self.files[suffix] for suffix in suffixes if suffix in self.files), b"")


@dataclass(frozen=True)
class _Group:
    """The members of one sample by suffix, before they are read."""

    key: str
    members: Mapping[str, tarfile.TarInfo]


def find(path: str, left_out: LeftOut) -> list[Path]:
    """The tars meant by a file or a folder, whose links are followed. Raises InputError when there are none."""
    root = Path(path)
    if root.is_file():
        return [root]
    if not root.exists() and (matching := walk.matching(path)):
        return matching
    if not root.is_dir():
        raise InputError(f"{root}: no such file, expected a tar or a folder of tars")
    found = walk.search(root)
    left_out.add_unread(found.unread)
    tars = [file for file in found.files if TAR.search(file.name)]
    if not tars:
        other = next((file.name for file in found.files if ".tar." in file.name.lower()), "")
        hint = f"; {other} is compressed in a way that is not read" if other else ""
        raise InputError(f"{root}: no tars here, expected a webdataset: files such as 00000.tar{hint}")
    left_out.unless_read(sorted(set(found.files) - set(tars)))
    return tars


def stem(tar: Path) -> Path:
    """The path of a tar without its suffix, to which suffixes of files beside it are put."""
    return tar.with_name(TAR.sub("", tar.name))


def samples(tar: Path, left_out: LeftOut) -> Iterator[Sample]:
    """The samples of a tar that hold an image, in the order in which their keys first stand there.

    What else is in the tar is counted in `left_out`. Raises InputError for a damaged tar, and for a key of which it is
    not plain what belongs together.
    """
    with _opened(tar) as archive:
        for group in _grouped(tar, archive, left_out):
            files = {}
            for suffix, member in group.members.items():
                content = archive.extractfile(member)
                files[suffix] = content.read() if content else b""
            yield Sample(f"{tar}, {group.key}", group.key, files)


def count(tar: Path) -> int:
    """How many images a tar holds at most."""
    with _opened(tar) as archive:
        return sum(PurePosixPath(name).suffix[1:].lower() in IMAGES for name in archive.getnames())


@contextmanager
def _opened(tar: Path) -> Iterator[tarfile.TarFile]:
    """A tar of which members can be read in any order."""
    try:
        with tar.open("rb") as file, _plain(file) as content, tarfile.open(fileobj=content, mode="r:") as archive:
            archive.getmembers()
            _require_end(tar, archive, content)
            yield archive
    except (tarfile.TarError, OSError, EOFError, zlib.error, lzma.LZMAError) as error:
        found = contents.stand_in(contents.head(tar)) if tar.is_file() else ""
        raise InputError(f"{tar}: not a readable tar: {f'it is {found}' if found else error}") from None


@contextmanager
def _plain(file: IO[bytes]) -> Iterator[IO[bytes]]:
    """The file itself, or its content in a temporary file where it is compressed, so that one can go back in it."""
    start = file.read(6)
    file.seek(0)
    name = next((name for magic, name in PACKED.items() if re.match(magic, start)), None)
    if name is None:
        yield file
        return
    import importlib
    import shutil

    with importlib.import_module(name).open(file) as packed, tempfile.TemporaryFile() as content:
        shutil.copyfileobj(packed, content)
        content.seek(0)
        yield cast("IO[bytes]", content)


def _require_end(tar: Path, archive: tarfile.TarFile, content: IO[bytes]) -> None:
    """Raise InputError where the end of the archive is missing, as in a tar that was cut off between two members, or
    something stands behind it: tarfile passes over both in silence.
    """
    end = archive.offset
    content.seek(end)
    if not content.read(1):
        raise InputError(
            f"{tar}: cut off? The blocks of zeros that end an archive are missing at byte {end}; fetch or write it"
            " again"
        )
    content.seek(end)
    while block := content.read(2**20):
        if block.strip(b"\0"):
            raise InputError(
                f"{tar}: something stands behind the end of its archive, at byte {end}: a damaged header, or a second "
                "tar; expected one sound tar (`tar --concatenate` joins two)"
            )


def _grouped(tar: Path, archive: tarfile.TarFile, left_out: LeftOut) -> Iterator[_Group]:
    """The samples with an image, in the order of their keys' first members."""
    keyed: dict[str, list[tarfile.TarInfo]] = {}
    for member in archive:
        if reason := _unread(member, archive):
            left_out.add(f"{tar}, {member.name}", reason)
        elif not member.isdir():
            keyed.setdefault(_key(member.name), []).append(member)
    for key, members in keyed.items():
        for group in _samples_of(tar, key, members):
            if any(suffix in IMAGES for suffix in group.members):
                yield _without_rest(tar, group, left_out)
            else:
                left_out.add(f"{tar}, {group.key}", "a sample without an image")


def _unread(member: tarfile.TarInfo, archive: tarfile.TarFile) -> str:
    """Why a member is not read; empty for a file, or a link to one of the same tar."""
    if any((part.startswith(".") and part != "..") or part == "__MACOSX" for part in _parts(member.name)):
        return walk.HIDDEN
    if member.issym() or member.islnk():
        try:
            return "" if archive.extractfile(member) else "a link to a folder"
        except (KeyError, RecursionError):
            return walk.DANGLING
    return "" if member.isfile() or member.isdir() else walk.SPECIAL


def _samples_of(tar: Path, key: str, members: Members) -> Iterator[_Group]:
    """The samples among the members of one key."""
    stems: dict[str, list[tarfile.TarInfo]] = {}
    for member in members:
        stems.setdefault(_stem(member.name), []).append(member)
    whole = [stem for stem, part in stems.items() if _has(part, IMAGES) and _has(part, (*TEXTS, *OTHER))]
    images, texts = (_having(members, kind) for kind in (IMAGES, TEXTS))
    if len(stems) == 1 or whole or not _has(members, (*TEXTS, *OTHER)):
        for stem, part in stems.items():
            yield from _repeats(tar, stem, part)
        return
    own = [member for member in images if _stem(member.name) == key] or images
    if len(own) > 1 or len(texts) > 1 or len(_having(members, OTHER)) > 1:
        names = ", ".join(PurePosixPath(member.name).name for member in members[:4])
        raise InputError(
            f"{tar}, {key}: {len(images)} images and {len(texts)} texts ({names}), and it is not plain which belong "
            "together; expected the same name for an image and its text, up to the suffix"
        )
    yield from _repeats(tar, key, [*own, *(member for member in members if member not in images)])
    for member in images:
        if member not in own:
            yield _Group(_stem(member.name), {_suffix(member.name): member})


def _repeats(tar: Path, key: str, members: Members) -> Iterator[_Group]:
    """One sample, or several where every suffix stands there equally often: the first of each make the first one."""
    by: dict[str, list[tarfile.TarInfo]] = {}
    for member in members:
        by.setdefault(_suffix(member.name), []).append(member)
    times = {len(each) for each in by.values()}
    if len(times) > 1:
        counts = " and ".join(f"{len(each)} .{suffix}" for suffix, each in by.items())
        raise InputError(
            f"{tar}: key {key!r} stands there more than once, with {counts}; expected every file of a key once"
        )
    for number in range(times.pop()):
        yield _Group(f"{key} ({number + 1})" if number else key, {suffix: each[number] for suffix, each in by.items()})


def _without_rest(tar: Path, group: _Group, left_out: LeftOut) -> _Group:
    """The image, texts and metadata of a sample; what else belongs to it is counted."""
    image = next(suffix for suffix in IMAGES if suffix in group.members)
    kept = {suffix: each for suffix, each in group.members.items() if suffix in (image, *TEXTS, *OTHER)}
    for suffix, member in group.members.items():
        if suffix not in kept:
            reason = "a second image of a sample" if suffix in IMAGES else f"not read (.{suffix})"
            left_out.add(f"{tar}, {member.name}", reason)
    return _Group(group.key, kept)


def _having(members: Members, suffixes: Sequence[str]) -> list[tarfile.TarInfo]:
    return [member for member in members if _suffix(member.name) in suffixes]


def _has(members: Members, suffixes: Sequence[str]) -> bool:
    return bool(_having(members, suffixes))


def _parts(name: str) -> tuple[str, ...]:
    return PurePosixPath(name).parts


def _key(name: str) -> str:
    """Folder and name up to the first dot."""
    path = _plain_path(name)
    return path.with_name(path.name.partition(".")[0]).as_posix()


def _stem(name: str) -> str:
    """Folder and name up to the last dot."""
    return _plain_path(name).with_suffix("").as_posix()


def _plain_path(name: str) -> PurePosixPath:
    """The path in Unicode's composed form: a text and its image may come from different systems."""
    return PurePosixPath(unicodedata.normalize("NFC", name))


def _suffix(name: str) -> str:
    return PurePosixPath(name).suffix[1:].lower()
