"""Serve rewards over HTTP: `python -m stages.rewards.serve --params params.yaml --rewards proxy heldout`."""

from __future__ import annotations

import argparse
import os
import socket
from collections.abc import Iterator
from pathlib import Path

from stages.errors import InputError
from stages.models import record
from stages.params import nearest, read_study, validate
from stages.prepare.import_settings import ImportSettings
from stages.prepare.source import import_model
from stages.runtime import device, run_and_leave


def main() -> None:
    """Command line of the server."""
    parser = argparse.ArgumentParser(prog="python -m stages.rewards.serve", description=__doc__)
    parser.add_argument("--params", type=Path, help="study file whose section prepare.import has the rewards")
    parser.add_argument("--rewards", nargs="+", default=[], metavar="NAME", help="their names there")
    parser.add_argument("--records", nargs="+", type=Path, default=[], metavar="FILE", help="or model records (JSON)")
    parser.add_argument("--host", default="127.0.0.1", help="address to listen at (default: %(default)s, this machine)")
    parser.add_argument("--port", type=int, default=8000, help="port; 0 takes a free one (default: %(default)s)")
    parser.add_argument("--batch", type=int, default=64, help="images per network call (default: %(default)s)")
    parser.add_argument(
        "--token", metavar="VARIABLE", help="environment variable with the token that clients must send"
    )
    args = parser.parse_args()
    if args.batch < 1:
        raise InputError(f"--batch: {args.batch}, expected at least 1")
    if bool(args.params) != bool(args.rewards) or not (args.rewards or args.records):
        raise InputError("expected --params with --rewards, or --records; they say which rewards are served")
    token = os.environ.get(args.token, "") if args.token else ""
    if args.token and not token:
        raise InputError(f"--token: the environment variable {args.token} is not set")
    _serve([*_of_study(args.params, args.rewards), *map(record.load, args.records)], args, token)


def _of_study(params: Path | None, names: list[str]) -> Iterator[record.ModelRecord]:
    """Records of imported models of a study; those trained there have one in `out/<study>/models/`."""
    for name in names:
        section = (read_study(params or "").get("prepare") or {}).get("import") or {}
        where = f"{params}: prepare.import.{name}"
        if name not in section:
            raise InputError(f"{where}: no such model{nearest(name, section)}; take --records for one trained there")
        yield import_model(name, validate(ImportSettings, section[name], where), where)


def _serve(records: list[record.ModelRecord], args: argparse.Namespace, token: str) -> None:
    import uvicorn

    from stages.rewards.base import load_reward
    from stages.rewards.serve.app import Served, application

    place = device()
    served = {one.name: Served(load_reward(one, place), one.digest, one.kind) for one in records}
    app = application(served, args.batch, place, token)
    try:
        listening = socket.create_server((args.host, args.port))
    except OSError as error:
        raise InputError(f"--port: cannot listen at {args.host}:{args.port}: {error.strerror}") from None
    with listening:
        host, port = listening.getsockname()[:2]
        print(f"serving {', '.join(served)} at http://{host}:{port}", flush=True)
        uvicorn.Server(uvicorn.Config(app, log_level="warning")).run(sockets=[listening])


if __name__ == "__main__":
    run_and_leave(main)
