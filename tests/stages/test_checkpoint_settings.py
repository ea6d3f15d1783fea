"""Checkpoints that would be read as something else than they are: numbers of their settings, types and sizes of their
tensors, headers that the library refuses, and configurations with which the same weights compute something else.
"""

from __future__ import annotations

import json
import os
import shutil
import struct
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file, save_file
from torch import Tensor

from stages.checkpoints import fit, released
from stages.checkpoints.convert import policy_of
from stages.checkpoints.files import find
from stages.checkpoints.lora_names import updates
from stages.errors import InputError
from stages.models.bases.layout import BaseLayout
from stages.models.bases.weights import check_safetensors
from stages.models.diffusion import DiffusionModel, load_diffusion
from tests import bases, original_layout, tiny
from tests.checkpoints import diffusers_names, kohya_names, lora, output, pipeline, planned, tuned

Tensors = dict[str, Tensor]
LAYER = "down_blocks.0.attentions.0.transformer_blocks.0.attn1.to_q"
ALPHA = f"lora_unet_{LAYER.replace('.', '_')}.alpha"


@pytest.fixture(scope="module")
def base(tmp_path_factory: pytest.TempPathFactory) -> DiffusionModel:
    """The tiny Stable Diffusion 1.5 that checkpoints are of."""
    folder = tmp_path_factory.mktemp("base") / "sd"
    return load_diffusion(tiny.diffusion_folder(folder), tiny.CPU, parts=("unet",))


def refused(base: DiffusionModel, place: Path, message: str) -> None:
    """The planner refuses the checkpoint in one line that names the key."""
    with pytest.raises(InputError, match=message) as error:
        planned(base, place)
    assert str(error.value).startswith("s.yaml: runs.x.checkpoint: ") and "\n" not in str(error.value)
    assert len(str(error.value)) < 500


def test_alpha_that_is_left_out_is_that_of_peft(base: DiffusionModel, tmp_path: Path) -> None:
    """peft, which wrote the file with its default alpha, reads it so; in a file without settings alpha is the rank."""
    from peft import LoraConfig

    default = LoraConfig().lora_alpha
    wanted = lora(base, tmp_path / "lora", lora_alpha=default)
    file = tmp_path / "lora" / "adapter_config.json"
    settings = json.loads(file.read_text())
    del settings["lora_alpha"]
    file.write_text(json.dumps(settings))
    tensors = diffusers_names(load_file(tmp_path / "lora" / "adapter_model.safetensors"))
    save_file(tensors, tmp_path / "meta.safetensors", {"lora_adapter_metadata": json.dumps({"unet.r": 4})})
    for place in (tmp_path / "lora", tmp_path / "meta.safetensors"):
        found = policy_of(base, find(str(place), "x"), "x")
        assert (found.alpha, found.rank) == (default, 4)
        torch.testing.assert_close(output(found.network), output(wanted), rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ('{"lora_alpha": null}', "lora_alpha: expected a finite number, found null"),
        ('{"lora_alpha": true}', "lora_alpha: expected a finite number, found true"),
        ('{"lora_alpha": "8"}', "lora_alpha: expected a finite number, found text '8'"),
        ('{"lora_alpha": NaN}', "lora_alpha: expected a finite number, found nan"),
        ('{"lora_alpha": 1e999}', "lora_alpha: expected a finite number, found inf"),
        ('{"lora_alpha": 1' + 400 * "0" + "}", "lora_alpha: expected a finite number, found 1000.*[.]{3}"),
        ('{"alpha_pattern": {"to_q": [1]}}', "alpha_pattern: expected a finite number, found the list"),
        ('{"alpha_pattern": {"(": 1}}', "alpha_pattern: no regular expression"),
        ('{"use_rslora": "false"}', "use_rslora: expected true or false, found text 'false'"),
    ],
)
def test_settings_of_a_lora_are_not_converted(
    base: DiffusionModel, tmp_path: Path, settings: str, message: str
) -> None:
    lora(base, tmp_path / "lora")
    file = tmp_path / "lora" / "adapter_config.json"
    given = {key: value for key, value in json.loads(file.read_text()).items() if key not in json.loads(settings)}
    file.write_text(json.dumps(given).removesuffix("}") + ", " + settings.removeprefix("{"))
    refused(base, tmp_path / "lora", message)


