"""Checkpoints that were trained elsewhere: read in every form to the network that their own library makes of them, and
refused in one line where they are not of the base.
"""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file, save_file
from torch import Tensor, nn

from stages.checkpoints.convert import policy_of
from stages.checkpoints.files import find
from stages.errors import InputError
from stages.models.diffusion import DiffusionModel, load_diffusion
from stages.models.policy import load_policy, make_policy
from tests import original_layout, tiny
from tests.checkpoints import PEFT, diffusers_names, kohya_names, lora, output, pipeline, planned, tuned


@pytest.fixture(scope="module")
def base(tmp_path_factory: pytest.TempPathFactory) -> DiffusionModel:
    """The tiny Stable Diffusion 1.5 that checkpoints are of."""
    folder = tmp_path_factory.mktemp("base") / "sd"
    return load_diffusion(tiny.diffusion_folder(folder), tiny.CPU, parts=("unet",))


def rewritten(folder: Path, change: Callable[[dict[str, Tensor]], dict[str, Tensor]], target: Path) -> Path:
    """The LoRA of peft in `folder`, changed, as a file."""
    save_file(change(load_file(folder / "adapter_model.safetensors")), target)
    return target


def same(base: DiffusionModel, place: Path, wanted: nn.Module, tmp_path: Path, kind: str) -> None:
    """The checkpoint at `place` makes `wanted`'s predictions, after it was saved and loaded too, and not the base's."""
    policy = policy_of(base, find(str(place), "study: runs.x.checkpoint"), "study: runs.x.checkpoint")
    assert policy.kind == kind
    policy.save(tmp_path / "policy.safetensors", base.record.digest)
    again = load_policy(base.unet, tmp_path / "policy.safetensors", base.record.digest)
    for network in (policy.network, again.network):
        torch.testing.assert_close(output(network), output(wanted), rtol=1e-4, atol=1e-5)
    assert not torch.allclose(output(wanted), output(base.unet), atol=1e-2)


@pytest.mark.parametrize(
    ("settings", "kind"),
    [
        ({}, "lora"),
        ({"use_rslora": True}, "lora"),
        ({"rank_pattern": {"attn2.to_q": 2}}, "full"),
        ({"alpha_pattern": {"attn2.to_q": 3.0}}, "full"),
        ({"target_modules": ["to_q", "conv1", "conv_in", "proj_in"]}, "full"),
        ({"use_dora": True, "target_modules": ["to_q", "conv1", "proj_in"]}, "full"),
    ],
)
def test_a_lora_is_what_peft_makes_of_it(
    base: DiffusionModel, tmp_path: Path, settings: dict[str, Any], kind: str
) -> None:
    wanted = lora(base, tmp_path / "lora", **settings)
    same(base, tmp_path / "lora", wanted, tmp_path, kind)


def _down_up(tensors: dict[str, Tensor]) -> dict[str, Tensor]:
    names = {"lora_A": "lora.down", "lora_B": "lora.up"}
    return {
        name.replace(PEFT, "unet.").replace(old, new): value
        for name, value in tensors.items()
        for old, new in names.items()
        if old in name
    }


def _processor(tensors: dict[str, Tensor]) -> dict[str, Tensor]:
    made = {}
    for name, value in tensors.items():
        layer, matrix, _ = name.removeprefix(PEFT).rsplit(".", 2)
        block, _, leaf = layer.removesuffix(".0").rpartition(".")
        made[f"unet.{block}.processor.{leaf}_lora.{'down' if matrix == 'lora_A' else 'up'}.weight"] = value
    return made


@pytest.mark.parametrize(
    ("written", "alpha"),
    [(diffusers_names, 4), (_down_up, 4), (_processor, 4), (kohya_names, 8)],
    ids=["diffusers", "down-up", "processor", "kohya"],
)
def test_a_lora_under_other_names(
    base: DiffusionModel, tmp_path: Path, written: Callable[[dict[str, Tensor]], dict[str, Tensor]], alpha: int
) -> None:
    """Without settings beside it alpha is the rank."""
    wanted = lora(base, tmp_path / "lora", lora_alpha=alpha)
    (tmp_path / "other").mkdir()
    file = rewritten(tmp_path / "lora", written, tmp_path / "other" / "pytorch_lora_weights.safetensors")
    for place in (file, file.parent):
        same(base, place, wanted, tmp_path, "lora")


