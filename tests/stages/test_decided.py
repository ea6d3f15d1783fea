"""The stage `decided` on tiny models: what is drawn again, what it costs, and the closed form of a Gaussian world."""

from __future__ import annotations

import json
import sys
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import torch
import yaml
from torch import Tensor, nn

from stages import tables
from stages.decided.__main__ import main
from stages.decided.draw import Drawing, Drawn
from stages.decided.settings import DecidedSettings
from stages.decided.shares import Seen, between, within
from stages.encode.store import Encodings, Item
from stages.errors import InputError
from stages.measure.scored import ScoredImages
from stages.models import record
from stages.models.diffusion import Denoiser, DiffusionModel, load_diffusion
from stages.models.noise import KeyedNoise
from stages.models.sampler import denoise, finish
from tests import tiny

STEPS = 4
SETTINGS = DecidedSettings(prompts=3, samples=2, batch_size=4, diversity="clip_diversity")


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory) -> DiffusionModel:
    made = tiny.diffusion_folder(tmp_path_factory.mktemp("models") / "base")
    return load_diffusion(made, tiny.CPU, parts=("unet", "vae"))


def drawing(model: DiffusionModel, folder: Path, settings: DecidedSettings = SETTINGS) -> Drawing:
    return Drawing(model, Encodings(*tiny.encodings(folder), tiny.CPU), settings, STEPS, seed=5)


def drawn(made: Drawing) -> dict[int | None, list[Drawn]]:
    found: dict[int | None, list[Drawn]] = {}
    for group in made.groups():
        for one in made.draw(group):
            found.setdefault(one.index, []).append(one)
    return found


def test_training_prompts_alone_are_used(model: DiffusionModel, tmp_path: Path) -> None:
    made = drawing(model, tmp_path)
    assert [[item.item_id for item in group] for group in made.groups()] == [["p0", "p2"], ["p4"]]
    every = replace(made, settings=SETTINGS.model_copy(update={"prompts": 99}))
    assert [item.item_id for group in every.groups() for item in group] == [f"p{n}" for n in range(6)]


def test_the_rest_is_drawn_again_from_the_states_of_the_first_image(model: DiffusionModel, tmp_path: Path) -> None:
    made = drawing(model, tmp_path)
    item = made.groups()[0][0]
    keys = [("decided", item.item_id, n) for n in range(2)]
    noise = KeyedNoise(5, keys, tiny.LATENT, tiny.CPU)
    grid = model.process.grid(STEPS)
    predict = Denoiser(model.unet, model.process).predict(grid, made.encodings.text([item, item]))
    found = drawn(made)
    with torch.no_grad():
        first = finish(grid, predict, noise.initial(), 0, noise)
        assert _near(found[None][0].pixels[:2], model.vae.decode(first))
        for index in range(STEPS):
            state = denoise(grid, predict, noise.initial(), 0, index, noise)
            again = finish(grid, predict, state, index, noise.rows(range(2), [1, 1]))
            assert _near(found[index][0].pixels[:2], model.vae.decode(again))
    assert np.array_equal(found[STEPS - 1][0].pixels, found[None][0].pixels)  # the last step has no noise
    assert not np.array_equal(found[0][0].pixels, found[None][0].pixels)


def _near(pixels: np.ndarray, images: Tensor) -> bool:
    expected = (images.clamp(0, 1) * 255).permute(0, 2, 3, 1).numpy()
    return bool(np.abs(pixels.astype(float) - expected).max() <= 1.01)


def test_the_cost_is_the_stated_one(model: DiffusionModel, tmp_path: Path) -> None:
    for guidance in (1.0, 2.0):
        settings = SETTINGS.model_copy(update={"guidance": guidance, "indices": (1, 3)})
        found = drawn(drawing(model, tmp_path, settings))
        spent = sum(one.evaluations for parts in found.values() for one in parts)
        assert spent == 3 * 2 * settings.evaluations(STEPS)


