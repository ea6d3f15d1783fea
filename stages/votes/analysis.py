"""What the votes say: win rates with intervals, and how far voters agree with each other and with themselves."""

from __future__ import annotations

import json
from collections import Counter, defaultdict
from collections.abc import Hashable, Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path
from typing import Any

import numpy as np
from pydantic import ConfigDict

from stages.errors import InputError
from stages.mappings import read_json
from stages.params import Settings, validate
from stages.runtime import seed_from
from stages.votes.sheets import Item

CHOICES = ("left", "tie", "right")


class Vote(Settings):
    """One answer of one voter."""

    item: str
    question: int
    choice: str
    seconds: float = 0.0


class Ballot(Settings):
    """A file that the form exports."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    study: str
    voter: str
    votes: tuple[Vote, ...]


@dataclass(frozen=True)
class Answer:
    """A vote with its blinding taken off: whether it is for `first` (1), a tie (1/2) or for `second` (0)."""

    voter: str
    prompt: str
    question: int
    first: str
    second: str
    score: float
    item: str


@dataclass(frozen=True)
class Rate:
    """How often `first` was preferred to `second`, a tie counting half, with an interval over prompts and voters."""

    question: str
    first: str
    second: str
    wins: int
    ties: int
    losses: int
    rate: float
    low: float | None
    high: float | None


@dataclass(frozen=True)
class Outcome:
    """Everything about one study."""

    study: str
    voters: int
    votes: int
    rates: tuple[Rate, ...]
    agreement: Mapping[str, float | None]
    """Question to Krippendorff's alpha: 1 for full agreement, 0 for chance; None where nobody voted on the same."""
    consistency: float | None
    """Share of repeated comparisons that a voter answered alike with sides swapped; None without any."""
    sides: Mapping[str, Mapping[str, str]] = field(default_factory=dict)
    """What the names stand for: run, strategy, setting, and digest of the images; empty where the key does not say."""
    prompts: Mapping[str, Sequence[int]] = field(default_factory=dict)
    """Prompt id to the numbers of the samples that were shown."""


def read_key(path: Path) -> tuple[str, tuple[str, ...], dict[str, Item]]:
    """Study id, questions, and comparisons by id; raises InputError for a file that is no key."""
    values = _json(path, "key")
    try:
        items = {value["id"]: Item(**value) for value in values["items"]}
        return str(values["study"]), tuple(values["questions"]), items
    except (KeyError, TypeError) as error:
        raise InputError(f"{path}: not the key of a form: {error}") from None


def with_shown(outcome: Outcome, path: Path) -> Outcome:
    """The outcome with what the key at `path` says of the images that were shown."""
    values = _json(path, "key")
    return replace(outcome, sides=values.get("sides", {}), prompts=values.get("prompts", {}))


def read_votes(paths: Sequence[Path], study: str, questions: int, items: Mapping[str, Item]) -> list[Answer]:
    """The answers in the files that the form exported.

    Raises InputError for a file of another study, an answer to what was not asked, and a voter who answered twice.
    """
    answers: dict[tuple[str, str, int], Answer] = {}
    for path in paths:
        ballot = validate(Ballot, _json(path, "votes file"), f"{path}:")
        if ballot.study != study:
            raise InputError(f"{path}: votes of study {ballot.study}, but the key is of {study}")
        for vote in ballot.votes:
            if vote.item not in items or not 0 <= vote.question < questions or vote.choice not in CHOICES:
                raise InputError(f"{path}: {vote.choice!r} for {vote.item}, question {vote.question}: not in this form")
            place = (ballot.voter, vote.item, vote.question)
            if place in answers:
                raise InputError(f"{path}: voter {ballot.voter} answers {vote.item} twice, here or in another file")
            answers[place] = _answer(ballot.voter, vote, items[vote.item])
    if not answers:
        raise InputError(f"{', '.join(map(str, paths))}: no votes")
    return list(answers.values())


