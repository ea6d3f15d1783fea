"""The routes of the server: rewards behind `POST /score`, as `stages/rewards/remote/contract.py` has it."""

from __future__ import annotations

import base64
import binascii
import secrets
import threading
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Annotated

import numpy as np
import torch
from fastapi import Depends, FastAPI, Header, HTTPException
from pydantic import BaseModel, ConfigDict, Field

from stages.errors import InputError
from stages.pictures import decode
from stages.rewards.base import Reward


class Message(BaseModel):
    """A part of a body: values are taken as they are sent, none is converted."""

    model_config = ConfigDict(strict=True)


class Turn(Message):
    """A prompt and its image, any file that `stages.pictures` reads, base64."""

    text: str
    image_b64: str


class Asked(Message):
    """One image to be scored: the last turn of `history`."""

    history: list[Turn] = Field(min_length=1)
    required_rewards: list[str]


class Batch(Message):
    """The body of `POST /score`."""

    requests: list[Asked]


class Scored(Message):
    """Its answer: one entry per request in both lists."""

    results: list[dict[str, dict[str, float]]]
    errors: list[dict[str, str]]


@dataclass(frozen=True)
class Served:
    """A reward and what it is known by."""

    reward: Reward
    version: str
    kind: str


def application(served: Mapping[str, Served], batch: int, device: torch.device, token: str = "") -> FastAPI:
    """The server of `served`; at most `batch` images go through a network at once, one request after another.

    With `token`, requests without the header `Authorization: Bearer TOKEN` are answered by 401.
    """

    def known(authorization: Annotated[str, Header()] = "") -> None:
        if token and not secrets.compare_digest(authorization.encode(), f"Bearer {token}".encode()):
            raise HTTPException(401, "the header Authorization does not carry the token of this server")

    app = FastAPI(title="HTTP scorer", dependencies=[Depends(known)])
    one_at_a_time = threading.Lock()

    @app.get("/rewards")
    def rewards() -> dict[str, list[str]]:
        return {"rewards": [*served]}

    @app.get("/info")
    def info() -> dict[str, dict[str, dict[str, str]]]:
        return {"rewards": {name: {"version": one.version, "kind": one.kind} for name, one in served.items()}}

    @app.get("/health")
    def health() -> dict[str, str]:
        return {"status": "ok"}

    @app.post("/score")
    def score(body: Batch) -> Scored:
        for wanted in body.requests:
            for name in wanted.required_rewards:
                if name not in served:
                    raise HTTPException(400, f"no reward {name!r}; this server has {', '.join(served)}")
        with one_at_a_time:
            return _scored(served, body.requests, batch, device)

    return app


def _scored(served: Mapping[str, Served], requests: Sequence[Asked], batch: int, device: torch.device) -> Scored:
    """Every reward that is asked for; an image that cannot be scored has an error, and harms no other image."""
    found = Scored(results=[{} for _ in requests], errors=[{} for _ in requests])
    images: dict[int, np.ndarray] = {}
    for row, one in enumerate(requests):
        try:
            images[row] = decode(base64.b64decode(one.history[-1].image_b64, validate=True), "image_b64")
        except (binascii.Error, InputError) as error:
            found.errors[row] = dict.fromkeys(one.required_rewards, str(error))
    for name, one in served.items():
        rows = [row for row in images if name in requests[row].required_rewards]
        for part in _alike(rows, images, batch):
            _score(one.reward, name, part, [images[row] for row in part], requests, device, found)
    return found


def _alike(rows: Sequence[int], images: Mapping[int, np.ndarray], batch: int) -> list[list[int]]:
    """At most `batch` images of one size each."""
    sizes: dict[tuple[int, ...], list[int]] = {}
    for row in rows:
        sizes.setdefault(images[row].shape, []).append(row)
    return [alike[start : start + batch] for alike in sizes.values() for start in range(0, len(alike), batch)]


def _score(
    reward: Reward, name: str, rows: Sequence[int], pixels: Sequence[np.ndarray], requests: Sequence[Asked],
    device: torch.device, found: Scored,
) -> None:  # fmt: skip
    stack = torch.from_numpy(np.stack(pixels)).to(device).permute(0, 3, 1, 2).float() / 255
    try:
        with torch.no_grad():
            scores = reward(stack, [requests[row].history[-1].text for row in rows]).double().tolist()
    except (InputError, RuntimeError) as error:  # out of memory, say
        scores = [f"{type(error).__name__}: {error}"] * len(rows)
    for row, score in zip(rows, scores, strict=True):
        if isinstance(score, float) and np.isfinite(score):
            found.results[row][name] = {name: score}
        else:
            found.errors[row][name] = score if isinstance(score, str) else f"the reward gave {score}"
