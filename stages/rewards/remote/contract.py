"""The contract of HTTP scorers: what is asked, and what an answer has to be. Torch-free.

It is that of the reward service of Tencent-Hunyuan/UniRL (`unirl-reward-service/reward_service/schemas.py`), reduced to
what scores one image for one prompt:

    POST /score   {"requests": [{"history": [{"text": PROMPT, "image_b64": PNG}], "required_rewards": [REWARD]}, ...]}
    answer        {"results": [{REWARD: {SUB: number}}, ...], "errors": [{REWARD: text}, ...]}

Both lists of the answer have one entry per request, in the order of the requests; `errors` may be missing or empty.
Optional, of this project: `GET /info` answers {"rewards": {REWARD: {"version": text}}}.
"""

from __future__ import annotations

import base64
from collections.abc import Sequence
from typing import Any

import numpy as np

from stages.kinds import shown
from stages.mappings import DECODER, KeyTwice

SCORE, INFO = "/score", "/info"


class Unusable(Exception):
    """An answer without a usable score; `row` is the request that it concerns, None where it concerns all."""

    def __init__(self, text: str, row: int | None = None) -> None:
        super().__init__(text)
        self.row = row


def question(files: Sequence[bytes], prompts: Sequence[str], reward: str) -> dict[str, Any]:
    """The body that asks for one reward of image files, each with its own prompt."""
    return {
        "requests": [
            {
                "history": [{"text": prompt, "image_b64": base64.b64encode(file).decode("ascii")}],
                "required_rewards": [reward],
            }
            for file, prompt in zip(files, prompts, strict=True)
        ]
    }


def scores(answer: bytes, count: int, reward: str, sub: str) -> list[float]:
    """The scores of `count` requests, each a finite float32 number; without `sub`, the only one of the reward.

    Raises Unusable for everything else.
    """
    found = _document(answer)
    results = _entries(found.get("results"), "results", count)
    errors = _entries(found.get("errors") or [{}] * count, "errors", count)
    return [_score(results[row], errors[row], row, reward, sub) for row in range(count)]


def version(answer: bytes, reward: str) -> str | None:
    """The version of `reward` in an answer to `GET /info`; None where the answer gives none.

    Raises Unusable where the answer has other rewards, but not this one.
    """
    try:
        served = _document(answer).get("rewards")
    except Unusable:
        return None
    if not isinstance(served, dict):
        return None
    if reward not in served:
        raise Unusable(f"serves no reward {reward!r}; it has {', '.join(map(str, served)) or 'none'}")
    about = served[reward]
    found = about.get("version") if isinstance(about, dict) else None
    return found if isinstance(found, str) and found else None


def _document(answer: bytes) -> dict[str, Any]:
    try:
        found = DECODER.decode(answer.decode("utf-8-sig"))
    except KeyTwice as error:
        raise Unusable(f"answered with JSON in which {error}") from None
    except (ValueError, RecursionError) as error:
        raise Unusable(f"answered with something that is not JSON ({error})") from None
    if not isinstance(found, dict):
        raise Unusable(f"answered with {shown(found)}, expected a JSON mapping")
    return found


def _entries(found: object, name: str, count: int) -> list[dict[str, Any]]:
    if not isinstance(found, list) or not all(isinstance(entry, dict) for entry in found):
        raise Unusable(f"answered without a list of mappings called {name!r}")
    if len(found) != count:
        raise Unusable(f"answered with {len(found)} {name}, expected {count}")
    return found


def _score(result: dict[str, Any], errors: dict[str, Any], row: int, reward: str, sub: str) -> float:
    if reward in errors:
        raise Unusable(f"reported an error: {' '.join(str(errors[reward]).split())[:300]}", row)
    subs = result.get(reward)
    if not isinstance(subs, dict) or not subs:
        raise Unusable("gave neither a score nor an error", row)
    if not sub and len(subs) > 1:
        raise Unusable(f"gave the scores {', '.join(map(str, subs))}; name one of them in options.sub", row)
    value = subs.get(sub) if sub else next(iter(subs.values()))
    if sub and sub not in subs:
        raise Unusable(f"gave no score {sub!r}, only {', '.join(map(str, subs))}; name one of them in options.sub", row)
    if isinstance(value, bool) or not isinstance(value, int | float):
        raise Unusable(f"gave {shown(value)} as the score, expected a number", row)
    with np.errstate(over="ignore"):
        finite = abs(value) < 1e300 and np.isfinite(np.float32(value))
    if not finite:
        raise Unusable(f"gave {value} as the score, expected a finite number", row)
    return float(value)
