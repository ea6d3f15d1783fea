"""Loaders of released rewards: round trips through files as they are released, against independent computations."""

from __future__ import annotations

import re
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from safetensors.torch import save_file
from torch import Tensor
from torch.nn import functional

from stages.errors import InputError
from stages.models.record import ModelRecord, describe
from stages.rewards import hps as hps_module
from stages.rewards.base import Reward, load_reward, require_embedding, require_gradient
from stages.rewards.image_reward import MEAN, STD
from stages.rewards.mps import CONDITION
from stages.rewards.preprocess import CLIP_MEAN, CLIP_STD
from tests import tiny_judges
from tests.tiny_judges import SIDE

PROMPTS = ["a red circle", "a small blue cross", "a red circle"]
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


def images(height: int = 40, width: int = 40, count: int = 3) -> Tensor:
    return torch.rand(count, 3, height, width, generator=torch.Generator().manual_seed(0))


def with_options(record: ModelRecord, **options: object) -> ModelRecord:
    return ModelRecord(**{**vars(record), "options": options})


def pixels(values: Tensor, side: int = SIDE) -> Tensor:
    """Square images as CLIP takes them, in double precision."""
    made = functional.interpolate(values.double(), (side, side), mode="bicubic", antialias=True)
    mean, std = (torch.tensor(v, dtype=torch.float64).view(3, 1, 1) for v in (CLIP_MEAN, CLIP_STD))
    return (made - mean) / std


def cosine(a: Tensor, b: Tensor) -> np.ndarray:
    x, y = a.detach().double().numpy(), b.detach().double().numpy()
    return (x * y).sum(1) / np.sqrt((x * x).sum(1) * (y * y).sum(1))


def close(found: Tensor, wanted: np.ndarray | Tensor, tolerance: float = 2e-5) -> None:
    assert found.dtype == torch.float32
    np.testing.assert_allclose(found.detach().numpy(), np.asarray(wanted), rtol=tolerance, atol=tolerance)


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


# --- ImageReward ------------------------------------------------------------------------------------------------------


def original_blip(state: dict[str, Tensor], square: Tensor, ids: Tensor, mask: Tensor) -> Tensor:
    """The head's output [B] in double precision, straight from the released names: a pre-norm ViT, then BERT."""
    p = {name: value.double() for name, value in state.items()}

    def lin(x: Tensor, name: str) -> Tensor:
        return x @ p[f"{name}.weight"].T + p[f"{name}.bias"]

    def norm(x: Tensor, name: str, eps: float) -> Tensor:
        spread = x.var(-1, keepdim=True, correction=0)
        return (x - x.mean(-1, keepdim=True)) / (spread + eps).sqrt() * p[f"{name}.weight"] + p[f"{name}.bias"]

    def attend(q: Tensor, k: Tensor, v: Tensor, bias: Tensor | float = 0.0) -> Tensor:
        q, k, v = (x.unflatten(-1, (-1, 64)).transpose(1, 2) for x in (q, k, v))
        share = (q @ k.transpose(2, 3) / 8 + bias).softmax(-1)
        return (share @ v).transpose(1, 2).flatten(2)

    v = "blip.visual_encoder."
    patches = functional.conv2d(square, p[f"{v}patch_embed.proj.weight"], p[f"{v}patch_embed.proj.bias"], stride=16)
    x = torch.cat([p[f"{v}cls_token"].expand(len(square), -1, -1), patches.flatten(2).transpose(1, 2)], 1)
    x = x + p[f"{v}pos_embed"]
    for n in range(2):
        b = f"{v}blocks.{n}."
        x = x + lin(attend(*lin(norm(x, f"{b}norm1", 1e-6), f"{b}attn.qkv").chunk(3, -1)), f"{b}attn.proj")
        x = x + lin(functional.gelu(lin(norm(x, f"{b}norm2", 1e-6), f"{b}mlp.fc1")), f"{b}mlp.fc2")
    seen = norm(x, f"{v}norm", 1e-6)

    t = "blip.text_encoder."
    x = p[f"{t}embeddings.word_embeddings.weight"][ids] + p[f"{t}embeddings.position_embeddings.weight"][: ids.shape[1]]
    x = norm(x, f"{t}embeddings.LayerNorm", 1e-12)
    unseen = torch.where(mask[:, None, None] > 0, 0.0, -1e9)
    for n in range(2):
        b = f"{t}encoder.layer.{n}."
        for name, context, bias in (("attention", x, unseen), ("crossattention", seen, 0.0)):
            a = f"{b}{name}."
            context = x if name == "attention" else context
            made = attend(lin(x, f"{a}self.query"), lin(context, f"{a}self.key"), lin(context, f"{a}self.value"), bias)
            x = norm(lin(made, f"{a}output.dense") + x, f"{a}output.LayerNorm", 1e-12)
        made = lin(functional.gelu(lin(x, f"{b}intermediate.dense")), f"{b}output.dense")
        x = norm(made + x, f"{b}output.LayerNorm", 1e-12)
    found = x[:, 0]
    for place in (0, 2, 4, 6, 7):
        found = lin(found, f"mlp.layers.{place}")
    return found[:, 0]


