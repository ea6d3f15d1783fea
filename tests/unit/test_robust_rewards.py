"""Rewards against over-optimisation: `flattened` against closed forms, `directional` in its limits."""

from __future__ import annotations

import sys
from collections.abc import Callable, Sequence
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file, save_file
from torch import Tensor
from torch.nn.functional import normalize

from stages import tables
from stages.errors import InputError
from stages.models.record import ModelRecord, describe, save
from stages.pictures import png
from stages.rewards import directional
from stages.rewards.base import TextImage, load_reward
from stages.rewards.flattened import Flattened
from stages.rewards.sharpness import Sharpness
from tests.tiny import clip_folder

PROMPTS = ["a red circle", "a blue cross", "a green square"]
RHO = 0.05


def images(count: int = 3) -> Tensor:
    return torch.rand(count, 3, 20, 20, generator=torch.Generator().manual_seed(0))


class Given:
    """A reward that is a function of the images."""

    name, differentiable = "given", True

    def __init__(self, function: Callable[[Tensor], Tensor]) -> None:
        self.function = function

    def __call__(self, images: Tensor, prompts: Sequence[str]) -> Tensor:
        return self.function(images)


def length(values: Tensor) -> Tensor:
    return values.flatten(1).norm(dim=1)


def test_a_linear_reward_falls_by_rho_times_its_slope() -> None:
    slope = torch.randn(3, 20, 20, generator=torch.Generator().manual_seed(1))
    made = Flattened("flat", Given(lambda x: (slope * x).sum((1, 2, 3))), RHO)
    expected = (slope * images()).sum((1, 2, 3)) - RHO * slope.norm()
    torch.testing.assert_close(made(images(), PROMPTS), expected)


def test_a_quadratic_reward_is_flattened_exactly() -> None:
    """R = -|x|^2 / 2 within rho is least at x (1 + rho / |x|): R~ = -(|x| + rho)^2 / 2, and so is its gradient."""
    made = Flattened("flat", Given(lambda x: -x.square().sum((1, 2, 3)) / 2), RHO)
    x = images().requires_grad_()
    found = made(x, PROMPTS)
    torch.testing.assert_close(found, -(length(images()) + RHO).square() / 2)
    found.sum().backward()
    expected = -images() * (1 + RHO / length(images()))[:, None, None, None]
    assert x.grad is not None
    torch.testing.assert_close(x.grad, expected)


def test_sharpness_is_what_a_reward_loses_within_rho() -> None:
    """Of R = -a |x|^2 / 2: a (rho |x| + rho^2 / 2). Of a linear reward: rho times its slope, everywhere."""
    for a in (1.0, 3.0):
        made = Sharpness("sharp", Given(lambda x, a=a: -a * x.square().sum((1, 2, 3)) / 2), RHO)
        expected = a * (RHO * length(images()) + RHO**2 / 2)
        torch.testing.assert_close(made(images(), PROMPTS), expected, rtol=1e-3, atol=0)
    slope = torch.randn(3, 20, 20, generator=torch.Generator().manual_seed(1))
    linear = Sharpness("sharp", Given(lambda x: (slope * x).sum((1, 2, 3))), RHO)
    torch.testing.assert_close(linear(images(), PROMPTS), (RHO * slope.norm()).expand(3), rtol=1e-4, atol=0)


def test_sharpness_is_the_difference_of_two_judges(tmp_path: Path) -> None:
    parts = {"clip": clip_folder(tmp_path / "clip")}
    plain = load_reward(parts["clip"])
    flat, sharp = (load_reward(ModelRecord(kind, kind, parts=parts)) for kind in ("flattened", "sharpness"))
    with torch.no_grad():
        expected = plain(images(), PROMPTS) - flat(images(), PROMPTS)
        torch.testing.assert_close(sharp(images(), PROMPTS), expected)
    assert not sharp.differentiable
    assert bool((expected > 0).all())


def test_a_reward_without_slope_stays() -> None:
    made = Flattened("flat", Given(lambda x: 0 * x.sum((1, 2, 3)) + 2), RHO)
    assert made(images(), PROMPTS).tolist() == [2.0, 2.0, 2.0]


def test_the_value_is_the_same_without_gradient_and_alone(tmp_path: Path) -> None:
    record = ModelRecord("flat", "flattened", parts={"clip": clip_folder(tmp_path / "clip")}, options={"rho": RHO})
    made, inner = load_reward(record), load_reward(record.parts["clip"])
    expected = made(images(), PROMPTS)
    assert bool((expected < inner(images(), PROMPTS)).all())
    with torch.no_grad():
        assert torch.equal(made(images(), PROMPTS), expected)
    with torch.inference_mode():
        assert torch.equal(made(images(), PROMPTS), expected)
    alone = torch.cat([made(images()[n : n + 1], PROMPTS[n : n + 1]) for n in range(3)])
    torch.testing.assert_close(alone, expected)


