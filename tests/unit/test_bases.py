"""Base models of every family, against the pipelines of diffusers on the same tiny folders."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor

from stages.models.conditioning import Conditioning
from stages.models.diffusion import Denoiser
from tests import bases
from tests.bases import pipeline
from tests.unit.base_models import FAMILIES, PROMPTS, SCALE, STEPS, change, draws, given, load, sampled, without
from tests.unit.base_models import folders as folders  # a fixture


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
    grid = model.process.grid(STEPS)
    network = Denoiser(model.unet, model.process)
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
    network = Denoiser(model.unet, model.process)
    x, t = draws()[0], torch.tensor(400)
    with torch.no_grad():
        torch.testing.assert_close(network.prediction(x, t, changed), network.prediction(x, t, text), rtol=0, atol=1e-6)


def test_sd3_without_its_large_text_encoder(folders: dict[str, Path], tmp_path: Path) -> None:
    folder = without(folders["sd3"], tmp_path / "base", "text_encoder_3", "tokenizer_3")
    change(folder / "model_index.json", text_encoder_3=[None, None], tokenizer_3=[None, None])
    torch.testing.assert_close(sampled(load(folder)), theirs(pipeline(folder)), rtol=0, atol=2e-5)


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
