"""Rewards made of other rewards, as the study file names them."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch
from torch import Tensor

from stages.errors import InputError
from stages.models.record import ModelRecord, describe
from stages.rewards.base import Reward, TextImage, load_reward, require_embedding, require_gradient
from tests.tiny import clip_folder

PROMPTS = ["a red circle", "a blue cross", "a green square"]
ORACLE = ModelRecord(name="oracle", kind="shapes_oracle")


@pytest.fixture(scope="module")
def clips(tmp_path_factory: pytest.TempPathFactory) -> dict[str, ModelRecord]:
    folder = tmp_path_factory.mktemp("clips")
    return {name: clip_folder(folder / name, seed, name) for seed, name in enumerate(("one", "two"))}


def images() -> Tensor:
    return torch.rand(3, 3, 20, 20, generator=torch.Generator().manual_seed(0))


def made_of(kind: str, parts: dict[str, ModelRecord], **options: object) -> Reward:
    return load_reward(ModelRecord(name="made", kind=kind, parts=parts, options=options))


def gradient(reward: Reward) -> Tensor:
    values = images().requires_grad_()
    require_gradient(reward)(values, PROMPTS).sum().backward()
    assert values.grad is not None
    return values.grad


def test_a_weighted_sum_and_its_gradient(clips: dict[str, ModelRecord]) -> None:
    made = made_of("weighted_sum", clips, weights={"one": 2.0, "two": -0.5})
    one, two = (load_reward(record) for record in clips.values())
    wanted = 2 * one(images(), PROMPTS) - 0.5 * two(images(), PROMPTS)
    torch.testing.assert_close(made(images(), PROMPTS), wanted)
    torch.testing.assert_close(gradient(made), 2 * gradient(one) - 0.5 * gradient(two))
    mixed = made_of("weighted_sum", {"one": clips["one"], "oracle": ORACLE}, weights={"one": 1.0, "oracle": 1.0})
    assert not mixed.differentiable
    for weights, message in (({"one": 1.0}, "'two' has none"), ({"one": 1, "two": 1, "tow": 1}, "did you mean 'two'")):
        with pytest.raises(InputError, match=message):
            made_of("weighted_sum", clips, weights=weights)


def test_a_hinge_stops_at_its_limit(clips: dict[str, ModelRecord]) -> None:
    plain = load_reward(clips["one"])
    scores = plain(images(), PROMPTS)
    limit = float(scores.median())
    made = made_of("hinge", {"one": clips["one"]}, limit=limit)
    torch.testing.assert_close(made(images(), PROMPTS), torch.minimum(scores, torch.tensor(limit)))
    below = (scores < limit).float()[:, None, None, None]
    assert 0 < below.sum() < 3
    found = gradient(made)
    inner = scores != limit  # at the limit itself either side is right
    torch.testing.assert_close(found[inner], (gradient(plain) * below)[inner])
    with pytest.raises(InputError, match="kind hinge is made of one model, found one, two"):
        made_of("hinge", clips, limit=0.0)
    with pytest.raises(InputError, match=r"model 'made': options\.limit: field required"):
        made_of("hinge", {"one": clips["one"]})


def test_a_relative_reward_with_one_space_and_without(
    clips: dict[str, ModelRecord], monkeypatch: pytest.MonkeyPatch
) -> None:
    options = {"more": "large ", "less": "small ", "k": 0.5}
    plain = load_reward(clips["one"])
    assert isinstance(plain, TextImage)
    more, less = ([word + prompt for prompt in PROMPTS] for word in ("large ", "small "))
    wanted = 1.5 * plain(images(), more) - plain(images(), less)
    made = made_of("relative", {"one": clips["one"]}, **options)
    torch.testing.assert_close(made(images(), PROMPTS), wanted)
    # SRPO's own order: features first, one product then
    texts = 1.5 * plain.encode_text(more) - plain.encode_text(less)
    seen = torch.nn.functional.normalize(plain.embed(images()), dim=-1)
    torch.testing.assert_close(made(images(), PROMPTS), (seen * texts).sum(-1), rtol=1e-4, atol=1e-6)
    gradient(made)
    nested = ModelRecord(
        name="sum", kind="weighted_sum", parts={"one": clips["one"]}, options={"weights": {"one": 1.0}}
    )
    torch.testing.assert_close(made_of("relative", {"sum": nested}, **options)(images(), PROMPTS), wanted)


def longalign(plain: TextImage, common: np.ndarray, keep: float) -> np.ndarray:
    """<t - (1 - keep) <t, u> u, v> in double precision."""
    texts = plain.encode_text(PROMPTS).double().numpy()
    seen = plain.embed(images()).double().numpy()
    seen /= np.linalg.norm(seen, axis=1, keepdims=True)
    u = common / np.linalg.norm(common)
    return ((texts - (1 - keep) * np.outer(texts @ u, u)) * seen).sum(1)


def test_an_orthogonal_reward_takes_off_what_prompts_share(clips: dict[str, ModelRecord], tmp_path: Path) -> None:
    plain = load_reward(clips["one"])
    assert isinstance(plain, TextImage)
    others = ["a small circle", "a large cross", "red and blue"]
    (tmp_path / "prompts.txt").write_text("\n".join(others) + "\n\n")
    record = describe(
        "made", "orthogonal", tmp_path / "prompts.txt", parts={"one": clips["one"]}, options={"keep": 0.2}
    )
    made = load_reward(record)
    wanted = longalign(plain, plain.encode_text(others).double().numpy().mean(0), 0.2)
    np.testing.assert_allclose(made(images(), PROMPTS), wanted, atol=1e-6)
    alone = torch.cat([made(images()[i : i + 1], PROMPTS[i : i + 1]) for i in range(3)])
    torch.testing.assert_close(alone, made(images(), PROMPTS), atol=1e-6, rtol=0)
    assert gradient(made).abs().sum() > 0

    batch = made_of("orthogonal", {"one": clips["one"]}, mean="batch")
    wanted = longalign(plain, plain.encode_text(PROMPTS).double().numpy().mean(0), 0.3)
    np.testing.assert_allclose(batch(images(), PROMPTS), wanted, atol=1e-6)
    everything = made_of("orthogonal", {"one": clips["one"]}, mean="batch", keep=1.0)
    torch.testing.assert_close(everything(images(), PROMPTS), plain(images(), PROMPTS))
    with pytest.raises(InputError, match="no file of prompts; name one as `file`, or say mean: batch"):
        made_of("orthogonal", {"one": clips["one"]})
    with pytest.raises(InputError, match="'oracle' has no text features"):
        made_of("orthogonal", {"oracle": ORACLE}, mean="batch")


def test_a_reward_with_another_model_s_features(clips: dict[str, ModelRecord]) -> None:
    made = made_of("with_features", {"reward": clips["one"], "features": clips["two"]})
    one, two = (load_reward(record) for record in clips.values())
    assert torch.equal(made(images(), PROMPTS), one(images(), PROMPTS))
    assert torch.equal(gradient(made), gradient(one))
    assert torch.equal(require_embedding(made).embed(images()), require_embedding(two).embed(images()))
    assert not torch.equal(require_embedding(made).embed(images()), require_embedding(one).embed(images()))
    with pytest.raises(InputError, match="found one, two, expected reward and features"):
        made_of("with_features", clips)
    with pytest.raises(InputError, match="has no embedding"):
        made_of("with_features", {"reward": clips["one"], "features": ORACLE})
