"""Tables in Arrow's own format, and the folders that `save_to_disk` of datasets writes.

A saved data set is a folder with `state.json`, which lists its `.arrow` files, and `dataset_info.json`; one of several
splits is a folder with `dataset_dict.json` and a folder per split (datasets, arrow_dataset.py and dataset_dict.py).
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.ipc as ipc

from stages.errors import InputError
from stages.mappings import read_json

SPLITS, STATE, OWN = "dataset_dict.json", "state.json", ("state.json", "dataset_info.json")


class ArrowFile:
    """A file of record batches, streamed or with a footer, memory-mapped; reads as `pyarrow.parquet.ParquetFile` does.

    Raises pyarrow's ArrowInvalid for other files.
    """

    def __init__(self, file: Path) -> None:
        self._file = file
        self.schema_arrow: pa.Schema = self._open().schema
        self.num_rows = sum(batch.num_rows for batch in self._batches())

    def iter_batches(self, batch_size: int, columns: Sequence[str]) -> Iterator[pa.RecordBatch]:
        """Batches of at most `batch_size` rows with these columns."""
        for batch in self._batches():
            chosen = batch.select(list(columns))
            for start in range(0, batch.num_rows, batch_size):
                yield chosen.slice(start, batch_size)

    def _batches(self) -> Iterator[pa.RecordBatch]:
        reader = self._open()
        if isinstance(reader, ipc.RecordBatchFileReader):
            yield from (reader.get_batch(number) for number in range(reader.num_record_batches))
        else:
            yield from reader

    def _open(self) -> ipc.RecordBatchFileReader | ipc.RecordBatchStreamReader:
        source = pa.memory_map(str(self._file))
        try:
            return ipc.open_file(source)
        except pa.ArrowInvalid:
            source.seek(0)
            return ipc.open_stream(source)


def split_folder(root: Path, split: str) -> Path:
    """The folder of one split. Raises InputError where no split is asked for, or one that is not there."""
    names = _strings(root / SPLITS, "splits")
    if split not in names:
        lacks = f", not {split!r}" if split else ""
        raise InputError(
            f"{root}: holds the splits {', '.join(names)}{lacks}; name the folder of one, such as {root / names[0]}"
        )
    return root / split


def data_files(root: Path) -> list[Path]:
    """The files of a saved data set. Raises InputError where one is missing."""
    files = [root / name for name in _strings(root / STATE, "_data_files", "filename")]
    for key in ("_indices_files", "_indices_data_files"):  # older versions of datasets wrote them
        if _object(root / STATE).get(key):
            raise InputError(f"{root / STATE}: {key}: a selection of rows; save it again after `flatten_indices()`")
    for file in files:
        if not file.is_file():
            raise InputError(f"{file}: no such file, though {root / STATE} names it")
    return files


def _object(file: Path) -> Any:
    return read_json(file.read_text(encoding="utf-8"), str(file))


def _strings(file: Path, key: str, inner: str = "") -> list[str]:
    """The texts of a list in a JSON object."""
    try:
        found = _object(file)[key]
        texts = [each[inner] if inner else each for each in found]
    except (OSError, ValueError, LookupError, TypeError) as error:
        raise InputError(f"{file}: not readable as what save_to_disk writes: {error}") from None
    if not texts or not all(isinstance(text, str) for text in texts):
        raise InputError(f"{file}: {key!r} is no list of texts, expected what save_to_disk writes")
    return texts
