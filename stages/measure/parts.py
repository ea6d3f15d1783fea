"""The images of a run judged in several jobs: what each of them found, and all of it as one job would have found it.

Every job judges every n-th batch and keeps what the models said of each image. The job that joins runs no model: it
reads what they found batch by batch and goes on as if it had judged the images itself.
"""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import pyarrow as pa

from stages import sight, tables
from stages.errors import InputError
from stages.measure.images import Batches, Row
from stages.measure.panel import Panel
from stages.measure.scored import ScoredImages, Verdict
from stages.measure.settings import MeasureSettings
from stages.models.record import load as load_record
from stages.resume import State
from stages.runtime import progress, sha256
from stages.shards import Parts, Shard
from stages.table_tensors import packed, unpacked

if TYPE_CHECKING:
    from stages.measure.scored import Scoring

SPACES = ("rewards", "embeddings", "patches", "distances")
"""What a model says of an image: the mappings of `ScoredImages` by model."""


def score_part(
    settings: MeasureSettings, panel: Panel, scoring: Scoring, batches: Batches, part: Path, shard: Shard, state: State
) -> int:
    """Judge the batches of one shard and write what was found; returns their number.

    Batches that `state` holds are not scored again.
    """
    work = [place for place in range(len(batches)) if shard.has(place)]

    def mine() -> Iterator[tuple[int, list[Row]]]:
        return ((place, rows) for place, rows in enumerate(batches.rows()) if shard.has(place))

    def made(item: tuple[int, list[Row]]) -> dict[str, Any]:
        place, rows = item
        verdict = scoring(place, rows, batches.pixels(rows))
        return {"judged": packed(tables.table(tables.JUDGED, _written(place, verdict)))}

    units = progress(state.results("judge", mine(), made), len(work), "judge")
    schema = shard.marked(tables.JUDGED, **_about(settings, panel, batches.path))
    tables.write(part, (unpacked(unit["judged"]) for unit in units), schema)
    return len(work)


@dataclass(frozen=True)
class Joined:
    """What the jobs of all shards found."""

    parts: Parts
    panel: Panel

    @classmethod
    def open(cls, paths: Sequence[Path], settings: MeasureSettings, models: Path, samples: Path) -> Joined:
        """Raises InputError for files that are not all shards of `samples`, judged by the models on record as the
        study asks.
        """
        parts = Parts.open(paths, tables.JUDGED)
        expected = _about(settings, Panel({}, {}), samples)
        for path, found in zip(paths, parts.about(), strict=True):
            for key in ("samples", "judging"):
                if found.get(key) != expected[key]:
                    raise InputError(f"{path}: judged with other {key}; run measure judge again")
        panel = Panel(**json.loads(parts.about()[0]["models"]))
        for name in settings.models:
            digest = load_record(models / f"{name}.json", name).digest
            if panel.identities.get(name, {}).get("digest") != digest:
                raise InputError(f"{paths[0]}: judged by another model {name!r}; run measure judge again")
        return cls(parts, panel)

    def score(self, place: int, rows: list[Row], pixels: np.ndarray) -> Verdict:
        """What was found of the batch at `place`."""
        if place >= len(self.parts):
            raise InputError(f"{self.parts.paths[0]}: no batch {place}; the parts are not of all images")
        found = self.parts.batch(place)
        if set(found["batch"].to_pylist()) != {place}:
            raise InputError(f"{self.parts.paths[0]}: its batch is not batch {place} of the images")
        return _read(found, tuple(row["prompt"] for row in rows), pixels)


def _about(settings: MeasureSettings, panel: Panel, samples: Path) -> dict[str, str]:
    """Metadata of a part: the models that judged, the settings that they judged by, and the digest of the images."""
    scoring = settings.model_dump(include={"rewards", "text_image", "features", "batch_size"})
    models = {"identities": panel.identities, "ids": panel.ids}
    return {
        "models": json.dumps(models, default=str), "judging": json.dumps(scoring), "samples": sha256(samples),
    }  # fmt: skip


def _written(place: int, verdict: Verdict) -> list[dict[str, object]]:
    """A verdict as rows of `tables.JUDGED`, but for prompts and pixels, which stand with the images."""
    arrays: dict[str, np.ndarray] = {}
    for space in SPACES:
        arrays |= {f"{space}/{name}": values for name, values in getattr(verdict.images, space).items()}
    if verdict.images.clipscore is not None:
        arrays["clipscore/"] = verdict.images.clipscore
    if verdict.images.seen is not None:
        seen = sight.arrays(verdict.images.seen)
        arrays |= {f"seen/{verdict.images.oracle}/{name}": values for name, values in seen.items()}
    arrays |= {f"values/{name}": np.asarray(values) for name, values in verdict.values.items()}
    return [
        {"batch": place, "array": name, "dtype": values.dtype.str, "shape": list(values.shape),
         "data": values.tobytes()}
        for name, values in arrays.items()
    ]  # fmt: skip


def _read(found: pa.Table, prompts: tuple[str, ...], pixels: np.ndarray) -> Verdict:
    """The verdict in rows of `tables.JUDGED`."""
    arrays: dict[str, dict[str, np.ndarray]] = {}
    for row in found.to_pylist():
        kind, _, name = row["array"].partition("/")
        values = np.frombuffer(row["data"], row["dtype"]).reshape(row["shape"])
        if len(values) != len(prompts):
            raise InputError(f"judged images: {len(values)} values of {row['array']!r} for {len(prompts)} images")
        arrays.setdefault(kind, {})[name] = values
    spaces: Mapping[str, Any] = {space: arrays.get(space, {}) for space in SPACES}
    clipscore = arrays.get("clipscore", {}).get("")
    seen, oracle = _seen(arrays.get("seen", {}))
    images = ScoredImages(prompts, pixels, clipscore=clipscore, seen=seen, oracle=oracle, **spaces)
    return Verdict(images, arrays.get("values", {}))


def _seen(arrays: Mapping[str, np.ndarray]) -> tuple[sight.Sight | None, str]:
    """What an oracle saw and its kind, from arrays called `<kind>/<field>`."""
    if not arrays:
        return None, ""
    kind = next(iter(arrays)).partition("/")[0]
    return sight.restore(kind, {name.partition("/")[2]: values for name, values in arrays.items()}), kind
