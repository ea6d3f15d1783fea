"""Memory that does not suffice is one line; every other error of a library keeps its traceback."""

from __future__ import annotations

from collections.abc import Callable

import pytest
import torch

from stages.runtime import run_stage


def full() -> None:
    raise torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 20.00 GiB.\nSee the documentation.")


@pytest.mark.parametrize(
    ("fail", "words"),
    [
        (lambda: torch.empty(10**15), "you tried to allocate 4000000000000000 bytes"),
        (lambda: [0] * 10**17, "MemoryError"),
        (full, "CUDA out of memory. Tried to allocate 20.00 GiB."),
    ],
)
def test_memory_that_is_not_there_is_one_line(
    fail: Callable[[], object], words: str, capsys: pytest.CaptureFixture[str]
) -> None:
    with pytest.raises(SystemExit) as ended:
        run_stage(lambda: print(fail()))
    (line,) = capsys.readouterr().err.splitlines()
    assert ended.value.code == 2 and line.startswith("error: not enough memory: ") and words in line
    assert line.endswith("; a smaller batch_size or fewer candidates need less")


def test_another_error_of_torch_keeps_its_traceback() -> None:
    with pytest.raises(RuntimeError, match="must match"):
        run_stage(lambda: print(torch.ones(2) + torch.ones(3)))