def analyse(
    study: str, questions: Sequence[str], items: Mapping[str, Item], answers: Sequence[Answer], resamples: int = 2000,
    level: float = 0.95, seed: int = 0,
) -> Outcome:  # fmt: skip
    """Rates of every pair and question, agreement per question, and consistency. Repeated items count there alone."""
    first_time = [answer for answer in answers if items[answer.item].repeat_of is None]
    groups: dict[tuple[int, str, str], list[Answer]] = defaultdict(list)
    for answer in first_time:
        groups[answer.question, answer.first, answer.second].append(answer)
    rates = tuple(
        _rate(questions[q], a, b, groups[q, a, b], resamples, level, seed) for q, a, b in sorted(groups)
    )  # fmt: skip
    agreement = {}
    for number, question in enumerate(questions):
        units: dict[str, list[float]] = defaultdict(list)
        for answer in first_time:
            if answer.question == number:
                units[answer.item].append(answer.score)
        agreement[question] = alpha(units.values())
    voters = {answer.voter for answer in answers}
    return Outcome(study, len(voters), len(answers), rates, agreement, _consistency(items, answers))


def alpha(units: Iterable[Sequence[Hashable]]) -> float | None:
    """Krippendorff's alpha for names (Krippendorff 2011), of the values that each unit was given.

    1 - observed over expected disagreement of pairs of values; None without a unit of two values or more.
    """
    counts = [Counter(unit) for unit in units if len(unit) > 1]
    total = sum(count.total() for count in counts)
    if not counts:
        return None
    observed = sum(
        (count.total() ** 2 - sum(n * n for n in count.values())) / (count.total() - 1) for count in counts
    )  # fmt: skip
    whole = sum(counts, Counter())
    expected = (total**2 - sum(n * n for n in whole.values())) / (total - 1)
    return 1.0 if expected == 0 else 1 - observed / expected


def to_json(outcome: Outcome) -> str:
    """The outcome as JSON."""
    return json.dumps(asdict(outcome), indent=1) + "\n"


def _answer(voter: str, vote: Vote, item: Item) -> Answer:
    first, second = sorted((item.left, item.right))
    for_left = {"left": 1.0, "tie": 0.5, "right": 0.0}[vote.choice]
    score = for_left if item.left == first else 1 - for_left
    return Answer(voter, item.prompt_id, vote.question, first, second, score, vote.item)


def _rate(
    question: str, first: str, second: str, answers: Sequence[Answer], resamples: int, level: float, seed: int
) -> Rate:
    scores = np.array([answer.score for answer in answers])
    wins, losses = int((scores == 1).sum()), int((scores == 0).sum())
    low, high = _interval(answers, scores, resamples, level, seed)
    return Rate(
        question, first, second, wins, len(scores) - wins - losses, losses, float(scores.mean()), low, high
    )  # fmt: skip


def _interval(
    answers: Sequence[Answer], scores: np.ndarray, resamples: int, level: float, seed: int
) -> tuple[float | None, float | None]:
    """A bootstrap that draws prompts and voters anew, each by itself (Owen 2007, the pigeonhole bootstrap).

    Votes of one voter are alike and so are votes on one prompt; drawing votes alone would take both for independent.
    None where there are fewer than two prompts.
    """
    if len({answer.prompt for answer in answers}) < 2:
        return None, None
    rng = np.random.default_rng(seed_from("votes interval", seed))
    weights = np.ones((resamples, len(answers)))
    for names in ([answer.prompt for answer in answers], [answer.voter for answer in answers]):
        known, index = np.unique(names, return_inverse=True)
        if len(known) > 1:
            weights *= rng.multinomial(len(known), np.full(len(known), 1 / len(known)), size=resamples)[:, index]
    kept = weights.sum(1) > 0
    drawn = (weights[kept] @ scores) / weights[kept].sum(1)
    low, high = np.quantile(drawn, [(1 - level) / 2, (1 + level) / 2])
    return float(low), float(high)


def _consistency(items: Mapping[str, Item], answers: Sequence[Answer]) -> float | None:
    given = {(answer.voter, answer.item, answer.question): answer.score for answer in answers}
    alike = [
        score == given[voter, str(items[item].repeat_of), question]
        for (voter, item, question), score in given.items()
        if (voter, items[item].repeat_of, question) in given
    ]
    return float(np.mean(alike)) if alike else None


def _json(path: Path, what: str) -> Any:
    try:
        text = path.read_text(encoding="utf-8")
    except FileNotFoundError:
        raise InputError(f"{path}: no such {what}") from None
    except (UnicodeDecodeError, OSError) as error:
        raise InputError(f"{path}: not a readable {what}: {error}") from None
    return read_json(text, str(path))
