"""Options of models are checked while a study is planned, without importing the modules of their kinds."""

from __future__ import annotations

import importlib
import subprocess
import sys
from collections.abc import Mapping

import pytest

from stages import model_options
from stages.errors import InputError
from stages.models.record import ModelRecord
from stages.prepare.import_settings import ImportSettings
from stages.rewards.base import known_kinds, load_reward

OWN = [kind for kind in known_kinds() if kind in model_options.plugins.every("stages.rewards")]


@pytest.mark.parametrize("kind", OWN)
def test_every_kind_says_what_it_takes(kind: str) -> None:
    declared, module = model_options.declared(kind), importlib.import_module(f"stages.rewards.{kind}")
    assert declared is not None
    assert declared.model_json_schema() == module.OPTIONS.model_json_schema()


def test_no_kind_is_imported() -> None:
    kinds = ", ".join(map(repr, OWN))
    code = f"import sys; from stages.model_options import declared; assert all(map(declared, [{kinds}]))"
    subprocess.run([sys.executable, "-c", f"{code}; assert 'torch' not in sys.modules"], check=True)


WRONG = [
    ("hps", {"version": "v3"}, {}, "version: input should be 'v2.0' or 'v2.1', found text 'v3'"),
    ("hps", {"verison": "v2.1"}, {}, "verison: unknown key; did you mean 'version'"),
    ("dreamsim", {"variant": "dino"}, {}, "variant: input should be 'ensemble' or 'dino_vitb16', found text 'dino'"),
    ("lpips", {"size": 8}, {}, "size: input should be greater than or equal to 32, found 8"),
    ("hinge", {}, {"of": {"a": {"kind": "jpeg"}}}, "limit: field required"),
    ("jpeg", {"quality": 100}, {}, "quality: input should be less than or equal to 95, found 100"),
    ("jpeg", {"large": 1}, {}, "large: expected true or false, found 1"),
    ("open_clip", {"normalise": "clipp"}, {}, "normalise: "),
    ("shapes_oracle", {"seed": 1}, {}, "seed: unknown key"),
    ("python", {"function": "own_judge"}, {}, "function: expected package.module:function, found 'own_judge'"),
    ("weighted_sum", {"weights": {"b": 1.0}}, {"of": {"a": {"kind": "jpeg"}}}, "weights: unknown model 'b'"),
    ("weighted_sum", {"weights": {}}, {"of": {"a": {"kind": "jpeg"}}}, "weights: 'a' has none"),
    ("orthogonal", {}, {"of": {"a": {"kind": "hps"}}}, "mean: no file of prompts"),
    ("black_box", {"k": 1}, {}, "k: unknown key"),
]  # fmt: skip


@pytest.mark.parametrize(("kind", "options", "more", "message"), WRONG)
def test_wrong_options_are_refused_by_their_key(
    kind: str, options: Mapping[str, object], more: Mapping[str, object], message: str
) -> None:
    model = ImportSettings.model_validate({"kind": kind, "options": options} | dict(more))
    with pytest.raises(InputError) as refused:
        model_options.check(model, "s.yaml: prepare.import.x")
    assert str(refused.value).startswith(f"s.yaml: prepare.import.x.options.{message}")


def test_the_same_where_a_model_is_loaded() -> None:
    parts = {"a": ModelRecord("a", "jpeg")}
    for kind, options in (("shapes_oracle", {"seed": 1}), ("jpeg", {"quality": 0}), ("weighted_sum", {"weights": {}})):
        with pytest.raises(InputError, match=r"^model 'x': options"):
            load_reward(ModelRecord("x", kind, options=options, parts=parts))


def test_of_a_kind_that_says_nothing_the_options_wait(tmp_path, monkeypatch: pytest.MonkeyPatch) -> None:
    source = tmp_path / "odd.py"
    monkeypatch.setattr(model_options.plugins, "source", lambda *_: str(source))
    monkeypatch.setattr(model_options.plugins, "assigned", lambda *_: __import__("ast").Name("Mine"))
    for text in ("class Mine(Unknown):\n    pass\n", "import nowhere\nclass Mine(KindOptions):\n    pass\n", ""):
        source.write_text(text)
        model_options.declared.cache_clear()
        assert model_options.declared("odd") is None
    model_options.declared.cache_clear()
