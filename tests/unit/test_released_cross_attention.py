"""Released rewards with cross-attention, ImageReward and MPS, against their published networks."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor
from torch.nn import functional

from stages.errors import InputError
from stages.models.record import ModelRecord, describe
from stages.rewards.base import load_reward
from stages.rewards.image_reward import MEAN, STD
from stages.rewards.mps import CONDITION
from tests import tiny_judges
from tests.unit.released import PROMPTS, close, cosine, images, pixels, with_options


@pytest.fixture(scope="module")
def records(tmp_path_factory: pytest.TempPathFactory) -> dict[str, ModelRecord]:
    folder = tmp_path_factory.mktemp("released")
    return {
        "image_reward": tiny_judges.image_reward(folder / "ir"),
        "mps": tiny_judges.mps(folder / "MPS_overall_checkpoint.pth"),
    }


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
