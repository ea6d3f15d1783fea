"""What plug-ins say about themselves."""

from __future__ import annotations

import math
from types import ModuleType

import pytest

from stages import about, plugins
from stages.about import End, MethodAbout, MetricAbout, StrategyAbout
from stages.errors import InputError

FORMS = {
    "stages.finetune.methods": MethodAbout,
    "stages.sample.strategies": StrategyAbout,
    "stages.measure.metrics": MetricAbout,
}
EVERY = [(package, kind) for package in FORMS for kind in plugins.names(package, "")]


@pytest.mark.parametrize(("package", "kind"), EVERY)
def test_every_plugin_of_the_tree_says_what_it_is(package: str, kind: str) -> None:
    found = plugins.load(package, "", kind, kind).ABOUT
    assert isinstance(found, FORMS[package]) and found.title
    if isinstance(found, MethodAbout):
        assert found.family and found.source


def test_a_label_has_the_settings_of_the_method() -> None:
    draft = plugins.load("stages.finetune.methods", "", "draft_k", "draft_k")
    assert draft.ABOUT.labelled(draft.Settings(kind="draft_k", k=3)) == "DRaFT-3"
    assert MethodAbout("X").labelled({}) == "X"


def test_a_metric_labels_its_values_and_no_others() -> None:
    made = MetricAbout("M", labels={"empty_share": "empty share", "*_diversity": "{} diversity"})
    assert made.label("clip_diversity") == "CLIP diversity"
    assert made.label("my_dino_diversity") == "my DINO diversity"
    assert made.label("empty_share") == "empty share"
    assert made.label("share") is None


def test_a_module_without_about_is_shown_by_its_name_and_another_form_is_refused() -> None:
    module = ModuleType("best_of_n")
    assert about.of(module, "best_of_n", StrategyAbout) == StrategyAbout("best of n")
    module.ABOUT = MethodAbout("X")  # type: ignore[attr-defined]
    with pytest.raises(InputError, match="best_of_n: ABOUT is a MethodAbout, expected a StrategyAbout"):
        about.of(module, "best_of_n", StrategyAbout)


def test_ends_of_the_strategies_of_the_tree() -> None:
    package = "stages.sample.strategies"
    found = {kind: plugins.load(package, "", kind, kind).ABOUT for kind in plugins.names(package, "")}
    assert found["combined"].plain == End(0, "k = 0") and found["combined"].base == End(math.inf, "k = T")
    assert (found["rlg"].base.at, found["rlg"].plain.at) == (0, 1)
    assert found["fusion"].plain is None
    assert [kind for kind, one in found.items() if one.leading] == ["combined"]