def test_what_has_no_gradient_is_not_flattened() -> None:
    parts = {"oracle": ModelRecord(name="oracle", kind="shapes_oracle")}
    for kind in ("flattened", "sharpness"):
        with pytest.raises(InputError, match="'oracle' gives images no gradient"):
            load_reward(ModelRecord("flat", kind, parts=parts))


def unit(count: int, seed: int) -> Tensor:
    return normalize(torch.randn(count, 6, generator=torch.Generator().manual_seed(seed)), dim=-1)


def test_the_turned_feature_in_its_limits() -> None:
    texts, b = unit(4, 0), 0.3 * unit(1, 1)[0]
    torch.testing.assert_close(directional.turned(texts, 0 * b, 1.5), texts)
    torch.testing.assert_close(directional.turned(texts, b, 1.0), normalize(texts + b, dim=-1))
    torch.testing.assert_close(directional.turned(texts, b, 0.0), normalize(texts - b, dim=-1))
    torch.testing.assert_close(directional.turned(texts, b, 1.5), directional.turned(texts, -b, -0.5))


def test_the_first_step_is_along_the_gradient_at_no_direction() -> None:
    """The mean of <v, e- + w (e+ - e-)> has it by b at 0: (2 w - 1) mean of (v - <v, t> t). Adam takes its signs."""
    seen, texts = unit(5, 2), unit(5, 3)
    slope = (seen - (seen * texts).sum(-1, keepdim=True) * texts).mean(0)
    found = directional.learn(seen, texts, 1.5, steps=1, rate=1e-3)
    torch.testing.assert_close(found, 1e-3 * slope.sign(), rtol=1e-3, atol=1e-7)
    torch.testing.assert_close(directional.learn(seen, texts, 0.0, 1, 1e-3), -found, rtol=1e-3, atol=1e-7)


def test_the_learned_direction_scores_higher_than_others_of_its_length() -> None:
    seen, texts = unit(20, 4), unit(20, 5)

    def score(b: Tensor) -> float:
        return float((seen * directional.turned(texts, b, 1.5)).sum(-1).mean())

    found = directional.learn(seen, texts, 1.5, steps=300, rate=1e-2)
    others = unit(50, 6) * found.norm()
    assert score(found) > max(score(other) for other in others)
    assert score(found) > score(0 * found)


def row(n: int) -> dict[str, object]:
    counted = dict.fromkeys(("nfe", "nfe_backward", "queries", "decodes"), 0)
    return {
        "run": "base", "method": "base", "train_seed": 0, "strategy": "guidance", "setting": "g=1", "value": 1.0,
        "prompt_id": f"p{n}", "prompt": PROMPTS[n], "sample": 0, "image": png(images())[n], "seconds": 0.0,
        "rewards": [], "reward_digests": [], **counted,
    }  # fmt: skip


def test_a_direction_is_learned_from_samples_and_used(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    clip = clip_folder(tmp_path / "clip")
    save(clip, tmp_path / "clip.json")
    tables.write(tmp_path / "s.parquet", tables.table(tables.SAMPLES, [row(n) for n in range(3)]), tables.SAMPLES)
    out = tmp_path / "b.safetensors"
    given = ["--record", tmp_path / "clip.json", "--samples", tmp_path / "s.parquet", "--out", out, "--steps", 200]
    monkeypatch.setattr(sys, "argv", ["directional", *map(str, given)])
    directional.main()
    assert capsys.readouterr().out.startswith("3 images: mean cosine ")
    b = load_file(out)["direction"]
    plain = load_reward(clip)
    assert isinstance(plain, TextImage)
    made = load_reward(describe("made", "directional", out, parts={"clip": clip}, options={"scale": 1.25}))
    seen = normalize(plain.embed(images()), dim=-1)
    expected = (seen * directional.turned(plain.encode_text(PROMPTS), b, 1.25)).sum(-1)
    torch.testing.assert_close(made(images(), PROMPTS), expected)
    assert float(expected.mean()) > float(plain(images(), PROMPTS).mean())
    save_file({"direction": torch.zeros(3)}, out)
    with pytest.raises(InputError, match=r"direction: found shape \[3\], expected 8 numbers"):
        load_reward(describe("made", "directional", out, parts={"clip": clip}))
