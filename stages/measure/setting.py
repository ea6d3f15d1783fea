"""The images of one strategy and setting as they arrive, and what is kept of all of them to go on from."""

from __future__ import annotations

import sys
from collections import Counter
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from typing import Any

import numpy as np

from stages.measure.scored import ScoredImages
from stages.resume import State

NAME = "settings"


@dataclass
class Setting:
    """The images of one run under one strategy and setting, as they arrive."""

    key: tuple[object, ...]
    left: Counter[str]
    """Images still to come, per prompt; a prompt whose images have all come is not there."""
    waiting: dict[str, list[ScoredImages]] = field(default_factory=dict)
    rows: list[tuple[str | None, int | None, str, float]] = field(default_factory=list)
    """(prompt_id, sample, metric, score)."""
    values: dict[str, dict[str, list[float]]] = field(default_factory=dict)
    """Metric to prompt id to values."""
    features: list[np.ndarray] = field(default_factory=list)
    owners: list[str] = field(default_factory=list)
    """Prompt id of every row of `features`."""

    def add(self, metric: str, prompt: str, sample: int | None, score: float) -> None:
        """Take in one value of a metric of an image, or of a prompt where `sample` is None."""
        self.rows.append((prompt, sample, metric, score))
        self.values.setdefault(metric, {}).setdefault(prompt, []).append(score)

    def content(self) -> dict[str, Any]:
        """Everything, to be kept; not to be asked for while images wait for others of their prompt."""
        from torch import from_numpy

        features = from_numpy(np.concatenate(self.features)) if self.features else None
        return {"left": dict(self.left), "rows": list(self.rows), "features": features, "owners": list(self.owners)}

    @classmethod
    def of(cls, key: tuple[object, ...], content: Mapping[str, Any]) -> Setting:
        """The setting of which `content` was kept."""
        made = cls(key, Counter(content["left"]), owners=content["owners"])
        for prompt, sample, metric, score in content["rows"]:
            made.add(metric, prompt, sample, score)
        if content["features"] is not None:
            made.features.append(content["features"].numpy())
        return made


@dataclass
class Ledger:
    """How far the images of all settings (`keys`) have been scored, kept whenever no image waits for others."""

    keys: list[tuple[object, ...]]
    state: State
    batches: int = 0
    """Batches judged so far."""
    closed: list[int] = field(default_factory=list)
    """Places in `keys` of the finished settings, in the order in which they finished."""
    unsaved: dict[int, dict[str, Any]] = field(default_factory=dict)

    def resume(self, settings: dict[tuple[object, ...], Setting]) -> Iterator[Setting]:
        """Put what was kept into `settings`; yields the finished ones, and takes them out."""
        kept = self.state.load(NAME)
        finished = {place: self.state.load(f"setting-{place}") for place in kept["closed"]} if kept else {}
        if kept is None or None in finished.values():
            return
        self.batches, self.closed = kept["batches"], kept["closed"]
        print(f"measure: {self.batches} batches kept, going on from there", file=sys.stderr, flush=True)
        for place, content in kept["open"].items():
            settings[self.keys[place]] = Setting.of(self.keys[place], content)
        for place, content in finished.items():
            del settings[self.keys[place]]
            yield Setting.of(self.keys[place], content or {})

    def close(self, setting: Setting) -> None:
        """The last image of a setting has been scored."""
        place = self.keys.index(setting.key)
        self.closed.append(place)
        if self.state.folder is not None:
            self.unsaved[place] = setting.content()

    def end_batch(self, settings: Mapping[tuple[object, ...], Setting]) -> None:
        """Save when it is time to and nothing waits; raises Stopped when the job was told to stop."""
        self.batches += 1
        if any(setting.waiting for setting in settings.values()):
            self.state.rest()
        else:
            self.state.offer(NAME, lambda: self._content(settings))

    def _content(self, settings: Mapping[tuple[object, ...], Setting]) -> dict[str, Any]:
        for place, content in self.unsaved.items():
            self.state.save(f"setting-{place}", content)
        self.unsaved.clear()
        opened = {self.keys.index(key): setting.content() for key, setting in settings.items() if setting.rows}
        return {"batches": self.batches, "closed": self.closed, "open": opened}
