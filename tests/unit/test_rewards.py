"""Rewards: the open_clip cosine and its gradient, the oracle, refusals, and plug-ins."""

from __future__ import annotations

import json
import re
import subprocess
import sys
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from open_clip.model import CLIP
from safetensors.torch import load_file, save_file
from torch.nn import functional

import stages.rewards
from stages import gives, plugins
from stages.errors import InputError
from stages.models.record import ModelRecord, describe
from stages.rewards.base import (
    known_kinds,
    load_reward,
    require_embedding,
    require_gradient,
    require_patches,
    require_text,
)
from stages.rewards.open_clip import OpenClip
from stages.rewards.preprocess import Preprocess, from_config
from stages.world import oracle
from stages.world.render import render
from stages.world.scene import draw_captions, draw_scenes
from stages.world.settings import WorldSettings
from tests.parity_sets import PARITY_SETS, needs_parity
from tests.tiny import clip_folder

PROMPTS = ["a red circle", "a blue cross", "a red circle"]
DOCS = Path(__file__).parents[2] / "docs"


@pytest.fixture(scope="module")
def record(tmp_path_factory: pytest.TempPathFactory) -> ModelRecord:
    return clip_folder(tmp_path_factory.mktemp("clip"))


@pytest.fixture
def reward(record: ModelRecord) -> OpenClip:
    made = load_reward(record)
    assert isinstance(made, OpenClip)
    return made


def images(count: int = 3, height: int = 20, width: int = 20, seed: int = 0) -> torch.Tensor:
    return torch.rand(count, 3, height, width, generator=torch.Generator().manual_seed(seed))


def oracle_record() -> ModelRecord:
    return ModelRecord(name="oracle", kind="shapes_oracle")


# --- open_clip ------------------------------------------------------------------------------------------------------


def test_reward_is_the_cosine_of_the_library_features(reward: OpenClip) -> None:
    assert reward._tokenize is not None
    pixels = functional.interpolate(images(), (16, 16), mode="bicubic", antialias=True)
    mean, std = (torch.tensor(v).view(3, 1, 1) for v in (reward.preprocess.mean, reward.preprocess.std))
    seen = reward.model.encode_image((pixels - mean) / std)
    said = reward.model.encode_text(reward._tokenize(PROMPTS))
    torch.testing.assert_close(reward(images(), PROMPTS), functional.cosine_similarity(seen, said), atol=1e-6, rtol=0)


def test_reward_does_not_depend_on_batch_mates(reward: OpenClip) -> None:
    together = reward(images(), PROMPTS)
    alone = torch.cat([reward(images()[i : i + 1], PROMPTS[i : i + 1]) for i in range(3)])
    torch.testing.assert_close(together, alone, atol=1e-6, rtol=0)


def test_embedding_and_comparison_make_the_reward(reward: OpenClip) -> None:
    found = reward.compare(reward.embed(images()), PROMPTS)
    torch.testing.assert_close(found, reward(images(), PROMPTS), atol=1e-6, rtol=0)
    with pytest.raises(ValueError, match="3 images but 1 prompts"):
        reward(images(), ["a red circle"])


def test_gradient_is_that_of_finite_differences(reward: OpenClip) -> None:
    double = OpenClip("double", reward.model.double(), reward.preprocess, reward._tokenize)
    pixels = images(2, 24, 20).double().requires_grad_()
    double(pixels, PROMPTS[:2]).sum().backward()
    assert pixels.grad is not None
    generator = torch.Generator().manual_seed(1)
    for _ in range(5):
        step = torch.randn(pixels.shape, generator=generator, dtype=torch.float64)
        ahead, behind = (double(pixels.detach() + sign * 1e-5 * step, PROMPTS[:2]).sum() for sign in (1, -1))
        torch.testing.assert_close((pixels.grad * step).sum(), (ahead - behind) / 2e-5, rtol=1e-6, atol=1e-9)


def test_no_weight_wants_a_gradient(reward: OpenClip) -> None:
    assert not any(parameter.requires_grad for parameter in reward.model.parameters())
    assert not reward.model.training


def test_every_prompt_is_encoded_once(reward: OpenClip, monkeypatch: pytest.MonkeyPatch) -> None:
    seen: list[int] = []
    encode = reward.model.encode_text

    def counted(ids: torch.Tensor, **more: bool) -> torch.Tensor:
        seen.append(len(ids))
        return encode(ids, **more)

    monkeypatch.setattr(reward.model, "encode_text", counted)
    reward(images(), PROMPTS)
    reward(images(), [*PROMPTS[:2], "a green square"])
    reward(images(), PROMPTS)
    assert seen == [1, 1, 1]  # each by itself, so that its features do not depend on its company