def test_image_reward_is_the_original_network(records: dict[str, ModelRecord]) -> None:
    from transformers import BertTokenizer

    record = records["image_reward"]
    folder = Path(record.path)
    words = BertTokenizer.from_pretrained(folder)
    cut: dict[str, Any] = {"padding": "max_length", "truncation": True, "max_length": 35, "return_tensors": "pt"}
    ids = words(PROMPTS, **cut)
    assert ids.input_ids.shape == (3, 35) and ids.input_ids[0, 0] == 2
    state = torch.load(folder / "ImageReward.pt")
    raw = original_blip(state, pixels(images(), 32), ids.input_ids, ids.attention_mask)
    assert float(raw.std()) > 0.01
    close(load_reward(with_options(record, raw=True))(images(), PROMPTS), raw)
    close(load_reward(record)(images(), PROMPTS), (raw - MEAN) / STD)


def test_image_reward_without_its_vocabulary_or_with_other_tensors_is_refused(
    records: dict[str, ModelRecord], tmp_path: Path
) -> None:
    state = torch.load(Path(records["image_reward"].path) / "ImageReward.pt")
    torch.save(state, tmp_path / "ImageReward.pt")
    with pytest.raises(InputError, match=r"no vocab\.txt; expected that of bert-base-uncased"):
        load_reward(describe("ir", "image_reward", tmp_path / "ImageReward.pt"))
    (tmp_path / "vocab.txt").write_text("\n".join(["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]", *map(str, range(99))]))
    with pytest.raises(InputError, match="but the model has only"):
        load_reward(describe("ir", "image_reward", tmp_path))
    torch.save({"head": torch.zeros(1)}, tmp_path / "ImageReward.pt")
    with pytest.raises(InputError, match=r"ImageReward\.pt: not weights of ImageReward: lacks"):
        load_reward(describe("ir", "image_reward", tmp_path))
    state.pop("blip.text_encoder.encoder.layer.1.crossattention.self.key.weight")
    torch.save(state, tmp_path / "ImageReward.pt")
    with pytest.raises(InputError, match=r"lacks 'text\.encoder\.layer\.1\.crossattention\.self\.key\.weight'"):
        load_reward(describe("ir", "image_reward", tmp_path))


# --- MPS --------------------------------------------------------------------------------------------------------------


