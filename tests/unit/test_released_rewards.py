"""Loaders of released rewards: round trips through files as they are released, against independent computations."""

from __future__ import annotations

import re
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import save_file
from torch import Tensor
from torch.nn import functional

from stages.errors import InputError
from stages.models.record import ModelRecord, describe
from stages.rewards import hps as hps_module
from stages.rewards.base import Reward, load_reward, require_embedding, require_gradient
from stages.rewards.preprocess import CLIP_MEAN, CLIP_STD
from tests import tiny_judges
from tests.tiny_judges import SIDE
from tests.unit.released import PROMPTS, close, cosine, images, pixels, with_options

KINDS = ("hps", "pickscore", "clipscore", "image_reward", "mps", "aesthetic")


@pytest.fixture(scope="module")
def records(tmp_path_factory: pytest.TempPathFactory) -> dict[str, ModelRecord]:
    folder = tmp_path_factory.mktemp("released")
    tiny_judges.clip_folder(folder / "bin", "pickscore", words=False)
    tiny_judges.as_bin(folder / "bin")
    clip = tiny_judges.clip_folder(folder / "clip", "clipscore", act="quick_gelu")
    tiny_judges.aesthetic_head(folder / "sac+logos+ava1-l14-linearMSE.pth")
    return {
        "hps": tiny_judges.hps(folder / "hps"),
        "pickscore": tiny_judges.clip_folder(folder / "pick", "pickscore"),
        "pickscore_bin": describe("pickscore", "pickscore", folder / "bin"),
        "clipscore": clip,
        "image_reward": tiny_judges.image_reward(folder / "ir"),
        "mps": tiny_judges.mps(folder / "MPS_overall_checkpoint.pth"),
        "aesthetic": describe(
            "aesthetic", "aesthetic", folder / "sac+logos+ava1-l14-linearMSE.pth", parts={"clip": clip}
        ),
    }  # fmt: skip


# --- what every released reward promises ------------------------------------------------------------------------------


@pytest.mark.parametrize("kind", KINDS)
def test_gradients_arrive_in_every_image_and_are_right(records: dict[str, ModelRecord], kind: str) -> None:
    made: Any = require_gradient(load_reward(records[kind]))
    for part in (made, getattr(made, "embedder", None)):
        for name in ("model", "clip", "cross"):
            if hasattr(part, name):
                getattr(part, name).double()
    values = images(30, 44).double().requires_grad_()
    made(values, PROMPTS).sum().backward()
    assert values.grad is not None and bool((values.grad.abs().sum((1, 2, 3)) > 0).all())
    generator = torch.Generator().manual_seed(1)
    step = torch.randn(values.shape, generator=generator, dtype=torch.float64)
    with torch.no_grad():
        ahead, behind = (made(values + sign * 1e-5 * step, PROMPTS).sum() for sign in (1, -1))
    torch.testing.assert_close((values.grad * step).sum(), (ahead - behind) / 2e-5, rtol=1e-5, atol=1e-8)


@pytest.mark.parametrize("kind", KINDS)
def test_a_score_is_of_one_image_and_one_prompt_alone(records: dict[str, ModelRecord], kind: str) -> None:
    made = load_reward(records[kind])
    together = made(images(), PROMPTS)
    assert together.dtype == torch.float32
    alone = [made(images()[i : i + 1], PROMPTS[i : i + 1]) for i in range(3)]
    torch.testing.assert_close(together, torch.cat(alone), rtol=1e-5, atol=1e-5)
    with torch.autocast("cpu", torch.bfloat16):
        torch.testing.assert_close(together, made(images(), PROMPTS), rtol=0, atol=0)
    with torch.inference_mode():
        load_reward(records[kind])(images(), PROMPTS)
    with pytest.raises(ValueError, match="3 images but 1 prompts") if kind != "aesthetic" else pytest.raises(TypeError):
        made(images(), PROMPTS[:1]) if kind != "aesthetic" else made(images())  # type: ignore[call-arg]


@pytest.mark.parametrize("kind", KINDS)
def test_half_precision_networks_stay_near(records: dict[str, ModelRecord], kind: str) -> None:
    if kind == "aesthetic":
        pytest.skip("takes the precision of the model below it")
    half = load_reward(with_options(records[kind], precision="bfloat16"))
    exact = load_reward(records[kind])
    values = images().requires_grad_()
    found = half(values, PROMPTS)
    assert found.dtype == torch.float32
    wanted = exact(images(), PROMPTS)
    assert float((found - wanted).detach().abs().max()) < 0.1 * scale(exact)
    found.sum().backward()
    assert values.grad is not None and values.grad.abs().sum() > 0