def test_images_do_not_depend_on_the_batch(model: DiffusionModel, tmp_path: Path) -> None:
    small, large = (
        drawn(drawing(model, tmp_path, SETTINGS.model_copy(update={"batch_size": size}))) for size in (2, 99)
    )
    for index, parts in small.items():
        one = np.concatenate([part.pixels for part in parts]).astype(int)
        other = np.concatenate([part.pixels for part in large[index]]).astype(int)
        assert np.abs(one - other).max() <= 1


class Gaussian(nn.Module):
    """The ideal network for independent standard normal latents: E[noise | x_t] = sqrt(1 - alpha_t) x_t."""

    def __init__(self, alphas: Tensor) -> None:
        super().__init__()
        self.alphas = alphas

    def forward(self, x: Tensor, t: Tensor, encoder_hidden_states: Tensor, return_dict: bool) -> tuple[Tensor]:
        return ((1 - self.alphas[t]).sqrt() * x,)


def test_shares_of_a_gaussian_world() -> None:
    """Ancestral steps are then x_{i+1} = a_i x_i + s_i n, so the variance left given x_i is known."""
    process, steps = tiny.schedule(), 6
    grid = process.grid(steps)
    network = Gaussian(process.alphas_cumprod)
    variance = []
    for index in range(steps):
        left = torch.zeros(())
        for i in range(index, steps):
            one = torch.ones(1, 1, 1, 1)
            prediction = (1 - process.alphas_cumprod[int(grid.timesteps[i])]).sqrt() * one
            if i == steps - 1:
                left = left * grid.x0(one, prediction, i).square().squeeze()
            else:
                ahead = grid.ancestral(one, prediction, i)
                left = left * ahead.mean.square().squeeze() + ahead.std.square().squeeze()
        variance.append(float(left))
    start = torch.ones(())
    for i in range(steps - 1):
        one = torch.ones(1, 1, 1, 1)
        ahead = grid.ancestral(one, (1 - process.alphas_cumprod[int(grid.timesteps[i])]).sqrt() * one, i)
        start = start * ahead.mean.square().squeeze() + ahead.std.square().squeeze()
    one = torch.ones(1, 1, 1, 1)
    last = (1 - process.alphas_cumprod[int(grid.timesteps[-1])]).sqrt() * one
    whole = float(start * grid.x0(one, last, steps - 1).square().squeeze())

    vae = SimpleNamespace(decode=lambda x: 0.5 + 0.1 * x)  # not clipped within 5 standard deviations
    made: Any = SimpleNamespace(unet=network, process=process, vae=vae, device=tiny.CPU)
    items = [Item(f"p{n}", "", 0) for n in range(8)]
    encodings: Any = SimpleNamespace(
        text=lambda chosen: tiny_text(len(chosen)), empty=lambda: None, prompts=lambda split: items,
        latent_shape=lambda: (3, 16, 16),
    )  # fmt: skip
    settings = DecidedSettings(prompts=8, samples=4, diversity="x")
    draws = list(Drawing(made, encodings, settings, steps, 0).draw(items))
    values = {one.index: torch.from_numpy(one.pixels).double().flatten(1) / 25.5 for one in draws}
    first = values[None].view(8, 4, -1)
    for index in range(steps):
        again = values[index].view(8, 4, -1)
        parts = [within(_seen(a), _seen(b), ())["score", "v"] for a, b in zip(first, again, strict=True)]
        wholes = [between(_seen(a), ())["score", "v"] for a in first]
        found, expected = np.sum(parts) / np.sum(wholes), variance[index] / whole
        assert found == pytest.approx(expected, abs=0.02), index
    assert variance[-1] == 0 and 0.5 < variance[0] / whole < 1


def tiny_text(count: int) -> Any:
    from stages.models.conditioning import Conditioning

    return Conditioning(torch.zeros(count, 1, 1))


