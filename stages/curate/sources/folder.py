"""Images in a folder, captioned by text files beside them or by one table."""

from __future__ import annotations

import unicodedata
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path

from stages import contents, walk
from stages.curate.left_out import LeftOut
from stages.curate.rows import ImageRow, Stream
from stages.curate.settings import Captions, FolderImages, source_name
from stages.curate.sources.images import is_image, locate, read_file, refuse_address
from stages.curate.sources.records import open_records
from stages.errors import InputError

TEXTS = (".txt", ".caption")
"""Suffixes of captions, the first of which counts where an image has several."""


def images(settings: FolderImages) -> Stream[ImageRow]:
    """The images of a folder. Pairs may name one by its path below the folder.

    Raises InputError for a missing folder, a folder without images, an image that the captions name but that is
    not there, and captions that are not UTF-8. An image without a caption file has an empty caption.
    """
    root = Path(settings.path)
    if not root.is_dir():
        raise InputError(f"{root}: no such folder, expected a folder of images")
    if settings.captions is not None:
        return _from_table(root, settings.captions, source_name(settings))
    below = walk.search(root)
    files = [file for file in below.files if file.suffix.lower() not in TEXTS and is_image(file)]
    if not files:
        raise InputError(f"{root}: no images here, expected files such as .png or .jpg{_hint(below)}")
    captions = _Captions([file for file in below.files if file.suffix.lower() in TEXTS], files)
    if not captions.files and (table := _metadata(below)):
        raise InputError(
            f"{root}: no text beside any image, but {table}; if it names images and captions, write `captions: {{path: "
            f"{table}, image: file_name, caption: text}}` with the names of its columns"
        )
    left_out = LeftOut()
    left_out.add_unread(below.unread)
    others = set(below.files) - set(files) - set(captions.files)
    left_out.unless_read(sorted(others))
    left_out.unless_read(captions.files, "a text beside no image, or one beside another text")
    return Stream(_with_text_files(root, files, captions, source_name(settings), left_out), len(files), left_out)


def _hint(below: walk.Found) -> str:
    tables = [file for file in below.files if file.suffix.lower() in (".parquet", ".arrow")]
    tars = [file for file in below.files if file.suffix.lower() == ".tar"]
    return "; for .parquet files use kind parquet" if tables else "; for .tar files use kind laion" if tars else ""


def _metadata(below: walk.Found) -> Path | None:
    """The table of captions of a folder as datasets' `imagefolder` has it (datasets, folder_based_builder.py)."""
    names = ("metadata.csv", "metadata.jsonl", "metadata.parquet")
    return next((file for file in below.files if file.name.lower() in names), None)


def _from_table(root: Path, captions: Captions, source: str) -> Stream[ImageRow]:
    table = open_records(captions.path, (captions.image, captions.caption, captions.group, captions.quality))
    below, left_out = walk.search(root), table.left_out
    left_out.add_unread(below.unread)
    shown = [file for file in below.files if is_image(file)]
    left_out.unless_read(shown, f"an image that {captions.path} does not name")
    left_out.unless_read(sorted(set(below.files) - set(shown)))
    left_out.read(Path(captions.path))

    def rows() -> Iterator[ImageRow]:
        for record in table.rows:
            name = record.label(captions.image)
            if not name:
                raise InputError(
                    f"{record.where}: {captions.image!r} is empty, expected the name of an image below {root}"
                )
            refuse_address(name, f"{record.where}: {captions.image!r}")
            file = locate(root, name)
            left_out.read(file)
            yield ImageRow(
                name=Path(name).as_posix(),
                data=read_file(file, record.where),
                text=record.text(captions.caption),
                source=source,
                group=record.label(captions.group),
                quality=record.score(captions.quality),
            )

    return Stream(rows(), table.total, left_out)


def _with_text_files(
    root: Path, files: Sequence[Path], captions: _Captions, source: str, left_out: LeftOut
) -> Iterator[ImageRow]:
    for file in files:
        name = file.relative_to(root).as_posix()
        text = captions.beside(file)
        if text is not None:
            left_out.read(text)
        yield ImageRow(name, read_file(file, str(root)), "" if text is None else _read(text), source)


class _Captions:
    """The caption files of a folder, found by the image that they stand beside: `cat.txt` or `cat.png.txt`."""

    def __init__(self, files: Sequence[Path], images: Sequence[Path]) -> None:
        self.files = files
        ranked = sorted(files, key=lambda file: (TEXTS.index(file.suffix.lower()), file.suffix, file))
        self._by_stem: Mapping[str, Path] = {_plain(file.with_suffix("")): file for file in reversed(ranked)}
        texts = Counter(stem.casefold() for stem in self._by_stem)
        self._in_any_case = {
            stem.casefold(): file for stem, file in self._by_stem.items() if texts[stem.casefold()] < 2
        }
        self._images = Counter(_plain(image.with_suffix("")).casefold() for image in images)

    def beside(self, image: Path) -> Path | None:
        """The caption file of an image, by its full name or else by its name without the suffix; where none has the
        name as it is written, the one that differs in upper and lower case, if no other image or text does.
        """
        names = _plain(image), _plain(image.with_suffix(""))
        exact = self._by_stem.get(names[0]) or self._by_stem.get(names[1])
        if exact is not None or self._images[names[1].casefold()] > 1:
            return exact
        return self._in_any_case.get(names[0].casefold()) or self._in_any_case.get(names[1].casefold())


def _plain(path: Path) -> str:
    return unicodedata.normalize("NFC", str(path))


def _read(path: Path) -> str:
    """The text of a caption file."""
    try:
        data = path.read_bytes()
    except OSError as error:
        raise InputError(f"{path}: cannot be read: {error.strerror}") from None
    if found := contents.not_text(data):
        raise InputError(f"{path}: is {found}; expected a caption in UTF-8 text")
    try:
        text = data.decode("utf-8-sig")
    except UnicodeDecodeError as error:
        line = data.count(b"\n", 0, error.start) + 1
        raise InputError(
            f"{path}, line {line}: byte 0x{data[error.start]:02x} is not UTF-8, expected UTF-8 text"
        ) from None
    if contents.is_json(text):
        raise InputError(f"{path}: is JSON; expected a caption in plain text, or `captions` with a table of them")
    return text