def scale(reward: Reward) -> float:
    """The size of a reward's values: the factor of its cosine, or about 1."""
    return float(getattr(reward, "factor", 1.0))


@pytest.mark.parametrize("kind", KINDS)
def test_options_are_checked(records: dict[str, ModelRecord], kind: str) -> None:
    with pytest.raises(InputError, match=rf"model '{kind}': options.normalize: unknown key"):
        load_reward(with_options(records[kind], normalize="clip"))


# --- HPSv2 ------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(("height", "width", "inner"), [(40, 40, (28, 28)), (20, 56, (10, 28)), (70, 35, (28, 14))])
def test_hps_is_open_clips_cosine_of_padded_images(
    records: dict[str, ModelRecord], height: int, width: int, inner: tuple[int, int]
) -> None:
    import open_clip
    from open_clip.model import CLIP

    state = torch.load(Path(records["hps"].path) / "HPS_v2_compressed.pt")["state_dict"]
    assert {value.dtype for value in state.values()} == {torch.float16}
    model = CLIP(**tiny_judges.CLIP_CFG).double()  # type: ignore[arg-type]
    model.load_state_dict({name: value.double() for name, value in state.items()})
    small = functional.interpolate(images(height, width).double(), inner, mode="bicubic", antialias=True)
    top, left = (SIDE - inner[0]) // 2, (SIDE - inner[1]) // 2
    square = torch.zeros(3, 3, SIDE, SIDE, dtype=torch.float64)
    square[:, :, top : top + inner[0], left : left + inner[1]] = small
    mean, std = (torch.tensor(v, dtype=torch.float64).view(3, 1, 1) for v in (CLIP_MEAN, CLIP_STD))
    ids = open_clip.get_tokenizer("ViT-H-14", context_length=16)(PROMPTS)
    wanted = cosine(model.eval().encode_image((square - mean) / std), model.encode_text(ids))
    close(load_reward(records["hps"])(images(height, width), PROMPTS), wanted)
    close(load_reward(with_options(records["hps"], factor=100.0))(images(height, width), PROMPTS), 100 * wanted, 2e-3)


def test_hps_as_safetensors_is_the_same(records: dict[str, ModelRecord], tmp_path: Path) -> None:
    folder = Path(records["hps"].path)
    save_file(torch.load(folder / "HPS_v2_compressed.pt")["state_dict"], tmp_path / "hps.safetensors")
    (tmp_path / "open_clip_config.json").write_text((folder / "open_clip_config.json").read_text())
    made = load_reward(describe("hps", "hps", tmp_path))
    assert torch.equal(made(images(), PROMPTS), load_reward(records["hps"])(images(), PROMPTS))


def test_hps_of_another_release_is_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    given = tiny_judges.hps(tmp_path / "space", "HPS_v2.1_compressed.pt")
    digest = given.files["HPS_v2.1_compressed.pt"]
    load_reward(given)  # its digest is of no release, and none was asked for
    with pytest.raises(InputError, match=r"is no released HPS \(sha256 .*\), expected v2\.1 as options\.version says"):
        load_reward(with_options(given, version="v2.1"))
    others = {known: version for known, version in hps_module.RELEASES.items() if version != "v2.0"}
    monkeypatch.setattr(hps_module, "RELEASES", {digest: "v2.0", **others})
    told = rf"HPS_v2\.1_compressed\.pt: is HPS v2\.0 \(sha256 {digest[:12]}\.\.\.\), expected v2\.1 as "
    with pytest.raises(InputError, match=told + r"options\.version says \(c57a38fb4a2f\.\.\.\)"):
        load_reward(with_options(given, version="v2.1"))
    with pytest.raises(InputError, match=told + "its name says"):
        load_reward(given)


def test_hps_of_another_architecture_is_refused(records: dict[str, ModelRecord], tmp_path: Path) -> None:
    state = torch.load(Path(records["hps"].path) / "HPS_v2_compressed.pt")
    torch.save(state, tmp_path / "hps.pt")
    given = describe("hps", "hps", tmp_path / "hps.pt")
    with pytest.raises(InputError, match=r"hps\.pt: 'ln_final\.bias' has shape \(64,\), expected \(512,\)"):
        load_reward(with_options(given, model="ViT-B-32"))
    with pytest.raises(InputError, match=r"options\.model: open_clip has no 'ViT-H-15'; did you mean 'ViT-H-1"):
        load_reward(with_options(given, model="ViT-H-15"))
    with pytest.raises(InputError, match=r"holds a\.pt, b\.pt; expected one file of weights"):
        load_reward(ModelRecord(name="hps", kind="hps", path="x", files={"a.pt": "", "b.pt": ""}))