def test_texts_kept_under_inference_mode_still_train(reward: OpenClip) -> None:
    with torch.inference_mode():
        reward(images(), PROMPTS)
    pixels = images().requires_grad_()
    reward(pixels, PROMPTS).sum().backward()
    assert pixels.grad is not None and pixels.grad.abs().sum() > 0


def test_half_precision_regions_do_not_reach_the_reward(reward: OpenClip) -> None:
    plain = reward(images(), PROMPTS)
    with torch.autocast("cpu", torch.bfloat16):
        inside = reward(images(), PROMPTS)
    assert inside.dtype == torch.float32
    assert torch.equal(plain, inside)


def test_half_precision_weights_are_computed_in_float32(record: ModelRecord, tmp_path: Path) -> None:
    folder = tmp_path / "half"
    folder.mkdir()
    weights = {k: v.half() for k, v in load_file(Path(record.path) / "open_clip_model.safetensors").items()}
    save_file(weights, folder / "open_clip_model.safetensors")
    (folder / "open_clip_config.json").write_text((Path(record.path) / "open_clip_config.json").read_text())
    made = load_reward(describe("half", "open_clip", folder))
    assert isinstance(made, OpenClip)
    assert {p.dtype for p in made.model.parameters()} == {torch.float32}
    with pytest.raises(InputError, match="no tokenizer/ folder"):
        made(images(), PROMPTS)
    assert made.score_tokens(images(2), torch.tensor([[1, 2, 9, 0, 0, 0, 0, 0]] * 2)).dtype == torch.float32


def test_text_is_pooled_at_the_largest_id(reward: OpenClip) -> None:
    end = reward.model.vocab_size - 1
    ids = torch.tensor([[1, 2, end, 0, 0, 0, 0, 0], [1, 2, end, 5, 6, 7, 8, 9]])
    first, second = reward.score_tokens(images(1).repeat(2, 1, 1, 1), ids)
    assert first == pytest.approx(float(second), abs=1e-6)


def test_patches_of_a_transformer_are_its_tokens_after_the_last_norm(reward: OpenClip) -> None:
    kept: list[Any] = []
    handle = reward.model.visual.get_submodule("ln_post").register_forward_hook(
        lambda module, given, made: kept.append(made)
    )
    reward.embed(images())
    handle.remove()
    found = reward.patches(images())
    assert found.shape == (3, 4, 16)
    torch.testing.assert_close(found, kept[0][:, 1:], atol=1e-6, rtol=0)


def test_patches_of_a_resnet_are_the_cells_of_its_last_map() -> None:
    vision = {"image_size": 64, "layers": [1, 1, 1, 1], "width": 8, "patch_size": None, "head_width": 32}
    text = {"context_length": 8, "vocab_size": 30, "width": 16, "heads": 2, "layers": 1}
    made = OpenClip("resnet", CLIP(8, vision, text), Preprocess(64))  # type: ignore[arg-type]
    kept: list[Any] = []
    made.model.visual.get_submodule("layer4").register_forward_hook(lambda module, given, found: kept.append(found))
    made.embed(images(2))
    cells = made.patches(images(2))
    assert cells.shape == (2, 4, 256)
    torch.testing.assert_close(cells[:, 1], kept[0][:, :, 0, 1])


# --- preprocessing --------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(("height", "width"), [(288, 320), (320, 288), (100, 37), (32, 32)])
def test_shorter_side_and_centre_are_those_of_torchvision(height: int, width: int) -> None:
    from torchvision.transforms import v2

    steps = v2.Compose([
        v2.Resize(32, v2.InterpolationMode.BICUBIC, antialias=True), v2.CenterCrop(32),
        v2.Normalize([0.1, 0.2, 0.3], [0.4, 0.5, 0.6]),
    ])  # fmt: skip
    made = Preprocess(32, (0.1, 0.2, 0.3), (0.4, 0.5, 0.6))
    pixels = images(2, height, width)
    assert torch.equal(made(pixels), steps(pixels))


def test_longer_side_leaves_a_black_margin() -> None:
    made = Preprocess(32, (0.0,) * 3, (1.0,) * 3, resize_mode="longest")(torch.ones(1, 3, 20, 40))
    assert made.shape == (1, 3, 32, 32)
    torch.testing.assert_close(made[0, 0, :, 16], torch.tensor([0.0] * 8 + [1.0] * 16 + [0.0] * 8))


