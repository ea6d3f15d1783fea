"""Settings that many checks of a study ask for are validated once, and each time as they are written."""

from __future__ import annotations

from typing import Any

import pytest
from pydantic import Field, model_validator

from stages.errors import InputError
from stages.params import Settings, validate_again

LOOKED: list[object] = []


class Made(Settings):
    """Settings that count how often they are validated."""

    count: int = Field(1, ge=0)
    names: dict[str, Any] = Field(default_factory=dict)

    @model_validator(mode="after")
    def _looked(self) -> Made:
        LOOKED.append(self.count)
        return self


class Other(Settings):
    count: int = 2


def test_the_same_values_are_validated_once() -> None:
    LOOKED.clear()
    found = [validate_again(Made, {"count": 17}, where) for where in ("a", "b")]
    assert found == [Made(count=17)] * 2 and LOOKED == [17, 17]
    assert validate_again(Made, {"count": 18}, "a").count == 18
    assert validate_again(Other, {"count": 17}, "a") == Other(count=17)


def test_values_that_python_calls_equal_are_told_apart() -> None:
    assert validate_again(Made, {"count": 1}, "a").count == 1
    with pytest.raises(InputError, match=r"a\.count: expected a number, found true"):
        validate_again(Made, {"count": True}, "a")


def test_a_fault_is_said_each_time_with_its_place() -> None:
    for where in ("a", "b"):
        with pytest.raises(InputError, match=f"^{where}.count: "):
            validate_again(Made, {"count": -1}, where)


def test_what_was_validated_stays_when_the_given_values_are_changed() -> None:
    given = {"names": {"inner": {"x": 1}}}
    first = validate_again(Made, given, "a")
    given["names"]["inner"]["x"] = 2
    assert first.names == {"inner": {"x": 1}}
    assert validate_again(Made, {"names": {"inner": {"x": 1}}}, "a").names == {"inner": {"x": 1}}
    assert validate_again(Made, given, "a").names == {"inner": {"x": 2}}
