"""A model's digest changes with everything that changes the model."""

from __future__ import annotations

from dataclasses import replace

import pytest

from stages.models.record import ModelRecord

RECORD = ModelRecord(
    name="proxy", kind="open_clip", path="here", files={"a": "1", "b": "2"}, options={"normalise": "clip"},
    parts={"one": ModelRecord(name="one", kind="jpeg", options={"quality": 90})},
)  # fmt: skip


@pytest.mark.parametrize(
    "change",
    [
        {"kind": "hps"},
        {"options": {"normalise": "imagenet"}},
        {"options": {}},
        {"files": {"a": "1", "b": "3"}},
        {"files": {"a": "1"}},
        {"parts": {}},
        {"parts": {"one": ModelRecord(name="one", kind="jpeg", options={"quality": 80})}},
        {"parts": {"two": ModelRecord(name="one", kind="jpeg", options={"quality": 90})}},
    ],
)
def test_kind_files_options_and_parts_are_in_the_digest(change: dict[str, object]):
    assert replace(RECORD, **change).digest != RECORD.digest  # type: ignore[arg-type]


def test_where_the_files_lie_is_not():
    assert replace(RECORD, path="elsewhere", name="other").digest == RECORD.digest
    assert replace(RECORD, files={"b": "2", "a": "1"}).digest == RECORD.digest
