"""Pictures of the probe: one sheet per run, probed steps down, images of the probe across, prompt after prompt."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from stages import tables
from stages.report import sprites
from stages.report.settings import ReportStudy, ThumbnailSettings

FILE = "probes.parquet"
SHARE = 0.25
"""The share of `thumbnails.megapixels` that the sheets of all probes may have beside the others; ours."""


@dataclass(frozen=True)
class Strip:
    """What stands where in a sheet: a row per step, in a row the first `samples` images of every prompt; the size of a
    picture in pixels.
    """

    steps: list[int]
    prompts: list[str]
    samples: int
    width: int
    height: int

    @property
    def across(self) -> int:
        """Pictures in a row."""
        return len(self.prompts) * self.samples


@dataclass(frozen=True)
class Sheet:
    """The pictures of one run, as a data URI."""

    strip: Strip
    uri: str


def sheets(study: ReportStudy, runs: Path) -> dict[str, Sheet]:
    """The sheet of every run in the folder `runs` that kept pictures of its probe; raises InputError for a table that
    cannot be read, or an image that cannot be decoded.
    """
    files = {run: runs / run / FILE for run in study.trained_runs}
    there = {run: path for run, path in files.items() if path.is_file()}
    rows = {run: tables.read(path, tables.PROBES).to_pylist() for run, path in there.items()}
    kept = {run: found for run, found in rows.items() if found}
    return {run: _sheet(found, there[run], len(kept), study.report.thumbnails) for run, found in kept.items()}


def _sheet(rows: Sequence[Mapping], path: Path, runs: int, wanted: ThumbnailSettings) -> Sheet:
    from PIL import Image

    first = sprites.opened(rows[0]["image"], path)
    first.thumbnail((wanted.side, wanted.side))
    room = int(SHARE * wanted.megapixels * 1e6) // (first.width * first.height * runs)
    strip = fitting(rows, first.size, room, wanted.samples)
    places = {
        (step, prompt, sample): (column * strip.samples + sample, row)
        for row, step in enumerate(strip.steps)
        for column, prompt in enumerate(strip.prompts)
        for sample in range(strip.samples)
    }
    made = Image.new("RGB", (strip.across * strip.width, len(strip.steps) * strip.height), "white")
    for one in rows:
        place = places.get((one["step"], one["prompt"], one["sample"]))
        if place is not None:
            image = sprites.opened(one["image"], path)
            image.thumbnail((strip.width, strip.height), Image.Resampling.LANCZOS)
            made.paste(image, (place[0] * strip.width, place[1] * strip.height))
    return Sheet(strip, sprites.uri(made, wanted.quality))


def fitting(rows: Sequence[Mapping], size: tuple[int, int], room: int, most: int) -> Strip:
    """The strip of at most `room` pictures, and `most` of a prompt: where there are more in the rows of
    `tables.PROBES`, fewer samples are shown, at least two, then fewer prompts, then fewer steps, spread evenly.
    """
    steps = list(dict.fromkeys(int(row["step"]) for row in rows))
    prompts = list(dict.fromkeys(str(row["prompt"]) for row in rows))
    here = 1 + max(int(row["sample"]) for row in rows)
    samples = min(here, most, max(2, room // (len(steps) * len(prompts))))
    shown = sprites.spread(prompts, room // (len(steps) * samples))
    return Strip(sprites.spread(steps, room // (len(shown) * samples)), shown, samples, *size)