# --- PickScore and CLIPScore ------------------------------------------------------------------------------------------


def library_clip(record: ModelRecord, ids: Tensor, square: Tensor) -> Tensor:
    """exp(logit_scale) times the cosine, by the model's own forward in double precision."""
    from transformers import CLIPModel

    model = CLIPModel.from_pretrained(record.path, dtype=torch.float64).eval()
    with torch.no_grad():
        return model(input_ids=ids, pixel_values=square).logits_per_image.diagonal()


def words_of(record: ModelRecord, prompts: Sequence[str]) -> Tensor:
    from transformers import CLIPTokenizer

    words = CLIPTokenizer.from_pretrained(record.path)
    return words(list(prompts), padding="max_length", max_length=16, truncation=True, return_tensors="pt").input_ids


def test_pickscore_is_the_logit_of_the_library(records: dict[str, ModelRecord]) -> None:
    record = records["pickscore"]
    wanted = library_clip(record, words_of(record, PROMPTS), pixels(images()))
    close(load_reward(record)(images(), PROMPTS), wanted)
    close(load_reward(with_options(record, divide=26.0))(images(), PROMPTS), wanted / 26)


def test_pickscore_from_older_files_and_with_clips_own_words(records: dict[str, ModelRecord]) -> None:
    from open_clip.tokenizer import SimpleTokenizer

    record = records["pickscore_bin"]
    assert "pytorch_model.bin" in record.files and "vocab.json" not in record.files
    ids = SimpleTokenizer(context_length=16)(PROMPTS)
    close(load_reward(record)(images(), PROMPTS), library_clip(record, ids, pixels(images())))


def test_clipscore_is_the_cosine_as_the_options_scale_and_cut_it(records: dict[str, ModelRecord]) -> None:
    record = records["clipscore"]
    made: Any = load_reward(record)
    wanted = library_clip(record, words_of(record, PROMPTS), pixels(images())) / made.model.logit_scale.exp().double()
    assert (wanted < 0).any() and (wanted > 0).any()
    close(made(images(), PROMPTS), wanted)
    cut = load_reward(with_options(record, factor=2.5, clamp=True))
    close(cut(images(), PROMPTS), 2.5 * wanted.clamp(min=0))
    assert made.describe() != cut.describe()  # type: ignore[attr-defined]


def test_patches_of_a_library_clip_are_its_tokens_after_the_norm(records: dict[str, ModelRecord]) -> None:
    made: Any = load_reward(records["clipscore"])
    kept: list[Tensor] = []
    made.model.vision_model.encoder.register_forward_hook(lambda module, given, out: kept.append(out[0]))
    found = made.patches(images())
    assert found.shape == (3, 4, 160)
    close(found, made.model.vision_model.post_layernorm(kept[0][:, 1:]).detach())


# --- the aesthetic predictor ------------------------------------------------------------------------------------------


def test_aesthetic_score_is_the_head_layer_by_layer(records: dict[str, ModelRecord]) -> None:
    record = records["aesthetic"]
    made = load_reward(record)
    head = torch.load(Path(record.path) / "sac+logos+ava1-l14-linearMSE.pth")
    values = functional.normalize(require_embedding(made).embed(images()).double(), dim=-1)
    for place in (0, 2, 4, 6, 7):
        values = values @ head[f"layers.{place}.weight"].double().T + head[f"layers.{place}.bias"].double()
    close(made(images(), PROMPTS), values[:, 0])
    assert torch.equal(made(images(), PROMPTS), made(images(), ["", "", ""]))


def test_another_head_or_embedding_is_refused(records: dict[str, ModelRecord], tmp_path: Path) -> None:
    clip = records["clipscore"]
    state = tiny_judges.aesthetic_head(tmp_path / "wide.pth", 48)
    with pytest.raises(InputError, match="scores embeddings of width 48, but those of 'aesthetic' have 64"):
        load_reward(describe("aesthetic", "aesthetic", tmp_path / "wide.pth", parts={"clip": clip}))
    torch.save({re.sub(r"\.[24]\.", ".3.", name): value for name, value in state.items()}, tmp_path / "relu.pth")
    with pytest.raises(InputError, match=r"relu\.pth: not the linear head of the aesthetic predictor v2"):
        load_reward(describe("aesthetic", "aesthetic", tmp_path / "relu.pth", parts={"clip": clip}))
    with pytest.raises(InputError, match="kind aesthetic is made of other models; name them under `of`"):
        load_reward(describe("aesthetic", "aesthetic", tmp_path / "wide.pth"))