def test_metadata_with_a_key_twice(base: DiffusionModel, tmp_path: Path) -> None:
    lora(base, tmp_path / "lora")
    tensors = diffusers_names(load_file(tmp_path / "lora" / "adapter_model.safetensors"))
    said = '{"unet.lora_alpha": 1, "unet.lora_alpha": 8}'
    save_file(tensors, tmp_path / "twice.safetensors", {"lora_adapter_metadata": said})
    refused(base, tmp_path / "twice.safetensors", "the key 'unet.lora_alpha' stands twice")


def _first(matrix: str, value: Tensor) -> Callable[[Tensors], Tensors]:
    return lambda tensors: tensors | {f"base_model.model.{LAYER}.{matrix}": value}


LORAS: dict[str, tuple[Callable[[Tensors], Tensors], str]] = {
    "int8": (lambda t: {n: (50 * v).to(torch.int8) for n, v in t.items()}, "is of type I8, expected floating-point"),
    "bool": (lambda t: {n: v > 0 for n, v in t.items()}, "is of type BOOL, expected floating-point weights"),
    "complex": (lambda t: {n: v.to(torch.complex64) for n, v in t.items()}, "is of type C64, expected floating-point"),
    "rank 0": (lambda t: {n: v[:0] if "lora_A" in n else v[:, :0] for n, v in t.items()}, r"by matrices \[8, 0\] and"),
    "DoRA of another size": (_first("lora_magnitude_vector", torch.ones(3)), r"is \[3\], not of size 8"),
    "DoRA, one number": (_first("lora_magnitude_vector", torch.tensor(1.0)), r"is \[\], not of size 8"),
    "alpha of every row": (lambda t: kohya_names(t) | {ALPHA: torch.ones(3)}, r"is \[3\], not of size 1"),
    "alpha without number": (lambda t: kohya_names(t) | {ALPHA: torch.ones(0)}, r"is \[0\], not of size 1"),
    "nothing": (lambda _: {}, "holds no tensors"),
}


@pytest.mark.parametrize("case", LORAS)
def test_tensors_that_are_no_update(base: DiffusionModel, tmp_path: Path, case: str) -> None:
    change, message = LORAS[case]
    lora(base, tmp_path / "lora")
    file = tmp_path / "lora" / "adapter_model.safetensors"
    save_file({name: value.contiguous() for name, value in change(load_file(file)).items()}, file)
    refused(base, tmp_path / "lora", message)


def test_networks_that_are_quantised(base: DiffusionModel, tmp_path: Path) -> None:
    folder = pipeline(base, tuned(base), tmp_path / "merged")
    weights = load_file(folder / "unet" / "diffusion_pytorch_model.safetensors")
    whole = original_layout.original(folder)
    whole["cond_stage_model.position_ids"] = torch.arange(8)
    save_file(whole, tmp_path / "single.safetensors")
    planned(base, tmp_path / "single.safetensors")  # integers outside the network are not read
    for name, tensors in (("network", weights), ("single", whole)):
        file = tmp_path / f"{name}.safetensors"
        save_file({key: value.to(torch.int8) for key, value in tensors.items()}, file)
        refused(base, file, "is of type I8, expected floating-point weights; quantised ones are not read")


def _entry(**values: Any) -> Callable[[dict[str, Any]], dict[str, Any]]:
    return lambda header: header | {"conv_in.bias": header["conv_in.bias"] | values}


HEADERS: dict[str, Callable[[dict[str, Any]], dict[str, Any]]] = {
    "dtype": _entry(dtype="Q9"),
    "no dtype": _entry(dtype=None),
    "shape of other size": _entry(shape=[4]),
    "shape as text": _entry(shape="8"),
    "shape of floats": _entry(shape=[8.0]),
    "negative place": _entry(data_offsets=[-32, 0]),
    "place as text": _entry(data_offsets=["0", "32"]),
    "place of another": _entry(data_offsets=[32, 64]),
    "metadata of numbers": lambda header: header | {"__metadata__": {"a": 1}},
    "metadata as list": lambda header: header | {"__metadata__": [1]},
    "an entry as list": lambda header: header | {"conv_in.bias": []},
}


