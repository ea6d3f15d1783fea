"""The sample grid: the same prompts from the same noise, one row a way of making images."""

from __future__ import annotations

import io
import math
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq
from PIL import Image, ImageDraw, ImageFont

from stages import tables
from stages.errors import InputError
from stages.report import curves, style
from stages.report.load import BASE, Evaluation, Point
from stages.report.settings import ReportStudy
from stages.report.style import Look

CELL = 96
"""Side of an image in the grid, at least, in pixels: small images are enlarged by a whole factor, big ones reduced."""
GAP, BLOCK_GAP, INDENT, HEAD = 4, 18, 16, 44
LABEL_WIDTHS = 190, 420
"""Pixels of the captions at the left, at least and at most."""


@dataclass(frozen=True)
class Row:
    """One row of the grid: whose images, and two lines of caption."""

    run: str
    point: Point
    caption: tuple[str, str]
    colour: str


def rows(study: ReportStudy, evaluation: Evaluation, look: Look) -> list[Row]:
    """Base without and with guidance, then the featured methods tuned and combined, then the others tuned only.

    Combined generation is shown at the middle of its settings, guidance at the middle scale; of a method's training
    seeds the first run of the study file.
    """
    scales = evaluation.values(BASE, "guidance")
    guided = [g for g in scales if g > evaluation.base.value]
    shown = [evaluation.base.value, *guided[(len(guided) - 1) // 2 :][:1]]
    found = [Row(BASE, Point(BASE, "guidance", g), ("base", f"guidance {g:g}"), style.BASE_COLOUR) for g in shown]
    for method in look.order:
        name, run = style.method_name(method), next(r for r, view in study.runs.items() if view.method == method)
        tuned, combined = curves.tuned_point(study, evaluation, method), curves.combined(study, evaluation, method)
        if tuned:
            found.append(Row(run, tuned, (name, "tuned only (k = 0)"), look.colour(method)))
        if combined and method in look.featured:
            point = curves.middle(combined)
            found.append(Row(run, point, (name, f"combined, k = {point.value:g}"), look.colour(method)))
    return found


def chosen_prompts(evaluation: Evaluation, count: int) -> list[str]:
    """Prompt ids spread evenly over the evaluation prompts in the order of their ids, so nobody picks them by looks."""
    ids = evaluation.prompts
    count = min(count, len(ids))
    return [ids[int(position)] for position in np.linspace(0, len(ids) - 1, count).round()]


def grid(study: ReportStudy, evaluation: Evaluation, look: Look, samples: Path) -> Image.Image:
    """Draw the grid; raises InputError where a setting has no image or one cannot be decoded."""
    size = study.report.grid
    prompts = chosen_prompts(evaluation, size.prompts)
    shown = rows(study, evaluation, look)
    images = [_images(samples / f"{row.run}.parquet", row.point, prompts, size.samples) for row in shown]
    texts = images[0][1]
    samples_drawn = len({sample for pictures, _ in images for _, sample in pictures})
    per_band = _prompts_per_band(len(prompts), samples_drawn)
    bands = [prompts[start : start + per_band] for start in range(0, len(prompts), per_band)]
    drawn = [_band(shown, [pictures for pictures, _ in images], texts, band, samples_drawn) for band in bands]
    whole = Image.new("RGB", (max(b.width for b in drawn), sum(b.height for b in drawn)), "white")
    top = 0
    for band in drawn:
        whole.paste(band, (0, top))
        top += band.height
    return whole


def _images(
    path: Path, point: Point, prompts: Sequence[str], samples: int
) -> tuple[dict[tuple[str, int], Image.Image], dict[str, str]]:
    """The images of one point by (prompt id, sample), enlarged or reduced to a cell, and the text of every prompt."""
    tables.read(path, tables.SAMPLES, ["prompt_id"])  # refuses a file that is no table of samples
    wanted = (
        (pc.field("strategy") == point.strategy)
        & (pc.field("value") == point.value)
        & pc.field("prompt_id").isin(pa.array(prompts))
        & (pc.field("sample") < samples)
    )
    found = pq.read_table(path, columns=["prompt_id", "prompt", "sample", "image"], filters=wanted).to_pylist()
    if not found:
        raise InputError(f"{path}: no images of {point.strategy} {point.value:g} for the sample grid")
    pictures = {(row["prompt_id"], row["sample"]): _cell(row["image"], path) for row in found}
    return pictures, {row["prompt_id"]: row["prompt"] for row in found}


def _cell(data: bytes, path: Path) -> Image.Image:
    try:
        with Image.open(io.BytesIO(data)) as opened:
            picture = opened.convert("RGB")
    except OSError as error:
        raise InputError(f"{path}: an image cannot be decoded: {error}") from None
    side = max(picture.size)
    if side <= CELL:
        factor = CELL // side
        enlarged = (picture.width * factor, picture.height * factor)
        return picture.resize(enlarged, Image.Resampling.NEAREST)
    picture.thumbnail((2 * CELL, 2 * CELL), Image.Resampling.LANCZOS)
    return picture


def _prompts_per_band(prompts: int, samples: int) -> int:
    """Prompts side by side: about twelve images a line, bands of nearly equal length."""
    most = max(1, 12 // samples)
    bands = -(-prompts // most)
    return -(-prompts // bands)


def _band(
    shown: Sequence[Row],
    images: Sequence[dict[tuple[str, int], Image.Image]],
    texts: dict[str, str],
    prompts: Sequence[str],
    samples: int,
) -> Image.Image:
    """Some prompts side by side, all rows; a missing image stays an empty cell."""
    side = max(picture.width for pictures in images for picture in pictures.values())
    tall = max(picture.height for pictures in images for picture in pictures.values())
    block, left_edge = samples * (side + GAP) + BLOCK_GAP, _label_width(shown)
    band = Image.new("RGB", (left_edge + len(prompts) * block, HEAD + len(shown) * (tall + GAP) + BLOCK_GAP), "white")
    draw = ImageDraw.Draw(band)
    for column, prompt in enumerate(prompts):
        text = _fit(f"“{texts.get(prompt, prompt)}”", _font(19), block - BLOCK_GAP)
        draw.text((left_edge + column * block, HEAD - 10), text, style.INK, _font(19), anchor="ls")
    for line, (row, pictures) in enumerate(zip(shown, images, strict=True)):
        top = HEAD + line * (tall + GAP)
        draw.rectangle((0, top, 5, top + tall - 1), fill=row.colour)
        for text, font, colour, down in zip(
            row.caption, _caption_fonts(), (row.colour, style.MUTED), (-4, 20), strict=True
        ):
            fitting = _fit(text, font, left_edge - 2 * INDENT)
            draw.text((INDENT, top + tall / 2 + down), fitting, colour, font, anchor="ls")
        for column, prompt in enumerate(prompts):
            for sample in range(samples):
                if (prompt, sample) in pictures:
                    left = left_edge + column * block + sample * (side + GAP)
                    band.paste(pictures[prompt, sample], (left, top))
    return band


def _caption_fonts() -> tuple[ImageFont.FreeTypeFont, ImageFont.FreeTypeFont]:
    return _font(22, bold=True), _font(17)


def _label_width(shown: Sequence[Row]) -> int:
    """Room for the longest caption, within `LABEL_WIDTHS`."""
    pairs = [(text, font) for row in shown for text, font in zip(row.caption, _caption_fonts(), strict=True)]
    longest = max(font.getlength(text) for text, font in pairs)
    low, high = LABEL_WIDTHS
    return min(max(math.ceil(longest) + 2 * INDENT, low), high)


def _fit(text: str, font: ImageFont.FreeTypeFont, width: int) -> str:
    if font.getlength(text) <= width:
        return text
    while text and font.getlength(text + "…") > width:
        text = text[:-1]
    return text.rstrip() + "…"


def _font(size: int, bold: bool = False) -> ImageFont.FreeTypeFont:
    """The sans serif font that comes with matplotlib."""
    from matplotlib import font_manager

    weight = "bold" if bold else "normal"
    return ImageFont.truetype(
        font_manager.findfont(font_manager.FontProperties(family="DejaVu Sans", weight=weight)), size
    )
