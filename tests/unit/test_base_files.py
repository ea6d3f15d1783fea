"""The files that a base's weights come in: half precision, pieces, a hub's, and the original layout."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file, save_file
from torch import Tensor

from stages.errors import InputError
from stages.models.diffusion import load_diffusion
from stages.prepare.import_settings import ImportSettings
from stages.prepare.source import import_model
from tests import bases
from tests.unit.base_models import CPU, PARTS, change, load, sampled, single, without
from tests.unit.base_models import folders as folders  # a fixture


def test_half_precision_variants_are_read_in_full_precision(folders: dict[str, Path], tmp_path: Path) -> None:
    folder = without(folders["sd15"], tmp_path / "base")
    for name in ("unet/diffusion_pytorch_model", "vae/diffusion_pytorch_model", "text_encoder/model"):
        plain = folder / f"{name}.safetensors"
        bases.rewrite(plain, bases.halved, folder / f"{name}.fp16.safetensors")
    plain, half = load(folder), load(folder, variant="fp16")
    assert {p.dtype for p in half.unet.parameters()} == {torch.float32}
    weights = [dict(model.unet.named_parameters())["conv_in.weight"] for model in (plain, half)]
    assert torch.equal(weights[1], weights[0].half().float()) and not torch.equal(*weights)
    assert {name for name in half.record.files if "fp16" in name} == set(half.record.files) & {
        "unet/diffusion_pytorch_model.fp16.safetensors", "vae/diffusion_pytorch_model.fp16.safetensors",
        "text_encoder/model.fp16.safetensors",
    }  # fmt: skip
    assert not [name for name in plain.record.files if "fp16" in name]
    for name in ("unet/diffusion_pytorch_model", "vae/diffusion_pytorch_model", "text_encoder/model"):
        (folder / f"{name}.safetensors").unlink()
    torch.testing.assert_close(sampled(load(folder)), sampled(half), rtol=0, atol=0)


def test_weights_of_torch_and_in_pieces(folders: dict[str, Path], tmp_path: Path) -> None:
    folder = without(folders["sd15"], tmp_path / "base")
    text = folder / "text_encoder" / "model.safetensors"
    torch.save(load_file(text), text.with_name("pytorch_model.bin"))
    text.unlink()
    unet = folder / "unet" / "diffusion_pytorch_model.safetensors"
    weights = load_file(unet)
    names = sorted(weights)
    places = {}
    for n, part in enumerate((names[::2], names[1::2]), 1):
        file = f"diffusion_pytorch_model-0000{n}-of-00002.safetensors"
        save_file({name: weights[name] for name in part}, unet.with_name(file), {"format": "pt"})
        places |= dict.fromkeys(part, file)
    table = {"metadata": {"total_size": sum(w.nbytes for w in weights.values())}, "weight_map": places}
    unet.with_name(f"{unet.name}.index.json").write_text(json.dumps(table))
    unet.unlink()
    torch.testing.assert_close(sampled(load(folder)), sampled(load(folders["sd15"])), rtol=0, atol=0)
    unet.with_name("diffusion_pytorch_model-00002-of-00002.safetensors").unlink()
    with pytest.raises(InputError, match=r"missing unet/diffusion_pytorch_model-00002-of-00002\.safetensors$"):
        bases.record(folder)


def test_a_hub_gives_the_files_of_a_base_at_its_revision(
    folders: dict[str, Path], monkeypatch: pytest.MonkeyPatch
) -> None:
    """What is asked of the hub leaves out other formats; offline, what is not in the cache is one line."""
    asked: list[dict[str, Any]] = []

    def fetch(name: str, **more: Any) -> str:
        asked.append({"name": name, **more})
        return str(folders["sd15"])

    monkeypatch.setattr("huggingface_hub.snapshot_download", fetch)
    settings = ImportSettings(kind="diffusers", hub="owner/name", revision="abc")
    record = import_model("base", settings, "study: base")
    assert (record.source, record.revision) == ("owner/name", "abc")
    assert record.digest == bases.record(folders["sd15"]).digest
    assert (asked[0]["name"], asked[0]["revision"]) == ("owner/name", "abc")
    assert "unet/*" in asked[0]["allow_patterns"] and "*.fp16.*" in asked[0]["ignore_patterns"]


@pytest.mark.parametrize("ending", ["safetensors", "ckpt"])
def test_a_single_file_in_the_original_layout(folders: dict[str, Path], tmp_path: Path, ending: str) -> None:
    from tests.original_layout import original

    weights = original(folders["sd15"])
    file = tmp_path / f"model.{ending}"
    if ending == "ckpt":
        torch.save({"state_dict": weights, "global_step": 1}, file)
    else:
        save_file(weights, file)
    record = single(folders["sd15"], file)
    assert next(iter(record.files)) == file.name
    assert not [name for name in record.files if name != file.name and name.endswith(".safetensors")]
    found = sampled(load_diffusion(record, CPU, PARTS))
    torch.testing.assert_close(found, sampled(load(folders["sd15"])), rtol=0, atol=1e-6)


def other_family(top: Path, family: str) -> tuple[Path, dict[str, Tensor]]:
    """A folder of SDXL or SD3 whose text encoders differ in width, by which they are told apart, and its weights under
    their original names.
    """
    from tests.original_layout import original_sd3, original_xl

    folder = bases.make(family, top / family, second=8)
    if family == "sdxl":
        return folder, original_xl(folder)
    # the release has no projection of the first encoder: it is the identity
    bases.rewrite(folder / "text_encoder" / "model.safetensors", lambda weights: {
        n: torch.eye(len(w)) if n == "text_projection.weight" else w for n, w in weights.items()})  # fmt: skip
    return folder, original_sd3(folder)


@pytest.mark.parametrize(("family", "some"), [
    ("sdxl", ("conditioner.embedders.1.model.transformer.resblocks.1.attn.in_proj_weight",
              "conditioner.embedders.0.transformer.text_model.embeddings.position_embedding.weight",
              "model.diffusion_model.label_emb.0.0.weight",
              "model.diffusion_model.input_blocks.3.1.transformer_blocks.1.attn2.to_k.weight")),
    ("sd3", ("model.diffusion_model.joint_blocks.0.x_block.attn2.qkv.weight",
             "model.diffusion_model.joint_blocks.1.context_block.attn.ln_q.weight", "model.diffusion_model.pos_embed",
             "text_encoders.t5xxl.transformer.shared.weight")),
])  # fmt: skip
def test_single_files_of_other_families(tmp_path: Path, family: str, some: tuple[str, ...]) -> None:
    folder, weights = other_family(tmp_path, family)
    assert set(some) <= set(weights)
    file = tmp_path / "model.safetensors"
    save_file({name: value.half() for name, value in weights.items()}, file)
    for path in folder.rglob("*.safetensors"):
        bases.rewrite(path, bases.halved)
    found = load_diffusion(single(folder, file), CPU, PARTS)
    assert {p.dtype for p in found.unet.parameters()} == {torch.float32}
    torch.testing.assert_close(sampled(found), sampled(load(folder)), rtol=0, atol=1e-6)

    lacking = {name: value for name, value in weights.items() if "mlp.fc2" not in name and "c_proj" not in name}
    save_file(lacking, file)
    with pytest.raises(InputError, match=r"model\.safetensors: .*(lack|missing|cannot be loaded)") as error:
        load_diffusion(single(folder, file), CPU, ("text_encoder", "unet"))
    assert "\n" not in str(error.value)


def test_single_files_that_lack_a_part_say_what_to_do(folders: dict[str, Path], tmp_path: Path) -> None:
    """SD3.5 is released without text encoders; SD3 without the large one too."""
    folder, weights = other_family(tmp_path, "sd3")
    file = tmp_path / "model.safetensors"

    def refused(kept: dict[str, Tensor], where: Path) -> str:
        save_file(kept, file)
        with pytest.raises(InputError) as error:
            single(where, file)
        assert "\n" not in str(error.value)
        return str(error.value)

    bare = {name: value for name, value in weights.items() if not name.startswith("text_encoders.")}
    said = refused(bare, folder)
    assert "holds no text_encoder, text_encoder_2, text_encoder_3 of" in said and "use a diffusers folder" in said
    small = {name: value for name, value in weights.items() if "t5xxl" not in name}
    said = refused(small, folder)
    assert "holds no text_encoder_3" in said and "set text_encoder_3 and tokenizer_3 to [null, null]" in said
    assert "is it of this family?" in refused({"weight": torch.zeros(1)}, folders["sdxl"])
    assert "use a diffusers folder" in refused(weights, folders["pixart"])
    change(folder / "model_index.json", text_encoder_3=[None, None], tokenizer_3=[None, None])
    save_file(small, file)
    found = sampled(load_diffusion(single(folder, file), CPU, PARTS))
    torch.testing.assert_close(found, sampled(load(folder)), rtol=0, atol=1e-6)