@pytest.mark.parametrize("case", HEADERS)
def test_headers_that_the_library_refuses(base: DiffusionModel, tmp_path: Path, case: str) -> None:
    """A checkpoint's and a base's alike; where the library reads a file, so does the check."""
    whole = (base.layout.folder / "unet" / "diffusion_pytorch_model.safetensors").read_bytes()
    (length,) = struct.unpack("<Q", whole[:8])
    header = json.dumps(HEADERS[case](json.loads(whole[8 : 8 + length]))).encode()
    file = tmp_path / "x.safetensors"
    file.write_bytes(struct.pack("<Q", len(header)) + header + whole[8 + length :])
    with pytest.raises(Exception, match="Error while deserializing header"):
        load_file(file)
    with pytest.raises(InputError, match="not a safetensors file, or cut off in its header") as error:
        check_safetensors(file)
    assert "\n" not in str(error.value)
    refused(base, file, "not a safetensors file")


def test_every_type_of_the_library_passes_the_check(tmp_path: Path) -> None:
    kinds = (torch.float8_e4m3fn, torch.float8_e5m2, torch.bfloat16, torch.float64, torch.int16, torch.uint8)
    tensors = {str(kind): torch.ones(3, 5).to(kind) for kind in (*kinds, torch.bool, torch.complex64)}
    save_file(tensors | {"empty": torch.ones(0, 4), "one": torch.tensor(1.0)}, tmp_path / "x.safetensors")
    check_safetensors(tmp_path / "x.safetensors")


def _changed(file: str, **values: object) -> Callable[[Path], None]:
    def change(folder: Path) -> None:
        (folder / file).write_text(json.dumps(json.loads((folder / file).read_text()) | values))

    return change


NETWORK, SCHEDULER = "unet/config.json", "scheduler/scheduler_config.json"
CONFIGS = {
    "heads": (_changed(NETWORK, attention_head_dim=4), "attention_head_dim is 4, but that of the base is 2"),
    "activation": (_changed(NETWORK, act_fn="relu"), "act_fn is text 'relu', but that of the base is text 'silu'"),
    "groups": (_changed(NETWORK, norm_num_groups=2), "norm_num_groups is 2, but that of the base is 4"),
    "timestep": (_changed(NETWORK, flip_sin_to_cos=False), "flip_sin_to_cos is false, but that of the base is true"),
    "no JSON": (lambda folder: (folder / NETWORK).write_text("{"), "not readable as JSON"),
    "betas": (_changed(SCHEDULER, beta_end=0.05), "beta_end is 0.05, but that of the base is 0.012"),
    "schedule": (_changed(SCHEDULER, beta_schedule="linear"), "beta_schedule is text 'linear', but that of the base"),
    "zero SNR": (_changed(SCHEDULER, rescale_betas_zero_snr=True), "rescale_betas_zero_snr is true, but that of the"),
    "prediction null": (_changed(SCHEDULER, prediction_type=None), "prediction_type is null, but that of the base"),
    "two checkpoints": (
        lambda folder: (folder / "adapter_config.json").write_text("{}"),
        "holds several checkpoints, of adapter_config.json and model_index.json; name the file of one",
    ),
}


@pytest.mark.parametrize("case", CONFIGS)
def test_configurations_that_make_another_network(base: DiffusionModel, tmp_path: Path, case: str) -> None:
    """The weights have the same shapes; with the base's configuration they would compute something else."""
    change, message = CONFIGS[case]
    folder = pipeline(base, tuned(base), tmp_path / "merged")
    change(folder)
    refused(base, folder, message)


def test_configurations_that_make_the_same_network(base: DiffusionModel, tmp_path: Path) -> None:
    folder = pipeline(base, tuned(base), tmp_path / "merged")
    same = {"attention_head_dim": [2, 2], "sample_size": 64, "upcast_attention": True, "num_attention_heads": None}
    _changed(NETWORK, _diffusers_version="0.1", **same)(folder)
    _changed(SCHEDULER, _class_name="EulerDiscreteScheduler", steps_offset=0)(folder)
    planned(base, folder)
    planned(base, folder / "unet")


