"""The tables that flow between stages: one named, versioned pyarrow schema each, checked on writing and on reading."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import cast

import pyarrow as pa
import pyarrow.parquet as pq

from stages.errors import InputError
from stages.runtime import whole_file

STRING, FLOAT, INT = pa.string(), pa.float64(), pa.int64()


def _schema(name: str, version: int, **columns: pa.DataType | tuple[pa.DataType, bool]) -> pa.Schema:
    fields = []
    for column, spec in columns.items():
        kind, nullable = spec if isinstance(spec, tuple) else (spec, False)
        fields.append(pa.field(column, kind, nullable=nullable))
    return pa.schema(fields, metadata={"table": name, "version": str(version)})


def optional(kind: pa.DataType) -> tuple[pa.DataType, bool]:
    """A column that may hold nulls."""
    return kind, True


PROMPTS = _schema("prompts", 1, prompt_id=STRING, prompt=STRING, split=STRING, group=STRING, source=STRING)
"""One prompt per row. `split` is train or eval; rows of one `group` never stand in two splits."""

IMAGES = _schema(
    "images", 1, image_id=STRING, caption=STRING, image=pa.binary(), width=INT, height=INT, split=STRING,
    group=STRING, source=STRING, attributes=optional(STRING),
)  # fmt: skip
"""One curated image per row, as PNG or JPEG bytes. `split` is train or val for captioned images, and `pairs` for an
image that only pairs brought: what it shows need not be what its caption, the prompt, says. `attributes` is JSON,
known in a simulated world.
"""

PAIRS = _schema(
    "pairs", 1, pair_id=STRING, prompt=STRING, image_a=STRING, image_b=STRING, preference=FLOAT, split=STRING,
    source=STRING,
)  # fmt: skip
"""One comparison per row: two `images.image_id`, one prompt; `preference` is the share of votes for a, in [0, 1]."""

JUDGED_PAIRS = _schema(
    "pairs", 2, pair_id=STRING, prompt=STRING, image_a=STRING, image_b=STRING, preference=FLOAT, split=STRING,
    source=STRING, weight=FLOAT, annotator=STRING,
)  # fmt: skip
"""PAIRS with the `weight` of a comparison, 0 or more, and who made it: written where a source names either. `annotator`
is empty where nobody is named.
"""

CAPTIONED_PAIRS = _schema(
    "pairs", 3, **{field.name: field.type for field in JUDGED_PAIRS}, caption_a=STRING, caption_b=STRING
)
"""JUDGED_PAIRS with a caption of each image's own, empty where that is the prompt: written where a source gives any. An
image may be compared with itself under another caption.
"""

SCORES = _schema("scores", 1, kind=STRING, item_id=STRING, side=STRING, reward=STRING, score=FLOAT)
"""One (item, reward) per row: `kind` image (item_id is an image_id, side empty) or pair (item_id is a pair_id, side a
or b).
"""

ENCODINGS = _schema("encodings", 2, kind=STRING, item_id=STRING, text=STRING, row=INT, split=STRING, source=STRING)
"""Where the encoding of an item stands in `encodings.safetensors`: `kind` image, caption or prompt; `source` is that of
the curated row.
"""

TRAIN_LOG = _schema("train_log", 1, step=INT, term=STRING, value=FLOAT)
"""One (optimizer step, term) per row: `reward`, `loss`, `loss_diffusion`, `grad_norm`, `nfe`, `seconds`,
`probe_<reward>`, ... `nfe` counts network evaluations of the step, `forward` of all steps so far, `backward` those
among them that carried gradient.
"""

PROBES = _schema("probes", 1, step=INT, prompt=STRING, sample=INT, image=pa.binary())
"""One small picture of an image of the probe per row (PNG): optimizer step, training prompt, number within the prompt.
"""

SAMPLES = _schema(
    "samples", 2, run=STRING, method=STRING, train_seed=INT, strategy=STRING, setting=STRING, value=FLOAT,
    prompt_id=STRING, prompt=STRING, sample=INT, image=pa.binary(), nfe=INT, nfe_backward=INT, queries=INT,
    decodes=INT, seconds=FLOAT, rewards=pa.list_(STRING), reward_digests=pa.list_(STRING),
)  # fmt: skip
"""One image per row (PNG). `strategy` is guidance, or a name of `sample.strategies`; `setting` reads `k=10`,
`value` is 10.0.

