"""A tiny base model of every family, loaded and sampled, and copies of it that are changed."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import torch
from torch import Tensor

from stages.models.conditioning import Conditioning, sizes
from stages.models.diffusion import Denoiser, DiffusionModel, load_diffusion
from stages.models.noise import GivenNoise
from stages.models.process_flow import FlowMatching
from stages.models.record import ModelRecord
from stages.models.sampler import finish
from stages.prepare.import_settings import ImportSettings
from stages.prepare.source import import_model
from tests import bases

FAMILIES = ("sd15", "sdxl", "pixart", "pixart-sized", "sd3")
PROMPTS = ["a red circle", "a small blue cross and a green square and a red circle and more"]
STEPS, SCALE = 4, 3.0
PARTS = ("unet", "vae", "text_encoder")
CPU = torch.device("cpu")


@pytest.fixture(scope="module")
def folders(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    """A folder of every family."""
    top = tmp_path_factory.mktemp("bases")
    return {name: bases.make(name.split("-")[0], top / name, sized="-" in name) for name in FAMILIES}


def load(folder: Path, **options: object) -> DiffusionModel:
    return load_diffusion(bases.record(folder, **options), CPU, PARTS)


def given(model: DiffusionModel) -> tuple[Conditioning, Conditioning]:
    """What the encode stage stores: conditioning on the prompts, and on none."""
    text, empty = model.text.encode(PROMPTS)[0], model.text.empty()
    if model.layout.sized:
        text, empty = (Conditioning(**one.tensors(), size=sizes(len(one), 16, 16)) for one in (text, empty))
    return text, empty


def draws() -> tuple[Tensor, Tensor]:
    """Start noise, and the noise that diffusers draws from a generator seeded with 1, step by step."""
    x = torch.randn(2, 4, 8, 8, generator=torch.Generator().manual_seed(0))
    draw = torch.Generator().manual_seed(1)
    return x, torch.stack([torch.randn(2, 4, 8, 8, generator=draw) for _ in range(STEPS)])


def sampler(model: DiffusionModel) -> str:
    return "ddim" if isinstance(model.process, FlowMatching) else "ddpm"


@torch.no_grad()
def sampled(model: DiffusionModel) -> Tensor:
    text, empty = given(model)
    x, z = draws()
    grid = model.process.grid(STEPS)
    predict = Denoiser(model.unet, model.process).predict(grid, text, empty, SCALE)
    clean = finish(grid, predict, x, 0, GivenNoise(x, z, {}), sampler(model))  # type: ignore[arg-type]
    return model.vae.decode(clean)


def without(folder: Path, target: Path, *names: str) -> Path:
    """A copy of a model without some of its folders or files."""
    import shutil

    shutil.copytree(folder, target)
    for name in names:
        path = target / name
        shutil.rmtree(path) if path.is_dir() else path.unlink()
    return target


def change(path: Path, **values: object) -> None:
    path.write_text(json.dumps(json.loads(path.read_text()) | values))


def single(folder: Path, file: Path) -> ModelRecord:
    settings = ImportSettings(kind="diffusers", file=str(file), options={"config": str(folder)})
    return import_model("base", settings, "study: base")