def test_places_that_are_no_checkpoint(base: DiffusionModel, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    lora(base, tmp_path / "outer" / "inner" / "lora")
    os.mkfifo(tmp_path / "pipe.safetensors")
    for name in ("x-00001-of-00002.safetensors", "x.safetensors.index.json"):
        Path(name).touch()
        refused(base, Path(name), "is a part of weights in several files; name their folder")
    refused(base, Path("outer"), "no checkpoint; expected .*; there is one in outer/inner/lora")
    refused(base, Path("pipe.safetensors"), "is neither a file nor a folder")
    refused(base, Path("someone/model-v1"), "no such file or folder; where it is the name of a model on a hub, downl")
    shutil.copytree("outer/inner", "outer/other")
    refused(base, Path("outer"), "pytorch_lora_weights.safetensors, model_index.json, config.json$")


@pytest.mark.parametrize("family", ["sd15", "sdxl"])
def test_names_of_the_release(tmp_path: Path, family: str) -> None:
    """Every layer of a UNet, against the numbering that makes single files for the tests of bases."""
    folder = bases.make(family, tmp_path / family)
    whole = original_layout.original_xl(folder) if family == "sdxl" else original_layout.original(folder)
    theirs = [name.removeprefix("model.diffusion_model.") for name in whole if name.startswith("model.diffusion")]
    shapes = load_file(folder / "unet" / "diffusion_pytorch_model.safetensors")
    layers = fit.layers_of({name: tuple(value.shape) for name, value in shapes.items()})
    wanted = {
        own.removesuffix(".weight"): name.removesuffix(".weight")
        for own, name in zip(shapes, theirs, strict=True)
        if own.removesuffix(".weight") in layers
    }
    assert {layer: released.name(layer, layers) for layer in layers} == wanted
    assert len(set(wanted.values())) == len(wanted) > 20


def test_a_lora_of_kohyas_scripts_on_sdxl(tmp_path: Path) -> None:
    """Its tensors go to the layers that diffusers takes them for."""
    from diffusers.models.unets.unet_2d_condition import UNet2DConditionModel
    from diffusers.pipelines.stable_diffusion_xl.pipeline_stable_diffusion_xl import StableDiffusionXLPipeline

    folder = bases.make("sdxl", tmp_path / "sdxl")
    network = UNet2DConditionModel.from_pretrained(folder, subfolder="unet")
    shapes = fit.header_shapes(BaseLayout(folder))
    assert shapes is not None
    attention = [name for name in fit.layers_of(shapes) if name.endswith(("to_q", "to_k", "to_v", "to_out.0"))]
    file = tmp_path / "kohya.safetensors"
    layers, tensors = fit.layers_of(shapes), {}
    for n, layer in enumerate(attention):
        out, width = shapes[f"{layer}.weight"]
        flat = f"lora_unet_{str(released.name(layer, layers)).replace('.', '_')}"
        tensors[f"{flat}.lora_down.weight"] = torch.full((2, width), float(n))
        tensors[f"{flat}.lora_up.weight"] = torch.full((out, 2), float(n))
        tensors[f"{flat}.alpha"] = torch.tensor(2.0)
    assert any("input_blocks" in name for name in tensors) and any("output_blocks" in name for name in tensors)
    save_file(tensors, file)
    fit.check(find(str(file), "x"), BaseLayout(folder), shapes, "x")
    found = {u.layer: float(tensors[u.down].flatten()[0]) for u in updates(tensors, layers, "x")}
    theirs = StableDiffusionXLPipeline.lora_state_dict(dict(tensors), unet_config=network.config)[0]
    downs = {name.removeprefix("unet."): value for name, value in theirs.items() if name.endswith("_lora.down.weight")}
    named = {name.removesuffix("_lora.down.weight").replace(".processor", ""): value for name, value in downs.items()}
    wanted = {name.replace("to_out", "to_out.0"): float(value[0, 0]) for name, value in named.items()}
    assert found == wanted and len(found) == len(attention)
