"""The one error a user of the pipeline is meant to see."""


class InputError(Exception):
    """Something from outside is wrong: a file, a column, a key, a value.

    The message is one line: what is wrong, where, and what was expected. Every stage prints it
    as it is and exits with code 2 (`stages.runtime.run_stage`).
    """