def _seen(values: Tensor) -> Seen:
    count = len(values)
    return Seen(ScoredImages(("",) * count, np.zeros((count, 1, 1, 3), np.uint8)), {"v": values.numpy()})


def arguments(folder: Path) -> list[str]:
    out = {"pairs": "pairs.parquet", "shares": "shares.parquet", "auto": "auto.json"}
    read = {"params": "params.yaml", "base": "models/base.json", "models": "models"}
    tensors, index = tiny.encodings(folder / "encodings")
    given = {name: str(folder / path) for name, path in (read | out).items()}
    return [word for pair in (given | {"tensors": str(tensors), "index": str(index)}).items()
            for word in (f"--{pair[0]}", pair[1])]  # fmt: skip


def write_study(folder: Path, **decided: object) -> None:
    study: dict[str, Any] = {
        "study": {"name": "t", "seed": 3}, "sample": {"steps": STEPS},
        "measure": {"rewards": ["clip"], "text_image": "clip", "features": {"clip": "embedding"}, "bootstrap": 100},
    }  # fmt: skip
    section = {"prompts": 3, "samples": 2, "diversity": "clip_diversity", "open": 0.6} | decided
    (folder / "params.yaml").write_text(
        yaml.safe_dump(study | ({"decided": section} if decided.get("open") != 0 else {}))
    )


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    made = tmp_path_factory.mktemp("decided")
    record.save(tiny.diffusion_folder(made / "weights/base"), made / "models/base.json")
    record.save(tiny.clip_folder(made / "weights/clip"), made / "models/clip.json")
    return made


def test_the_command_line(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    write_study(folder)
    monkeypatch.setattr(sys, "argv", ["decided", *arguments(folder)])
    main()
    rows = tables.read(folder / "pairs.parquet", tables.DECIDED).to_pylist()
    assert {row["prompt_id"] for row in rows} == {"p0", "p2", "p4"}  # of the training split
    wholes = {(row["prompt_id"], row["between"]) for row in rows if row["quantity"] == "clip_diversity"}
    assert len(wholes) == len({between for _, between in wholes}) == 3  # one per prompt, the same at every index
    found = tables.read(folder / "shares.parquet", tables.DECIDED_SHARES).to_pylist()
    assert {row["index"] for row in found} == set(range(STEPS)) and {row["steps"] for row in found} == {STEPS}
    assert {(row["kind"], row["quantity"]) for row in found} == {
        ("score", "clip"), ("score", "clipscore"), ("diversity", "clip_diversity")
    }  # fmt: skip
    for row in found:
        mine = [one for one in rows if all(one[key] == row[key] for key in ("index", "kind", "quantity"))]
        assert row["share"] == pytest.approx(sum(r["within"] for r in mine) / sum(r["between"] for r in mine))
        assert row["nfe"] == 3 * 2 * (STEPS - row["index"])
    assert all(row["share"] == 0 for row in found if row["index"] == STEPS - 1)
    made = json.loads((folder / "auto.json").read_text())
    assert made["evaluations"] == 3 * 2 * STEPS * (STEPS + 3) // 2 and made["prompts"] == ["p0", "p2", "p4"]
    named = {row["index"]: row["share"] for row in found if row["quantity"] == "clip_diversity"}
    assert made["start"] == min(i for i in named if all(named[j] <= 0.6 for j in named if j >= i))


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        ({"diversity": "clip_diversty"}, "'clip_diversty' is not measured; did you mean 'clip_diversity'"),
        ({"open": 0}, "decided: there is no such section"),
    ],
)
def test_refusals(folder: Path, monkeypatch: pytest.MonkeyPatch, changes: dict[str, Any], words: str) -> None:
    write_study(folder, **changes)
    monkeypatch.setattr(sys, "argv", ["decided", *arguments(folder)])
    with pytest.raises(InputError, match=words):
        main()