`run` and `method` are `base` and `train_seed` is 0 for images of the base. Of this image alone, as if it had been made
alone, `nfe` counts network evaluations (a guided evaluation counts as two), `nfe_backward` those among them that
carried gradient, `queries` the rewards asked while it was made and `decodes` the latents decoded; `seconds` is its
share of wall time. `rewards` are the models that the strategy asked, `reward_digests` the digests of their records.
"""

JUDGED = _schema(
    "judged", 1, batch=INT, array=STRING, dtype=STRING, shape=pa.list_(INT), data=pa.large_binary(),
)  # fmt: skip
"""One array of a batch of images per row: what a model, or a metric of an image, says of each. `array` is
`values/proxy`, `patches/dino`, `rewards/proxy`, ...; `dtype` and `shape` are numpy's, `data` its bytes in C order.
Between the jobs that measure a run together.
"""

MEASURES = _schema(
    "measures", 1, run=STRING, method=STRING, train_seed=INT, strategy=STRING, setting=STRING, value=FLOAT,
    prompt_id=optional(STRING), sample=optional(INT), metric=STRING, score=FLOAT,
)  # fmt: skip
"""One (image, metric), (prompt, metric) or (set, metric) per row: `sample`, or `prompt_id` too, is null for wider
metrics.
"""

SUMMARY = _schema(
    "summary", 1, run=STRING, method=STRING, train_seed=INT, strategy=STRING, setting=STRING, value=FLOAT,
    metric=STRING, mean=FLOAT, low=optional(FLOAT), high=optional(FLOAT), n_prompts=INT,
)  # fmt: skip
"""A metric of one (run, strategy, setting): mean over prompts with an interval over prompts, by bootstrap for scores of
images and prompts, by jackknife for set metrics, where it can be had.
"""

DECIDED = _schema(
    "decided", 1, index=INT, timestep=FLOAT, kind=STRING, quantity=STRING, prompt_id=STRING, within=FLOAT,
    between=FLOAT,
)  # fmt: skip
"""One (index of the sampler's grid, prompt, quantity) per row. `within` is the variance of the quantity, or the
diversity, between two images that share the state entering the index, `between` that between independent images of the
prompt. `kind` is diversity, attribute or score.
"""

DECIDED_SHARES = _schema(
    "decided_shares", 1, index=INT, steps=INT, timestep=FLOAT, kind=STRING, quantity=STRING, share=FLOAT,
    low=optional(FLOAT), high=optional(FLOAT), n_prompts=INT, nfe=INT,
)  # fmt: skip
"""The share of a quantity that is still open at an index of a grid of `steps`, with an interval over prompts: sums of
`within` over those of `between`. `nfe` counts the network evaluations of what was drawn again from the index.
"""

TUNE = _schema(
    "tune", 2, method=STRING, lr=FLOAT, steps=INT, reward=FLOAT, heldout=pa.list_(FLOAT), diversity=FLOAT,
    chosen=pa.bool_(),
)  # fmt: skip
"""One learning rate of one method per row, judged on training prompts after `steps` steps, `heldout` prompt by
prompt; the first row is the base.
"""

RESULTS = _schema(
    "results", 1, method=STRING, train_seed=INT, strategy=STRING, setting=STRING, metric=STRING, prompt_id=STRING,
    score=FLOAT,
)  # fmt: skip
"""What is kept of a study's measures: the mean score of a prompt's images per row."""

COSTS = _schema(
    "costs", 1, method=STRING, strategy=STRING, setting=STRING, value=FLOAT, nfe=FLOAT, nfe_backward=FLOAT,
    queries=FLOAT, seconds=FLOAT, images=INT, searched=pa.list_(STRING),
)  # fmt: skip
"""What is kept of the costs of a study: means over the images of a (method, strategy, setting) of all training seeds,
as in SAMPLES; `searched` are the rewards that were asked.
"""

FINDINGS = _schema(
    "findings", 2, about=STRING, method=STRING, strategy=STRING, against=STRING, metric=STRING,
    at_equal=optional(STRING), state=STRING, mean=FLOAT, low=FLOAT, high=FLOAT, area=optional(FLOAT),
    area_low=optional(FLOAT), area_high=optional(FLOAT), per_seed=pa.list_(FLOAT), note=STRING,
    detectable=optional(FLOAT), p=optional(FLOAT), p_adjusted=optional(FLOAT), main=pa.bool_(),
)  # fmt: skip
"""One statistical finding per row: a difference of `metric`, or its mean gap and area between two frontiers `at_equal`
diversity; `about` names the claim, or says `gap`, `best_gap` or `ablation`. `detectable` is the smallest effect that
could have been seen, `p` two-sided, `p_adjusted` after Holm's correction; `main` marks the pair that was named
beforehand.
"""

TRAINING = _schema("training", 1, run=STRING, step=INT, term=STRING, value=FLOAT)
"""What is kept of the training logs of a study."""


VALUES = {
    "prompts": {"split": ("train", "eval")},
    "images": {"split": ("train", "val", "pairs")},
    "pairs": {"split": ("train", "val")},
    "scores": {"kind": ("image", "pair"), "side": ("", "a", "b")},
    "encodings": {
        "kind": ("image", "caption", "prompt", "pair", "annotator"), "split": ("train", "val", "eval", "pairs", ""),
    },
}  # fmt: skip
"""Table to column to the values that it may hold: a row of another one would be left out without a word."""


def table(schema: pa.Schema, columns: dict[str, Sequence[object]] | list[dict[str, object]]) -> pa.Table:
    """A table of `schema` from columns or from rows; raises InputError where a value does not fit."""
    name = _name(schema)
    try:
        if isinstance(columns, list):
            made = pa.Table.from_pylist(columns, schema=schema)
        else:
            made = pa.Table.from_pydict(columns, schema=schema)
        _refuse_nulls(made, f"table {name!r}")
        return made
    except (pa.ArrowException, KeyError, TypeError) as error:
        raise InputError(f"table {name!r}: {error}") from None


def write(path: str | Path, content: pa.Table | Iterable[pa.Table], schema: pa.Schema) -> int:
    """Write one table, or a stream of tables row group by row group; whole or not at all. Returns the number of
    rows.
    """
    rows = 0
    parts = cast(Iterable[pa.Table], (content,) if isinstance(content, pa.Table) else content)
    kept = {"compression": "zstd", "write_page_checksum": True}
    with whole_file(path) as partial, pq.ParquetWriter(partial, schema, **kept) as writer:
        for part in parts:
            checked = part.cast(schema)
            _refuse_nulls(checked, str(path))
            writer.write_table(checked)
            rows += checked.num_rows
    return rows


def pairs_schema(path: str | Path) -> pa.Schema:
    """The schema of the pairs at `path`: PAIRS, JUDGED_PAIRS or CAPTIONED_PAIRS. Raises InputError for another file."""
    with _readable(path, PAIRS):
        written = pq.read_schema(path).metadata or {}
    known = {schema.metadata[b"version"]: schema for schema in (JUDGED_PAIRS, CAPTIONED_PAIRS)}
    return known.get(written.get(b"version", b""), PAIRS)


def read(path: str | Path, schema: pa.Schema, columns: list[str] | None = None) -> pa.Table:
    """Read a table and check it against `schema`; `columns` keeps only those."""
    with _open(path, schema) as file, _readable(path, schema):
        found = file.read(columns=columns)
    _refuse_values(found, path, schema)
    return found


def require_unique(path: str | Path, column: str, values: Iterable[str]) -> None:
    """Raise InputError where one of the `values` of a column of ids of the table at `path` stands there twice."""
    seen: set[str] = set()
    for value in values:
        if value in seen:
            raise InputError(f"{path}: {column} {value!r} stands twice, expected every one once")
        seen.add(value)


def stream(path: str | Path, schema: pa.Schema, rows: int, columns: list[str] | None = None) -> Iterator[pa.Table]:
    """Read a table in pieces of at most `rows` rows."""
    with _open(path, schema) as file:
        batches = file.iter_batches(batch_size=rows, columns=columns)
        while True:
            with _readable(path, schema):
                batch = next(batches, None)
            if batch is None:
                return
            part = pa.Table.from_batches([batch])
            _refuse_values(part, path, schema)
            yield part


def _open(path: str | Path, schema: pa.Schema) -> pq.ParquetFile:
    name, version = _name(schema), schema.metadata[b"version"].decode()
    with _readable(path, schema):
        file = pq.ParquetFile(path, page_checksum_verification=True)
    found = file.schema_arrow
    metadata = found.metadata or {}
    written = (metadata.get(b"table", b"none").decode(), metadata.get(b"version", b"none").decode())
    if written != (name, version):
        raise InputError(
            f"{path}: holds table {written[0]!r} version {written[1]}, expected {name!r} version {version}"
        )
    if not found.equals(schema):
        raise InputError(f"{path}: the columns of table {name!r} are not those of version {version}")
    return file


@contextmanager
def _readable(path: str | Path, schema: pa.Schema) -> Iterator[None]:
    """What goes wrong while the table at `path` is read becomes an InputError."""
    name = _name(schema)
    try:
        yield
    except FileNotFoundError:
        raise InputError(f"{path}: no such file (expected the Parquet table {name!r})") from None
    except (pa.ArrowException, OSError) as error:
        reason = " ".join(str(error).split())[:200]
        raise InputError(f"{path}: not a readable Parquet file (expected table {name!r}): {reason}") from None


def _refuse_nulls(made: pa.Table, where: str) -> None:
    for field in made.schema:
        if not field.nullable and made.column(field.name).null_count:
            raise InputError(f"{where}: column {field.name!r} has nulls, expected none")


def _refuse_values(found: pa.Table, path: str | Path, schema: pa.Schema) -> None:
    for column, allowed in VALUES.get(_name(schema), {}).items():
        if column not in found.column_names:
            continue
        for value in found[column].unique().to_pylist():
            if value not in allowed:
                known = ", ".join(repr(one) for one in allowed if one)
                raise InputError(f"{path}: {column} {value!r} is not known, expected one of {known}")


def _name(schema: pa.Schema) -> str:
    return schema.metadata[b"table"].decode()
