"""The errors that a user of the pipeline is meant to see."""

from __future__ import annotations


class InputError(Exception):
    """Something from outside is wrong: a file, a column, a key, a value.

    The message is one line: what is wrong, where, and what was expected. Every stage prints it
    as it is and exits with code 2 (`stages.runtime.run_stage`).
    """


class RowError(InputError):
    """An InputError about one image of a batch, `row`; the caller that knows where it is from adds that."""

    def __init__(self, message: str, row: int) -> None:
        super().__init__(message)
        self.row = row


class DiskError(InputError, OSError):
    """An output cannot be written: the disk is full, or the folder is not ours."""


class Stopped(KeyboardInterrupt):
    """The job was told to stop by the signal `number`, and has saved what it needs to go on.

    A stage then exits with code 128 + `number`, as shells count it (143 for SIGTERM, 138 for SIGUSR1).
    """

    def __init__(self, number: int) -> None:
        super().__init__(f"signal {number}")
        self.number = number