def test_squash_ignores_the_aspect() -> None:
    made = Preprocess(16, (0.0,) * 3, (1.0,) * 3, resize_mode="squash")(images(1, 20, 40))
    assert made.shape == (1, 3, 16, 16)


@pytest.mark.parametrize(
    ("values", "message"),
    [
        ({"sise": 3}, "unknown key 'sise'; did you mean 'size'"),
        ({"size": [32, 16]}, "two equal ones"),
        ({"resize_mode": "shortes"}, "did you mean 'shortest'"),
        ({"interpolation": "random"}, "interpolation 'random' is not supported"),
        ({"mean": 0.5}, "three numbers"),
        ({"mode": "L"}, "only RGB"),
    ],
)
def test_preprocessing_that_is_not_known_is_refused(values: dict[str, object], message: str) -> None:
    with pytest.raises(InputError, match=message):
        from_config(values, "here")


@needs_parity
@pytest.mark.parametrize("folder", PARITY_SETS, ids=lambda path: path.name)
def test_parity_of_preprocessing_and_features(folder: Path) -> None:
    given, wanted = load_file(folder / "inputs.safetensors"), load_file(folder / "expected.safetensors")
    numbers = json.loads((folder / "expected.json").read_text())["preprocess"]
    made = load_reward(describe("reward", "open_clip", folder / "weights" / "reward_clip"))
    assert isinstance(made, OpenClip)

    def close(found: torch.Tensor, name: str) -> None:
        torch.testing.assert_close(found, wanted[name], rtol=0, atol=2e-5 * float(wanted[name].abs().max()))

    pixels = given["preprocess_image_u8"].float() / 255
    out = made.preprocess(pixels)
    close(out[:, :, 80:144, 80:144], "preprocess.out_crop")
    close(out[:, :, 100], "preprocess.out_row100")
    assert float(out.mean()) == pytest.approx(numbers["mean"], rel=2e-5)
    assert float(out.std()) == pytest.approx(numbers["std"], rel=2e-5)
    assert float(out.abs().double().sum()) == pytest.approx(numbers["sum_abs"], rel=2e-5)
    close(functional.normalize(made.embed(pixels), dim=-1), "preprocess.image_features")
    real = given["real_images_u8"].float() / 255
    close(made.embed(real), "metrics.image_features_real")
    close(made.score_tokens(real, given["reward_ids"]), "metrics.clipscore_real_images")


# --- the oracle -----------------------------------------------------------------------------------------------------


def test_oracle_is_the_utility_of_the_world() -> None:
    settings, rng = WorldSettings(), np.random.default_rng(0)
    scenes = draw_scenes(settings, 12, rng)
    pixels, captions = render(scenes, 32, rng), draw_captions(settings, scenes, rng)
    made = load_reward(oracle_record())
    found = made(torch.from_numpy(pixels).permute(0, 3, 1, 2).float() / 255, captions)
    assert found.dtype == torch.float32
    np.testing.assert_allclose(found.numpy(), oracle.utility(pixels, captions), rtol=1e-6)


def test_what_a_model_cannot_do_is_refused_by_name(reward: OpenClip) -> None:
    made = load_reward(oracle_record())
    with pytest.raises(InputError, match="reward 'oracle' gives images no gradient"):
        require_gradient(made)
    for require in (require_embedding, require_patches, require_text):
        assert require(reward) is reward
        with pytest.raises(InputError, match="model 'oracle'"):
            require(made)
    assert require_gradient(reward) is reward


# --- records and plug-ins -------------------------------------------------------------------------------------------


def test_unknown_kind_names_the_nearest() -> None:
    with pytest.raises(InputError, match="model 'x': unknown kind 'open_clap'; did you mean 'open_clip'"):
        load_reward(ModelRecord(name="x", kind="open_clap"))
    with pytest.raises(InputError, match="unknown kind 'base'"):
        load_reward(ModelRecord(name="x", kind="base"))


