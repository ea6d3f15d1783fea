"""Prompt suites for evaluation as they are published: PartiPrompts, DrawBench, the benchmark of HPSv2."""

from __future__ import annotations

from itertools import chain
from pathlib import Path

from stages.curate.datasets import DrawBench, Hpsv2Benchmark, PartiPrompts
from stages.curate.rows import PromptRow, Stream
from stages.curate.settings import source_name
from stages.curate.sources.file import prompt_rows
from stages.curate.sources.records import column_names, open_lenient_tsv, open_records
from stages.errors import InputError
from stages.params import nearest

DRAW_BENCH = ("Prompts", "Prompt", "prompts", "prompt")


def parti_prompts(settings: PartiPrompts) -> Stream[PromptRow]:
    """The prompts of the chosen categories. Raises InputError for a category that is nowhere in the file."""
    table = open_lenient_tsv(settings.path)
    if not settings.categories:
        return prompt_rows(table, "Prompt", source_name(settings))
    records = list(table.rows)
    known = {record.text("Category") for record in records}
    for category in settings.categories:
        if category not in known:
            raise InputError(f"{settings.path}: there is no category {category!r}{nearest(category, known)}")
    kept = [record for record in records if record.text("Category") in settings.categories]
    table = Stream(iter(kept), len(kept))
    for record in records:
        if record.text("Category") not in settings.categories:
            table.left_out.add(record.where, "of another category")
    return prompt_rows(table, "Prompt", source_name(settings))


def draw_bench(settings: DrawBench) -> Stream[PromptRow]:
    """The prompts of DrawBench, which goes around as csv, json, Parquet and plain text."""
    names = column_names(settings.path)
    key = next((name for name in DRAW_BENCH if name in names), DRAW_BENCH[0])
    return prompt_rows(open_records(settings.path, (key,)), key, source_name(settings))


def hpsv2_benchmark(settings: Hpsv2Benchmark) -> Stream[PromptRow]:
    """The prompts of the chosen styles. Raises InputError for a style whose list is missing."""
    root = Path(settings.path)
    for style in settings.styles:
        if not (root / f"{style}.json").is_file():
            raise InputError(f"{root}: there is no {style}.json here, expected the benchmark lists of HPSv2")
    lists = [open_records(str(root / f"{style}.json"), ("prompt",)) for style in settings.styles]
    rows = chain.from_iterable(table.rows for table in lists)
    return prompt_rows(Stream(rows, sum(table.total for table in lists)), "prompt", source_name(settings))
