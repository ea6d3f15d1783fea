"""A value is of the kind that its key declares: for every key of every settings class, no other kind passes."""

from __future__ import annotations

from typing import Any

import pytest
from pydantic import BaseModel

from stages.curate.settings import CurateSettings, Filters
from stages.errors import InputError
from stages.finetune.settings import FinetuneSettings, LoraSettings, OptimizerSettings
from stages.kinds import shown, unfit
from stages.params import Settings, read_study, validate
from stages.sample.settings import SampleSettings
from stages.study import Study
from tests.settings_classes import every_class

WRONG: list[tuple[type[BaseModel], dict[str, Any], str]] = [
    (Filters, {"near_duplicate_bits": "off"}, "near_duplicate_bits: expected a number or null, found text 'off'"),
    (Filters, {"min_side": False}, "min_side: expected a number, found false"),
    (Filters, {"leakage": "no"}, "leakage: expected true or false, found text 'no'"),
    (Filters, {"leakage": 1}, "leakage: expected true or false, found 1"),
    (Filters, {"caption_words": [True, 5]}, "caption_words: item 1: expected a number, found true"),
    (Filters, {"caption_words": 5}, "caption_words: expected a list, found 5"),
    (LoraSettings, {"alpha": "off"}, "alpha: expected a number, found text 'off'"),
    (OptimizerSettings, {"lr": True}, "lr: expected a number, found true"),
    (OptimizerSettings, {"lr": "1:30"}, "lr: expected a number, found text '1:30'"),
    (OptimizerSettings, {"betas": [0.9, "0.99"]}, "betas: item 2: expected a number, found text '0.99'"),
    (FinetuneSettings, {"steps": True}, "steps: expected a number, found true"),
    (FinetuneSettings, {"steps": "100"}, "steps: expected a number, found text '100'"),
    (FinetuneSettings, {"steps": 2.5}, "steps: expected a whole number, found 2.5"),
    (FinetuneSettings, {"steps": None}, "steps: expected a number, found null"),
    (FinetuneSettings, {"optimizer": {"lr": False}}, "optimizer.lr: expected a number, found false"),
    (FinetuneSettings, {"optimizer": 3}, "optimizer: expected a mapping, found 3"),
    (FinetuneSettings, {"lora": {"targets": ["a", 1]}}, "lora.targets: item 2: expected text, found 1"),
    (SampleSettings, {"guidance": [1.0, "on"]}, "guidance: item 2: expected a number, found text 'on'"),
    (CurateSettings, {"images": {"kind": "shapes", "count": "many"}}, "images"),
]


@pytest.mark.parametrize(("model", "values", "message"), WRONG)
def test_one_line_says_what_is_expected_and_found(model: type[BaseModel], values: dict[str, Any], message: str) -> None:
    with pytest.raises(InputError) as error:
        validate(model, values, "f:")
    assert message in str(error.value)
    assert "\n" not in str(error.value)


def test_whole_numbers_stand_for_numbers_and_the_other_way_round() -> None:
    assert validate(OptimizerSettings, {"lr": 1}, "f:").lr == 1.0
    assert validate(FinetuneSettings, {"steps": 100.0}, "f:").steps == 100
    assert validate(Filters, {"near_duplicate_bits": None}, "f:").near_duplicate_bits is None


@pytest.mark.parametrize("model", every_class(), ids=lambda model: f"{model.__module__}.{model.__qualname__}")
def test_no_key_takes_another_kind(model: type[BaseModel]) -> None:
    """Of text, a number and a boolean each key takes only what it declares, and settings classes all share the rule."""
    assert issubclass(model, Settings), f"{model} is no Settings: pydantic would make numbers of its texts"
    for name, field in model.model_fields.items():
        kinds = {kind for kind in (bool, int, float, str) if not unfit(field.annotation, kind(1))}
        for value in (True, 1, "yes"):
            if not unfit(field.annotation, value):
                continue
            with pytest.raises(InputError, match=f"{field.alias or name}: expected "):
                validate(model, {field.alias or name: value}, "f:")
        if kinds and kinds <= {int, float}:
            assert unfit(field.annotation, True)
            assert unfit(field.annotation, "off")


def test_every_ready_study_is_of_its_kinds() -> None:
    assert validate(Study, read_study("params.yaml"), "params.yaml:").finetune.steps


def test_values_are_shown_as_they_were_written() -> None:
    assert [shown(value) for value in (None, True, "off", 3, 2.5, [1, "a"], {"a": 1})] == [
        "null", "true", "text 'off'", "3", "2.5", "the list [1, text 'a']", "a mapping of a",
    ]  # fmt: skip
