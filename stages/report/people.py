"""What people preferred: the outcome of a user study, as `python -m stages.votes analyse` wrote it, and its tables."""

from __future__ import annotations

import hashlib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated

from pydantic import Field, model_validator

from stages.errors import InputError
from stages.params import Settings, nearest, validate
from stages.report import sources
from stages.report.curation import read_json
from stages.report.settings import ReportStudy
from stages.report.table import Cell, Table

Share = Annotated[float, Field(ge=0, le=1)]
Count = Annotated[int, Field(ge=0)]


class Rate(Settings):
    """How often `first` was preferred to `second` under one question, a tie counting half."""

    question: str
    first: str
    second: str
    wins: Count
    ties: Count
    losses: Count
    rate: Share
    low: Share | None
    high: Share | None

    @model_validator(mode="after")
    def _adds_up(self) -> Rate:
        votes = self.wins + self.ties + self.losses
        if not votes or abs(self.rate - (self.wins + self.ties / 2) / votes) > 1e-9:
            raise ValueError(f"{self.first} over {self.second}: rate {self.rate:g} is not that of the counted votes")
        if (self.low is None) != (self.high is None) or (self.low or 0) > (1 if self.high is None else self.high):
            raise ValueError(f"{self.first} over {self.second}: low and high are not an interval")
        return self


class Shown(Settings):
    """Whose images a side showed, and the digest of those images."""

    run: str
    strategy: str
    setting: str
    images: str


class Outcome(Settings):
    """A user study: rates, agreement (Krippendorff's alpha), consistency, and what was shown."""

    study: str
    voters: Count
    votes: Count
    rates: tuple[Rate, ...]
    agreement: Mapping[str, Annotated[float, Field(le=1)] | None]
    consistency: Share | None
    sides: Mapping[str, Shown] = {}
    prompts: Mapping[str, tuple[int, ...]] = {}


@dataclass(frozen=True)
class People:
    """What the page shows: a sentence about the study, a table per question, and the sides with changed images."""

    about: str
    tables: Sequence[tuple[str, Table]]
    agreement: Table
    sides: Table
    changed: Sequence[str]


def read(study: ReportStudy, samples: Path) -> People | None:
    """The outcome that the study names; None where it names none.

    Raises InputError for a file that is something else, and for votes on a run or setting that the study does not have.
    """
    if study.report.votes is None:
        return None
    path = Path(study.report.votes)
    found = read_outcome(path)
    changed = [name for name, side in found.sides.items() if not _same(path, name, side, found, study, samples)]
    return People(about(found), rates(found), agreement(found), sides(found), changed)


def read_outcome(path: str | Path) -> Outcome:
    """The outcome in a file; raises InputError for one that is something else."""
    return validate(Outcome, read_json(Path(path), "what stages.votes analyse writes"), f"{path}:")


def about(outcome: Outcome) -> str:
    """How many people, votes, and how often a voter answers alike twice."""
    text = f"{_count(outcome.voters, 'voter')}, {_count(outcome.votes, 'vote')}."
    if outcome.consistency is None:
        return text
    return f"{text} Shown again with sides swapped, {outcome.consistency:.0%} of comparisons were answered alike."


def rates(outcome: Outcome) -> list[tuple[str, Table]]:
    """One table per question: pairs, the rate with its interval, coloured where that lies beyond a half, and counts."""
    found = []
    for question in dict.fromkeys(rate.question for rate in outcome.rates):
        rows = [
            [
                Cell(f"{r.first} over {r.second}"),
                _rate(r),
                *(Cell(str(n), source=sources.VOTES) for n in (r.wins, r.ties, r.losses)),
            ]
            for r in outcome.rates
            if r.question == question
        ]
        found.append((question, Table(["", "preferred, a tie counting half", "won", "even", "lost"], rows)))
    return found


def agreement(outcome: Outcome) -> Table:
    """Krippendorff's alpha per question."""
    rows = [
        [
            Cell(question),
            Cell("–", "no two voters saw the same") if found is None else Cell(f"{found:.2f}", source=sources.VOTES),
        ]
        for question, found in outcome.agreement.items()
    ]
    return Table(["question", "agreement of voters (Krippendorff's alpha)"], rows)


def sides(outcome: Outcome) -> Table:
    """What each name stands for; no rows where the file does not say."""
    rows = [[Cell(name), Cell(s.run), Cell(s.strategy), Cell(s.setting)] for name, s in outcome.sides.items()]
    return Table(["name", "run", "strategy", "setting"], rows)


def _rate(rate: Rate) -> Cell:
    if rate.low is None or rate.high is None:
        return Cell(f"{rate.rate:.1%}", "no interval: a single prompt", source=sources.VOTES)
    kind = "up" if rate.low > 0.5 else "down" if rate.high < 0.5 else ""
    return Cell(f"{rate.rate:.1%}", f"{rate.low:.1%} to {rate.high:.1%}", kind=kind, source=sources.VOTES)


def _same(path: Path, name: str, side: Shown, outcome: Outcome, study: ReportStudy, samples: Path) -> bool:
    """Whether the images that people saw are the study's present ones."""
    import pyarrow.parquet as pq

    runs = ("base", *study.runs)
    if side.run not in runs:
        raise InputError(
            f"{path}: sides.{name}: votes on run {side.run!r}, not a run of this study{nearest(side.run, runs)}"
        )
    wanted = [("strategy", "==", side.strategy), ("setting", "==", side.setting)]
    table = pq.read_table(
        samples / f"{side.run}.parquet", columns=["prompt_id", "sample", "image"],
        filters=[*wanted, ("prompt_id", "in", list(outcome.prompts))],
    )  # fmt: skip
    if not table.num_rows:
        spot = f"{side.strategy}/{side.setting}"
        raise InputError(f"{path}: sides.{name}: {side.run} has no images of {spot} for the prompts that were shown")
    images = {(row["prompt_id"], row["sample"]): row["image"] for row in table.to_pylist()}
    digest = hashlib.sha256()
    for prompt, numbers in sorted(outcome.prompts.items()):
        for number in numbers:
            digest.update(images.get((prompt, number), b""))
    return digest.hexdigest() == side.images


def _count(number: int, word: str) -> str:
    return f"{number} {word}{'s' * (number != 1)}"
