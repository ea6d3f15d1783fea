"""What was read of a set since the last comparison: which file and item it is where the numbers do not fit together.

Arrays of a set have no declared form: other sets have other numbers of steps, prompts and particles. Whether they fit
is seen only when the product computes with them, and its errors name no files and no items.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

from torch import Tensor

from stages.errors import InputError
from stages.kinds import shown

if TYPE_CHECKING:
    from stages.parity.checks import Check

UNFIT = (
    ArithmeticError, AssertionError, AttributeError, LookupError, NotImplementedError, RuntimeError, TypeError,
    ValueError,
)  # fmt: skip
"""What arrays and settings of another form than the code expects may raise."""
MOST = 6  # arrays that are named


@dataclass
class Trail:
    """The item of expected.json that was read last, and the arrays read since it or a comparison, by file and name.

    `fresh`: nothing was compared since.
    """

    item: str = ""
    fresh: bool = False
    arrays: dict[tuple[Path, str], Tensor] = field(default_factory=dict)

    def entry(self, *path: str) -> None:
        """An entry of expected.json was read; with one of another item, the arrays of the last item are forgotten."""
        item = ".".join(path[:-1] or path).removeprefix("items.")
        if item != self.item:
            self.arrays.clear()
        self.item, self.fresh = item, True

    def array(self, file: Path, name: str, found: Any) -> None:
        """An array was read."""
        if isinstance(found, Tensor):
            self.arrays[file, name] = found

    def explained(self, folder: Path, checks: Callable[[], Iterable[Check]]) -> Iterator[Check]:
        """The checks of the set in `folder`. An error of one of them that says that something does not fit becomes an
        InputError with the item and the arrays that it was computed from; the error itself is its cause. An InputError
        gets the item where it has none.
        """
        try:
            for check in checks():
                yield check
                self.fresh = False
                self.arrays.clear()
        except InputError as error:
            if str(folder) in str(error) or not self.item:
                raise
            raise InputError(f"{folder}: item {self.item}: {str(error).removeprefix('parity set: ')}") from error
        except UNFIT as error:
            raise InputError(f"{folder}: {self.read()}: {said(error)}") from error

    def read(self) -> str:
        """The item, and the arrays that were read for it."""
        item = f"item {self.item}" if self.item else "the first item"
        if not self.fresh and self.item:
            item = f"what follows {item}"
        if not self.arrays:
            return f"{item} cannot be computed from expected.json"
        files: dict[Path, list[str]] = {}
        for (file, name), found in self.arrays.items():
            kind = str(found.dtype).removeprefix("torch.")
            files.setdefault(file, []).append(f"{name} {kind} {list(found.shape)}")
        named = "; ".join(f"{_some(names)} of {file}" for file, names in files.items())
        return f"{item} cannot be computed from what was read for it, {named}"


def _some(names: list[str]) -> str:
    more = f" and {len(names) - MOST} more" if len(names) > MOST else ""
    return ", ".join(names[-MOST:]) + more


def said(error: Exception) -> str:
    """The error in one line: libraries add lines of advice to theirs."""
    first = next(iter(str(error).strip().splitlines()), "")
    return f"{type(error).__name__}: {first}" if first else type(error).__name__


def mapping(value: Any, where: str) -> dict[str, Any]:
    """A JSON object; raises InputError for anything else."""
    if not isinstance(value, dict):
        raise InputError(
            f"{where}: expected a JSON object, found {shown(value)}; expected the layout of docs/parity.md"
        )
    return value