def test_networks_and_files(base: DiffusionModel, tmp_path: Path) -> None:
    """A merged folder, its network's folder and file, a file of the original layout, and a policy of another study."""
    wanted = tuned(base)
    folder = pipeline(base, wanted, tmp_path / "merged")
    single = tmp_path / "single.safetensors"
    save_file(original_layout.original(folder), single)
    weights = folder / "unet" / "diffusion_pytorch_model.safetensors"
    for place in (folder, folder / "unet", weights, single):
        same(base, place, wanted, tmp_path, "full")
    half = tmp_path / "half.safetensors"
    save_file({name: value.half() for name, value in load_file(weights).items()}, half)
    found = policy_of(base, find(str(half), "x"), "x")
    torch.testing.assert_close(output(found.network), output(wanted), rtol=1e-2, atol=1e-2)
    other = make_policy(base.unet, "norm_affine")
    with torch.no_grad():
        for _, parameter in other.parameters():
            parameter.add_(0.1)
    other.save(tmp_path / "theirs.safetensors", base.record.digest)
    same(base, tmp_path / "theirs.safetensors", other.network, tmp_path, "norm_affine")


def _without(part: str) -> Callable[[Path], None]:
    def change(folder: Path) -> None:
        file = folder / "adapter_model.safetensors"
        tensors = load_file(file)
        del tensors[next(name for name in sorted(tensors) if part in name)]
        save_file(tensors, file)

    return change


def _renamed(old: str, new: str) -> Callable[[Path], None]:
    def change(folder: Path) -> None:
        file = folder / "adapter_model.safetensors"
        save_file({name.replace(old, new): value for name, value in load_file(file).items()}, file)

    return change


def _wider(folder: Path) -> None:
    file = folder / "adapter_model.safetensors"
    tensors = load_file(file)
    name = next(name for name in sorted(tensors) if "lora_A" in name)
    tensors[name] = torch.zeros(4, 320)
    save_file(tensors, file)


def _setting(**values: object) -> Callable[[Path], None]:
    def change(folder: Path) -> None:
        file = folder / "adapter_config.json"
        file.write_text(json.dumps(json.loads(file.read_text()) | values))

    return change


def _text(file: str, text: str) -> Callable[[Path], None]:
    def change(folder: Path) -> None:
        (folder / file).write_text(text)

    return change


POINTER = "version https://git-lfs.github.com/spec/v1\noid sha256:0\nsize 1\n"
LORA = {
    "half of a pair": (_without("lora_B"), "one is missing; cut off?"),
    "layers of another base": (_renamed("to_q", "to_query"), "to_query', which the base has not; a LoRA of another"),
    "another width": (_wider, r"by matrices \[8, 4\] and \[4, 320\], but in the base it is \[8, "),
    "a text encoder": (_renamed(PEFT, "text_encoder."), "updates a text encoder"),
    "LyCORIS": (_renamed("lora_A", "lokr_w1"), "is no part of a LoRA"),
    "another adapter": (_setting(peft_type="IA3"), "an adapter of type IA3; expected LORA"),
    "PiSSA": (_setting(init_lora_weights="pissa_niter_4"), "changes the base's weights too"),
    "biases": (_setting(lora_bias=True), "lora_bias is True; such a LoRA is not read"),
    "Git LFS": (_text("adapter_model.safetensors", POINTER), "is a Git LFS pointer"),
    "a page": (_text("adapter_model.safetensors", "<!DOCTYPE html><html>"), "is an HTML page"),
    "pickles": (lambda f: (f / "adapter_model.safetensors").rename(f / "adapter_model.bin"), "has no adapter_model.s"),
    "nothing": (lambda f: [file.unlink() for file in list(f.iterdir())], "no checkpoint; expected a folder with one"),
    "no folder": (lambda f: shutil.rmtree(f), "lora: no such file or folder"),
}


