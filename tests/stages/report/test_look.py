"""Strategies of one kind can be told apart in figures, and methods are called what the study says."""

from __future__ import annotations

import pytest

from stages.report.look import Look, _strategies
from stages.report.settings import ReportStudy, StrategyView


@pytest.mark.parametrize("kind", ["best_of_n", "combined", "aig", "fk", "rlg"])
def test_strategies_of_one_kind_have_lines_and_markers_of_their_own(kind: str):
    """Also where the kind names fewer; a kind whose points have the marker of their method stays so."""
    made = _strategies({f"own_{n}": StrategyView(kind=kind) for n in range(4)})
    found = [made[f"own_{n}"] for n in range(4)]
    assert len({one.line for one in found}) == 4
    assert len({one.marker for one in found}) == (4 if found[0].about.markers else 1)
    assert found[0].line == found[0].about.lines[0]
    assert found[0].marker == (found[0].about.markers or (None,))[0]


def test_a_method_is_called_by_its_title_and_no_other_one_like_it():
    kinds = {"refl": "refl", "more": "refl", "imagerefl": "imagerefl", "draft1": "draft_k"}
    study = {
        "study": {"name": "titled", "reward": "proxy", "reference": "refl"},
        "methods": {name: {"kind": kind} for name, kind in kinds.items()},
        "runs": {f"{name}-s0": {"method": name} for name in kinds},
        "sample": {"steps": 20},
        "report": {"rewards": ["proxy"], "diversities": ["patch_diversity"]},
    }
    before = dict(Look.of(ReportStudy.model_validate(study)).methods)
    assert before == {"refl": "ReFL", "more": "more", "imagerefl": "ImageReFL", "draft1": "DRaFT-1"}
    study["report"]["titles"] = {"more": "ReFL", "draft1": "last step"}
    after = Look.of(ReportStudy.model_validate(study)).methods
    assert after == before | {"refl": "refl", "more": "ReFL", "draft1": "last step"}
