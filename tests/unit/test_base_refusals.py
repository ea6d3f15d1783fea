"""What is refused of a base model, in one line, and pickles, which are never executed."""

from __future__ import annotations

import argparse
import pickle
from collections.abc import Iterator
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file, save_file

from stages.errors import InputError
from stages.models.diffusion import load_diffusion
from stages.prepare.import_settings import ImportSettings
from stages.prepare.source import import_model
from tests import bases
from tests.original_layout import original
from tests.unit.base_models import CPU, PARTS, change, load, sampled, single, without
from tests.unit.base_models import folders as folders  # a fixture


def test_pickles_beside_safetensors_are_never_opened(folders: dict[str, Path], tmp_path: Path) -> None:
    """A folder as hubs have them: torch's own files stand beside safetensors, here ones that would end this process."""
    folder = without(folders["sd15"], tmp_path / "base")
    plain = load(folder)
    for name in ("unet/diffusion_pytorch_model", "vae/diffusion_pytorch_model", "text_encoder/pytorch_model"):
        (folder / f"{name}.bin").write_bytes(pickle.dumps(Code()))
    record = bases.record(folder)
    assert record.files == plain.record.files and record.digest == plain.record.digest
    for name in ("unet/diffusion_pytorch_model", "vae/diffusion_pytorch_model", "text_encoder/pytorch_model"):
        (folder / f"{name}.bin").chmod(0)
    torch.testing.assert_close(sampled(load_diffusion(record, CPU, PARTS)), sampled(plain), rtol=0, atol=0)


NO_WEIGHTS = (
    (b"junk" * 9, "not a safetensors file, or cut off in its header"),
    (b"<html>not found</html>", "is an HTML page, not the file itself"),
    (
        b"version https://git-lfs.github.com/spec/v1\noid sha256:1\nsize 9\n",
        "is a Git LFS pointer, not the file itself",
    ),
)
"""What stands in the place of weights, and what is said of it."""


TOKENS, VAE = "tokenizer/tokenizer_config.json", "vae/config.json"
ODD_NUMBERS: tuple[tuple[str, str, str, object, str], ...] = (
    ("scale-0", VAE, "scaling_factor", 0, "0, expected a number above 0"),
    ("scale-nan", VAE, "scaling_factor", float("nan"), "nan, expected a number above 0"),
    ("scale-text", VAE, "scaling_factor", "0.18", r"text '0\.18', expected a number above 0"),
    ("scale-null", VAE, "scaling_factor", None, "null, expected a number above 0"),
    ("shift", VAE, "shift_factor", True, "true, expected a number or null"),
    (
        "no-tokens",
        TOKENS,
        "model_max_length",
        0,
        r"0, expected a whole number from 2 to the \d+ positions of text_encoder",
    ),
    ("endless", TOKENS, "model_max_length", 1e30, r"1e\+30, expected a whole number from 2 to the \d+ .*"),
    ("long", TOKENS, "model_max_length", 9999, r"9999, expected a whole number from 2 to the \d+ .*"),
)
"""Numbers with which no image could be made, and what is said of them."""


