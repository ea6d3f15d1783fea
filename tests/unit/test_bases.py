"""Base models of every family, against the pipelines of diffusers on the same tiny folders, and what is refused."""

from __future__ import annotations

import json
import pickle
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file, save_file
from torch import Tensor

from stages.errors import InputError
from stages.models.conditioning import Conditioning, sizes
from stages.models.diffusion import Denoiser, DiffusionModel, load_diffusion
from stages.models.noise import GivenNoise
from stages.models.record import ModelRecord
from stages.models.sampler import finish
from stages.prepare.source import ImportSettings, import_model
from tests import bases
from tests.bases import pipeline

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
    return "ddim" if model.schedule.prediction == "flow" else "ddpm"


@torch.no_grad()
def sampled(model: DiffusionModel) -> Tensor:
    text, empty = given(model)
    x, z = draws()
    grid = model.schedule.grid(STEPS)
    predict = Denoiser(model.unet, model.schedule).predict(grid, text, empty, SCALE)
    clean = finish(grid, predict, x, 0, GivenNoise(x, z, {}), sampler(model))  # type: ignore[arg-type]
    return model.vae.decode(clean)


@torch.no_grad()
def theirs(made: Any, **more: object) -> Tensor:
    if "PixArt" in type(made).__name__:
        more = {"use_resolution_binning": False, "clean_caption": False, **more}
        # the pipeline tells the network of sizes where its samples are of side 128
        if made.transformer.config.use_additional_conditions:
            made.transformer.register_to_config(sample_size=128)
    x, _ = draws()
    return made(
        prompt=PROMPTS, height=16, width=16, num_inference_steps=STEPS, guidance_scale=SCALE, latents=x.clone(),
        generator=torch.Generator().manual_seed(1), output_type="pt", **more,
    ).images  # fmt: skip


@pytest.mark.parametrize("family", FAMILIES)
def test_images_are_those_of_the_pipeline(folders: dict[str, Path], family: str) -> None:
    """The same start and step noise, guidance 3; images in [0, 1] agree to 2e-5."""
    expected = theirs(pipeline(folders[family]))
    found = sampled(load(folders[family]))
    assert expected.std() > 0.01
    torch.testing.assert_close(found, expected, rtol=0, atol=2e-5)


def test_the_empty_prompt_of_sdxl_is_zeros_or_encoded(folders: dict[str, Path]) -> None:
    plain, encoded = load(folders["sdxl"]), load(folders["sdxl"], empty="encoded")
    assert not plain.text.empty().text.any()
    expected = theirs(pipeline(folders["sdxl"]), negative_prompt=["", ""])
    torch.testing.assert_close(sampled(encoded), expected, rtol=0, atol=2e-5)
    assert not torch.allclose(sampled(plain), expected, atol=1e-3)


@pytest.mark.parametrize("family", FAMILIES)
def test_gradients_go_from_the_image_to_network_and_latents(folders: dict[str, Path], family: str) -> None:
    model = load(folders[family])
    model.unet.requires_grad_(True)
    x = draws()[0].requires_grad_(True)
    grid = model.schedule.grid(STEPS)
    network = Denoiser(model.unet, model.schedule)
    x0 = grid.x0(x, network.predict(grid, given(model)[0])(x, 2), 2)
    model.vae.decode_raw(x0).square().sum().backward()
    assert x.grad is not None and x.grad.abs().max() > 0
    lacking = {name for name, p in model.unet.named_parameters() if p.grad is None or not p.grad.abs().max() > 0}
    # what the text asks of the image in the last block of SD3 is thrown away
    idle = ("transformer_blocks.1.attn.add_q_proj", "transformer_blocks.1.attn.norm_added_q")
    assert {name for name in lacking if not name.startswith(idle)} == set()


