"""What people compare: for every prompt and pair of methods, `k` images per side, blinded and in random order."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass
from itertools import chain, combinations
from pathlib import Path
from typing import Any

import numpy as np

from stages.errors import InputError
from stages.params import nearest
from stages.pictures import decode, encode
from stages.runtime import seed_from

COLUMNS = ("strategy", "setting", "prompt_id", "prompt", "sample", "image")


@dataclass(frozen=True)
class Side:
    """A way of making images, under the name that the analysis will show."""

    name: str
    run: str
    strategy: str
    setting: str

    @classmethod
    def parse(cls, text: str) -> Side:
        """`name=RUN/STRATEGY/SETTING`, as the columns of a samples table have them; raises InputError otherwise."""
        name, _, rest = text.partition("=")
        parts = rest.split("/", 2)
        if not name or len(parts) != 3 or not all(parts):
            raise InputError(f"--sides: {text!r}: expected NAME=RUN/STRATEGY/SETTING, refl=refl-s0/tuned/tuned say")
        return cls(name, *parts)


@dataclass(frozen=True)
class Item:
    """One comparison: whose images stand left and right. `repeat_of` names the comparison that it shows again."""

    id: str
    prompt_id: str
    prompt: str
    left: str
    right: str
    repeat_of: str | None = None


@dataclass(frozen=True)
class Study:
    """All comparisons, the questions asked of each, and the images [k] of every (prompt id, side).

    `sides` says what each side is, by name: run, strategy, setting, and in `images` the digest of its images as they
    stand in the samples table, prompt by prompt; `prompts` the numbers of the samples shown of each prompt.
    """

    questions: tuple[str, ...]
    items: tuple[Item, ...]
    images: Mapping[tuple[str, str], tuple[bytes, ...]]
    sides: Mapping[str, Mapping[str, str]]
    prompts: Mapping[str, tuple[int, ...]]

    @property
    def id(self) -> str:
        """12 hexadecimal digits that form, key and votes of a study share; images are part of it."""
        text = json.dumps([self.questions, [asdict(item) for item in self.items]])
        digest = hashlib.sha256(text.encode())
        for key in sorted(self.images):
            for image in self.images[key]:
                digest.update(image)
        return digest.hexdigest()[:12]

    def key(self) -> dict[str, Any]:
        """What un-blinds the votes; keep it from those who vote."""
        items = [asdict(item) for item in self.items]
        shown = {"sides": self.sides, "prompts": self.prompts}
        return {"study": self.id, "questions": self.questions, "items": items, **shown}


def make(
    samples: Path,
    sides: Sequence[Side],
    prompts: int,
    images: int,
    questions: Sequence[str],
    seed: int,
    repeats: int = 0,
) -> Study:
    """Comparisons of every pair of `sides` on `prompts` prompts with `images` images per side.

    Prompts are spread evenly over those that all sides have, and samples are the first ones, so that nobody picks.
    Which side stands left, and the order of all, is drawn from `seed`. `repeats` comparisons are shown once more with
    sides swapped. Raises InputError where a side has no such images, or where nothing would be compared or asked.
    """
    for flag, value in (("--prompts", prompts), ("--images", images)):
        if value < 1:
            raise InputError(f"{flag} {value}: expected 1 or more")
    if not all(text.strip() for text in questions) or len(set(questions)) != len(questions):
        raise InputError("--questions: expected texts, each of them once")
    if len({side.name for side in sides}) != len(sides) or len(sides) < 2:
        raise InputError("--sides: expected two or more, each with a name of its own")
    found = {side.name: _read(samples, side) for side in sides}
    texts = {prompt: text for rows in found.values() for prompt, (text, _) in rows.items()}
    shared = sorted(set.intersection(*(set(rows) for rows in found.values())))
    numbers = {p: sorted(set.intersection(*(set(found[s.name][p][1]) for s in sides)))[:images] for p in shared}
    enough = [prompt for prompt in shared if len(numbers[prompt]) == images]
    if len(enough) < prompts:
        raise InputError(
            f"{samples}: {len(enough)} prompts have {images} samples under every side, expected {prompts} or more"
        )
    chosen = [enough[int(place)] for place in np.linspace(0, len(enough) - 1, prompts).round()]
    rng = np.random.default_rng(seed_from("votes", seed))
    pairs = [(prompt, *pair) for prompt in chosen for pair in combinations([side.name for side in sides], 2)]
    if not 0 <= repeats <= len(pairs):
        raise InputError(f"--repeats {repeats}: expected 0 to {len(pairs)}, one for each comparison at most")
    items = []
    for prompt, a, b in [pairs[i] for i in rng.permutation(len(pairs))]:
        left, right = (a, b) if rng.random() < 0.5 else (b, a)
        items.append(Item(rng.bytes(6).hex(), prompt, texts[prompt], left, right))
    again = [items[i] for i in rng.permutation(len(items))[:repeats]]
    items += [Item(rng.bytes(6).hex(), i.prompt_id, i.prompt, i.right, i.left, i.id) for i in again]
    raw = {
        (prompt, side.name): tuple(found[side.name][prompt][1][n] for n in numbers[prompt])
        for prompt in sorted(chosen)
        for side in sides
    }
    kept = {
        (prompt, side): tuple(encode(decode(image, f"{samples}: {side}, prompt {prompt}")) for image in images)
        for (prompt, side), images in raw.items()
    }
    shown = {prompt: tuple(numbers[prompt]) for prompt in sorted(chosen)}
    about = {side.name: _about(side, [raw[prompt, side.name] for prompt in shown]) for side in sides}
    return Study(tuple(questions), tuple(items), kept, about, shown)


def _about(side: Side, images: Iterable[Iterable[bytes]]) -> dict[str, str]:
    digest = hashlib.sha256()
    for image in chain.from_iterable(images):
        digest.update(image)
    return {"run": side.run, "strategy": side.strategy, "setting": side.setting, "images": digest.hexdigest()}


def _read(samples: Path, side: Side) -> dict[str, tuple[str, dict[int, bytes]]]:
    """Prompt id to its text and to images by sample number, as they stand in the table."""
    import pyarrow.parquet as pq

    path = samples / f"{side.run}.parquet"
    if not path.is_file():
        known = [file.stem for file in samples.glob("*.parquet")]
        raise InputError(f"--sides: {side.name}: no {path}{nearest(side.run, known)}")
    wanted = [("strategy", "==", side.strategy), ("setting", "==", side.setting)]
    rows = pq.read_table(path, columns=[*COLUMNS], filters=wanted).to_pylist()
    if not rows:
        there = pq.read_table(path, columns=["strategy", "setting"]).to_pylist()
        known = sorted({f"{row['strategy']}/{row['setting']}" for row in there})
        spot = f"{side.strategy}/{side.setting}"
        raise InputError(f"--sides: {side.name}: {path} has no images of {spot}{nearest(spot, known)}")
    found: dict[str, tuple[str, dict[int, bytes]]] = {}
    for row in rows:
        found.setdefault(row["prompt_id"], (row["prompt"], {}))[1][row["sample"]] = row["image"]
    return found