def refusals(folders: dict[str, Path], top: Path) -> Iterator[tuple[Path, dict[str, object], str]]:
    """Damaged copies of models, options, and what is said of them."""
    sd15, sdxl = folders["sd15"], folders["sdxl"]
    yield top / "nowhere", {}, "no such folder"
    yield without(sd15, top / "a", "vae"), {}, "not a complete diffusers folder; missing vae/$"
    yield without(sd15, top / "b", "unet/config.json"), {}, "missing unet/config.json$"
    lacking = without(sdxl, top / "c", "text_encoder_2/model.safetensors", "tokenizer_2", "scheduler")
    yield lacking, {}, "missing text_encoder_2/model.safetensors, tokenizer_2/, scheduler/scheduler_config.json$"
    yield sd15, {"variant": "fp16"}, r"missing unet/diffusion_pytorch_model\.fp16\.safetensors, vae/"
    yield sd15, {"varient": "fp16"}, r"options\.varient: unknown key; did you mean 'variant'"
    yield sdxl, {"empty": "none"}, "expected model or encoded, found 'none'"
    other = without(sd15, top / "d")
    change(other / "model_index.json", _class_name="KandinskyPipeline")
    yield other, {}, "pipeline 'KandinskyPipeline' is not supported"
    wide = without(sd15, top / "e")
    change(wide / "text_encoder" / "config.json", hidden_size=32)
    yield wide, {}, "the width of text_encoder is 32, but unet expects 16$"
    wide = without(sdxl, top / "f")
    change(wide / "text_encoder_2" / "config.json", projection_dim=8)
    yield wide, {}, "the width of pooled text and time ids is 56, but unet expects 64$"
    for name, part, key, value, said in ODD_NUMBERS:
        odd = without(sd15, top / name)
        change(odd / part, **{key: value})
        yield odd, {}, rf"{part}: {key} is {said}$"
    short = without(sd15, top / "g")
    file = short / "unet" / "diffusion_pytorch_model.safetensors"
    file.write_bytes(file.read_bytes()[:-100])
    yield short, {}, "its header speaks of .* cut off"
    broken = without(sd15, top / "h")
    vae = broken / "vae" / "diffusion_pytorch_model.safetensors"
    for content, said in NO_WEIGHTS:
        vae.write_bytes(content)
        yield broken, {}, said
    for name in ("model_index.json", "vae/config.json", "tokenizer/merges.txt"):
        pointers = without(sd15, top / name.replace("/", "-"))
        (pointers / name).write_bytes(NO_WEIGHTS[2][0])
        yield pointers, {}, rf"{name}: is a Git LFS pointer"
    mute = without(sd15, top / "j", "tokenizer/tokenizer.json")
    yield mute, {}, r"missing tokenizer/tokenizer\.json$"
    lost = without(sd15, top / "k", "unet/diffusion_pytorch_model.safetensors")
    (lost / "unet" / "diffusion_pytorch_model.safetensors").symlink_to("../../blobs/gone")
    yield lost, {}, r"\(diffusion_pytorch_model\.safetensors is a link to nothing\)$"
    (top / "outer").mkdir()
    yield without(sd15, top / "outer" / "inner").parent, {}, r"; there is a model in .*/outer/inner$"
    pieces = without(sd15, top / "l", "unet/diffusion_pytorch_model.safetensors")
    index = pieces / "unet" / "diffusion_pytorch_model.safetensors.index.json"
    index.write_text('{"weight_map": {"a": 1}}')
    yield pieces, {}, "not an index of weights"
    other = without(sd15, top / "i", "unet/diffusion_pytorch_model.safetensors")
    (other / "unet" / "diffusion_flax_model.msgpack").write_bytes(b"")
    yield (
        other,
        {},
        r"missing unet/diffusion_pytorch_model\.safetensors \(there is diffusion_flax_model\.msgpack, which",
    )


def test_refuses_folders_naming_what_is_wrong(folders: dict[str, Path], tmp_path: Path) -> None:
    for folder, options, message in refusals(folders, tmp_path):
        with pytest.raises(InputError, match=message) as found:
            bases.record(folder, **options)
        assert "\n" not in str(found.value)


class Code:
    """What a pickle may carry."""

    def __reduce__(self):
        return (exec, ("raise SystemExit('executed')",))


def test_refuses_pickled_objects_and_weights_that_do_not_fit(folders: dict[str, Path], tmp_path: Path) -> None:
    folder = without(folders["sd15"], tmp_path / "a", "text_encoder/model.safetensors")
    file = folder / "text_encoder" / "pytorch_model.bin"
    torch.save({"weights": Code()}, file)
    record = bases.record(folder)
    with pytest.raises(InputError, match=r"pytorch_model\.bin: holds pickled Python objects, which are never executed"):
        load_diffusion(record, CPU, ("text_encoder",))
    file.write_bytes(pickle.dumps(Code()))
    with pytest.raises(InputError, match="holds pickled Python objects"):
        load_diffusion(bases.record(folder), CPU, ("text_encoder",))
    for content, said in [*NO_WEIGHTS[1:], (b"junk" * 9, "damaged, or not a file of weights"), (b"", "damaged")]:
        file.write_bytes(content)
        with pytest.raises(InputError, match=said):
            load_diffusion(bases.record(folder), CPU, ("text_encoder",))

    folder = without(folders["sd15"], tmp_path / "b")
    bases.rewrite(folder / "unet" / "diffusion_pytorch_model.safetensors",
                  lambda weights: {n: w for n, w in weights.items() if "conv_in" not in n})  # fmt: skip
    with pytest.raises(InputError, match=r"unet: the weights lack conv_in\.bias and 1 more; not those of this config"):
        load_diffusion(bases.record(folder), CPU, ("unet",))
    bases.rewrite(folder / "vae" / "diffusion_pytorch_model.safetensors",
                  lambda weights: {n: w if "conv_in" not in n else w[:4] for n, w in weights.items()})  # fmt: skip
    with pytest.raises(InputError, match=r"vae: cannot be loaded: .*conv_in"):
        load_diffusion(bases.record(folder), CPU, ("vae",))