def test_kinds_are_listed_without_torch() -> None:
    code = (
        "import sys; from stages.rewards.base import known_kinds; from stages.measure import settings; "
        "print(*known_kinds()); assert 'torch' not in sys.modules and 'numpy' not in sys.modules"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert {"open_clip", "shapes_oracle"} <= set(done.stdout.split())


def _spoilt(record: ModelRecord, folder: Path, name: str, text: str | None) -> ModelRecord:
    for file in record.files:
        (folder / file).parent.mkdir(parents=True, exist_ok=True)
        (folder / file).write_bytes((Path(record.path) / file).read_bytes())
    if text is None:
        (folder / name).unlink()
    else:
        (folder / name).write_text(text)
    return describe("spoilt", "open_clip", folder)


@pytest.mark.parametrize(
    ("name", "text", "message"),
    [
        ("open_clip_config.json", None, "has no open_clip_config.json"),
        ("open_clip_config.json", "{", "expected JSON with an object model_cfg"),
        ("open_clip_config.json", '{"model_cfg": {"embed_dim": 8}}', "not a configuration of open_clip's CLIP"),
        ("open_clip_model.safetensors", None, "has no open_clip_model.safetensors"),
        ("open_clip_model.safetensors", "nonsense", "not weights of this model_cfg"),
    ],
)
def test_folders_that_are_no_model_are_refused(
    record: ModelRecord, tmp_path: Path, name: str, text: str | None, message: str
) -> None:
    with pytest.raises(InputError, match=message) as refused:
        load_reward(_spoilt(record, tmp_path, name, text))
    assert "\n" not in str(refused.value)


def test_other_weights_than_recorded_are_refused(record: ModelRecord, tmp_path: Path) -> None:
    kept = _spoilt(record, tmp_path, "note.txt", "first")
    (tmp_path / "open_clip_model.safetensors").write_bytes(b"other")
    with pytest.raises(InputError, match="changed since model 'spoilt' was recorded"):
        load_reward(kept)


def test_weights_of_another_size_are_refused(record: ModelRecord, tmp_path: Path) -> None:
    config = json.loads((Path(record.path) / "open_clip_config.json").read_text())
    config["model_cfg"]["embed_dim"] = 12
    with pytest.raises(InputError, match=r"not weights of this model_cfg.*size mismatch"):
        load_reward(_spoilt(record, tmp_path, "open_clip_config.json", json.dumps(config)))


@pytest.fixture
def fresh_plugins() -> Iterator[None]:
    for cache in (plugins._files, plugins._entry_points):
        cache.cache_clear()
    yield
    for cache in (plugins._files, plugins._entry_points):
        cache.cache_clear()


def documented(page: str) -> str:
    """The first Python block of a page."""
    found = re.search(r"```python\n(.*?)```", (DOCS / page).read_text(), re.DOTALL)
    assert found
    return found[1]


@pytest.mark.usefixtures("fresh_plugins")
def test_documented_reward_works_as_a_file(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "colourfulness.py").write_text(documented("add-a-reward.md"))
    monkeypatch.setattr(stages.rewards, "__path__", [*stages.rewards.__path__, str(tmp_path)])
    assert stages.rewards.__spec__ is not None
    monkeypatch.setattr(stages.rewards.__spec__, "submodule_search_locations", stages.rewards.__path__)
    assert "colourfulness" in known_kinds()
    assert gives.declared("colourfulness") == gives.Gives(files="none")
    made = require_gradient(load_reward(ModelRecord(name="colourful", kind="colourfulness")))
    grey = torch.full((1, 3, 8, 8), 0.5)
    halves = torch.zeros(1, 3, 8, 8)
    halves[:, 0, :, :4] = 1.0  # half red, half black: opponents (1, 1/2) and (0, 0)
    pixels = torch.cat([grey, halves]).requires_grad_()
    scores = made(pixels, ["", ""])
    assert scores.tolist() == pytest.approx([0.0, (1 + 0.3) * np.hypot(0.5, 0.25)], abs=1e-5)
    scores.sum().backward()
    assert pixels.grad is not None and bool(pixels.grad.isfinite().all()) and pixels.grad[1].abs().sum() > 0
    sys.modules.pop("stages.rewards.colourfulness", None)


@pytest.mark.usefixtures("fresh_plugins")
def test_documented_reward_works_from_a_package(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "plugged_colour.py").write_text(documented("add-a-reward.md"))
    about = tmp_path / "plugged-1.0.dist-info"
    about.mkdir()
    (about / "METADATA").write_text("Metadata-Version: 2.1\nName: plugged\nVersion: 1.0\n")
    (about / "entry_points.txt").write_text(
        "[imagerefl.rewards]\nplugged_colour = plugged_colour\nbroken = not_there.at_all\n"
    )
    monkeypatch.syspath_prepend(str(tmp_path))
    assert {"plugged_colour", "open_clip"} <= set(known_kinds())
    made = load_reward(ModelRecord(name="mine", kind="plugged_colour"))
    assert made(torch.zeros(1, 3, 4, 4), [""]).shape == (1,)
    with pytest.raises(InputError, match=r"entry point 'not_there.at_all' of kind 'broken' cannot be imported"):
        load_reward(replace(oracle_record(), kind="broken"))
