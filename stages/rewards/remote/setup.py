"""From the options of a model to its server, and to the version that it is recorded by. Torch-free."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from stages.errors import InputError
from stages.rewards.remote.client import Server, place, token

REACHED = ("timeout", "retries", "pause")


def server(name: str, options: Mapping[str, Any], where: str) -> Server:
    """The server in checked options; raises InputError that starts with `where` for an environment variable unset."""
    reached = {key: options[key] for key in REACHED}
    headers = token(options["token"], options["header"], where)
    return Server(name, place(options["url"], where), options["reward"], options["sub"], headers=headers, **reached)


def recorded_version(name: str, options: Mapping[str, Any], where: str) -> str:
    """The version of a model for its record: as the study says, else as the server declares.

    The server is not asked where the study says it. Raises InputError where nobody says.
    """
    if options["version"] is not None:
        return str(options["version"])
    found = server(name, options, where)
    said = found.version()
    if said is None:
        raise InputError(
            f"{where}.version: missing, and {found.url} declares none by GET /info; name here the weights and the code "
            "that it scores with"
        )
    return said


def require_version(server: Server, recorded: str) -> None:
    """Raise InputError where the server declares another version than the recorded one."""
    said = server.version()
    if said is not None and said != recorded:
        raise InputError(
            f"{server}: is of version {said!r} now, recorded as {recorded!r}; start the recorded one, or name the new "
            "version in options.version, which makes it another model"
        )