def test_a_base_without_safetensors(folders: dict[str, Path], tmp_path: Path) -> None:
    """Torch's own files are read where they hold tensors alone; of others the object is named, and what to do."""
    folder = without(folders["sd15"], tmp_path / "a")
    for name in ("unet/diffusion_pytorch_model", "vae/diffusion_pytorch_model", "text_encoder/model"):
        plain = folder / f"{name}.safetensors"
        torch.save(load_file(plain), folder / f"{name.replace('/model', '/pytorch_model')}.bin")
        plain.unlink()
    torch.testing.assert_close(sampled(load(folder)), sampled(load(folders["sd15"])), rtol=0, atol=0)
    unet = folder / "unet" / "diffusion_pytorch_model.bin"
    torch.save({"weights": torch.load(unet), "options": argparse.Namespace(a=1)}, unet)
    with pytest.raises(InputError, match=r"never executed here \(argparse\.Namespace\); take the model's safetensors"):
        load_diffusion(bases.record(folder), CPU, ("unet",))


def test_linked_parts_belong_to_the_model(folders: dict[str, Path], tmp_path: Path) -> None:
    """A folder put together of links, as caches of hubs and disks that are full have them."""
    folder = without(folders["sd15"], tmp_path / "a", "unet", "vae/diffusion_pytorch_model.safetensors")
    (folder / "unet").symlink_to(folders["sd15"] / "unet")
    (folder / "vae" / "diffusion_pytorch_model.safetensors").symlink_to(
        folders["sd15"] / "vae" / "diffusion_pytorch_model.safetensors"
    )
    (folder / "loop").symlink_to(".")
    linked, plain = bases.record(folder), bases.record(folders["sd15"])
    assert linked.files == plain.files and linked.digest == plain.digest


def test_the_page_writes_the_tensors_of_a_pickle_alone(
    folders: dict[str, Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    weights = original(folders["sd15"])
    torch.save({"state_dict": weights, "callbacks": argparse.Namespace(a=1)}, "model.ckpt")
    page = (Path(__file__).parents[2] / "docs" / "real-models.md").read_text()
    exec(page.split("```python\nimport torch", 1)[1].split("```", 1)[0].join(["import torch", ""]), {})
    written = load_file("model.safetensors")
    assert written.keys() == weights.keys() and all(torch.equal(written[name], weights[name]) for name in weights)


def test_refuses_files_that_are_not_the_recorded_ones(folders: dict[str, Path], tmp_path: Path) -> None:
    folder = without(folders["sd15"], tmp_path / "a")
    record = bases.record(folder)
    file = folder / "unet" / "diffusion_pytorch_model.safetensors"
    bases.rewrite(file, lambda weights: {name: 2 * value for name, value in weights.items()})
    load_diffusion(record, CPU, ("vae",))
    with pytest.raises(InputError, match=r"diffusion_pytorch_model\.safetensors: changed since model 'base'"):
        load_diffusion(record, CPU, ("unet",))


def test_refuses_single_files_without_configuration(folders: dict[str, Path], tmp_path: Path) -> None:
    file = tmp_path / "model.safetensors"
    save_file({"weight": torch.zeros(1)}, file)
    with pytest.raises(InputError, match=r"name in options\.config the diffusers folder"):
        import_model("base", ImportSettings(kind="diffusers", file=str(file)), "study: base")
    with pytest.raises(InputError, match="a single file of PixArt-alpha is not supported; use a diffusers folder"):
        load_diffusion(single(folders["pixart"], file), CPU, ("unet",))
    with pytest.raises(InputError, match=r"model\.safetensors: holds no unet, vae, text_encoder of Stable Diffusion"):
        load_diffusion(single(folders["sd15"], file), CPU, ("unet",))
