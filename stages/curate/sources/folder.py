"""Images in a folder, captioned by text files beside them or by one table."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

from stages.curate.rows import ImageRow, Stream
from stages.curate.settings import Captions, FolderImages, source_name
from stages.curate.sources.records import open_records
from stages.errors import InputError

SUFFIXES = {".png", ".jpg", ".jpeg", ".webp", ".gif", ".bmp", ".tif", ".tiff", ".ppm", ".pgm", ".avif", ".jp2"}


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
    files = sorted(
        p for p in root.rglob("*") if p.suffix.lower() in SUFFIXES and not _hidden(p.relative_to(root)) and p.is_file()
    )
    if not files:
        raise InputError(f"{root}: no images here, expected files such as .png or .jpg")
    return Stream(_with_text_files(root, files, source_name(settings)), len(files))


def read_image(path: Path, where: str) -> bytes:
    """The bytes of an image file. Raises InputError that starts with `where` when it is missing or cannot be read."""
    try:
        return path.read_bytes()
    except FileNotFoundError:
        raise InputError(f"{where}: image {path} does not exist") from None
    except OSError as error:
        raise InputError(f"{where}: image {path} cannot be read: {error.strerror}") from None


def _from_table(root: Path, captions: Captions, source: str) -> Stream[ImageRow]:
    table = open_records(captions.path, (captions.image, captions.caption, captions.group, captions.quality))

    def rows() -> Iterator[ImageRow]:
        for record in table.rows:
            name = record.label(captions.image)
            if not name:
                raise InputError(
                    f"{record.where}: {captions.image!r} is empty, expected the name of an image below {root}"
                )
            yield ImageRow(
                name=Path(name).as_posix(),
                data=read_image(root / name, record.where),
                text=record.text(captions.caption),
                source=source,
                group=record.label(captions.group),
                quality=record.score(captions.quality),
            )

    return Stream(rows(), table.total)


def _with_text_files(root: Path, files: list[Path], source: str) -> Iterator[ImageRow]:
    for file in files:
        name = file.relative_to(root).as_posix()
        yield ImageRow(name, read_image(file, str(root)), _caption_beside(file), source)


def _caption_beside(image: Path) -> str:
    """The text of the .txt file with the image's name, empty when there is none."""
    path = image.with_suffix(".txt")
    if not path.is_file():
        return ""
    data = path.read_bytes()
    try:
        return data.decode("utf-8-sig")
    except UnicodeDecodeError as error:
        line = data.count(b"\n", 0, error.start) + 1
        raise InputError(
            f"{path}, line {line}: byte 0x{data[error.start]:02x} is not UTF-8, expected UTF-8 text"
        ) from None


def _hidden(path: Path) -> bool:
    return any(part.startswith(".") for part in path.parts)
