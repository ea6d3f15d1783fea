"""The sample grid: the same prompts from the same noise, one row per way of making images."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

from stages.pictures import decode
from stages.report.figure import FigureAbout

if TYPE_CHECKING:
    from pathlib import Path

    from PIL.Image import Image

    from stages.report.data import ReportData
    from stages.report.fonts import Line
    from stages.report.measurements import Measurements, Point

ABOUT = FigureAbout(
    "Samples",
    files=("grid.png",),
    section="samples",
    place=40,
    alt="Images of the same prompts from the same noise, one row per way of making them.",
    standard=True,
)

CELL = 96
"""Side of an image in the grid, at least, in pixels: small images are enlarged by a whole factor, big ones reduced."""
GAP, BLOCK_GAP, INDENT, HEAD = 4, 18, 16, 44
LABEL_WIDTHS = 190, 420
"""Pixels of the captions at the left, at least and at most."""
CAPTION_SIZES = (22, True), (17, False)
"""Pixels of the two lines of a row's caption, and whether they are bold."""
PROMPT_SIZE = 19
ISOLATED = "\u2068{}\u2069"
"""A text that may run from right to left, in one that runs from left to right (Unicode's first strong isolate)."""


@dataclass(frozen=True)
class Row:
    """One row of the grid: whose images, and two lines of caption."""

    run: str
    point: Point
    caption: tuple[str, str]
    colour: str


def caption(data: ReportData) -> str:
    """How images were chosen; and the prompts, for those that the picture has no room or no font for."""
    leading, chosen = data.look.leading, chosen_prompts(data.evaluation, data.study.report.grid.prompts)
    texts = _texts(data, chosen)
    prompts = " ".join(
        f"({number}) “{ISOLATED.format(texts.get(prompt, prompt))}”" for number, prompt in enumerate(chosen, 1)
    )
    letter = leading.about.letter if leading else ""
    middle = f"The value of {letter} is the middle one of the study's list. " if letter else ""
    return (
        "Images of one column start from the same noise. Prompts are spread evenly over the evaluation prompts and "
        f"samples are the first ones: nothing was picked by its looks. {middle}Of several training seeds the first is "
        f"shown. Prompts: {prompts}"
    )


def draw(data: ReportData) -> Image:
    """Draw the grid; raises InputError where a setting has no image or one cannot be decoded."""
    from PIL import Image as images

    size = data.study.report.grid
    prompts = chosen_prompts(data.evaluation, size.prompts)
    shown = rows_of(data)
    pictures = [_images(data.samples / f"{row.run}.parquet", row.point, prompts, size.samples) for row in shown]
    texts = _texts(data, prompts)
    titles = {prompt: (f"{number}", f"“{texts.get(prompt, prompt)}”") for number, prompt in enumerate(prompts, 1)}
    count = len({sample for found in pictures for _, sample in found})
    per_band = _prompts_per_band(len(prompts), count)
    bands = [prompts[start : start + per_band] for start in range(0, len(prompts), per_band)]
    drawn = [_band(shown, pictures, titles, band, count) for band in bands]
    whole = images.new("RGB", (max(b.width for b in drawn), sum(b.height for b in drawn)), "white")
    top = 0
    for band in drawn:
        whole.paste(band, (0, top))
        top += band.height
    return whole


