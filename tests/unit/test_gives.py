"""What kinds of rewards say of themselves is what their classes do, and the planner reads it without torch."""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import save_file

from stages import gives
from stages.errors import InputError
from stages.gives import Gives
from stages.models.record import ModelRecord, describe
from stages.params import validate
from stages.prepare.import_settings import ImportSettings
from stages.rewards.base import Embedder, LatentJudge, Oracle, PatchEmbedder, TextImage, known_kinds, load_reward
from tests import tiny_judges
from tests.scorers import scorer

ORACLE = ModelRecord(name="oracle", kind="shapes_oracle")


def brightness(images: Any, prompts: Any) -> Any:
    return images.mean((1, 2, 3))


def made_of(kind: str, parts: dict[str, ModelRecord], **options: object) -> ModelRecord:
    return ModelRecord(name=kind, kind=kind, parts=parts, options=options)


@pytest.fixture(scope="module")
def records(tmp_path_factory: pytest.TempPathFactory) -> Iterator[dict[str, ModelRecord]]:
    """A model of every kind; its networks are tiny, and a server is asked that runs here."""
    with scorer() as server:
        served = ModelRecord(
            name="http", kind="http", options={"reward": "bright", "version": "1"}, access={"url": server.url}
        )
        yield _records(tmp_path_factory) | {"http": served}


def _records(tmp_path_factory: pytest.TempPathFactory) -> dict[str, ModelRecord]:
    folder = tmp_path_factory.mktemp("gives")
    clip = tiny_judges.clip_folder(folder / "clip", "clipscore")
    tiny_judges.aesthetic_head(folder / "head.pth")
    head = describe("aesthetic", "aesthetic", folder / "head.pth", parts={"clip": clip})
    own = [head, clip, ORACLE, ModelRecord(name="jpeg", kind="jpeg"), tiny_judges.hps(folder / "hps"),
           tiny_judges.dino(folder / "dino"), tiny_judges.dinov2(folder / "dinov2"),
           tiny_judges.lpips(folder / "lpips"), tiny_judges.inception(folder / "inception.pth"),
           tiny_judges.dreamsim(folder / "dreamsim"),
           tiny_judges.image_reward(folder / "ir"),
           tiny_judges.mps(folder / "mps.pth"), tiny_judges.clip_folder(folder / "pick", "pickscore"),
           tiny_judges.latent(folder / "latent"), tiny_judges.pal(folder / "pal"),
           describe("open_clip", "open_clip", Path("shipped/shapes/clip")),
           tiny_judges.nearest_image(folder / "nearest"), tiny_judges.nearest_captioned(folder / "captioned"),
           ModelRecord(name="python", kind="python", options={"function": f"{__name__}:brightness"})]  # fmt: skip
    save_file({"direction": torch.zeros(64)}, folder / "direction.safetensors")
    turned = describe("directional", "directional", folder / "direction.safetensors", parts={"a": clip})
    wrapped = [turned, made_of("flattened", {"a": clip}), made_of("sharpness", {"a": clip}),
               made_of("hinge", {"a": clip}, limit=1.0), made_of("relative", {"a": clip}, less="poor "),
               made_of("weighted_sum", {"a": clip, "b": clip}, weights={"a": 1.0, "b": 2.0}),
               made_of("orthogonal", {"a": clip}, mean="batch"),
               made_of("with_features", {"reward": ORACLE, "features": clip}),
               made_of("black_box", {"reward": clip, "features": clip})]  # fmt: skip
    named = {record.kind: record for record in (*own, *wrapped)}
    return {kind: ModelRecord(name=kind, kind=kind) for kind in sorted(known_kinds()) if stands_alone(kind)} | named


def stands_alone(kind: str) -> bool:
    """Whether a model of this kind has neither files nor other models: a new one then needs no entry here."""
    says = gives.declared(kind)
    return says is not None and says.files == says.of == "none"


