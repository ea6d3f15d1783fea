"""The client of an HTTP scorer: one server, asked again while it may still answer; every answer is checked.

What may pass is asked again with longer and longer pauses: refused and broken connections, timeouts, answers of class
5xx and 429. Everything else ends the job with one line: other answers of class 4xx, redirections, and answers that
`contract` finds unusable. Torch-free.
"""

from __future__ import annotations

import os
import sys
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from functools import cached_property
from typing import Any

import requests
import urllib3
from tenacity import RetryCallState, Retrying, retry_if_exception_type, stop_after_attempt, wait_exponential_jitter

from stages.errors import InputError, RowError
from stages.rewards.remote import contract

TOO_MANY = 429
LONGEST = 60.0
"""Seconds of the longest pause."""
SPARE, EACH = 2**20, 2**16
"""Bytes of an answer, at most: `SPARE`, and `EACH` for every image that was asked for. Ours: a score has dozens."""
PATIENCE = 10
"""Timeouts after which an answer that has begun is given up, though some data came within each of them. Ours."""
PART = 2**14
"""Bytes of an answer that are read at a time."""
ADVICE = {
    401: "name the environment variable that holds its token in options.token",
    403: "name the environment variable that holds its token in options.token",
    404: "expected a server that answers POST /score",
    405: "expected a server that answers POST /score",
    413: "lower options.batch",
}
KEPT = "; scores that it gave are kept, and the same command goes on from there"


class NoAnswer(Exception):
    """The server gave no answer that counts, and may give one later."""


@dataclass(frozen=True)
class Reply:
    """A whole answer: `ok` where it is of class 2xx, and its body, unpacked."""

    ok: bool
    content: bytes