def rows_of(data: ReportData) -> list[Row]:
    """Base without and with guidance, then the featured methods tuned and under the leading strategy at its middle
    setting, then the others tuned only. Guidance is shown at the middle scale above the base's; of a method's training
    seeds the first run of the study file.
    """
    from stages.report import curves
    from stages.report.look import BASE
    from stages.report.measurements import Point

    look, evaluation = data.look, data.evaluation
    base = evaluation.base
    guided = [scale for scale in evaluation.values(BASE, base.strategy) if scale > base.value]
    scales = [base.value, *guided[(len(guided) - 1) // 2 :][:1]]
    name = look.strategy(base.strategy).short
    found = [Row(BASE, Point(BASE, base.strategy, g), ("base", f"{name} {g:g}"), look.colour(BASE)) for g in scales]
    for method in look.order:
        run = next(name for name, view in data.study.runs.items() if view.method == method)
        tuned, leading = curves.tuned_point(look, evaluation, method), curves.leading(look, evaluation, method)
        if tuned:
            end = look.leading.about.plain if look.leading else None
            words = (
                f"{look.strategy(tuned.strategy).label} ({end.text})" if end else look.strategy(tuned.strategy).label
            )
            found.append(Row(run, tuned, (look.method(method), words), look.colour(method)))
        if leading and method in look.featured:
            strategy, point = leading.strategy, leading.middle
            words = f"{strategy.short}, {strategy.about.letter} = {point.value:g}"
            found.append(Row(run, point, (look.method(method), words), look.colour(method)))
    return found


def chosen_prompts(evaluation: Measurements, count: int) -> list[str]:
    """Prompt ids spread evenly over the evaluation prompts in the order of their ids, so nobody picks them by looks."""
    import numpy as np

    ids = evaluation.prompts
    count = min(count, len(ids))
    return [ids[int(position)] for position in np.linspace(0, len(ids) - 1, count).round()]


def _texts(data: ReportData, prompts: Sequence[str]) -> dict[str, str]:
    """The text of every prompt, from the base's samples."""
    import pyarrow as pa
    import pyarrow.compute as pc
    import pyarrow.parquet as pq

    from stages.report.look import BASE

    wanted = pc.field("prompt_id").isin(pa.array(prompts)) & (pc.field("sample") == 0)
    found = pq.read_table(data.samples / f"{BASE}.parquet", columns=["prompt_id", "prompt"], filters=wanted)
    return {row["prompt_id"]: row["prompt"] for row in found.to_pylist()}


def _images(path: Path, point: Point, prompts: Sequence[str], samples: int) -> dict[tuple[str, int], Image]:
    """The images of one point by (prompt id, sample), enlarged or reduced to a cell."""
    import pyarrow as pa
    import pyarrow.compute as pc
    import pyarrow.parquet as pq

    from stages import tables
    from stages.errors import InputError

    tables.read(path, tables.SAMPLES, ["prompt_id"])  # refuses a file that is not a table of samples
    wanted = (
        (pc.field("strategy") == point.strategy)
        & (pc.field("value") == point.value)
        & pc.field("prompt_id").isin(pa.array(prompts))
        & (pc.field("sample") < samples)
    )
    found = pq.read_table(path, columns=["prompt_id", "sample", "image"], filters=wanted).to_pylist()
    if not found:
        raise InputError(f"{path}: no images of {point.strategy} {point.value:g} for the sample grid")
    return {(row["prompt_id"], row["sample"]): _cell(row["image"], path) for row in found}


def _cell(data: bytes, path: Path) -> Image:
    from PIL import Image as images

    picture = images.fromarray(decode(data, str(path)))
    side = max(picture.size)
    if side <= CELL:
        factor = CELL // side
        return picture.resize((picture.width * factor, picture.height * factor), images.Resampling.NEAREST)
    picture.thumbnail((2 * CELL, 2 * CELL), images.Resampling.LANCZOS)
    return picture


def _prompts_per_band(prompts: int, samples: int) -> int:
    """Prompts side by side: about twelve images per line, bands of nearly equal length."""
    most = max(1, 12 // samples)
    bands = -(-prompts // most)
    return -(-prompts // bands)


def _band(
    shown: Sequence[Row],
    images: Sequence[Mapping[tuple[str, int], Image]],
    titles: Mapping[str, tuple[str, str]],
    prompts: Sequence[str],
    samples: int,
) -> Image:
    """Some prompts side by side, all rows; a missing image stays an empty cell. `titles` are number and text."""
    from PIL import Image as pictures
    from PIL import ImageDraw

    from stages.report.look import INK, MUTED

    side = max(picture.width for found in images for picture in found.values())
    tall = max(picture.height for found in images for picture in found.values())
    block, left_edge = samples * (side + GAP) + BLOCK_GAP, _label_width(shown)
    size = (left_edge + len(prompts) * block, HEAD + len(shown) * (tall + GAP) + BLOCK_GAP)
    band = pictures.new("RGB", size, "white")
    draw = ImageDraw.Draw(band)
    for column, prompt in enumerate(prompts):
        number, text = titles[prompt]
        title = _title(number, text, block - BLOCK_GAP)
        title.draw(draw, (left_edge + column * block, HEAD - 10), INK)
    for place, (row, found) in enumerate(zip(shown, images, strict=True)):
        top = HEAD + place * (tall + GAP)
        draw.rectangle((0, top, 5, top + tall - 1), fill=row.colour)
        for line, colour, down in zip(
            _caption_lines(row, left_edge - 2 * INDENT), (row.colour, MUTED), (-4, 20), strict=True
        ):
            line.draw(draw, (INDENT, top + tall / 2 + down), colour)
        for column, prompt in enumerate(prompts):
            for sample in range(samples):
                if (prompt, sample) in found:
                    left = left_edge + column * block + sample * (side + GAP)
                    band.paste(found[prompt, sample], (left, top))
    return band


def _title(number: str, text: str, width: float) -> Line:
    """The head of a column: the prompt's number and text; the number alone where no installed font has the text."""
    from stages.report import fonts

    head = fonts.plain(f"{number}  ", PROMPT_SIZE)
    rest = fonts.line(text, PROMPT_SIZE, width - head.width)
    return fonts.Line((*head.parts, *rest.parts)) if rest else fonts.plain(f"prompt {number}", PROMPT_SIZE, width)


def _caption_lines(row: Row, width: float = math.inf) -> list[Line]:
    from stages.report import fonts

    return [fonts.plain(text, size, width, bold) for text, (size, bold) in zip(row.caption, CAPTION_SIZES, strict=True)]


def _label_width(shown: Sequence[Row]) -> int:
    """Room for the longest caption, within `LABEL_WIDTHS`."""
    longest = max(line.width for row in shown for line in _caption_lines(row))
    low, high = LABEL_WIDTHS
    return min(max(math.ceil(longest) + 2 * INDENT, low), high)