def test_there_is_a_model_of_every_kind(records: dict[str, ModelRecord]) -> None:
    assert records.keys() == set(known_kinds())


@pytest.mark.parametrize("kind", known_kinds())
def test_a_kind_gives_what_it_says(records: dict[str, ModelRecord], kind: str) -> None:
    record, about = records[kind], gives.declared(kind)
    assert about is not None, f"{kind} has no GIVES: its models would be refused only once they are loaded"
    made = load_reward(record)
    asked = gives.of_model(settings(record), kind)
    assert asked is not None
    assert made.differentiable == (asked.gradient if asked.score else False)
    assert isinstance(made, Embedder) == asked.embedding
    assert isinstance(made, PatchEmbedder) == asked.patches
    assert isinstance(made, TextImage) == asked.text
    assert isinstance(made, LatentJudge) == asked.latents
    assert hasattr(made, "encode_text") == asked.words
    assert isinstance(made, Oracle) == bool(about.sees)
    assert (about.of == "none") == (not record.parts)
    assert about.files != "none" or not record.files


def settings(record: ModelRecord) -> ImportSettings:
    """The entry of a study that the record would come of."""
    parts = {name: settings(part).model_dump() for name, part in record.parts.items()}
    values = {"kind": record.kind, "of": parts, "folder": record.path or None}
    return validate(ImportSettings, values, record.kind)


def test_a_pair_has_the_gradient_of_its_judge() -> None:
    clip, oracle = {"kind": "open_clip", "folder": "x"}, {"kind": "shapes_oracle"}
    for judge, gradient in ((clip, True), (oracle, False)):
        model = validate(ImportSettings, {"kind": "with_features", "of": {"reward": judge, "features": clip}}, "m")
        found = gives.of_model(model, "m")
        assert found is not None
        assert found.gradient == gradient


WRONG: dict[str, tuple[dict[str, Any], str]] = {
    "no place": ({"kind": "hps"}, "m: kind hps has files; name them in folder, file, or hub with its revision"),
    "no place below": ({"kind": "hinge", "of": {"a": {"kind": "pickscore"}}}, "m.of.a: kind pickscore has files"),
    "no part": ({"kind": "weighted_sum"}, "m.of: kind weighted_sum is made of at least one model, found none"),
    "two parts": (
        {"kind": "hinge", "of": {"a": {"kind": "shapes_oracle"}, "b": {"kind": "jpeg"}}},
        "m.of: kind hinge is made of one model, found a, b",
    ),
    "another pair": (
        {"kind": "black_box", "of": {"reward": {"kind": "jpeg"}, "feature": {"kind": "jpeg"}}},
        "m.of: kind black_box is made of the models reward and features, found reward, feature",
    ),
    "features that are none": (
        {"kind": "black_box", "of": {"reward": {"kind": "jpeg"}, "features": {"kind": "jpeg"}}},
        "m.of.features: expected features of images, but kind jpeg gives none",
    ),
    "parts of a whole": ({"kind": "jpeg", "of": {"a": {"kind": "jpeg"}}}, "m.of: kind jpeg is made of no model"),
}


@pytest.mark.parametrize("case", WRONG)
def test_what_a_model_lacks_is_known_from_the_study(case: str) -> None:
    values, message = WRONG[case]
    with pytest.raises(InputError) as error:
        gives.of_model(validate(ImportSettings, values, "m"), "m")
    assert str(error.value).startswith(message)


def test_a_kind_that_says_nothing_passes(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(gives, "declared", lambda kind: None if kind == "own" else Gives(files="none", of="several"))
    model = validate(ImportSettings, {"kind": "weighted_sum", "of": {"a": {"kind": "own"}}}, "m")
    assert gives.of_model(model, "m") is None


def test_nothing_of_it_imports_torch() -> None:
    program = "import sys; from stages.study import load; load('params.yaml'); sys.exit('torch' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", program]).returncode == 0