@dataclass
class Server:
    """A scorer at `url` that is asked for `reward`.

    `timeout` is in seconds, to connect and for each wait for data. A question is asked 1 + `retries` times at most; the
    first pause takes `pause` seconds and up to a quarter more, each further one twice as long, up to LONGEST. `rest` is
    called several times a second during a pause and may raise.
    """

    name: str
    url: str
    reward: str
    sub: str = ""
    timeout: float = 120.0
    retries: int = 8
    pause: float = 1.0
    headers: dict[str, str] = field(default_factory=dict, repr=False)
    rest: Callable[[], None] = lambda: None

    @cached_property
    def _session(self) -> requests.Session:
        session = requests.Session()
        session.trust_env = False  # neither proxies, which know no hosts of a cluster, nor passwords of ~/.netrc
        session.headers.update(self.headers)
        return session

    def scores(self, files: Sequence[bytes], prompts: Sequence[str]) -> list[float]:
        """Finite scores of image files (PNG), each with its own prompt, in one request.

        Raises InputError, one line that names server, reward and row, where the server gives none; RowError where it is
        about one row.
        """
        question = contract.question(files, prompts, self.reward)
        most = SPARE + EACH * len(files)
        answer = self._again(lambda: self._answer("POST", contract.SCORE, most, question))
        try:
            return contract.scores(answer.content, len(files), self.reward, self.sub)
        except contract.Unusable as error:
            if error.row is None:
                raise InputError(f"{self}: {error}; expected the contract of docs/http-scorers.md{KEPT}") from None
            where = f"request {error.row + 1} of {len(files)}, prompt {prompts[error.row]!r}"
            raise RowError(f"{self}: {where}: {error}; mend it at the server{KEPT}", error.row) from None

    def version(self) -> str | None:
        """What the server says of the version of the reward; None where it says nothing.

        Raises InputError where no server is there, or it serves other rewards only.
        """
        answer = self._again(lambda: self._answer("GET", contract.INFO, SPARE))
        try:
            return contract.version(answer.content, self.reward) if answer.ok else None
        except contract.Unusable as error:
            raise InputError(f"{self}: {error}; name one of these in options.reward") from None

    def __str__(self) -> str:
        return f"model {self.name!r}: reward {self.reward!r} of {self.url}"

    def _answer(self, verb: str, path: str, most: int, body: dict[str, Any] | None = None) -> Reply:
        """One answer of at most so many bytes. Raises NoAnswer where the server may answer later, InputError where it
        refuses POST /score, or sends more.
        """
        try:
            with self._session.request(
                verb, self.url.rstrip("/") + path, json=body, timeout=self.timeout, allow_redirects=False, stream=True
            ) as answer:
                content = self._content(answer, most)
        except requests.Timeout:
            raise NoAnswer(f"no answer within {self.timeout:g} s") from None
        except urllib3.exceptions.ReadTimeoutError:
            raise NoAnswer(f"no answer within {self.timeout:g} s") from None
        except (requests.ConnectionError, urllib3.exceptions.ProtocolError, urllib3.exceptions.SSLError) as error:
            raise NoAnswer(f"no connection, or a broken one ({_reason(error)})") from None
        except (requests.RequestException, urllib3.exceptions.HTTPError) as error:
            raise InputError(f"{self}: cannot be asked: {_reason(error)}{KEPT}") from None
        said = f"answered {answer.status_code} {answer.reason}"
        if answer.status_code >= 500 or answer.status_code == TOO_MANY:
            raise NoAnswer(said)
        if verb == "POST" and answer.status_code != requests.codes.ok:
            more = " ".join(content[:200].decode(errors="replace").split())
            advice = ADVICE.get(answer.status_code, "see what the server logged")
            if answer.is_redirect:
                advice = f"name {answer.headers.get('Location')} in options.url"
            raise InputError(f"{self}: {said}{f' ({more})' if more else ''}; {advice}{KEPT}")
        return Reply(answer.ok, content)

    def _content(self, answer: requests.Response, most: int) -> bytes:
        """The body of an answer. Raises InputError where it is longer than `most` bytes, NoAnswer where it has no end
        after `PATIENCE` timeouts.
        """
        content, end = bytearray(), time.monotonic() + PATIENCE * self.timeout
        while part := answer.raw.read1(PART, decode_content=True):  # what is there; iter_content waits for all of PART
            content += part
            if len(content) > most:
                raise InputError(
                    f"{self}: answered with more than {most} bytes, expected a few dozen for an image and the contract"
                    f" of docs/http-scorers.md{KEPT}"
                )
            if time.monotonic() > end:
                raise NoAnswer(f"an answer without an end after {PATIENCE * self.timeout:g} s")
        return bytes(content)

    def _again(self, ask: Callable[[], Reply]) -> Reply:
        """The answer of `ask`, which is called again after a pause while it raises NoAnswer."""
        tries = Retrying(
            retry=retry_if_exception_type(NoAnswer),
            stop=stop_after_attempt(1 + self.retries),
            wait=wait_exponential_jitter(multiplier=self.pause, max=LONGEST, jitter=self.pause / 4),
            sleep=self._sleep,
            before_sleep=self._say,
            reraise=True,
        )
        try:
            return tries(ask)
        except NoAnswer as error:
            advice = f"start it, or raise options.retries or options.timeout{KEPT}"
            raise InputError(f"{self}: {error}, {1 + self.retries} times; {advice}") from None

    def _say(self, state: RetryCallState) -> None:
        error = state.outcome and state.outcome.exception()
        pause = state.next_action.sleep if state.next_action else 0.0
        again = f"asked again in {pause:.1f} s, {state.attempt_number} of {self.retries} times"
        print(f"{self}: {error}; {again}", file=sys.stderr, flush=True)

    def _sleep(self, seconds: float) -> None:
        end = time.monotonic() + seconds
        while (left := end - time.monotonic()) > 0:
            self.rest()
            time.sleep(min(left, 0.2))


def place(url: str, where: str) -> str:
    """The address in the option `url`, or in the environment variable that it names as `$NAME`."""
    if not url.startswith("$"):
        return url
    found = os.environ.get(url[1:], "")
    if not found.startswith(("http://", "https://")):
        shown = f"is {found!r}" if found else "is not set"
        raise InputError(f"{where}.url: the environment variable {url[1:]} {shown}; expected the address of the server")
    return found


def token(variable: str | None, header: str, where: str) -> dict[str, str]:
    """The header that carries the token in an environment variable; none where no variable is named."""
    if variable is None:
        return {}
    found = os.environ.get(variable, "")
    if not found:
        raise InputError(f"{where}.token: the environment variable {variable} is not set; expected the server's token")
    return {header: f"Bearer {found}" if header.lower() == "authorization" else found}


def _reason(error: BaseException) -> str:
    """The innermost reason, in one line without addresses of objects."""
    inner: object = error
    while isinstance(inner, BaseException):
        error = inner
        inner = getattr(error, "reason", None) or next((a for a in error.args if isinstance(a, BaseException)), None)
    return " ".join(str(error).split()).rpartition(">: ")[2][:200] or type(error).__name__