@pytest.mark.parametrize("case", LORA)
def test_a_lora_that_is_refused(base: DiffusionModel, tmp_path: Path, case: str) -> None:
    """Before the first job already, from headers on this machine."""
    change, message = LORA[case]
    lora(base, tmp_path / "lora")
    change(tmp_path / "lora")
    with pytest.raises(InputError, match=message) as refusal:
        planned(base, tmp_path / "lora")
    assert str(refusal.value).startswith("s.yaml: runs.x.checkpoint: ") and "\n" not in str(refusal.value)


def _other_network(folder: Path) -> None:
    from diffusers.models.unets.unet_2d_condition import UNet2DConditionModel

    config = json.loads((folder / "unet" / "config.json").read_text())
    network = UNet2DConditionModel.from_config(config | {"cross_attention_dim": 24})
    assert isinstance(network, UNet2DConditionModel)
    network.save_pretrained(folder / "unet")


def _json(file: str, **values: object) -> Callable[[Path], None]:
    def change(folder: Path) -> None:
        (folder / file).write_text(json.dumps(json.loads((folder / file).read_text()) | values))

    return change


FOLDER = {
    "another width": (_other_network, r"another architecture: 'down_blocks.*to_k.weight' is \[8, 24\], in the base \["),
    "another family": (_json("model_index.json", _class_name="StableDiffusionXLPipeline"), "StableDiffusionXLPipeline"),
    "another prediction": (
        _json("scheduler/scheduler_config.json", prediction_type="v_prediction"),
        "prediction_type is v_prediction, but that of the base is epsilon",
    ),
    "no weights": (lambda f: (f / "unet" / "diffusion_pytorch_model.safetensors").unlink(), "other formats may hold"),
    "no network": (lambda f: shutil.rmtree(f / "unet"), "no such folder, expected the denoising network"),
}


@pytest.mark.parametrize("case", FOLDER)
def test_a_folder_that_is_refused(base: DiffusionModel, tmp_path: Path, case: str) -> None:
    change, message = FOLDER[case]
    folder = pipeline(base, base.unet, tmp_path / "merged")
    change(folder)
    with pytest.raises(InputError, match=message) as refusal:
        planned(base, folder)
    assert "\n" not in str(refusal.value)


def test_files_that_are_refused(base: DiffusionModel, tmp_path: Path) -> None:
    """A file of the original layout of another architecture names a layer and its shape; other formats are not read."""
    folder = pipeline(base, base.unet, tmp_path / "merged")
    _other_network(folder)
    single = tmp_path / "single.safetensors"
    save_file(original_layout.original(folder), single)
    with pytest.raises(InputError, match=r"another architecture: has 'model.diffusion_model.*' \[\d+, 24\], which"):
        planned(base, single)
    (tmp_path / "model.ckpt").write_bytes(b"PK\x03\x04")
    with pytest.raises(InputError, match=r"expected a .safetensors file; other formats may hold code"):
        planned(base, tmp_path / "model.ckpt")
    weights = load_file(base.layout.folder / "unet" / "diffusion_pytorch_model.safetensors")
    weights["conv_in.bias"] = torch.full_like(weights["conv_in.bias"], float("nan"))
    save_file(weights, tmp_path / "nan.safetensors")
    with pytest.raises(InputError, match=r"x: .*nan.safetensors: 'conv_in.bias' is not finite numbers"):
        policy_of(base, find(str(tmp_path / "nan.safetensors"), "x"), "x")
    theirs = make_policy(base.unet, "full")
    theirs.save(tmp_path / "theirs.safetensors", "another")
    with pytest.raises(InputError, match=r"x: .*: trained on base another, but the base here is"):
        policy_of(base, find(str(tmp_path / "theirs.safetensors"), "x"), "x")
