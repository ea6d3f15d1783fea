"""Exported models against the stages' own networks and loops."""

from __future__ import annotations

import json
import shutil
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import save_file
from torch import Tensor

from stages.errors import InputError
from stages.export.folder import Defaults, write_combined, write_merged
from stages.export.merge import merged
from stages.models.diffusion import Denoiser, DiffusionModel, load_diffusion
from stages.models.noise import GivenNoise
from stages.models.policy import Policy, make_policy
from stages.models.sampler import finish
from stages.prepare.import_settings import ImportSettings
from stages.prepare.source import import_model
from tests import bases
from tests.original_layout import original

CPU, STEPS, PROMPTS = torch.device("cpu"), 4, ["a red circle", "a blue cross"]
PARTS = ("unet", "vae", "text_encoder")


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return bases.make("sd15", tmp_path_factory.mktemp("export") / "base")


def tuned(model: DiffusionModel, kind: str = "lora") -> Policy:
    """A policy that is not the base."""
    policy = make_policy(model.unet, kind)  # type: ignore[arg-type]
    draw = torch.Generator().manual_seed(3)
    with torch.no_grad():
        for _, parameter in policy.parameters():
            parameter.add_(0.1 * torch.randn(parameter.shape, generator=draw))
    return policy


def noise() -> GivenNoise:
    draw = torch.Generator().manual_seed(0)
    return GivenNoise(torch.randn(2, 4, 8, 8, generator=draw), torch.randn(STEPS, 2, 4, 8, 8, generator=draw), {})


@torch.no_grad()
def expected(model: DiffusionModel, policy: Policy, sampler: str, switch: int) -> Tensor:
    """Combined generation as the sample stage makes it: `switch` guided steps of the base, then the policy."""
    grid, text, empty = model.process.grid(STEPS), model.text.encode(PROMPTS)[0], model.text.empty()
    networks = [Denoiser(network, model.process) for network in (model.unet, policy.network)]
    first, then = networks[0].predict(grid, text, empty, 3.0), networks[1].predict(grid, text)
    draws = noise()
    clean = finish(grid, lambda x, i: first(x, i) if i < switch else then(x, i), draws.initial(), 0, draws, sampler)  # type: ignore[arg-type]
    return model.vae.decode(clean)


def loaded(place: Path) -> Any:
    from diffusers.pipelines.pipeline_utils import DiffusionPipeline

    made = DiffusionPipeline.from_pretrained(
        place, custom_pipeline=f"{place}/pipeline.py", trust_remote_code=True, local_files_only=True
    )
    made.set_progress_bar_config(disable=True)
    return made


@pytest.mark.parametrize("prediction", ["epsilon", "v_prediction"])
@pytest.mark.parametrize("sampler", ["ddpm", "ddim"])
def test_the_combined_pipeline_makes_the_same_images(folder: Path, tmp_path: Path, prediction: str, sampler: str):
    folder = Path(shutil.copytree(folder, tmp_path / "base"))
    config = folder / "scheduler" / "scheduler_config.json"
    config.write_text(json.dumps(json.loads(config.read_text()) | {"prediction_type": prediction}))
    model = load_diffusion(bases.record(folder), CPU, PARTS)
    policy = tuned(model)
    network = merged(model.unet, policy)
    write_combined(model, network, tmp_path / "made", torch.float32, Defaults(sampler, STEPS, 2, 3.0, 1.0), "refl")
    pipe = loaded(tmp_path / "made")
    draws = noise()
    shared = {"latents": draws.initial(), "step_noise": draws.step, "output_type": "pt"}
    seen = []
    for switch in (None, 0, 1, STEPS):
        made = pipe(PROMPTS, switch_step=switch, height=16, width=16, **shared).images
        wanted = expected(model, policy, sampler, 2 if switch is None else switch)
        torch.testing.assert_close(made, wanted, rtol=0, atol=2e-5)
        seen.append(made)
    assert not any(torch.allclose(seen[0], other, atol=1e-3) for other in seen[1:])
    with pytest.raises(ValueError, match="switch_step 5 is not between 0 and num_inference_steps 4"):
        pipe(PROMPTS, switch_step=5)


def test_images_of_the_combined_pipeline_come_from_its_generator(folder: Path, tmp_path: Path):
    model = load_diffusion(bases.record(folder), CPU, PARTS)
    given = Defaults("ddpm", STEPS, 2, 3.0, 1.0)
    write_combined(model, merged(model.unet, tuned(model)), tmp_path / "made", torch.float32, given, "refl")
    pipe = loaded(tmp_path / "made")
    one, two, other = (
        pipe(
            "a red circle", num_images_per_prompt=2, generator=torch.Generator().manual_seed(s), output_type="pt"
        ).images
        for s in (1, 1, 2)
    )
    assert one.shape == (2, 3, 16, 16)
    assert torch.equal(one, two)
    assert not torch.allclose(one, other, atol=1e-3)
    assert pipe("a red circle").images[0].size == (16, 16)


@pytest.mark.parametrize("kind", ["lora", "norm_affine", "full"])
def test_merged_weights_are_the_policy_and_leave_the_base_alone(folder: Path, kind: str):
    model = load_diffusion(bases.record(folder), CPU, ("unet",))
    before = {name: value.clone() for name, value in model.unet.state_dict().items()}
    policy = tuned(model, kind)
    network = merged(model.unet, policy)
    x, t, text = torch.ones(1, 4, 8, 8), torch.tensor(300), bases.conditions("sd15").text
    with torch.no_grad():
        outputs = [n(x, t, encoder_hidden_states=text, return_dict=False)[0] for n in (network, policy.network)]
    torch.testing.assert_close(*outputs, rtol=1e-5, atol=1e-6)
    assert before.keys() == network.state_dict().keys()
    assert all(torch.equal(value, before[name]) for name, value in model.unet.state_dict().items())


def test_a_base_in_a_single_file_is_exported_as_a_folder(folder: Path, tmp_path: Path):
    from diffusers.pipelines.pipeline_utils import DiffusionPipeline

    save_file(original(folder), tmp_path / "model.safetensors")
    settings = ImportSettings(
        kind="diffusers", file=str(tmp_path / "model.safetensors"), options={"config": str(folder)}
    )
    model = load_diffusion(import_model("base", settings, "study: base"), CPU, PARTS)
    write_merged(model, merged(model.unet, tuned(model)), tmp_path / "made", torch.float16)
    made = DiffusionPipeline.from_pretrained(tmp_path / "made", local_files_only=True, dtype=torch.float32)
    ids = torch.arange(bases.LENGTH)[None]
    with torch.no_grad():
        assert torch.equal(made.components["text_encoder"](ids)[0], model.text.hidden(ids))  # type: ignore[attr-defined]
    again = load_diffusion(bases.record(tmp_path / "made"), CPU, PARTS)
    assert again.unet.state_dict().keys() == model.unet.state_dict().keys()


def test_refuses_folders_that_are_there_and_impossible_steps(folder: Path, tmp_path: Path):
    model = load_diffusion(bases.record(folder), CPU, PARTS)
    (tmp_path / "made").mkdir()
    with pytest.raises(InputError, match="made: is there already"):
        write_merged(model, model.unet, tmp_path / "made", torch.float32)
    wrong = Defaults("ddpm", 4, 5, 3.0, 1.0)
    with pytest.raises(InputError, match="switch step 5 is not between 0 and the 4 steps"):
        write_combined(model, model.unet, tmp_path / "other", torch.float32, wrong, "refl")
    assert [path.name for path in tmp_path.iterdir()] == ["made"]
