"""HTTP scorers for tests: one that answers as it is told to, and one that fails now and then (run as a program)."""

from __future__ import annotations

import base64
import json
import sys
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import numpy as np

from stages.pictures import decode

Answer = tuple[int, bytes | Iterator[bytes], int] | tuple[int, bytes | Iterator[bytes], int, dict[str, str]]
"""Status, body, how many bytes of it are sent before the connection breaks (-1: all), and further headers. A body in
parts has no length and ends with the connection.
"""
Fault = Callable[[dict[str, Any]], Answer]


def brightness(file: bytes, prompt: str) -> float:
    """A score that float32 cannot hold exactly, of the image and the prompt."""
    return float(decode(file, "image").mean()) / 3 + len(prompt) / 7


def expected(file: bytes, prompt: str) -> float:
    return float(np.float32(brightness(file, prompt)))


def good(body: dict[str, Any]) -> dict[str, Any]:
    """What a server without faults answers: one reward with one score."""
    results = []
    for one in body["requests"]:
        [turn] = one["history"]
        score = brightness(base64.b64decode(turn["image_b64"]), turn["text"])
        results.append({name: {name: score} for name in one["required_rewards"]})
    return {"results": results, "errors": [{} for _ in results]}


def sent(content: object, status: int = 200, cut: int = -1) -> Answer:
    return status, content if isinstance(content, bytes) else json.dumps(content).encode(), cut


@dataclass
class Scorer:
    """A server in this process. Each request takes the next of `faults`, a function of its body; where none is left, or
    it is None, the answer is good.
    """

    url: str = ""
    version: str | None = None
    reward: str = "bright"
    faults: list[Fault | None] = field(default_factory=list)
    bodies: list[dict[str, Any]] = field(default_factory=list)
    headers: list[dict[str, str]] = field(default_factory=list)
    answered: list[str] = field(default_factory=list)
    """Prompts that a good answer was given for."""

    def post(self, body: dict[str, Any]) -> Answer:
        self.bodies.append(body)
        if self.faults and (fault := self.faults.pop(0)) is not None:
            return fault(body)
        self.answered += [one["history"][0]["text"] for one in body["requests"]]
        return sent(good(body))


@contextmanager
def scorer(*faults: Fault | None, version: str | None = None) -> Iterator[Scorer]:
    found = Scorer(faults=list(faults), version=version)

    class Handler(BaseHTTPRequestHandler):
        protocol_version = "HTTP/1.1"

        def log_message(self, format: str, *args: Any) -> None:
            pass

        def do_GET(self) -> None:
            if self.path == "/info" and found.version is not None:
                self._send(sent({"rewards": {found.reward: {"version": found.version}}}))
            else:
                self._send(sent({"detail": "not found"}, 404))

        def do_POST(self) -> None:
            body = json.loads(self.rfile.read(int(self.headers["Content-Length"])))
            found.headers.append(dict(self.headers))
            self._send(found.post(body) if self.path == "/score" else sent({}, 404))

        def _send(self, answer: Answer) -> None:
            status, content, cut, *more = answer
            try:
                self.send_response(status)
                for name, value in more[0].items() if more else ():
                    self.send_header(name, value)
                if not isinstance(content, bytes):
                    self.send_header("Connection", "close")
                    self.end_headers()
                    for part in content:
                        self.wfile.write(part)
                        self.wfile.flush()
                    return
                if status in (301, 302):
                    self.send_header("Location", "http://elsewhere/score")
                self.send_header("Content-Length", str(len(content)))
                self.end_headers()
                self.wfile.write(content if cut < 0 else content[:cut])
                self.close_connection = cut >= 0
            except OSError:
                self.close_connection = True  # a client that did not wait

    server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    server.daemon_threads = True
    found.url = f"http://127.0.0.1:{server.server_address[1]}"
    thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.02}, daemon=True)
    thread.start()
    try:
        yield found
    finally:
        server.shutdown()
        server.server_close()
        thread.join()


def slowly(seconds: float) -> Fault:
    def answer(body: dict[str, Any]) -> Answer:
        time.sleep(seconds)
        return sent(good(body))

    return answer


def altered(change: Callable[[dict[str, Any]], object]) -> Fault:
    """An answer of 200 with the good one changed in place."""

    def answer(body: dict[str, Any]) -> Answer:
        found = good(body)
        change(found)
        return sent(found)

    return answer


def main() -> None:
    """`python -m tests.scorers PORT LOG`: the reward `jpeg` behind the server of this project; of its requests one in
    twenty is answered by 500, and the rows of every other are appended to LOG.
    """
    import random

    import torch
    import uvicorn
    from fastapi import Request
    from fastapi.responses import Response

    from stages.models.record import ModelRecord
    from stages.rewards.base import load_reward
    from stages.rewards.serve.app import Served, application

    port, log = int(sys.argv[1]), Path(sys.argv[2])
    record = ModelRecord(name="jpeg", kind="jpeg")
    app = application({"jpeg": Served(load_reward(record), "1", "jpeg")}, 64, torch.device("cpu"))
    draw = random.Random(log.stat().st_size if log.exists() else 0)

    @app.middleware("http")
    async def failing(request: Request, call_next: Any) -> Response:
        if request.method == "POST" and draw.random() < 0.05:
            with log.open("a") as file:
                file.write("failed\n")
            return Response("out of luck", 500)
        answer = await call_next(request)
        if request.method == "POST":
            with log.open("a") as file:
                file.write("answered\n")
        return answer

    uvicorn.run(app, host="127.0.0.1", port=port, log_level="error")


if __name__ == "__main__":
    main()
