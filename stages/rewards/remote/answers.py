"""Scores that a server has given, kept in the state of the job as they arrive.

A job saves its state only now and then, and starts again from there when it was killed; the answers of a server are
kept at once, so that nothing is asked a second time. One line of JSON per score; a line that was cut off is no line.
"""

from __future__ import annotations

import hashlib
import json
import os
import sys
from collections.abc import Iterable
from pathlib import Path
from weakref import WeakKeyDictionary

import numpy as np

from stages.resume import State


class Answers:
    """The scores known to a job, by a digest of model, image and prompt; without a folder, none are kept."""

    def __init__(self, folder: Path | None = None) -> None:
        self.folder = folder
        self.known: dict[str, float] = {}
        # Processes of one job write files of their own, and read those of all.
        self._file = folder and folder / f"answers-{os.environ.get('RANK') or 0}.jsonl"
        for file in sorted(folder.glob("answers-*.jsonl")) if folder else ():
            self._read(file)

    @classmethod
    def of(cls, state: State) -> Answers:
        """The answers in the state of a job, the same ones for all models that it asks."""
        if state not in _by_job:
            _by_job[state] = cls(state.opened())
        return _by_job[state]

    def keep(self, scores: Iterable[tuple[str, float]]) -> None:
        """Take in scores by their digests, and append them to the file; a disk that refuses costs a warning only."""
        found = dict(scores)
        self.known |= found
        if self._file is None:
            return
        lines = "".join(f"\n{json.dumps([key, score])}" for key, score in found.items())
        try:
            with open(self._file, "a", encoding="ascii") as file:
                file.write(lines)
        except OSError as error:
            print(f"warning: {self._file}: scores are not kept any more ({error})", file=sys.stderr, flush=True)
            self._file = None

    def _read(self, file: Path) -> None:
        for line in file.read_text(encoding="ascii", errors="replace").split("\n"):
            try:
                key, score = json.loads(line)
                self.known[str(key)] = float(score)
            except (ValueError, TypeError):
                continue


_by_job: WeakKeyDictionary[State, Answers] = WeakKeyDictionary()


def digest(model: str, pixels: np.ndarray, prompt: str) -> str:
    """What one score is known by: a digest of the model, of uint8 pixels [H, W, 3] and of the prompt."""
    found = hashlib.blake2b(digest_size=16)
    for part in (model.encode(), str(pixels.shape).encode(), np.ascontiguousarray(pixels).tobytes(), prompt.encode()):
        found.update(len(part).to_bytes(8, "little"))
        found.update(part)
    return found.hexdigest()