def original_cross(p: dict[str, Tensor], x: Tensor, text: Tensor, counts: Tensor) -> Tensor:
    """Image tokens [N, W] after the published cross-attention with text tokens [L, W], one image at a time."""

    def norm(x: Tensor, name: str) -> Tensor:
        mean, spread = x.mean(-1, keepdim=True), x.var(-1, keepdim=True, correction=0)
        return (x - mean) / (spread + 1e-5).sqrt() * p[f"{name}.weight"]

    def turned(x: Tensor, frequencies: Tensor) -> Tensor:
        """Places as rotations of complex numbers made of the two halves."""
        angle = torch.arange(x.shape[-2], dtype=torch.float64)[:, None] * frequencies
        made = torch.complex(x[..., :32], x[..., 32:]) * torch.polar(torch.ones_like(angle), angle)
        return torch.cat([made.real, made.imag], -1)

    def gated(pair: Tensor) -> Tensor:
        value, gate = pair.chunk(2, -1)
        return value * gate * torch.sigmoid(gate)

    hidden = torch.where(counts, 0.0, -torch.inf)
    for n in range(2):
        a, b = (f"layers.{n}.{part}.fn." for part in (0, 1))
        given = norm(x, f"{a}norm")
        key, value = (text @ p[f"{a}to_kv.weight"].T).chunk(2, -1)
        heads = [(h @ key.T / 8 + hidden).softmax(-1) @ value for h in (given @ p[f"{a}to_q.weight"].T).split(64, -1)]
        x = x + torch.cat(heads, -1) @ p[f"{a}to_out.weight"].T
        x = x + gated(given @ p[f"{a}ff.0.weight"].T) @ p[f"{a}ff.2.weight"].T
        fused = norm(x, f"{b}norm") @ p[f"{b}fused_attn_ff_proj.weight"].T
        query, key, value, inner = fused.split([128, 64, 64, fused.shape[-1] - 256], -1)
        key = turned(key, p[f"{b}rotary_emb.inv_freq"])
        queries = [turned(h, p[f"{b}rotary_emb.inv_freq"]) for h in query.split(64, -1)]
        found = torch.cat([(h @ key.T / 8).softmax(-1) @ value for h in queries], -1)
        x = x + found @ p[f"{b}attn_out.weight"].T + gated(inner) @ p[f"{b}ff_out.1.weight"].T
    return x


@pytest.mark.parametrize("threshold", [0.3, 0.01, 0.9])
def test_mps_is_the_published_formula(records: dict[str, ModelRecord], threshold: float) -> None:
    from open_clip.tokenizer import SimpleTokenizer
    from transformers import CLIPModel

    from stages.rewards.networks.checkpoint import read_module

    record = records["mps"]
    state = {n: t.double() for n, t in read_module(Path(record.path) / "MPS_overall_checkpoint.pth").items()}
    clip = CLIPModel(tiny_judges.clip_config()).double().eval()
    clip.load_state_dict({n[6:]: t for n, t in state.items() if n.startswith("model.") and "position_ids" not in n})
    cross = {n[12:]: t for n, t in state.items() if n.startswith("cross_model.")}

    def read(text: str) -> tuple[Tensor, Tensor]:
        ids = SimpleTokenizer(context_length=16)([text])
        end = int((ids == 49407).int().argmax())
        ids[:, end:] = 49407  # transformers pads CLIP's texts with their end
        tokens = clip.text_model(input_ids=ids).last_hidden_state[0] @ clip.text_projection.weight.T
        return tokens, tokens[end]

    condition = read(CONDITION)[0]
    wanted = []
    with torch.no_grad():
        seen = clip.vision_model(pixel_values=pixels(images())).last_hidden_state @ clip.visual_projection.weight.T
        for image, prompt in zip(seen, PROMPTS, strict=True):
            tokens, end = read(prompt)
            likeness = (condition @ tokens.T).max(0).values
            counts = likeness / likeness.max() > threshold
            assert threshold != 0.9 or 0 < int(counts.sum()) < 16
            made = original_cross(cross, image, tokens, counts)[0]
            wanted.append(float(clip.logit_scale.exp()) * cosine(made[None], end[None])[0])
    close(load_reward(with_options(record, threshold=threshold))(images(), PROMPTS), np.array(wanted), 1e-4)


def test_mps_keeps_texts_up_to_a_bound(records: dict[str, ModelRecord], monkeypatch: pytest.MonkeyPatch) -> None:
    from stages.rewards import mps

    monkeypatch.setattr(mps, "KEPT", 2)
    made: Any = load_reward(records["mps"])
    seen: list[str] = []
    read = made._read
    monkeypatch.setattr(made, "_read", lambda text: seen.append(text) or read(text))
    first = made(images(), PROMPTS)
    made(images(), PROMPTS)
    assert seen == [PROMPTS[0], CONDITION, PROMPTS[1]]
    made(images(), ["a", "b", "c"])
    assert list(made._texts) == ["b", "c"]
    torch.testing.assert_close(made(images(), PROMPTS), first)


def test_mps_of_other_tensors_is_refused(tmp_path: Path) -> None:
    torch.save({"model.logit_scale": torch.zeros(())}, tmp_path / "mps.pth")
    with pytest.raises(InputError, match=r"mps\.pth: not weights of MPS: lacks"):
        load_reward(describe("mps", "mps", tmp_path / "mps.pth"))


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
