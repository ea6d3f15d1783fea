"""A reward that a server computes, in an environment of its own: HPSv3, UnifiedReward, GenEval2, another machine.

    judge: {kind: http, options: {url: "http://gpu7:8080", reward: hpsv3, version: "HPSv3 7B, hpsv3 1.0.0"}}

The contract is that of UniRL's reward service (`remote/contract.py`, docs/http-scorers.md). The model is known by its
reward, sub-score and version, not by the server's address: moved to another host, it is the same one. A server that
gives no finite number for every image ends the job; nothing takes the place of a score.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
from pydantic import Field, field_validator
from torch import Tensor

from stages import resume
from stages.errors import RowError
from stages.gives import Gives
from stages.models.record import ModelRecord
from stages.pictures import encode, levels
from stages.rewards.networks.options import KindOptions, options
from stages.rewards.remote.answers import Answers, digest
from stages.rewards.remote.client import Server
from stages.rewards.remote.setup import require_version, server

GIVES = Gives(files="none", gradient=False)
ACCESS = ("url", "batch", "timeout", "retries", "pause", "token", "header")
"""Options that say how the server is reached. They are no part of what the model is known by."""


class HttpOptions(KindOptions):
    """Options of kind `http`."""

    url: str = Field(description="address of the server, or `$NAME`: it stands in the environment variable NAME")
    reward: str = Field(min_length=1, description="what the server calls the reward")
    sub: str = Field("", description="which of the reward's scores; empty where it has one only")
    version: str | None = Field(
        None, min_length=1, description="version of the reward; null: what the server declares by GET /info"
    )
    batch: int = Field(16, ge=1, description="images in one request")
    timeout: float = Field(120.0, gt=0, description="seconds without data after which a request is given up")
    retries: int = Field(8, ge=0, description="how often a request without an answer is repeated")
    pause: float = Field(1.0, ge=0, description="seconds before the first repetition; further pauses double")
    token: str | None = Field(None, pattern=r"^\w+$", description="environment variable that holds the server's token")
    header: str = Field("Authorization", pattern=r"^[\w-]+$", description="the header that carries the token")

    @field_validator("url")
    @classmethod
    def _address(cls, url: str) -> str:
        scheme, found, rest = url.partition("://")
        if "@" in rest or "?" in rest:
            raise ValueError("an address without password and query; a token stands in the variable of options.token")
        named = url.startswith("$") and url[1:].isidentifier()
        if not named and not (scheme in ("http", "https") and found and rest):
            raise ValueError(f"expected http://HOST:PORT or $NAME, found {url!r}")
        return url


OPTIONS = HttpOptions


class Http:
    """A reward behind a server. Images are sent as PNG, rounded to 8 bits."""

    differentiable = False

    def __init__(self, name: str, model: str, server: Server, batch: int) -> None:
        self.name, self.model, self.server, self.batch = name, model, server, batch
        server.rest = lambda: resume.current().rest_alone()

    def describe(self) -> dict[str, object]:
        """What identifies the computation, beside reward and version."""
        return {"sub": self.server.sub} if self.server.sub else {}

    def __call__(self, images: Tensor, prompts: Sequence[str]) -> Tensor:
        """Reward [B] float32 of images [B, 3, H, W] in [0, 1], each with its own prompt.

        What the server has answered in this job, before an interruption too, is not asked again. Raises InputError
        where it gives no finite number, RowError where it is about one of the images.
        """
        answers = Answers.of(resume.current())
        pixels = levels(images)
        keys = [digest(self.model, image, prompt) for image, prompt in zip(pixels, prompts, strict=True)]
        first: dict[str, int] = {}
        for row, key in enumerate(keys):
            if key not in answers.known:
                first.setdefault(key, row)  # the same image and prompt, several times, is one question
        rows = list(first.values())
        for start in range(0, len(rows), self.batch):
            part = rows[start : start + self.batch]
            try:
                found = self.server.scores([encode(pixels[row]) for row in part], [prompts[row] for row in part])
            except RowError as error:
                raise RowError(str(error), part[error.row]) from None
            answers.keep(zip((keys[row] for row in part), found, strict=True))
        return torch.tensor([answers.known[key] for key in keys], dtype=torch.float32, device=images.device)


def load(record: ModelRecord, device: torch.device | str = "cpu") -> Http:
    """The reward, after asking the server for its version; raises InputError where that is another one, or no server
    answers.
    """
    settings = options(record, HttpOptions)
    found = server(record.name, settings.model_dump(), f"model {record.name!r}: options")
    require_version(found, str(settings.version))
    return Http(record.name, record.digest, found, settings.batch)