@pytest.mark.parametrize("family", FAMILIES)
def test_posteriors_decode_to_the_image(folders: dict[str, Path], family: str) -> None:
    """Encoding and decoding undo the shift and scale of each other."""
    model = load(folders[family])
    images = torch.rand(1, 3, 16, 16, generator=torch.Generator().manual_seed(0))
    with torch.no_grad():
        mean, _ = model.vae.posterior(images)
        network: Any = model.vae.network
        expected = network.decode(network.encode(2 * images - 1).latent_dist.mean).sample
        torch.testing.assert_close(model.vae.decode_raw(model.vae.scale * mean), expected, rtol=1e-4, atol=1e-5)


def test_padding_is_masked_in_pixart(folders: dict[str, Path]) -> None:
    model = load(folders["pixart"])
    text, _ = given(model)
    assert text.mask is not None
    assert set(text.mask.unique().tolist()) == {0.0, 1.0}
    changed = Conditioning(text.text + 5 * (1 - text.mask[..., None]), mask=text.mask)
    network = Denoiser(model.unet, model.schedule)
    x, t = draws()[0], torch.tensor(400)
    with torch.no_grad():
        torch.testing.assert_close(network.epsilon(x, t, changed), network.epsilon(x, t, text), rtol=0, atol=1e-6)


def test_sd3_without_its_large_text_encoder(folders: dict[str, Path], tmp_path: Path) -> None:
    folder = without(folders["sd3"], tmp_path / "base", "text_encoder_3", "tokenizer_3")
    change(folder / "model_index.json", text_encoder_3=[None, None], tokenizer_3=[None, None])
    torch.testing.assert_close(sampled(load(folder)), theirs(pipeline(folder)), rtol=0, atol=2e-5)


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


# other forms of the weights


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


def test_tokenizers_of_sentencepiece(folders: dict[str, Path], tmp_path: Path) -> None:
    """The real PixArt has spiece.model and no tokenizer.json."""
    trainer = pytest.importorskip("sentencepiece").SentencePieceTrainer
    folder = without(folders["pixart"], tmp_path / "base", "tokenizer/tokenizer.json")
    texts = [f"{a} {b}" for a in bases.WORDS for b in bases.WORDS]
    with open(folder / "tokenizer" / "spiece.model", "wb") as file:
        trainer.train(
            sentence_iterator=iter(texts), model_writer=file, vocab_size=28, pad_id=0, eos_id=1, unk_id=2, bos_id=-1,
            minloglevel=2,
        )  # fmt: skip
    change(folder / "tokenizer" / "tokenizer_config.json", extra_ids=0, tokenizer_class="T5Tokenizer")
    torch.testing.assert_close(sampled(load(folder)), theirs(pipeline(folder)), rtol=0, atol=2e-5)


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


def single(folder: Path, file: Path) -> ModelRecord:
    settings = ImportSettings(kind="diffusers", file=str(file), options={"config": str(folder)})
    return import_model("base", settings, "study: base")


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


# what is refused, in one line


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
    short = without(sd15, top / "g")
    file = short / "unet" / "diffusion_pytorch_model.safetensors"
    file.write_bytes(file.read_bytes()[:-100])
    yield short, {}, "its header speaks of .* cut off"
    broken = without(sd15, top / "h")
    (broken / "vae" / "diffusion_pytorch_model.safetensors").write_bytes(b"<html>not found</html>")
    yield broken, {}, "not a safetensors file, or cut off in its header"


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

    folder = without(folders["sd15"], tmp_path / "b")
    bases.rewrite(folder / "unet" / "diffusion_pytorch_model.safetensors",
                  lambda weights: {n: w for n, w in weights.items() if "conv_in" not in n})  # fmt: skip
    with pytest.raises(InputError, match=r"unet: the weights lack conv_in\.bias and 1 more; not those of this config"):
        load_diffusion(bases.record(folder), CPU, ("unet",))
    bases.rewrite(folder / "vae" / "diffusion_pytorch_model.safetensors",
                  lambda weights: {n: w if "conv_in" not in n else w[:4] for n, w in weights.items()})  # fmt: skip
    with pytest.raises(InputError, match=r"vae: cannot be loaded: .*conv_in"):
        load_diffusion(bases.record(folder), CPU, ("vae",))


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
