"""Strategies of one kind can be told apart in figures."""

from __future__ import annotations

import pytest

from stages.report.look import _strategies
from stages.report.settings import StrategyView


@pytest.mark.parametrize("kind", ["best_of_n", "combined", "aig", "fk", "rlg"])
def test_strategies_of_one_kind_have_lines_and_markers_of_their_own(kind: str):
    """Also where the kind names fewer; a kind whose points have the marker of their method stays so."""
    made = _strategies({f"own_{n}": StrategyView(kind=kind) for n in range(4)})
    found = [made[f"own_{n}"] for n in range(4)]
    assert len({one.line for one in found}) == 4
    assert len({one.marker for one in found}) == (4 if found[0].about.markers else 1)
    assert found[0].line == found[0].about.lines[0]
    assert found[0].marker == (found[0].about.markers or (None,))[0]
